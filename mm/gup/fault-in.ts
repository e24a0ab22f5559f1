/**
 * Making user memory present without holding it: the fault_in_*() family and fixup_user_fault().
 * Compare mm/gup.c.
 *
 * For whoever cannot fault where he copies: faults in first, copies, and starts over where the page
 * has gone again. As with copy_to_user() the result is the number of bytes that could NOT be had.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EHWPOISON, EINTR } from '../errno.ts';
import { handleMmFault } from '../fault/fault.ts';
import {
  FAULT_FLAG_ALLOW_RETRY,
  FAULT_FLAG_KILLABLE,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_WRITE,
  VM_FAULT_COMPLETED,
  VM_FAULT_RETRY,
} from '../fault/flags.ts';
import type { Path } from '../path.ts';
import { taskSize } from '../pgtable/walk.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { copyFromUser, copyToUser } from '../uaccess.ts';
import { VM_READ, VM_WRITE } from '../vma/flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';

/** Does the VMA allow what the fault is for? Protection keys are not modelled. Compare vma_permits_fault(). */
const vmaPermitsFault = (vma: Vma, faultFlags: number): boolean =>
  (vma.flags & ((faultFlags & FAULT_FLAG_WRITE) !== 0 ? VM_WRITE : VM_READ)) !== 0;

/** By it fixupUserFault says that mmap_lock was dropped in between; it is held again. */
export interface Unlocked {
  unlocked: boolean;
}

/**
 * fixup_user_fault(): takes one fault for somebody who found that he cannot reach user memory. It
 * faults in any case, so that the A and D bits of the entry are set too. The caller holds mmap_lock
 * for reading, and holds it afterwards.
 * @param faultFlags FAULT_FLAG_WRITE or 0
 * @param note null: the lock is not to be dropped
 * @returns 0; -EFAULT, also for SIGBUS and poison; -ENOMEM; -EINTR by a fatal signal
 */
export function* fixupUserFault(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  faultFlags: number,
  note: Unlocked | null,
): Path<number> {
  let flags = faultFlags;
  if (note !== null) flags |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE;
  for (;;) {
    const vma = findVma(mm, hva);
    if (vma === null || !vmaPermitsFault(vma, flags)) return -EFAULT;
    if ((flags & FAULT_FLAG_KILLABLE) !== 0 && fatalSignalPending(k)) return -EINTR;
    const outcome = yield* handleMmFault(k, mm, hva, flags);
    if (outcome <= 0) return outcome === -EHWPOISON ? -EFAULT : outcome;
    if (outcome !== VM_FAULT_RETRY && outcome !== VM_FAULT_COMPLETED)
      throw new Error(`a fault ended with ${outcome}`);
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    if (note !== null) note.unlocked = true;
    if (outcome === VM_FAULT_COMPLETED) return 0;
    flags |= FAULT_FLAG_TRIED;
  }
}

/**
 * Touches the first byte, and the first of every page after it.
 * @param touch makes one address present; true where it could not
 * @returns bytes from the first that could not be touched on
 */
function* touchPages(
  hva: number,
  lenBytes: number,
  touch: (at: number) => Path<boolean>,
): Path<number> {
  const end = hva + lenBytes;
  for (let at = hva; at < end; at = at - (at % PAGE_SIZE) + PAGE_SIZE)
    if (yield* touch(at)) return end - at;
  return 0;
}

/** Touches by copying one byte each time. @returns bytes not faulted in */
function* touchByCopy(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  copy: typeof copyFromUser,
): Path<number> {
  if (hva + lenBytes > taskSize(k)) return lenBytes;
  const byte = new Uint8Array(1);
  return yield* touchPages(hva, lenBytes, function* (at) {
    return (yield* copy(k, mm, at, byte)) !== 0;
  });
}

/** fault_in_readable(): [hva, hva + lenBytes) can be read now. @returns bytes not faulted in */
export const faultInReadable = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> => touchByCopy(k, mm, hva, lenBytes, copyFromUser);

/**
 * fault_in_writeable(): the same for writing, by writing: a zero in each page. With tags below the
 * size of a page, which riscv has not, fault_in_subpage_writeable() would look at those too.
 */
export const faultInWriteable = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> => touchByCopy(k, mm, hva, lenBytes, copyToUser);

/** fault_in_safe_writeable(): the same, and nothing is written. */
export function* faultInSafeWriteable(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> {
  if (lenBytes === 0) return 0;
  const note: Unlocked = { unlocked: false };
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const left = yield* touchPages(hva, lenBytes, function* (at) {
    return (yield* fixupUserFault(k, mm, at, FAULT_FLAG_WRITE, note)) !== 0;
  });
  mmapReadUnlock(mm);
  return left;
}
