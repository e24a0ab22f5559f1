/** A fault that userfaultfd wants to hear of: it waits for the handler. Compare fs/userfaultfd.c:handle_userfault(). */
import { listPush, listRemoveAt } from '#cells';
import { EFAULT } from '../errno.ts';
import { FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_RETRY_NOWAIT, VM_FAULT_RETRY } from '../fault/flags.ts';
import { faultSignalPending } from '../fault/retry.ts';
import { type Path, YP_WAIT } from '../path.ts';
import type { Kernel, Vma } from '../types.ts';
import { mmapReadUnlock } from '../vma/lock.ts';
import { UFFD_FEATURE_SIGBUS, type UffdFault } from './state.ts';

/**
 * Tells the handler of a write to a protected page and waits, without mmap_lock, until it has been
 * dealt with, or a signal comes. The handler needs the lock.
 * @returns VM_FAULT_RETRY: the lock has been dropped (not with FAULT_FLAG_RETRY_NOWAIT, which does not
 *   wait); -EFAULT: SIGBUS, where nobody is told, or the lock may not be dropped
 */
export function* handleUserfault(k: Kernel, vma: Vma, hva: number, flags: number): Path<number> {
  const { mm } = vma;
  const { uffd } = mm;
  if (uffd === null || (uffd.features & UFFD_FEATURE_SIGBUS) !== 0) return -EFAULT;
  if ((flags & FAULT_FLAG_ALLOW_RETRY) === 0) return -EFAULT;
  if ((flags & FAULT_FLAG_RETRY_NOWAIT) !== 0) return VM_FAULT_RETRY;
  const fault: UffdFault = { hva, read: false, woken: false };
  listPush(uffd.pending, fault);
  mmapReadUnlock(mm);
  while (!fault.woken && !mm.exited && !faultSignalPending(k, flags)) yield YP_WAIT;
  listRemoveAt(uffd.pending, uffd.pending.indexOf(fault));
  return VM_FAULT_RETRY;
}
