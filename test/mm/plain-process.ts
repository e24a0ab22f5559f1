/**
 * A plain reference of what a process must see: per page its protection and a few words, nothing
 * shared but files. It knows no frames, no page tables and no COW.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  EACCES,
  EFAULT,
  ENOMEM,
  fork,
  type HostProcess,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  MADV_DONTNEED,
  madvise,
  mmap,
  mprotect,
  munmap,
  type Path,
  PROT_READ,
  PROT_WRITE,
} from '#mm';
import { expect } from 'vitest';
import type { Rng } from '../support/rng.ts';
import { createProcess, type World } from './support.ts';

/** The words of a page that are looked at. */
const SLOTS = [0, 4, 2048, 4092] as const;

/** A file's contents: SLOTS words a page. */
export interface PlainFile {
  mapping: AddressSpace;
  pages: Uint32Array[];
}

interface PlainPage {
  prot: number;
  shared: boolean;
  file: PlainFile | null;
  pgoff: number;
  /** What the process has of its own; null: what the file has, or zeros. */
  own: Uint32Array | null;
}

export const plainFile = (mapping: AddressSpace): PlainFile => ({
  mapping,
  pages: Array.from({ length: mapping.nrPages }, () => new Uint32Array(SLOTS.length)),
});

/** First page and number of pages of the arena that all tests play in; it straddles three leaf tables. */
export const ARENA = 0x3fff_e0_0000 - 0x20_0000 * 40 - 16 * PAGE_SIZE;
export const ARENA_PAGES = 560;

export class PlainProcess {
  readonly p: HostProcess;
  readonly pages: Map<number, PlainPage>;

  constructor(p: HostProcess, pages: Map<number, PlainPage> = new Map()) {
    this.p = p;
    this.pages = pages;
  }

  private hva(page: number): number {
    return ARENA + page * PAGE_SIZE;
  }

  /** The page's words as they must be; null beyond the end of the file. */
  private words(page: PlainPage): Uint32Array | null {
    if (page.own !== null) return page.own;
    if (page.file === null) return new Uint32Array(SLOTS.length);
    return page.file.pages[page.pgoff] ?? null;
  }

  *map(
    first: number,
    n: number,
    prot: number,
    shared: boolean,
    file: PlainFile | null,
    pgoff: number,
  ): Path<void> {
    const { k, mm } = this.p;
    const kind = (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED;
    const at = yield* mmap(k, mm, {
      hva: this.hva(first),
      lenBytes: n * PAGE_SIZE,
      prot,
      flags: file === null ? kind | MAP_ANONYMOUS : kind,
      ...(file === null ? {} : { mapping: file.mapping, pgoff }),
    });
    expect(at).toBe(this.hva(first));
    for (let i = 0; i < n; i++)
      this.pages.set(first + i, { prot, shared, file, pgoff: pgoff + i, own: null });
  }

  *unmap(first: number, n: number): Path<void> {
    expect(yield* munmap(this.p.k, this.p.mm, this.hva(first), n * PAGE_SIZE)).toBe(0);
    for (let i = 0; i < n; i++) this.pages.delete(first + i);
  }

  *protect(first: number, n: number, prot: number): Path<void> {
    const error = yield* mprotect(this.p.k, this.p.mm, this.hva(first), n * PAGE_SIZE, prot);
    let expected = 0;
    for (let i = 0; i < n && expected === 0; i++) {
      const page = this.pages.get(first + i);
      if (page === undefined) expected = -ENOMEM;
      else page.prot = prot;
    }
    expect(error).toBe(expected);
    expect(error).not.toBe(-EACCES);
  }

  *dontneed(first: number, n: number): Path<void> {
    yield* madvise(this.p.k, this.p.mm, this.hva(first), n * PAGE_SIZE, MADV_DONTNEED);
    for (let i = 0; i < n; i++) {
      const page = this.pages.get(first + i);
      if (page !== undefined && !page.shared) page.own = null;
    }
  }

  *store(at: number, slot: number, value: number): Path<void> {
    const hva = this.hva(at) + (SLOTS[slot] ?? 0);
    const error = yield* this.p.storePath(hva, 4, value);
    const page = this.pages.get(at);
    const words = page === undefined ? null : this.words(page);
    if (page === undefined || words === null || (page.prot & PROT_WRITE) === 0) {
      expect(error).toBe(-EFAULT);
      return;
    }
    expect(error).toBe(0);
    if (!page.shared && page.own === null) page.own = words.slice();
    (page.own ?? words)[slot] = value;
  }

  *load(at: number, slot: number): Path<void> {
    const hva = this.hva(at) + (SLOTS[slot] ?? 0);
    const value = yield* this.p.loadPath(hva, 4);
    const page = this.pages.get(at);
    const words = page === undefined ? null : this.words(page);
    // On riscv what may be written may be read.
    const readable = page !== undefined && (page.prot & (PROT_READ | PROT_WRITE)) !== 0;
    const expected = readable && words !== null ? words[slot]! : -EFAULT;
    if (value !== expected)
      throw new Error(`mm ${this.p.mm.id} page ${at} slot ${slot}: ${value}, must be ${expected}`);
  }

  *fork(w: World): Path<PlainProcess> {
    const child = yield* fork(this.p.k, this.p.mm);
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    const pages = new Map<number, PlainPage>();
    for (const [at, page] of this.pages)
      pages.set(at, { ...page, own: page.own === null ? null : page.own.slice() });
    return new PlainProcess(createProcess(w, child), pages);
  }

  /** Reads every page, mapped or not: all words, or one of each. */
  checkAll(only?: number): void {
    for (let at = 0; at < ARENA_PAGES; at++)
      for (let slot = 0; slot < SLOTS.length; slot++)
        if (only === undefined || only === slot) drive(this.load(at, slot));
  }

  /**
   * One random step: a mapping call now and then, else a load or a store.
   * @param only the one word of each page to use: what others write meanwhile is not known
   */
  *randomStep(random: Rng, files: readonly PlainFile[], only?: number): Path<void> {
    const slot = only ?? random.below(SLOTS.length);
    const first = random.below(ARENA_PAGES);
    const n = 1 + random.below(Math.min(random.chance(0.1) ? 300 : 12, ARENA_PAGES - first));
    const prot = random.pick([PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, 0]);
    const what = random.below(100);
    if (what < 8) {
      const file = random.chance(0.5) && files.length > 0 ? random.pick(files) : null;
      const shared = file !== null && random.chance(0.5);
      yield* this.map(
        first,
        n,
        prot,
        shared,
        file,
        file === null ? 0 : random.below(file.pages.length),
      );
    } else if (what < 11) yield* this.unmap(first, n);
    else if (what < 17) yield* this.protect(first, n, prot);
    else if (what < 20) yield* this.dontneed(first, n);
    else if (what < 60) yield* this.store(first, slot, random.u32());
    else yield* this.load(first, slot);
  }
}
