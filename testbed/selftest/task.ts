/**
 * A process of a row: its system calls, which must succeed, and its memory byte by byte.
 *
 * Every load and store goes through the MMU, so what is compared is what the process itself sees.
 */
import {
  clearRefsSoftDirty,
  drive,
  fork,
  HostProcess,
  MADV_COLLAPSE,
  MADV_DOFORK,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
  MADV_PAGEOUT,
  madvise,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  type MmapRequest,
  mmExit,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  mprotect,
  mremap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '#mm';
import { errnoName } from '../report/errno-names.ts';
import { type Content, contentAt, differsFrom } from './content.ts';
import { isFolioMapped, isSwappedOut } from './look.ts';
import type { Trial } from './trial.ts';
import { must, mustOrSkip, RowFailed, RowSkipped } from './verdict.ts';

export const RW = PROT_READ | PROT_WRITE;
/** Advices that always do what they say, by their names. */
const ADVICES = {
  MADV_DOFORK,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
};
export type Advice = keyof typeof ADVICES;

/** Bytes that are loaded at once. */
const CHUNK_BYTES = 64 * 1024;

export class Task {
  readonly process: HostProcess;
  private readonly trial: Trial;
  private exited: boolean;

  /** By Trial.start() and fork(): the process ends with the row, if not before. */
  constructor(trial: Trial, process: HostProcess) {
    this.trial = trial;
    this.process = process;
    this.exited = false;
    trial.defer(() => this.exit());
  }

  /** @returns its hva */
  mmap(request: MmapRequest): number {
    const { k, mm } = this.process;
    return must('mmap()', drive(mmap(k, mm, request)));
  }

  /** Maps private anonymous memory. @returns its hva */
  mapAnon(lenBytes: number, prot = RW): number {
    return this.mmap({ lenBytes, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
  }

  munmap(hva: number, lenBytes: number): void {
    const { k, mm } = this.process;
    must('munmap()', drive(munmap(k, mm, hva, lenBytes)));
  }

  mprotect(hva: number, lenBytes: number, prot: number): void {
    const { k, mm } = this.process;
    must('mprotect()', drive(mprotect(k, mm, hva, lenBytes, prot)));
  }

  madvise(hva: number, lenBytes: number, advice: Advice): void {
    const { k, mm } = this.process;
    must(`madvise(${advice})`, drive(madvise(k, mm, hva, lenBytes, ADVICES[advice])));
  }

  /** MADV_COLLAPSE. @throws RowSkipped where the kernel makes no huge page of it */
  collapse(hva: number, lenBytes: number): void {
    const { k, mm } = this.process;
    mustOrSkip('madvise(MADV_COLLAPSE)', drive(madvise(k, mm, hva, lenBytes, MADV_COLLAPSE)));
  }

  /** MADV_PAGEOUT. @throws RowSkipped unless every page is swapped out afterwards */
  pageOut(hva: number, lenBytes: number): void {
    const { k, mm } = this.process;
    mustOrSkip('madvise(MADV_PAGEOUT)', drive(madvise(k, mm, hva, lenBytes, MADV_PAGEOUT)));
    if (!isSwappedOut(this.process, hva, lenBytes))
      throw new RowSkipped('madvise(MADV_PAGEOUT) left pages in memory');
  }

  /** Writes one byte, which must give the process a folio of this order. @throws RowSkipped */
  writeFolio(hva: number, order: number): void {
    must('a store', this.process.store8(hva, 1));
    this.mustMapFolio(hva, order);
  }

  /** The same by reading. */
  readFolio(hva: number, order: number): void {
    must('a load', this.process.load8(hva));
    this.mustMapFolio(hva, order);
  }

  private mustMapFolio(hva: number, order: number): void {
    if (!isFolioMapped(this.process, hva, order))
      throw new RowSkipped(`the host gave no folio of ${1 << order} pages`);
  }

  /** mremap() to where something else is mapped, which goes. */
  moveTo(hva: number, lenBytes: number, newHva: number): void {
    const { k, mm } = this.process;
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    must('mremap()', drive(mremap(k, mm, hva, lenBytes, lenBytes, flags, newHva)));
  }

  /** 4 to /proc/PID/clear_refs: writes are tracked from now on. */
  clearSoftDirty(): void {
    const { k, mm } = this.process;
    drive(clearRefsSoftDirty(k, mm));
  }

  /** @returns the child, which ends with the row unless it exits before */
  fork(): Task {
    const { k, mm, mmu } = this.process;
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new RowFailed(`fork() failed: ${errnoName(child)}`);
    return new Task(this.trial, new HostProcess(k, child, mmu));
  }

  exit(): void {
    if (this.exited) return;
    this.exited = true;
    const { k, mm } = this.process;
    drive(mmExit(k, mm));
  }

  /** Fills memory with a content, from the content's first byte on. */
  write(hva: number, lenBytes: number, content: Content): void {
    for (let at = 0; at < lenBytes; ) {
      const part = contentAt(content, at, lenBytes - at);
      must('a store', this.process.copyIn(hva + at, part));
      at += part.length;
    }
  }

  /**
   * Loads all of it and compares.
   * @param from where in the content the memory begins
   * @returns offset of the first byte that differs, -1 when none does
   */
  differsAt(hva: number, lenBytes: number, content: Content, from = 0): number {
    const seen = new Uint8Array(Math.min(CHUNK_BYTES, lenBytes));
    for (let at = 0; at < lenBytes; at += seen.length) {
      const part = seen.subarray(0, Math.min(seen.length, lenBytes - at));
      must('a load', this.process.copyOut(hva + at, part));
      const differs = differsFrom(part, content, from + at);
      if (differs >= 0) return at + differs;
    }
    return -1;
  }
}
