/**
 * First touch of anonymous memory. Compare mm/memory.c:do_anonymous_page() and alloc_anon_folio().
 *
 * A write gets a folio of the largest size that is allowed, fits the VMA and finds all of its entries
 * still empty; each of its pages has an entry of its own. Which sizes are allowed is in
 * mm/thp/orders.ts; 2 MiB by one entry is mm/fault/huge.ts.
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd } from '#cells';
import { folioAlloc, folioNrPages, folioPut, folioSetFlags } from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { GFP_MOVABLE, GFP_ZERO } from '../frames/buddy.ts';
import { PG_UPTODATE } from '../frames/table.ts';
import { folioAddLruVma } from '../lru/mlock.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkspecial,
  pteMkyoung,
  pteNone,
  vmPageProt,
} from '../pgtable/pte.ts';
import { PTE_WORDS, PTRS_PER_TABLE, ptepGet, setPteAt } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddNewAnonRmap } from '../rmap/rmap.ts';
import {
  highestOrder,
  orderBit,
  PMD_ORDER_BIT,
  thpAllowableOrders,
  thpSuitableOrders,
} from '../thp/orders.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_UFFD_MISSING, VM_UFFD_WP } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { FAULT_FLAG_WRITE } from './flags.ts';

/** First touch of anonymous memory: a read maps the zero page, a write pages of its own. */
export function* doAnonymousPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  const prot = vmPageProt(vma.flags);
  if ((flags & FAULT_FLAG_WRITE) === 0) {
    // Also for UNSHARE, as in Linux: the walk that asked for it looks again and faults again.
    setPteAt(k, word, pteMkyoung(pteMkspecial(mkPte(k.state.zeroPage, prot))));
    return 0;
  }
  anonVmaPrepare(k, vma);
  const folio = allocAnonFolio(k, vma, hva, word);
  if (folio < 0) return folio;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  const nr = folioNrPages(k, folio);
  const before = (hva / PAGE_SIZE) % nr;
  const first = word - before * PTE_WORDS;
  if (!rangeNone(k, first, nr)) folioPut(k, folio);
  else installAnon(k, vma, hva - before * PAGE_SIZE, first, folio);
  return 0;
}

/** Are `nr` entries from `word` on all none? Compare pte_range_none(). */
const rangeNone = (k: Kernel, word: number, nr: number): boolean => {
  for (let i = 0; i < nr; i++) if (!pteNone(ptepGet(k, word + i * PTE_WORDS))) return false;
  return true;
};

/**
 * A zeroed folio around `hva`, of the largest order that fits and can be had.
 * @param word entry of `hva`
 * @returns the folio, or -ENOMEM
 */
const allocAnonFolio = (k: Kernel, vma: Vma, hva: number, word: number): number => {
  let orders = largeOrders(k, vma, hva);
  const index = (hva / PAGE_SIZE) % PTRS_PER_TABLE;
  let fits = false;
  while (orders !== 0) {
    const order = highestOrder(orders);
    // Entries that are none for a large range are so for every smaller one.
    fits ||= rangeNone(k, word - (index % (1 << order)) * PTE_WORDS, 1 << order);
    const folio = fits ? folioAllocOrder(k, order, GFP_ZERO | GFP_MOVABLE) : -1;
    if (folio >= 0) return folio;
    orders &= ~orderBit(order);
  }
  return folioAlloc(k, GFP_ZERO | GFP_MOVABLE);
};

/** Orders above 0 that a fault may use; none where userfaultfd wants to hear of every page. */
const largeOrders = (k: Kernel, vma: Vma, hva: number): number => {
  if ((vma.flags & (VM_UFFD_MISSING | VM_UFFD_WP)) !== 0) return 0;
  const orders = thpAllowableOrders(k, vma, PMD_ORDER_BIT - 1);
  return orders === 0 ? 0 : thpSuitableOrders(vma, hva, orders);
};

/**
 * Maps a new anonymous folio, each page by an entry of its own, for writing where the VMA allows it.
 * @param hva of its first page, and `word` the entry
 */
export const installAnon = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  folio: number,
): void => {
  const nr = folioNrPages(k, folio);
  folioSetFlags(k, folio, PG_UPTODATE);
  folioAddNewAnonRmap(k, folio, vma, hva);
  folioAddLruVma(k, folio, vma);
  // One reference came with it.
  if (nr > 1) atomicAdd(k.state.frames.refcount, folio, nr - 1);
  addRss(vma.mm, true, nr);
  const prot = pteMkyoung(pteMkdirty(vmPageProt(vma.flags)));
  for (let i = 0; i < nr; i++)
    setPteAt(k, word + i * PTE_WORDS, maybeMkwrite(mkPte(folio + i, prot), vma.flags));
};
