/**
 * Copy on write of hugetlb memory. Compare mm/hugetlb.c:hugetlb_wp(), unmap_ref_private().
 *
 * A page that nobody else maps is used as it is, whoever holds references to it: a copy for the
 * sake of a passing reference could cost a process its life where the pool is empty. Small pages
 * are copied then; so here, and only here, a FOLL_GET reader goes on seeing what the process writes.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../errno.ts';
import { FAULT_FLAG_UNSHARE } from '../fault/flags.ts';
import {
  folioGet,
  folioMapcount,
  folioPut,
  folioSetFlags,
  folioTestAnon,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { PG_ANON_EXCLUSIVE } from '../frames/table.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_FAULT_COPIED, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import {
  maybeMkwrite,
  pteMkdirty,
  pteMkuffdWp,
  pteMkyoung,
  ptePage,
  pteUffdWp,
} from '../pgtable/pte.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioMoveAnonRmap, folioRemoveRmapPmd } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { linearPageIndex, VM_MAYSHARE } from '../vma/flags.ts';
import { allocHugetlbFolio, copyHugeFolio } from './alloc.ts';
import { type HugetlbFault, hugetlbAddNewAnonRmap, makeHugePte } from './fault.ts';
import { hugetlbFaultLock, hugetlbFaultUnlock } from './lock.ts';
import { restoreReserveOnError } from './resv.ts';
import { unmapHugetlbFolio } from './unmap.ts';
import { hugeIndex, vmaHugetlbFile, vmaPageSize } from './vma.ts';

/** Nobody else maps the page: it is the VMA's own, and writable unless that was not asked for. */
const reuse = (k: Kernel, fault: HugetlbFault, folio: number, pte: number): void => {
  const { vma, word, flags } = fault;
  if (!pageAnonExclusive(k, folio)) {
    folioMoveAnonRmap(k, folio, vma);
    folioSetFlags(k, folio, PG_ANON_EXCLUSIVE);
  }
  if ((flags & FAULT_FLAG_UNSHARE) !== 0) return;
  setPteAt(k, word, maybeMkwrite(pteMkyoung(pteMkdirty(pte)), vma.flags));
  countStat(k, 'cow_reused');
};

/**
 * A write (or UNSHARE) to a huge page that is mapped read-only. The caller holds the fault's lock, a
 * reference, and of an anonymous folio its lock.
 * @returns 0; -EFAULT: SIGBUS, no page for the copy
 */
export function* hugetlbWp(k: Kernel, fault: HugetlbFault): Path<number> {
  const { vma, hva, word, flags } = fault;
  const pte = ptepGet(k, word);
  if ((flags & FAULT_FLAG_UNSHARE) === 0 && pteUffdWp(pte)) return 0;
  if ((vma.flags & VM_MAYSHARE) !== 0) {
    setPteAt(k, word, maybeMkwrite(pteMkyoung(pteMkdirty(pte)), vma.flags));
    return 0;
  }
  const old = ptePage(pte);
  for (;;) {
    const anon = folioTestAnon(k, old);
    if (anon && (folioMapcount(k, old) === 1 || k.sabotage.hugetlbAlwaysReuses)) {
      reuse(k, fault, old, pte);
      return 0;
    }
    // An anonymous page has used up the promise for its address: the copy needs a page beyond.
    const owner = vma.resv !== null && anon;
    const copy = allocHugetlbFolio(k, vma, hva, owner);
    if (copy >= 0) return yield* copyTo(k, fault, pte, old, copy);
    if (!owner) return -EFAULT;
    const mapping = vmaHugetlbFile(vma);
    const index = hugeIndex(vma, hva);
    hugetlbFaultUnlock(k, mapping, index);
    yield* unmapRefPrivate(k, vma, hva, old);
    yield* hugetlbFaultLock(k, mapping, index);
    if (pteMkyoung(ptepGet(k, word)) !== pteMkyoung(pte)) return 0;
  }
}

/** The copy takes the page's place, if the entry is still what it was. */
function* copyTo(
  k: Kernel,
  fault: HugetlbFault,
  pte: number,
  old: number,
  copy: number,
): Path<number> {
  const { vma, hva, word, flags } = fault;
  const { mm } = vma;
  const end = hva + vmaPageSize(vma);
  const unshare = (flags & FAULT_FLAG_UNSHARE) !== 0;
  anonVmaPrepare(k, vma);
  folioGet(k, old);
  copyHugeFolio(k, copy, old);
  countStat(k, unshare ? 'unshare_copied' : 'cow_copied');
  if (k.watched) yield YP_FAULT_COPIED;
  const range = mmHasNotifiers(mm) ? notifierRange(mm, hva, end, MMU_NOTIFY_CLEAR) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  if (pteMkyoung(ptepGet(k, word)) === pteMkyoung(pte)) {
    const entry = makeHugePte(vma, copy, !unshare);
    ptepGetAndClear(k, word);
    flushTlbRange(k, mm, hva, end);
    folioRemoveRmapPmd(k, old);
    hugetlbAddNewAnonRmap(k, copy, vma, hva);
    setPteAt(k, word, pteUffdWp(pte) ? pteMkuffdWp(entry) : entry);
    folioPut(k, old);
  } else {
    restoreReserveOnError(k, vma, hva, copy);
    folioPut(k, copy);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  folioPut(k, old);
  return 0;
}

/**
 * The maker of a private mapping must have its page, and the pool is empty: the page is taken from
 * the processes that have it from a fork. They die at their next touch of it.
 */
function* unmapRefPrivate(k: Kernel, owner: Vma, hva: number, folio: number): Path<void> {
  const pgoff = linearPageIndex(owner, hva);
  for (const vma of [...vmaHugetlbFile(owner).vmas]) {
    if (vma === owner || (vma.flags & VM_MAYSHARE) !== 0 || vma.resv !== null) continue;
    const at = vma.start + (pgoff - vma.pgoff) * PAGE_SIZE;
    if (at >= vma.start && at < vma.end) yield* unmapHugetlbFolio(k, vma, at, folio);
  }
}
