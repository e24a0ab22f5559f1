/**
 * Entries for pages of persistent memory: counted like any other page's. Compare
 * mm/memory.c:vmf_insert_page_mkwrite(), insert_page_into_pte_locked().
 */
import { PTE_W } from '#emu';
import { atomicAdd } from '#cells';
import { EFAULT } from '../../errno.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkspecial,
  pteMkuffdWp,
  pteMkyoung,
  pteNone,
  ptePage,
  ptePresent,
  pteSpecial,
  vmPageProt,
} from '../../pgtable/pte.ts';
import { isPteMarker } from '../../pgtable/swapops.ts';
import { ptepGet, setPteAt, walkPte } from '../../pgtable/walk.ts';
import { folioAddFileRmap } from '../../rmap/rmap.ts';
import type { Kernel, Vma } from '../../types.ts';
import { addRss } from '../../vma/zap.ts';

/** Word of the entry and what it is; the marker that userfaultfd may have left counts as none. */
const entryFor = (k: Kernel, vma: Vma, hva: number): { word: number; pte: number } => {
  const word = walkPte(k, vma.mm, hva, true);
  return { word, pte: word < 0 ? 0 : ptepGet(k, word) };
};

const isFree = (pte: number): boolean => pteNone(pte) || (!ptePresent(pte) && isPteMarker(pte));

/**
 * Maps a page of the file where nothing is mapped; with `write` writable and dirty, also where it is
 * mapped already and was read-only. The page gets a reference with its entry.
 * @returns 0, also where somebody else came first; -ENOMEM; -EFAULT where another page is mapped
 */
export const insertPageMkwrite = (
  k: Kernel,
  vma: Vma,
  hva: number,
  page: number,
  write: boolean,
): number => {
  const { word, pte } = entryFor(k, vma, hva);
  if (word < 0) return word;
  if (isFree(pte)) {
    // Idle until now, perhaps: it comes to life with the entry.
    atomicAdd(k.state.frames.refcount, page, 1);
    folioAddFileRmap(k, page);
    addRss(vma.mm, false, 1);
    let entry = pteMkyoung(mkPte(page, vmPageProt(vma.flags)));
    if (write) entry = maybeMkwrite(pteMkdirty(entry), vma.flags);
    setPteAt(k, word, isPteMarker(pte) ? pteMkuffdWp(entry) : entry);
    return 0;
  }
  if (!ptePresent(pte)) return 0;
  if (pteSpecial(pte) || ptePage(pte) !== page) return write ? -EFAULT : 0;
  if (write) setPteAt(k, word, maybeMkwrite(pteMkyoung(pteMkdirty(pte)), vma.flags));
  return 0;
};

/** Maps the zero page, read-only, where nothing is mapped: a hole. @returns 0, -ENOMEM */
export const insertZeroPage = (k: Kernel, vma: Vma, hva: number): number => {
  const { word, pte } = entryFor(k, vma, hva);
  if (word < 0) return word;
  if (!isFree(pte)) return 0;
  const zero = pteMkspecial(pteMkyoung(mkPte(k.state.zeroPage, vmPageProt(vma.flags))));
  // Shared, and not to be written to: there is one zero page for everybody.
  setPteAt(k, word, isPteMarker(pte) ? pteMkuffdWp(zero) : zero & ~PTE_W);
  return 0;
};
