/**
 * hmm_range_fault(): what the page tables say of a range, for a device that has tables of its own.
 * Compare mm/hmm.c, include/linux/hmm.h.
 *
 * The device's driver asks with what rights it needs each page; what lacks them is faulted in, as the
 * process itself would. Nothing is referenced or pinned: the answer is true for as long as the
 * driver's interval notifier has not been told of an invalidation, which it finds out, under its own
 * lock, by the sequence number (mm/notifier/interval.ts).
 *
 *   again: seq = range.notifierSeq = readBegin()
 *     mmap_lock for reading; hmmRangeFault()    -EBUSY: the number has moved, again
 *     the driver's lock; readRetry(seq)?        again
 *     the device's entries
 */
import { PAGE_SIZE } from '#emu';
import { EBUSY, EFAULT, EPERM } from '../errno.ts';
import { handleMmFault } from '../fault/fault.ts';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_WRITE } from '../fault/flags.ts';
import { pageToPfn, pfnToPage } from '../frames/table.ts';
import { mmuIntervalReadRetry } from '../notifier/interval.ts';
import { type Path, YP_WAIT } from '../path.ts';
import {
  pteLeaf,
  pteNone,
  ptePage,
  ptePresent,
  pteProtnone,
  pteWrite,
  vmNormalPage,
} from '../pgtable/pte.ts';
import { isMigrationEntry, isPteMarker, isSwapEntry } from '../pgtable/swapops.ts';
import {
  leafLevel,
  leafPage,
  leafWord,
  levelPages,
  PTE_WORDS,
  ptepGet,
  tableEnd,
  walkLeaf,
} from '../pgtable/walk.ts';
import type { IntervalNotifier, Kernel, Vma } from '../types.ts';
import { VM_IO, VM_PFNMAP, VM_READ, VM_WRITE } from '../vma/flags.ts';
import { vmaIndexAbove } from '../vma/vma.ts';

/** Answer: there is a page. Asked for: there has to be one. */
export const HMM_PFN_VALID = 1 << 30;
/** The device may write to it. Asked for: it has to be allowed to. */
export const HMM_PFN_WRITE = 1 << 29;
/** There is something that no device can reach, or nothing that could be mapped. */
export const HMM_PFN_ERROR = 1 << 28;
export const HMM_PFN_REQ_FAULT = HMM_PFN_VALID;
export const HMM_PFN_REQ_WRITE = HMM_PFN_WRITE;
/** log2 of the pages of the entry that maps it, from this bit on. Frame numbers end below. */
const HMM_PFN_ORDER_SHIFT = 22;
const HMM_PFN_ORDER_MASK = 0x1f;
const PFN_MASK = (1 << HMM_PFN_ORDER_SHIFT) - 1;

/** One question. Plain data. Compare struct hmm_range. */
export interface HmmRange {
  /** Whose address space it is about, and who is told when the answer is no longer true. */
  notifier: IntervalNotifier;
  /** From mmuIntervalReadBegin(). */
  notifierSeq: number;
  /** [start, end), page-aligned hva. */
  start: number;
  end: number;
  /** One word for each page: HMM_PFN_REQ_* in, frame number and HMM_PFN_* out. */
  pfns: Int32Array;
  /** HMM_PFN_REQ_* of every page, and those that may be asked for page by page in `pfns`. */
  defaultFlags: number;
  pfnFlagsMask: number;
}

/** Page number of an answer that is HMM_PFN_VALID. */
export const hmmPfnToPage = (pfn: number): number => pfnToPage(pfn & PFN_MASK);

/** log2 of the pages that its entry maps: an entry of 2 MiB says 9. Compare hmm_pfn_to_map_order(). */
export const hmmPfnToMapOrder = (pfn: number): number =>
  (pfn >>> HMM_PFN_ORDER_SHIFT) & HMM_PFN_ORDER_MASK;

/** A range on its way. Compare struct hmm_vma_walk. */
interface Walk {
  range: HmmRange;
  /** Where to go on after a fault. */
  last: number;
}

const NEED_FAULT = 1;
const NEED_WRITE_FAULT = 2;

