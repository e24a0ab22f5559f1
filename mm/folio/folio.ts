/**
 * Folios: references, the lock, flags, and what follows when the last reference goes.
 * Compare include/linux/mm.h, include/linux/page-flags.h, mm/swap.c:folio_put().
 *
 * What only large folios have is in large.ts.
 */
import { atomicAdd, fetchAndNot, fetchOr, readOnce, writeOnce } from '#cells';
import { allocPages, freePages } from '../frames/buddy.ts';
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DIRTY,
  PG_HEAD,
  PG_HUGETLB,
  PG_KSM,
  PG_LOCKED,
  PG_LRU,
  PG_RESERVED,
  PG_SWAPCACHE,
  PG_TAIL,
} from '../frames/table.ts';
import { freeZoneDeviceFolio, isFsdax, isZoneDevice } from '../frames/zone-device.ts';
import { freeHugetlbFolio } from '../hugetlb/pool.ts';
import { ksmPageFreed } from '../ksm/node.ts';
import { lruListDel } from '../lru/list.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { noteFreed } from '../provenance/provenance.ts';
import type { Kernel } from '../types.ts';
import {
  folioEntireMapcount,
  folioLargeMapcount,
  folioTestLarge,
  folioUnprepLarge,
} from './large.ts';

/** The folio of a page: its head. */
export const folioOf = (k: Kernel, page: number): number =>
  (readOnce(k.state.frames.flags, page) & PG_TAIL) !== 0
    ? readOnce(k.state.frames.head, page)
    : page;

/** log2 of the folio's pages. */
export const folioOrder = (k: Kernel, folio: number): number =>
  (readOnce(k.state.frames.flags, folio) & PG_HEAD) !== 0
    ? readOnce(k.state.frames.private, folio)
    : 0;

export const folioNrPages = (k: Kernel, folio: number): number => 1 << folioOrder(k, folio);

export const folioRefCount = (k: Kernel, folio: number): number =>
  readOnce(k.state.frames.refcount, folio);

/** True where every bit of PG_* `bits` is set. */
export const folioTestFlags = (k: Kernel, folio: number, bits: number): boolean =>
  (readOnce(k.state.frames.flags, folio) & bits) === bits;

/** Sets PG_* bits; returns the flags as they were. */
export const folioSetFlags = (k: Kernel, folio: number, bits: number): number =>
  fetchOr(k.state.frames.flags, folio, bits);

/** Clears PG_* bits; returns the flags as they were. */
export const folioClearFlags = (k: Kernel, folio: number, bits: number): number =>
  fetchAndNot(k.state.frames.flags, folio, bits);

export const folioTestAnon = (k: Kernel, folio: number): boolean =>
  (readOnce(k.state.frames.flags, folio) & PG_ANON) !== 0;

/** PageAnonExclusive: one address space alone may write to the page. */
export const pageAnonExclusive = (k: Kernel, page: number): boolean =>
  (readOnce(k.state.frames.flags, page) & PG_ANON_EXCLUSIVE) !== 0;

/**
 * A new folio of one page with one reference.
 * @returns the page, or -ENOMEM
 */
export const folioAlloc = (k: Kernel, gfp: number): number => allocPages(k, 0, gfp);

/** One reference more. The caller holds one already, or the lock of an entry that does. */
export const folioGet = (k: Kernel, folio: number): void => {
  const now = atomicAdd(k.state.frames.refcount, folio, 1);
  if (now <= 1) throw new Error(`folio ${folio}: reference taken at count ${now - 1}`);
};

/** `n` references more unless the folio is free. Compare folio_ref_try_add(). */
export const folioTryGet = (k: Kernel, folio: number, n = 1): boolean => {
  if (readOnce(k.state.frames.refcount, folio) <= 0) return false;
  atomicAdd(k.state.frames.refcount, folio, n);
  return true;
};

/** Drops `n` references; the last one frees the folio. */
export const folioPut = (k: Kernel, folio: number, n = 1): void => {
  const now = atomicAdd(k.state.frames.refcount, folio, -n);
  if (now > 0) return;
  if (now < 0) throw new Error(`folio ${folio}: ${-now} references dropped that nobody held`);
  freeFolio(k, folio);
};

