/**
 * shmem: files that live in memory alone, and their page cache. Compare mm/shmem.c.
 *
 * A page appears, zeroed, when it is first touched, and stays until it is truncated (shmem-range.ts) or
 * the last user of the file is gone, in memory or in a slot of the swap device. A file may have folios
 * of 2 MiB, where one fits into its size and nothing of the range is there yet. Sizes are in pages.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { EAGAIN, EINVAL, EPERM } from '../errno.ts';
import {
  folioAlloc,
  folioMarkDirty,
  folioNrPages,
  folioOf,
  folioPut,
  folioUnlock,
} from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { GFP_MOVABLE, GFP_ZERO } from '../frames/buddy.ts';
import { PG_SWAPBACKED } from '../frames/table.ts';
import { folioAddLru } from '../lru/batch.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import { swapSlotBytes } from '../swap/cache.ts';
import { shmemSwapin } from '../swap/shmem.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER } from '../thp/state.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { VM_NOHUGEPAGE } from '../vma/flags.ts';
import { mappingAddFolio, mappingCreate, mappingLockPage, mappingPageAt } from './mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_WRITE } from './seals.ts';

/** A file of `nrPages` pages, all holes, with huge folios if shmem may have them; the caller is its first user. */
export const shmemCreate = (k: Kernel, nrPages: number): AddressSpace => {
  const mapping = mappingCreate(k, 'shmem', nrPages);
  if (k.state.thp.shmem) mapping.hugeOrder = HPAGE_PMD_ORDER;
  return mapping;
};

/** Are all of the `nr` pages from `pgoff` on holes? */
const isHole = (mapping: AddressSpace, pgoff: number, nr: number): boolean => {
  for (let i = 0; i < nr; i++)
    if (mapping.pages.has(pgoff + i) || mapping.swapped.has(pgoff + i)) return false;
  return true;
};

/** May the page at `pgoff` come in a folio of 2 MiB? Compare shmem_allowable_huge_orders(). */
const mayBeHuge = (k: Kernel, mapping: AddressSpace, pgoff: number, vmFlags: number): boolean => {
  const first = pgoff - (pgoff % HPAGE_PMD_NR);
  return (
    mapping.hugeOrder === HPAGE_PMD_ORDER &&
    k.state.thp.shmem &&
    (vmFlags & VM_NOHUGEPAGE) === 0 &&
    first + HPAGE_PMD_NR <= mapping.nrPages &&
    isHole(mapping, first, HPAGE_PMD_NR)
  );
};

/** A zeroed folio for a hole, huge if it may be and can be had. @returns the folio or -ENOMEM */
const allocFolio = (k: Kernel, mapping: AddressSpace, pgoff: number, vmFlags: number): number => {
  const huge = mayBeHuge(k, mapping, pgoff, vmFlags)
    ? folioAllocOrder(k, HPAGE_PMD_ORDER, GFP_ZERO | GFP_MOVABLE)
    : -1;
  return huge >= 0 ? huge : folioAlloc(k, GFP_ZERO | GFP_MOVABLE);
};

/** A locked page that was waited for: truncation may have gone past it. @returns the page, or -EINVAL with nothing held */
const insideFile = (k: Kernel, mapping: AddressSpace, pgoff: number, page: number): number => {
  if (pgoff < mapping.nrPages) return page;
  const folio = folioOf(k, page);
  folioUnlock(k, folio);
  folioPut(k, folio);
  return -EINVAL;
};

/**
 * The page at an offset, made if it is a hole.
 * @param vmFlags of the VMA that it is for, if any
 * @returns the page, its folio locked and with a reference for the caller; -EINVAL beyond the end;
 *   -ENOMEM. Compare shmem_get_folio()
 */
export function* shmemGetPage(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  vmFlags = 0,
): Path<number> {
  for (;;) {
    if (pgoff >= mapping.nrPages) return -EINVAL;
    const page = yield* mappingLockPage(k, mapping, pgoff);
    if (page >= 0) return insideFile(k, mapping, pgoff, page);
    const slot = mapping.swapped.get(pgoff);
    if (slot !== undefined) {
      const swapped = yield* shmemSwapin(k, mapping, pgoff, slot);
      if (swapped === -EAGAIN) continue;
      return swapped < 0 ? swapped : insideFile(k, mapping, pgoff, swapped);
    }
    const folio = allocFolio(k, mapping, pgoff, vmFlags);
    if (folio < 0) return folio;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    const nr = folioNrPages(k, folio);
    const within = pgoff % nr;
    // Somebody came first, or the file has become shorter.
    const first = pgoff - within;
    if (!isHole(mapping, first, nr) || first + nr > mapping.nrPages) {
      folioPut(k, folio);
      continue;
    }
    mappingAddFolio(k, mapping, pgoff - within, folio, PG_SWAPBACKED);
    folioAddLru(k, folio);
    return folio + within;
  }
}

/**
 * read(): bytes of a file from `offset` on; holes are zeroes. Of shmem and hugetlbfs.
 * @returns bytes read, fewer than asked for at the end of the file; -EINVAL for a file that cannot be read
 */
export const shmemRead = (
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  into: Uint8Array,
): number => {
  if (mapping.kind === 'secretmem' || mapping.kind === 'gmem' || offset < 0) return -EINVAL;
  const end = Math.min(offset + into.length, mapping.nrPages * PAGE_SIZE);
  for (let at = offset; at < end; ) {
    const within = at % PAGE_SIZE;
    const n = Math.min(end - at, PAGE_SIZE - within);
    const pgoff = Math.floor(at / PAGE_SIZE);
    const page = mappingPageAt(mapping, pgoff);
    const slot = mapping.swapped.get(pgoff);
    if (slot !== undefined) {
      into.set(swapSlotBytes(k, slot).subarray(within, within + n), at - offset);
    } else if (page === undefined) {
      into.fill(0, at - offset, at - offset + n);
    } else {
      const from = k.memory.pageOffset(page) + within;
      into.set(k.memory.u8.subarray(from, from + n), at - offset);
    }
    at += n;
  }
  return Math.max(0, end - offset);
};

/**
 * write(): stores bytes from `offset` on; the file grows if it ends before.
 * @returns bytes written; with none: -EPERM sealed, -ENOMEM, -EINVAL for a file that cannot be written
 */
export function* shmemWrite(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  from: Uint8Array,
): Path<number> {
  if (mapping.kind !== 'shmem' || offset < 0) return -EINVAL;
  const nrPages = Math.ceil((offset + from.length) / PAGE_SIZE);
  if ((mapping.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) !== 0) return -EPERM;
  if (nrPages > mapping.nrPages) {
    if ((mapping.seals & F_SEAL_GROW) !== 0) return -EPERM;
    setField(mapping, 'nrPages', nrPages);
  }
  for (let done = 0; done < from.length; ) {
    const at = offset + done;
    const page = yield* shmemGetPage(k, mapping, Math.floor(at / PAGE_SIZE));
    if (page < 0) return done > 0 ? done : page;
    const folio = folioOf(k, page);
    const within = at % PAGE_SIZE;
    const n = Math.min(from.length - done, PAGE_SIZE - within);
    k.memory.setBytes(k.memory.pageOffset(page) + within, from.subarray(done, done + n));
    folioMarkDirty(k, folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    done += n;
  }
  return from.length;
}