/** Does a page need a fault to have what is asked of it? @param cpu HMM_PFN_* of its entry. Compare hmm_pte_need_fault() */
const needFault = (range: HmmRange, i: number, cpu: number): number => {
  const asked = (range.pfns[i]! & range.pfnFlagsMask) | range.defaultFlags;
  if ((asked & HMM_PFN_REQ_FAULT) === 0) return 0;
  if ((asked & HMM_PFN_REQ_WRITE) !== 0 && (cpu & HMM_PFN_WRITE) === 0)
    return NEED_FAULT | NEED_WRITE_FAULT;
  return (cpu & HMM_PFN_VALID) === 0 ? NEED_FAULT : 0;
};

const indexOf = (range: HmmRange, hva: number): number => (hva - range.start) / PAGE_SIZE;

/** The same for [hva, end) together. Compare hmm_range_need_fault() */
const rangeNeedFault = (range: HmmRange, hva: number, end: number, cpu: number): number => {
  let need = 0;
  for (let i = indexOf(range, hva); i < indexOf(range, end); i++) need |= needFault(range, i, cpu);
  return need;
};

const fill = (range: HmmRange, hva: number, end: number, value: number): void => {
  for (let i = indexOf(range, hva); i < indexOf(range, end); i++) range.pfns[i] = value;
};

/** HMM_PFN_* that an entry amounts to. Compare pte_to_hmm_pfn_flags() */
const cpuFlags = (entry: number): number => {
  if (!ptePresent(entry) || pteProtnone(entry)) return 0;
  return pteWrite(entry) ? HMM_PFN_VALID | HMM_PFN_WRITE : HMM_PFN_VALID;
};

/** Faults [hva, end) in, which lies in one VMA. @returns -EBUSY: look again; -EPERM; -EFAULT. Compare hmm_vma_fault() */
function* vmaFault(
  k: Kernel,
  walk: Walk,
  vma: Vma,
  hva: number,
  end: number,
  need: number,
): Path<number> {
  walk.last = hva;
  const write = (need & NEED_WRITE_FAULT) !== 0;
  if (write && (vma.flags & VM_WRITE) === 0) return -EPERM;
  const flags = FAULT_FLAG_REMOTE | (write ? FAULT_FLAG_WRITE : 0);
  for (let at = hva; at < end; at += PAGE_SIZE)
    if ((yield* handleMmFault(k, vma.mm, at, flags)) !== 0) return -EFAULT;
  return -EBUSY;
}

/** Nothing is mapped in [hva, end) of the VMA. Compare hmm_vma_walk_hole() */
function* walkHole(k: Kernel, walk: Walk, vma: Vma, hva: number, end: number): Path<number> {
  const need = rangeNeedFault(walk.range, hva, end, 0);
  if (need !== 0) return yield* vmaFault(k, walk, vma, hva, end, need);
  fill(walk.range, hva, end, 0);
  return 0;
}

/** An entry of a directory that maps memory by itself. Compare hmm_vma_handle_pmd() */
function* walkHuge(
  k: Kernel,
  walk: Walk,
  vma: Vma,
  hva: number,
  end: number,
  entry: number,
  level: number,
): Path<number> {
  const { range } = walk;
  const cpu = cpuFlags(entry);
  const need = rangeNeedFault(range, hva, end, cpu);
  if (need !== 0) return yield* vmaFault(k, walk, vma, hva, end, need);
  const order = Math.log2(levelPages(level)) << HMM_PFN_ORDER_SHIFT;
  let pfn = pageToPfn(leafPage(entry, level, hva));
  for (let at = hva; at < end; at += PAGE_SIZE, pfn++)
    range.pfns[indexOf(range, at)] = cpu === 0 ? 0 : pfn | cpu | order;
  return 0;
}

/**
 * One entry of a last-level table that is not present, nor none. Compare hmm_vma_handle_pte()
 * @returns 0: no fault is asked for; 1: one is needed; -EBUSY: wait, it is being moved; -EFAULT
 */
const nonpresent = (range: HmmRange, i: number, pte: number): number => {
  if (needFault(range, i, 0) === 0) return 0;
  if (isSwapEntry(pte) || isPteMarker(pte)) return 1;
  return isMigrationEntry(pte) ? -EBUSY : -EFAULT;
};

