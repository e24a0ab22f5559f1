/**
 * Faults of hugetlb memory: a page of the file, a new one from the pool, and copy on write.
 * Compare mm/hugetlb.c:hugetlb_fault(), hugetlb_no_page().
 */
import { setField } from '#cells';
import { EFAULT, EHWPOISON, ENOENT } from '../errno.ts';
import { FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE } from '../fault/flags.ts';
import { migrationEntryWait } from '../fault/swap.ts';
import {
  folioClearFlags,
  folioGet,
  folioNrPages,
  folioPut,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import {
  PG_HWPOISON,
  PG_LOCKED,
  PG_MIGRATABLE,
  PG_RESTORE_RESERVE,
  PG_UPTODATE,
} from '../frames/table.ts';
import { mappingLockPage } from '../fs/mapping.ts';
import { type Path, YP_FAULT_ALLOCATED, YP_WAIT } from '../path.ts';
import {
  mkPte,
  pteMkdirty,
  pteMkuffdWp,
  pteMkwrite,
  pteMkyoung,
  pteNeedsUffdWp,
  pteNone,
  ptePage,
  ptePresent,
  pteWrite,
  pteWrprotect,
  vmPageProt,
} from '../pgtable/pte.ts';
import { isHwpoisonEntry, isMigrationEntry, isPteMarker } from '../pgtable/swapops.ts';
import { ptepGet, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddFileRmapPmd, folioAddNewAnonRmapPmd } from '../rmap/rmap.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { handleUserfault } from '../uffd/fault.ts';
import { linearPageIndex, VM_MAYSHARE, VM_SHARED, VM_WRITE } from '../vma/flags.ts';
import { allocHugetlbFolio, zeroHugeFolio } from './alloc.ts';
import { hugetlbAddToCache } from './file.ts';
import { hugetlbFaultLock, hugetlbFaultUnlock } from './lock.ts';
import { restoreReserveOnError } from './resv.ts';
import { hugeIndex, hugeLevel, vmaHugetlbFile, vmaPageSize } from './vma.ts';
import { hugetlbWp } from './wp.ts';

/** A fault that is being handled: what hugetlb_fault() passes on. */
export interface HugetlbFault {
  vma: Vma;
  /** Of the huge page's first byte. */
  hva: number;
  /** Of its entry. */
  word: number;
  flags: number;
}

/** An entry for a huge page; for writing where that is asked for and allowed. Compare make_huge_pte(). */
export const makeHugePte = (vma: Vma, folio: number, tryMkwrite: boolean): number => {
  const pte = pteMkyoung(mkPte(folio, vmPageProt(vma.flags)));
  return tryMkwrite && (vma.flags & VM_WRITE) !== 0
    ? pteMkwrite(pteMkdirty(pte))
    : pteWrprotect(pte);
};

/** Huge pages that an address space maps, in pages of 4 KiB: `delta` more. Compare hugetlb_count_add(). */
export const hugetlbCountAdd = (mm: MmStruct, delta: number): void =>
  setField(mm, 'hugetlbUsage', mm.hugetlbUsage + delta);

/** A new huge page becomes the VMA's own, as hugetlb_add_new_anon_rmap() does: its promise is used up for good. */
export const hugetlbAddNewAnonRmap = (k: Kernel, folio: number, vma: Vma, hva: number): void => {
  folioClearFlags(k, folio, PG_RESTORE_RESERVE);
  folioSetFlags(k, folio, PG_UPTODATE | PG_MIGRATABLE);
  folioAddNewAnonRmapPmd(k, folio, vma, hva);
};

/**
 * Handles a fault in a hugetlb VMA.
 * @returns as handleMmFault: 0; -EFAULT (SIGBUS) beyond the end of the file, with an empty pool, or
 *   after the page was taken back for its owner; -ENOMEM for a table; -EHWPOISON
 */
export function* hugetlbFault(k: Kernel, vma: Vma, hva: number, flags: number): Path<number> {
  const at = hva - (hva % vmaPageSize(vma));
  const mapping = vmaHugetlbFile(vma);
  const index = hugeIndex(vma, at);
  yield* hugetlbFaultLock(k, mapping, index);
  const word = walkEntry(k, vma.mm, at, hugeLevel(vma), true);
  const error = word < 0 ? word : yield* faultLocked(k, { vma, hva: at, word, flags });
  hugetlbFaultUnlock(k, mapping, index);
  if (error === USERFAULT) return yield* handleUserfault(k, vma, at, flags);
  if (error !== RETRY_UNLOCKED) return error;
  // Somebody has the folio, or moves it: wait without keeping others from their faults.
  const entry = ptepGet(k, word);
  if (pteNone(entry)) return 0;
  if (!ptePresent(entry)) return yield* migrationEntryWait(k, vma.mm, word, entry, flags);
  while (folioTestFlags(k, ptePage(entry), PG_LOCKED)) yield YP_WAIT;
  return 0;
}

/** Try again, after waiting for the folio without the fault's lock. */
const RETRY_UNLOCKED = 1;
/** userfaultfd is to be told of the write, without the fault's lock. */
const USERFAULT = 2;

function* faultLocked(k: Kernel, fault: HugetlbFault): Path<number> {
  const { vma, word, flags } = fault;
  const entry = ptepGet(k, word);
  if (pteNone(entry)) return yield* noPage(k, fault, entry);
  if (!ptePresent(entry)) {
    if (isPteMarker(entry)) return yield* noPage(k, fault, entry);
    if (isMigrationEntry(entry)) return RETRY_UNLOCKED;
    if (isHwpoisonEntry(entry)) return -EHWPOISON;
    throw new Error(`mm ${vma.mm.id}: hva ${fault.hva}: hugetlb entry ${entry} of no known kind`);
  }
  const write = (flags & FAULT_FLAG_WRITE) !== 0;
  if ((flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE)) !== 0 && !pteWrite(entry)) {
    if (write && pteNeedsUffdWp(vma, entry)) return USERFAULT;
    const folio = ptePage(entry);
    // Locked, because whether nobody else maps it decides.
    const anon = folioTestAnon(k, folio);
    if (anon && !folioTrylock(k, folio)) return RETRY_UNLOCKED;
    folioGet(k, folio);
    const error = yield* hugetlbWp(k, fault);
    if (anon) folioUnlock(k, folio);
    folioPut(k, folio);
    return error;
  }
  setPteAt(k, word, pteMkyoung(write ? pteMkdirty(entry) : entry));
  return 0;
}

