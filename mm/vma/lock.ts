/**
 * mmap_lock: guards an address space's VMAs. Faults and GUP read, whatever changes VMAs writes.
 *
 * A path that cannot have it yields YP_WAIT until it can. No queue: who is stepped first after the
 * release gets it, so a writer's progress rests on the scheduler's fairness.
 */
import { setField } from '#cells';
import { EINTR } from '../errno.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel, MmStruct } from '../types.ts';

export const mmapReadTrylock = (mm: MmStruct): boolean => {
  const lock = mm.mmapLock;
  if (lock.writer) return false;
  setField(lock, 'readers', lock.readers + 1);
  return true;
};

/** Waits for the lock and takes it for reading. Call it after mmapReadTrylock failed. */
export function* mmapReadLock(mm: MmStruct): Path<void> {
  while (!mmapReadTrylock(mm)) yield YP_WAIT;
}

/** The same, but a fatal signal ends the wait. @returns 0 or -EINTR. Compare mmap_read_lock_killable() */
export function* mmapReadLockKillable(k: Kernel, mm: MmStruct): Path<number> {
  while (!mmapReadTrylock(mm)) {
    if (fatalSignalPending(k)) return -EINTR;
    yield YP_WAIT;
  }
  return 0;
}

export const mmapReadUnlock = (mm: MmStruct): void => {
  const lock = mm.mmapLock;
  if (lock.readers <= 0) throw new Error(`mm ${mm.id}: mmap_lock is not held for reading`);
  setField(lock, 'readers', lock.readers - 1);
};

/** Runs a path with mmap_lock held for reading; it must not drop it. */
export function* mmapRead<T>(mm: MmStruct, path: Path<T>): Path<T> {
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const value = yield* path;
  mmapReadUnlock(mm);
  return value;
}

export const mmapWriteTrylock = (mm: MmStruct): boolean => {
  const lock = mm.mmapLock;
  if (lock.writer || lock.readers > 0) return false;
  setField(lock, 'writer', true);
  return true;
};

/** Waits for the lock and takes it for writing. */
export function* mmapWriteLock(mm: MmStruct): Path<void> {
  while (!mmapWriteTrylock(mm)) yield YP_WAIT;
}

export const mmapWriteUnlock = (mm: MmStruct): void => {
  if (!mm.mmapLock.writer) throw new Error(`mm ${mm.id}: mmap_lock is not held for writing`);
  setField(mm.mmapLock, 'writer', false);
};
