/**
 * Reader-writer locks of files: i_rwsem and invalidate_lock. Compare include/linux/rwsem.h,
 * include/linux/fs.h:filemap_invalidate_lock().
 *
 * As mmap_lock (mm/vma/lock.ts): a path that cannot have one yields YP_WAIT until it can, and there is
 * no queue. Order: i_rwsem, mmap_lock, invalidate_lock, the lock of a folio.
 */
import { setField } from '#cells';
import { type Path, YP_WAIT } from '../path.ts';
import type { RwLock } from '../types.ts';

export const downReadTrylock = (lock: RwLock): boolean => {
  if (lock.writer) return false;
  setField(lock, 'readers', lock.readers + 1);
  return true;
};

/** Waits for the lock and takes it for reading. */
export function* downRead(lock: RwLock): Path<void> {
  while (!downReadTrylock(lock)) yield YP_WAIT;
}

/** @throws Error where nobody reads */
export const upRead = (lock: RwLock): void => {
  if (lock.readers <= 0) throw new Error('a lock is given back that is not held for reading');
  setField(lock, 'readers', lock.readers - 1);
};

const downWriteTrylock = (lock: RwLock): boolean => {
  if (lock.writer || lock.readers > 0) return false;
  setField(lock, 'writer', true);
  return true;
};

/** Waits for the lock and takes it for writing. */
export function* downWrite(lock: RwLock): Path<void> {
  while (!downWriteTrylock(lock)) yield YP_WAIT;
}

/** @throws Error where nobody writes */
export const upWrite = (lock: RwLock): void => {
  if (!lock.writer) throw new Error('a lock is given back that is not held for writing');
  setField(lock, 'writer', false);
};
