/**
 * Files as memory management sees them: made, shared, mapped, and emptied when the last user has
 * gone. Compare include/linux/fs.h, struct address_space, and mm/truncate.c:truncate_inode_pages_final().
 */
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import { folioWaitWriteback } from '../cache/clean.ts';
import { filemapInvalidateFolio, filemapRemoveFolio } from '../cache/remove.ts';
import {
  folioAlloc,
  folioGet,
  folioLock,
  folioNrPages,
  folioOf,
  folioPut,
  folioSetFlags,
  folioSetMapping,
  folioTryGet,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { GFP_ZERO } from '../frames/buddy.ts';
import { PG_LOCKED, PG_UNEVICTABLE, PG_UPTODATE } from '../frames/table.ts';
import { EINVAL, ENOENT } from '../errno.ts';
import { hugetlbUnreserveFile } from '../hugetlb/resv.ts';
import { folioAddLru } from '../lru/batch.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import { newId } from '../rmap/anon-vma.ts';
import { freeSwapAndCache } from '../swap/cache.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { deviceDaxRelease } from './dax/device-dax.ts';
import { daxBreakLayoutFinal } from './dax/layout.ts';
import { createDaxState } from './dax/state.ts';
import { extentEvict } from './extent/inode.ts';
import { guestMemfdRelease } from './guestmemfd-state.ts';
import { F_SEAL_SEAL } from './seals.ts';

/** A file of `nrPages` pages, all holes, that may not be sealed; the caller is its first user. */
export const mappingCreate = (
  k: Kernel,
  kind: AddressSpace['kind'],
  nrPages: number,
): AddressSpace => {
  const mapping: AddressSpace = {
    kind,
    id: newId(k),
    nrPages,
    seals: F_SEAL_SEAL,
    hugeOrder: 0,
    resv: null,
    device: null,
    inode: null,
    dax: kind === 'fsdax' ? createDaxState() : null,
    gmem: null,
    invalidateLock: { readers: 0, writer: false },
    wbErr: 0,
    pages: new Map(),
    swapped: new Map(),
    vmas: [],
    users: 1,
  };
  mapSet(k.state.mappings, mapping.id, mapping);
  return mapping;
};

/** One user more: an open file, a VMA. */
export const mappingGet = (mapping: AddressSpace): void =>
  setField(mapping, 'users', mapping.users + 1);

/**
 * One user less; with the last one the pages leave the cache, dirty or not: a file system keeps a user
 * for each of its files that has a name. Waits for pages that are locked, or on their way to a device.
 */
export function* mappingPut(k: Kernel, mapping: AddressSpace): Path<void> {
  setField(mapping, 'users', mapping.users - 1);
  if (mapping.users > 0) return;
  if (mapping.users < 0) throw new Error(`address space ${mapping.id}: more puts than users`);
  if (mapping.kind === 'hugetlbfs') hugetlbUnreserveFile(k, mapping);
  if (mapping.device?.how === 'dax') deviceDaxRelease(k, mapping);
  if (mapping.dax !== null) yield* daxBreakLayoutFinal(k, mapping);
  if (mapping.gmem !== null) guestMemfdRelease(k, mapping);
  for (const pgoff of [...mapping.pages.keys()]) yield* evict(k, mapping, pgoff);
  for (const [pgoff, slot] of [...mapping.swapped]) {
    mapDelete(mapping.swapped, pgoff);
    freeSwapAndCache(k, slot);
  }
  if (mapping.inode !== null) yield* extentEvict(k, mapping);
  mapDelete(k.state.mappings, mapping.id);
}

/** Takes the folio at an offset out of the cache, whichever it is once its lock is held. */
function* evict(k: Kernel, mapping: AddressSpace, pgoff: number): Path<void> {
  const page = yield* mappingLockPage(k, mapping, pgoff);
  if (page < 0) return;
  const folio = folioOf(k, page);
  yield* folioWaitWriteback(k, folio);
  filemapInvalidateFolio(k, mapping, folio);
  filemapRemoveFolio(k, mapping, pgoff - (page - folio), folio);
  folioUnlock(k, folio);
  folioPut(k, folio);
}

/** The page at an offset that the file has, undefined where there is none. Of any kind, hugetlbfs too. */
export const mappingPageAt = (mapping: AddressSpace, pgoff: number): number | undefined => {
  if (mapping.kind !== 'hugetlbfs') return mapping.pages.get(pgoff);
  const within = pgoff % (1 << mapping.hugeOrder);
  const folio = mapping.pages.get(pgoff - within);
  return folio === undefined ? undefined : folio + within;
};

/**
 * The page at an offset, if the file has it.
 * @param pgoff of hugetlbfs, that of a huge page's first page
 * @returns the page, its folio locked and with a reference for the caller; -ENOENT. Compare filemap_lock_folio()
 */
export function* mappingLockPage(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  for (;;) {
    const page = mapping.pages.get(pgoff);
    if (page === undefined) return -ENOENT;
    const folio = folioOf(k, page);
    folioGet(k, folio);
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    // Moved, split or truncated while the lock was waited for?
    if (mapping.pages.get(pgoff) === page && folioOf(k, page) === folio) return page;
    folioUnlock(k, folio);
    folioPut(k, folio);
  }
}

/**
 * Puts a new folio into the file, locked: it holds a reference for each page, of hugetlbfs one.
 * The caller keeps its own. Compare filemap_add_folio().
 * @param pgoff of its first page; nothing is there
 * @param flags PG_* that its pages are to have besides
 */
export const mappingAddFolio = (
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  folio: number,
  flags: number,
): void => {
  const nr = mapping.kind === 'hugetlbfs' ? 1 : folioNrPages(k, folio);
  for (let i = 0; i < nr; i++) {
    if (mapping.pages.has(pgoff + i))
      throw new Error(`file ${mapping.id} has page ${pgoff + i} already`);
    mapSet(mapping.pages, pgoff + i, folio + i);
  }
  folioSetFlags(k, folio, flags | PG_LOCKED | PG_UPTODATE);
  folioSetMapping(k, folio, mapping.id, pgoff);
  folioTryGet(k, folio, nr);
};

/**
 * The page at an offset of a file whose pages are single and stay in memory, zeroed and new if it is a hole.
 * @param onLru new ones go to the LRU
 * @returns the page, locked and with a reference for the caller; -EINVAL beyond the end; -ENOMEM
 */
export function* mappingGetUnevictable(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  onLru: boolean,
): Path<number> {
  for (;;) {
    if (pgoff >= mapping.nrPages) return -EINVAL;
    const page = yield* mappingLockPage(k, mapping, pgoff);
    if (page !== -ENOENT) return page;
    const folio = folioAlloc(k, GFP_ZERO);
    if (folio < 0) return folio;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    if (mapping.pages.has(pgoff)) {
      folioPut(k, folio);
      continue;
    }
    mappingAddFolio(k, mapping, pgoff, folio, PG_UNEVICTABLE);
    if (onLru) folioAddLru(k, folio);
    return folio;
  }
}

/** A VMA maps the file: it is a user, and the rmap finds it. */
export const mappingLink = (mapping: AddressSpace, vma: Vma): void => {
  listPush(mapping.vmas, vma);
  mappingGet(mapping);
};

/** The VMA goes. */
export function* mappingUnlink(k: Kernel, mapping: AddressSpace, vma: Vma): Path<void> {
  listRemoveAt(mapping.vmas, mapping.vmas.indexOf(vma));
  yield* mappingPut(k, mapping);
}
