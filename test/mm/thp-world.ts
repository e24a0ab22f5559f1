/** What the tests of transparent huge pages share: a machine with them switched on, and memory of known bytes. */
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  HPAGE_PMD_NR,
  HPAGE_PMD_ORDER,
  HPAGE_PMD_SIZE,
  type HostProcess,
  type Kernel,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
  madvise,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  mmap,
  mmCreate,
  pageAnonExclusive,
  ptePage,
} from '#mm';
import { expect } from 'vitest';
import { pmdLeafAt, ptepGet } from '../../mm/pgtable/walk.ts';
import { createProcess, createWorld, RW, type World } from './support.ts';

export { forked } from './support.ts';

export { HPAGE_PMD_NR, HPAGE_PMD_SIZE };

/** Where the tests map: aligned to 2 MiB. */
export const AT = 64 * HPAGE_PMD_SIZE;

/** @param orders that anonymous memory may use everywhere, as bits */
export const thpWorld = (orders = 1 << HPAGE_PMD_ORDER, ramMib = 32): World => {
  const w = createWorld(ramMib << 20);
  w.k.state.thp.always = orders;
  return w;
};

/** Private anonymous memory at a place of its own. */
export const mapAt = (p: HostProcess, nrPages: number, hva = AT, prot = RW): number =>
  drive(
    mmap(p.k, p.mm, {
      hva,
      lenBytes: nrPages * PAGE_SIZE,
      prot,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
    }),
  );

/** The entry that maps 2 MiB around `hva`, 0 without one. */
export const pmdAt = (p: HostProcess, hva: number): number => {
  const word = pmdLeafAt(p.k, p.mm, hva);
  return word > 0 ? ptepGet(p.k, word) : 0;
};

/** Writes the first and the last word of each page: `value` and the page's number. */
export const fill = (p: HostProcess, hva: number, nrPages: number, value: number): void => {
  let errors = 0;
  for (let i = 0; i < nrPages; i++) {
    if (p.store32(hva + i * PAGE_SIZE, value + i) !== 0) errors++;
    if (p.store32(hva + i * PAGE_SIZE + PAGE_SIZE - 4, ~(value + i)) !== 0) errors++;
  }
  expect(errors, 'stores that failed').toBe(0);
};

/** The bytes are those of fill(). */
export const expectFilled = (p: HostProcess, hva: number, nrPages: number, value: number): void => {
  const wrong: number[] = [];
  for (let i = 0; i < nrPages; i++) {
    const at = hva + i * PAGE_SIZE;
    if (p.load32(at) !== value + i || p.load32(at + PAGE_SIZE - 4) !== ~(value + i) >>> 0)
      wrong.push(i);
  }
  expect(wrong, 'pages with other bytes').toEqual([]);
};

/** A process whose 2 MiB at `hva` are one folio, mapped by one entry and filled. */
export interface OneThp {
  w: World;
  k: Kernel;
  p: HostProcess;
  hva: number;
  folio: number;
}

export const FILLED = 0x1000;

export const withThp = (ramMib = 32): OneThp => {
  const w = thpWorld(1 << HPAGE_PMD_ORDER, ramMib);
  const p = createProcess(w, mmCreate(w.k));
  const hva = mapAt(p, HPAGE_PMD_NR);
  fill(p, hva, HPAGE_PMD_NR, FILLED);
  const entry = pmdAt(p, hva);
  expect(entry).not.toBe(0);
  return { w, k: w.k, p, hva, folio: ptePage(entry) };
};

/** The same in single pages. */
export const withSmallPages = (ramMib = 32): OneThp => {
  const w = thpWorld(0, ramMib);
  const p = createProcess(w, mmCreate(w.k));
  const hva = mapAt(p, HPAGE_PMD_NR);
  fill(p, hva, HPAGE_PMD_NR, FILLED);
  return { w, k: w.k, p, hva, folio: -1 };
};

export const adviseHuge = (p: HostProcess, nrPages: number, huge = true, hva = AT): void => {
  const advice = huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
  expect(drive(madvise(p.k, p.mm, hva, nrPages * PAGE_SIZE, advice))).toBe(0);
};

/** How many of `nr` pages from `page` on are marked exclusive. */
export const countExclusive = (k: Kernel, page: number, nr: number): number => {
  let n = 0;
  for (let i = 0; i < nr; i++) if (pageAnonExclusive(k, page + i)) n++;
  return n;
};

/** Nobody is in the middle of anything: no rule is broken. */
export const expectQuiet = (w: World, gets = 0): void =>
  expect(checkKernel(w.k, { quiescent: true, gets })).toEqual([]);