/** Entries of one last-level table. Compare hmm_vma_walk_pmd() */
function* walkPtes(
  k: Kernel,
  walk: Walk,
  vma: Vma,
  hva: number,
  end: number,
  word: number,
): Path<number> {
  const { range } = walk;
  for (let at = hva, ptep = word; at < end; at += PAGE_SIZE, ptep += PTE_WORDS) {
    const pte = ptepGet(k, ptep);
    const i = indexOf(range, at);
    if (!pteNone(pte) && !ptePresent(pte)) {
      const outcome = nonpresent(range, i, pte);
      if (outcome === -EBUSY) {
        walk.last = at;
        yield YP_WAIT;
      }
      if (outcome < 0) return outcome;
    }
    const cpu = cpuFlags(pte);
    const need = needFault(range, i, cpu);
    if (need !== 0) return yield* vmaFault(k, walk, vma, at, end, need);
    // A frame without a page struct is for nobody but the CPU; the zero page has one.
    const counted = vmNormalPage(pte) >= 0 || ptePage(pte) === k.state.zeroPage;
    if (cpu !== 0 && !counted) {
      if (needFault(range, i, 0) !== 0) return -EFAULT;
      range.pfns[i] = HMM_PFN_ERROR;
    } else {
      range.pfns[i] = cpu === 0 ? 0 : pageToPfn(ptePage(pte)) | cpu;
    }
  }
  return 0;
}

/** [hva, end) of a VMA that devices can reach. */
function* walkVma(k: Kernel, walk: Walk, vma: Vma, hva: number, end: number): Path<number> {
  for (let at = hva; at < end; ) {
    const leaf = walkLeaf(k, vma.mm, at);
    const level = leafLevel(leaf);
    const bytes = levelPages(level) * PAGE_SIZE;
    const stop = level === 0 ? tableEnd(at, end) : Math.min(end, at - (at % bytes) + bytes);
    const entry = ptepGet(k, leafWord(leaf));
    let error = 0;
    if (level === 0) error = yield* walkPtes(k, walk, vma, at, stop, leafWord(leaf));
    else if (pteLeaf(entry)) error = yield* walkHuge(k, walk, vma, at, stop, entry, level);
    else error = yield* walkHole(k, walk, vma, at, stop);
    if (error !== 0) return error;
    at = stop;
  }
  return 0;
}

/** No VMA, or one that only the CPU can use. Compare hmm_vma_walk_test() */
const unreachable = ({ range }: Walk, hva: number, end: number): number => {
  if (rangeNeedFault(range, hva, end, 0) !== 0) return -EFAULT;
  fill(range, hva, end, HMM_PFN_ERROR);
  return 0;
};

const reachable = (vma: Vma): boolean => (vma.flags & (VM_IO | VM_PFNMAP | VM_READ)) === VM_READ;

/** From walk.last to the end. @returns 0; -EBUSY: from walk.last on again; other -errno */
function* walkRange(k: Kernel, walk: Walk): Path<number> {
  const { end, notifier } = walk.range;
  const { mm } = notifier;
  for (let at = walk.last; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    const inside = vma !== undefined && vma.start <= at;
    const stop = Math.min(end, inside ? vma.end : (vma?.start ?? end));
    const error =
      inside && reachable(vma)
        ? yield* walkVma(k, walk, vma, at, stop)
        : unreachable(walk, at, stop);
    if (error !== 0) return error;
    at = stop;
  }
  return 0;
}

/**
 * Fills range.pfns, and faults in what is asked for and not there. The caller holds mmap_lock, and
 * keeps it.
 * @returns 0; -EBUSY: the range has been invalidated since range.notifierSeq was taken; -EFAULT: what is
 *   asked for is not to be had; -EPERM: it may not be written to
 * @throws Error without mmap_lock. Compare hmm_range_fault()
 */
export function* hmmRangeFault(k: Kernel, range: HmmRange): Path<number> {
  const { mm } = range.notifier;
  if (mm.mmapLock.readers === 0 && !mm.mmapLock.writer)
    throw new Error(`mm ${mm.id}: hmm_range_fault() without mmap_lock`);
  const walk: Walk = { range, last: range.start };
  for (;;) {
    if (mmuIntervalReadRetry(range.notifier, range.notifierSeq)) return -EBUSY;
    const error = yield* walkRange(k, walk);
    if (error !== -EBUSY) return error;
  }
}
