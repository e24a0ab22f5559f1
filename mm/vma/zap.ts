/**
 * Unmapping: entries are cleared, TLBs flushed, and only then are the pages let go.
 * Compare mm/memory.c:zap_pte_range(), mm/mmu_gather.c.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioMarkAccessed, folioMarkDirty, folioPut, folioTestAnon } from '../folio/folio.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import { pteDirty, pteNone, ptePresent, pteYoung, vmNormalPage } from '../pgtable/pte.ts';
import { migrationEntryPage } from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  nextMapped,
  PTE_WORDS,
  ptepGet,
  ptepGetAndClear,
  tableEnd,
  walkPte,
} from '../pgtable/walk.ts';
import { folioRemoveRmap } from '../rmap/rmap.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';

/** One page more (or less) of the kind that `anon` says is mapped. */
export const addRss = (mm: MmStruct, anon: boolean, delta: number): void => {
  if (anon) setField(mm, 'rssAnon', mm.rssAnon + delta);
  else setField(mm, 'rssFile', mm.rssFile + delta);
};

/** Clears one entry; pushes the page whose reference is to be dropped after the flush. */
const zapPte = (k: Kernel, mm: MmStruct, word: number, gather: number[]): void => {
  const pte = ptepGet(k, word);
  if (pteNone(pte)) return;
  const old = ptepGetAndClear(k, word);
  if (!ptePresent(old)) {
    // A migration entry counts as resident, but holds neither reference nor mapping.
    addRss(mm, folioTestAnon(k, migrationEntryPage(old)), -1);
    return;
  }
  const page = vmNormalPage(old);
  if (page < 0) return;
  const anon = folioTestAnon(k, page);
  if (!anon) {
    if (pteDirty(old)) folioMarkDirty(k, page);
    if (pteYoung(old)) folioMarkAccessed(k, page);
  }
  addRss(mm, anon, -1);
  folioRemoveRmap(k, page);
  gather.push(page);
};

/**
 * Unmaps [start, end) of a VMA, between the notifiers' start and end. The tables stay. The caller
 * holds mmap_lock, for reading at least.
 * @param event MMU_NOTIFY_*
 */
export function* zapRange(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  event: number,
): Path<void> {
  const { mm } = vma;
  const range = mmHasNotifiers(mm) ? notifierRange(mm, start, end, event) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const gather: number[] = [];
  for (let at = nextMapped(k, mm, start, end); at < end; ) {
    // One table at a time: its lock is dropped, and its pages freed, before the next.
    const from = at;
    const to = tableEnd(at, end);
    let word = walkPte(k, mm, at, false);
    for (; at < to; at += PAGE_SIZE, word += PTE_WORDS) zapPte(k, mm, word, gather);
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, from, to);
    for (const page of gather) folioPut(k, page);
    gather.length = 0;
    at = nextMapped(k, mm, to, end);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
}
