/**
 * First touch of a file's page. Compare mm/memory.c:do_read_fault(), do_cow_fault(),
 * do_shared_fault(), finish_fault() and do_set_pmd().
 *
 * Before a page of a shared mapping can be written to, its file system is asked (page_mkwrite()), if it
 * wants to know. A private mapping's first write copies the page without mapping it. What else there is to map is
 * mapped page by page, or 2 MiB at once where the folio is as large, lies in the VMA as it lies in
 * the file, and no table is in the way.
 */
import { readOnce } from '#cells';
import { EAGAIN, EFAULT, EHWPOISON, EINVAL, EIO } from '../errno.ts';
import {
  folioAlloc,
  folioMarkDirty,
  folioOf,
  folioOrder,
  folioPut,
  folioTestFlags,
  folioUnlock,
} from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_HWPOISON } from '../frames/table.ts';
import { daxFileFault } from '../fs/dax/fault.ts';
import { deviceFault } from '../fs/device.ts';
import { operationsOf } from '../fs/operations.ts';
import { mlockVmaFolio } from '../lru/mlock.ts';
import { type Path, YP_FAULT_COPIED } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkuffdWp,
  pteMkyoung,
  pteNone,
  pteTable,
  vmPageProt,
} from '../pgtable/pte.ts';
import { isPteMarker } from '../pgtable/swapops.ts';
import { ptepGet, setPteAt, walkEntry, walkPte } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddFileRmap, folioAddFileRmapPmd } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { PMD_ORDER_BIT, thpSuitableOrders } from '../thp/orders.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER } from '../thp/state.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { linearPageIndex, VM_NOHUGEPAGE, VM_SHARED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { installAnon } from './anon.ts';
import { FAULT_FLAG_WRITE } from './flags.ts';
import { doPageMkwrite } from './mkwrite.ts';

/** The page of the file, its folio locked and with a reference; -errno. Compare __do_fault(). */
const filePage = (k: Kernel, vma: Vma, mapping: AddressSpace, hva: number): Path<number> => {
  const pgoff = linearPageIndex(vma, hva);
  return operationsOf(mapping).getPage(k, mapping, pgoff, vma.flags);
};

/** What the tables say about `hva`: none, or a marker that there is one table for. */
const lookUp = (k: Kernel, vma: Vma, hva: number): number => {
  const word = walkPte(k, vma.mm, hva, false);
  return word > 0 ? ptepGet(k, word) : 0;
};

/**
 * First touch of a file's page: the entry is none, or a marker, or there is no table for it yet.
 * @param hva page-aligned
 * @returns as handleMmFault
 */
export function* doFileFault(k: Kernel, vma: Vma, hva: number, flags: number): Path<number> {
  const { mapping } = vma;
  if (mapping === null) throw new Error('a file fault without a file');
  const was = lookUp(k, vma, hva);
  const write = (flags & FAULT_FLAG_WRITE) !== 0;
  if (mapping.kind === 'device') return deviceFault(k, vma, hva, write);
  if (mapping.kind === 'fsdax') return yield* daxFileFault(k, vma, hva, flags);
  let copy = -1;
  if (write && (vma.flags & VM_SHARED) === 0) {
    anonVmaPrepare(k, vma);
    copy = folioAlloc(k, GFP_MOVABLE);
    if (copy < 0) return copy;
  }
  const page = yield* filePage(k, vma, mapping, hva);
  if (page < 0) {
    if (copy >= 0) folioPut(k, copy);
    // Beyond the end of the file, or it cannot be read: SIGBUS.
    return page === -EINVAL || page === -EIO ? -EFAULT : page;
  }
  const folio = folioOf(k, page);
  let error = folioTestFlags(k, page, PG_HWPOISON) ? -EHWPOISON : 0;
  if (error === 0 && write && copy < 0) {
    const asked = yield* doPageMkwrite(k, mapping, page);
    if (asked !== 0) {
      folioPut(k, folio);
      return asked === -EAGAIN ? 0 : asked;
    }
  }
  if (error === 0 && copy >= 0) {
    k.memory.copyPage(copy, page);
    countStat(k, 'cow_copied');
    if (k.watched) yield YP_FAULT_COPIED;
  }
  // What is mapped keeps its reference: of the copy, or of the file's page.
  if (error === 0) error = finishFault(k, vma, hva, was, copy >= 0 ? -1 : page, copy, write);
  folioUnlock(k, folio);
  if (error !== MAPPED || copy >= 0) folioPut(k, folio);
  if (error !== MAPPED && copy >= 0) folioPut(k, copy);
  return error === MAPPED ? 0 : error;
}

/** What the fault brought is mapped now: its reference is the entry's. */
const MAPPED = 1;

/**
 * Maps the file's page, or the copy, unless somebody came first. Compare finish_fault().
 * @param was what the entry has to be still
 * @param page of the file, -1 with a copy
 * @returns MAPPED, 0: somebody else came first, -ENOMEM
 */
const finishFault = (
  k: Kernel,
  vma: Vma,
  hva: number,
  was: number,
  page: number,
  copy: number,
  write: boolean,
): number => {
  const pmd = walkEntry(k, vma.mm, hva, 1, true);
  if (pmd < 0) return pmd;
  const entry = ptepGet(k, pmd);
  if (!pteTable(entry)) {
    if (!pteNone(entry)) return 0;
    if (page >= 0 && setPmd(k, vma, hva, pmd, page, write)) return MAPPED;
  }
  const word = walkPte(k, vma.mm, hva, true);
  if (word < 0) return word;
  if (ptepGet(k, word) !== was) return 0;
  if (page >= 0) installFile(k, vma, word, page, write);
  else installAnon(k, vma, hva, word, copy);
  if (isPteMarker(was)) setPteAt(k, word, pteMkuffdWp(ptepGet(k, word)));
  return MAPPED;
};

/**
 * An entry for memory of the file, which has been asked if it is to be written to. For reading a shared
 * writable VMA gets W only where nobody wants to know of the first write.
 */
const fileEntry = (k: Kernel, vma: Vma, page: number, write: boolean): number => {
  const pte = pteMkyoung(mkPte(page, vmPageProt(vma.flags)));
  if (!write) return pte;
  folioMarkDirty(k, folioOf(k, page));
  return maybeMkwrite(pteMkdirty(pte), vma.flags);
};

/** Maps one page of the file. */
const installFile = (k: Kernel, vma: Vma, word: number, page: number, write: boolean): void => {
  folioAddFileRmap(k, page);
  mlockVmaFolio(k, folioOf(k, page), vma);
  addRss(vma.mm, false, 1);
  setPteAt(k, word, fileEntry(k, vma, page, write));
};

/** Maps the 2 MiB around a page by one entry, where folio and VMA allow it. Compare do_set_pmd(). @returns false: they do not */
const setPmd = (
  k: Kernel,
  vma: Vma,
  hva: number,
  pmd: number,
  page: number,
  write: boolean,
): boolean => {
  const folio = folioOf(k, page);
  if (folioOrder(k, folio) !== HPAGE_PMD_ORDER || (vma.flags & VM_NOHUGEPAGE) !== 0) return false;
  // One that could not be split at the end of its file: behind that is SIGBUS.
  const end = readOnce(k.state.frames.index, folio) + HPAGE_PMD_NR;
  if (vma.mapping !== null && end > vma.mapping.nrPages) return false;
  if (thpSuitableOrders(vma, hva, PMD_ORDER_BIT) === 0) return false;
  // Where a page of it is poisoned the others are mapped one by one.
  for (let at = folio; at < folio + HPAGE_PMD_NR; at++)
    if (folioTestFlags(k, at, PG_HWPOISON)) return false;
  folioAddFileRmapPmd(k, folio);
  mlockVmaFolio(k, folio, vma);
  addRss(vma.mm, false, HPAGE_PMD_NR);
  setPteAt(k, pmd, fileEntry(k, vma, folio, write));
  return true;
};
