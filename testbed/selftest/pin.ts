/** A read-only pin without time limit, as a driver takes it: what the kernel's gup_test module does. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  FOLL_LONGTERM,
  type Kernel,
  mmapRead,
  pinUserPages,
  pinUserPagesFast,
  readPinnedPage,
  unpinUserPages,
} from '#mm/driver-api';
import { type Content, differsFrom } from './content.ts';
import type { Task } from './task.ts';
import type { Trial } from './trial.ts';
import { must, RowFailed } from './verdict.ts';

export class LongtermPin {
  private readonly k: Kernel;
  private readonly pages: Int32Array;
  private nrPinned: number;

  /**
   * Pins whole pages for reading; released with the row, if not before.
   * @throws RowFailed when not all can be pinned
   */
  constructor(trial: Trial, task: Task, hva: number, lenBytes: number, fast: boolean) {
    const { k, mm } = task.process;
    const nrPages = lenBytes / PAGE_SIZE;
    this.k = k;
    this.pages = new Int32Array(nrPages);
    this.nrPinned = 0;
    trial.defer(() => this.release());
    while (this.nrPinned < nrPages) {
      const at = hva + this.nrPinned * PAGE_SIZE;
      const rest = this.pages.subarray(this.nrPinned);
      const pinned = drive(
        fast
          ? pinUserPagesFast(k, mm, at, rest.length, FOLL_LONGTERM, rest)
          : mmapRead(mm, pinUserPages(k, mm, at, rest.length, FOLL_LONGTERM, rest)),
      );
      if (must('the pin', pinned) === 0)
        throw new RowFailed(`the pin stops at page ${this.nrPinned}`);
      this.nrPinned += pinned;
    }
  }

  /** Reads every page through the pin. @returns offset of the first byte that differs, -1 for none */
  differsAt(content: Content): number {
    const bytes = new Uint8Array(PAGE_SIZE);
    for (let i = 0; i < this.nrPinned; i++) {
      readPinnedPage(this.k, this.pages[i]!, 0, bytes, 0, PAGE_SIZE);
      const differs = differsFrom(bytes, content, i * PAGE_SIZE);
      if (differs >= 0) return i * PAGE_SIZE + differs;
    }
    return -1;
  }

  release(): void {
    unpinUserPages(this.k, this.pages, this.nrPinned);
    this.nrPinned = 0;
  }
}