const freeFolio = (k: Kernel, folio: number): void => {
  const flags = readOnce(k.state.frames.flags, folio);
  if ((flags & (PG_LOCKED | PG_RESERVED)) !== 0)
    throw new Error(`folio ${folio} freed while locked or reserved (0x${flags.toString(16)})`);
  const order = folioOrder(k, folio);
  if (folioMapcount(k, folio) !== 0)
    throw new Error(`folio ${folio} freed while ${folioMapcount(k, folio)} entries map it`);
  if ((flags & PG_HUGETLB) !== 0) {
    freeHugetlbFolio(k, folio);
    return;
  }
  if (isZoneDevice(flags)) {
    freeZoneDeviceFolio(k, folio);
    return;
  }
  if ((flags & PG_LRU) !== 0) lruListDel(k, folio);
  if ((flags & PG_KSM) !== 0) ksmPageFreed(k, folio);
  if (order > 0) folioUnprepLarge(k, folio, order);
  if (k.state.provenance !== null) noteFreed(k, folio, 1 << order);
  freePages(k, folio, order);
};

/** Takes the folio lock if it is free. */
export const folioTrylock = (k: Kernel, folio: number): boolean =>
  (fetchOr(k.state.frames.flags, folio, PG_LOCKED) & PG_LOCKED) === 0;

/** Waits for the folio lock and takes it. The caller holds a reference, so the folio cannot go. */
export function* folioLock(k: Kernel, folio: number): Path<void> {
  while (!folioTrylock(k, folio)) yield YP_WAIT;
}

export const folioUnlock = (k: Kernel, folio: number): void => {
  if ((fetchAndNot(k.state.frames.flags, folio, PG_LOCKED) & PG_LOCKED) === 0)
    throw new Error(`folio ${folio} unlocked while not locked`);
};

/**
 * Marks the folio dirty; true where it was clean. A block of a DAX file is never dirty: it is what the
 * page would be written to, and its file keeps track of stores by itself (mm/fs/dax/).
 */
export const folioMarkDirty = (k: Kernel, folio: number): boolean =>
  !isFsdax(readOnce(k.state.frames.flags, folio)) &&
  (fetchOr(k.state.frames.flags, folio, PG_DIRTY) & PG_DIRTY) === 0;

export const folioTestDirty = (k: Kernel, folio: number): boolean =>
  folioTestFlags(k, folio, PG_DIRTY);

/** Entries that map the page, by itself or with the whole of its folio. */
export const pageMapcount = (k: Kernel, page: number): number => {
  const own = readOnce(k.state.frames.mapcount, page);
  const folio = folioOf(k, page);
  return folioTestLarge(k, folio) ? own + folioEntireMapcount(k, folio) : own;
};

/** Entries that map something of the folio. */
export const folioMapcount = (k: Kernel, folio: number): number =>
  folioTestLarge(k, folio)
    ? folioLargeMapcount(k, folio)
    : readOnce(k.state.frames.mapcount, folio);

/** References of the caches: one for each page, for a hugetlb folio one. Compare folio_cache_ref_count(). */
export const folioCacheRefs = (k: Kernel, folio: number): number => {
  const flags = readOnce(k.state.frames.flags, folio);
  const cached =
    (flags & PG_ANON) !== 0
      ? (flags & PG_SWAPCACHE) !== 0
      : readOnce(k.state.frames.mapping, folio) !== 0;
  // What a DAX file shows it has no reference of.
  if (!cached || isFsdax(flags)) return 0;
  return (flags & PG_HUGETLB) !== 0 ? 1 : folioNrPages(k, folio);
};

/** References that entries and caches hold; more are somebody else's. Compare folio_expected_ref_count(). */
export const folioExpectedRefs = (k: Kernel, folio: number): number =>
  folioMapcount(k, folio) + folioCacheRefs(k, folio);

/** Offset of a page in its folio's mapping, in pages modulo 1 << 32. Compare page_pgoff(). */
export const pageIndex = (k: Kernel, page: number): number => {
  const folio = folioOf(k, page);
  return (readOnce(k.state.frames.index, folio) + (page - folio)) | 0;
};

/** Says which object the folio belongs to: an id and an offset in pages (kept modulo 1 << 32). */
export const folioSetMapping = (k: Kernel, folio: number, id: number, index: number): void => {
  writeOnce(k.state.frames.mapping, folio, id);
  writeOnce(k.state.frames.index, folio, index | 0);
};