/** First touch. @param was the entry: none, or a marker */
function* noPage(k: Kernel, fault: HugetlbFault, was: number): Path<number> {
  const { vma, hva, word, flags } = fault;
  const mapping = vmaHugetlbFile(vma);
  // Whoever made the mapping has taken the page back; a page of zeroes in its place would be a lie.
  if (vma.resvUnmapped) return -EFAULT;
  const pgoff = linearPageIndex(vma, hva);
  let folio = yield* mappingLockPage(k, mapping, pgoff);
  const fresh = folio === -ENOENT;
  const own = fresh && (vma.flags & VM_MAYSHARE) === 0;
  if (fresh) {
    if (pgoff >= mapping.nrPages) return -EFAULT;
    if (own) anonVmaPrepare(k, vma);
    folio = allocHugetlbFolio(k, vma, hva, false);
    // Unless somebody has put an entry there meanwhile, it is SIGBUS.
    if (folio < 0) return ptepGet(k, word) === was ? -EFAULT : 0;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    zeroHugeFolio(k, folio);
    if (own) folioTrylock(k, folio);
    else hugetlbAddToCache(k, mapping, pgoff, folio);
  } else if (folioTestFlags(k, folio, PG_HWPOISON)) {
    folioUnlock(k, folio);
    folioPut(k, folio);
    return -EHWPOISON;
  }
  if (ptepGet(k, word) !== was) {
    if (own) restoreReserveOnError(k, vma, hva, folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    return 0;
  }
  const shared = (vma.flags & VM_SHARED) !== 0;
  if (own) hugetlbAddNewAnonRmap(k, folio, vma, hva);
  else folioAddFileRmapPmd(k, folio);
  const pte = makeHugePte(vma, folio, shared);
  setPteAt(k, word, isPteMarker(was) ? pteMkuffdWp(pte) : pte);
  hugetlbCountAdd(vma.mm, folioNrPages(k, folio));
  // The reference has become the entry's. A copy is made at once, without a second fault.
  if ((flags & FAULT_FLAG_WRITE) === 0 || shared) {
    folioUnlock(k, folio);
    return 0;
  }
  if (!own) folioUnlock(k, folio);
  const error = yield* hugetlbWp(k, fault);
  if (own) folioUnlock(k, folio);
  return error;
}
