/** A pin without time limit, as a driver takes it: what the kernel's gup_test module does. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  FOLL_LONGTERM,
  FOLL_WRITE,
  type Kernel,
  type MmStruct,
  mmapRead,
  pinUserPages,
  pinUserPagesFast,
  readPinnedPage,
  unpinUserPages,
} from '#mm/driver-api';
import { type Content, differsFrom } from './content.ts';
import type { Task } from './task.ts';
import type { Trial } from './trial.ts';
import { RowFailed } from './verdict.ts';

export class LongtermPin {
  private readonly k: Kernel;
  private readonly mm: MmStruct;
  private readonly pages: Int32Array;
  private nrPinned: number;

  /** Of `lenBytes`, whole pages; nothing is pinned yet. What will be is released with the row, if not before. */
  constructor(trial: Trial, task: Task, lenBytes: number) {
    const { k, mm } = task.process;
    this.k = k;
    this.mm = mm;
    this.pages = new Int32Array(lenBytes / PAGE_SIZE);
    this.nrPinned = 0;
    trial.defer(() => this.release());
  }

  /**
   * Pins all pages, in as many calls as it takes.
   * @returns 0; -errno, and none is pinned
   * @throws RowFailed where a call takes none, and says nothing
   */
  start(hva: number, fast: boolean, write: boolean): number {
    const { k, mm } = this;
    const flags = FOLL_LONGTERM | (write ? FOLL_WRITE : 0);
    while (this.nrPinned < this.pages.length) {
      const at = hva + this.nrPinned * PAGE_SIZE;
      const rest = this.pages.subarray(this.nrPinned);
      const pinned = drive(
        fast
          ? pinUserPagesFast(k, mm, at, rest.length, flags, rest)
          : mmapRead(mm, pinUserPages(k, mm, at, rest.length, flags, rest)),
      );
      if (pinned === 0) throw new RowFailed(`the pin stops at page ${this.nrPinned}`);
      if (pinned < 0) {
        this.release();
        return pinned;
      }
      this.nrPinned += pinned;
    }
    return 0;
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
