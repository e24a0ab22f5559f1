/**
 * The door for secondary MMUs: follow an address space's page tables without holding its pages.
 *
 * What a user provides: operations by which it is told before entries change and after (mm/types.ts,
 * NotifierOps or IntervalNotifierOps), a lock, an invalidate sequence under it, and a look at its
 * entries. What it gets: a frame, whether it may be written to, how large the mapping is; no reference.
 * Whether what it got is still true it asks under its lock, before it installs anything. The whole of
 * it, and why, is in docs/secondary-mmu.md; kvm/fault.ts and kvm/notifier.ts use all of it.
 */
export {
  EAGAIN,
  EBUSY,
  EFAULT,
  EHWPOISON,
  EINTR,
  EINVAL,
  ENODEV,
  ENOMEM,
  ENOSPC,
} from './errno.ts';
export { pageToPfn, pfnToPage } from './frames/table.ts';
export { guestMemfdConvert } from './fs/guestmemfd.ts';
export { GUEST_MEMFD_FLAG_MMAP, guestMemfdIsPrivate } from './fs/guestmemfd-state.ts';
export {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  hmmPfnToMapOrder,
  hmmPfnToPage,
  hmmRangeFault,
} from './hmm/hmm.ts';
export type { HmmRange } from './hmm/hmm.ts';
export {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from './notifier/interval.ts';
export { drive, YP_DMA_SUBMITTED, YP_SECONDARY_PFN, YP_WAIT } from './path.ts';
export type { Path } from './path.ts';
export { createSecondaryPfn, faultInPfn, markPfnDirty, releasePfn } from './secondary/fault-in.ts';
export type { SecondaryPfn } from './secondary/fault-in.ts';
export {
  createInvalidateState,
  invalidateBegin,
  invalidateEnd,
  invalidateOpen,
  invalidateRetry,
  invalidateRetryRange,
  invalidateSeq,
} from './secondary/invalidate.ts';
export type { InvalidateState } from './secondary/invalidate.ts';
export {
  guestMemfdBind,
  guestMemfdGetPfn,
  guestMemfdUnbind,
  guestMemfdUnbindAll,
  registerGuestMemfdOps,
} from './secondary/guestmemfd.ts';
export { createSecondaryPfns, faultInPfns, releasePfns } from './secondary/range.ts';
export type { SecondaryPfns } from './secondary/range.ts';
export {
  registerSecondary,
  registerSecondaryIntervalOps,
  registerSecondaryOps,
  secondaryState,
  unregisterSecondary,
} from './secondary/users.ts';
export type { SecondaryIntervalOps, SecondaryOps } from './secondary/users.ts';
export {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_EXCLUSIVE,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_SOFT_DIRTY,
  MMU_NOTIFY_UNMAP,
} from './types.ts';
export type {
  AddressSpace,
  FileEntryVisitor,
  GuestMemfdBinding,
  GuestMemfdOps,
  IntervalNotifier,
  IntervalNotifierOps,
  Kernel,
  MmStruct,
  NotifierOps,
  NotifierRange,
  SecondaryVisitor,
} from './types.ts';
export { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './vma/lock.ts';
