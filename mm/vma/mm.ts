/** Address spaces: beginning and end. Compare kernel/fork.c:mm_init(), mm/mmap.c:exit_mmap(). */
import { mapDelete, mapSet, setField } from '#cells';
import { createIntervals } from '../notifier/interval.ts';
import { mmuNotifierRelease } from '../notifier/notifier.ts';
import type { Path } from '../path.ts';
import { flushTlbMm } from '../pgtable/tlb.ts';
import { freePgtables, pgdAlloc, pgdFree, taskSize } from '../pgtable/walk.ts';
import { newId } from '../rmap/anon-vma.ts';
import { type Kernel, MMU_NOTIFY_UNMAP, type MmStruct } from '../types.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { vmaDetach, vmaFree } from './vma.ts';
import { zapRange } from './zap.ts';

/** ASIDs have 16 bits; 0 is left to who has no address space. */
const NR_ASIDS = 0x1_0000;

/** What Linux gives a process without privilege (include/uapi/linux/resource.h: MLOCK_LIMIT). */
const DEFAULT_RLIMIT_MEMLOCK = 8 << 20;

const asidInUse = (k: Kernel, asid: number): boolean => {
  for (const mm of k.state.mms.values()) if (mm.asid === asid) return true;
  return false;
};

/** The next ASID that no address space has. What had it before was flushed at its exit. */
const asidAlloc = (k: Kernel): number => {
  let asid = k.state.nextAsid;
  const next = (n: number): number => (n + 1 < NR_ASIDS ? n + 1 : 1);
  while (asidInUse(k, asid)) asid = next(asid);
  setField(k.state, 'nextAsid', next(asid));
  return asid;
};

/** An empty address space. @throws Error without a frame for its root table */
export const mmCreate = (k: Kernel): MmStruct => {
  const mm = mmTryCreate(k);
  if (mm === null) throw new Error('no frame for the root page table');
  return mm;
};

/** The same, null without memory. */
export const mmTryCreate = (k: Kernel): MmStruct | null => {
  const mm: MmStruct = {
    id: newId(k),
    pgd: -1,
    asid: asidAlloc(k),
    vmas: [],
    mmapLock: { readers: 0, writer: false },
    hasPinned: false,
    writeProtectSeq: new Int32Array(1),
    notifiers: [],
    intervals: createIntervals(),
    openRanges: [],
    uffd: null,
    rssAnon: 0,
    rssFile: 0,
    rssSwap: 0,
    hugetlbUsage: 0,
    nrTables: 0,
    deposited: [],
    collapsing: null,
    lockedVm: 0,
    pinnedVm: 0,
    rlimitMemlock: DEFAULT_RLIMIT_MEMLOCK,
    exited: false,
  };
  if (pgdAlloc(k, mm) < 0) return null;
  mapSet(k.state.mms, mm.id, mm);
  return mm;
};

/**
 * Ends an address space: subscribers are released, everything is unmapped, the tables go. No hart
 * may run in it any more. Waits for whoever holds mmap_lock.
 */
export function* mmExit(k: Kernel, mm: MmStruct): Path<void> {
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  setField(mm, 'exited', true);
  mmuNotifierRelease(k, mm);
  for (const vma of mm.vmas) yield* zapRange(k, vma, vma.start, vma.end, MMU_NOTIFY_UNMAP);
  freePgtables(k, mm, 0, taskSize(k), 0, taskSize(k));
  while (mm.vmas.length > 0) {
    const vma = mm.vmas[mm.vmas.length - 1];
    vmaDetach(mm, mm.vmas.length - 1);
    if (vma !== undefined) yield* vmaFree(k, vma);
  }
  flushTlbMm(k, mm);
  pgdFree(k, mm);
  mapDelete(k.state.mms, mm.id);
  mmapWriteUnlock(mm);
}
