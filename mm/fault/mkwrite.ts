/**
 * page_mkwrite(): a page of a shared mapping is about to become writable, and its file system has to
 * see that it can be written out one day. Compare mm/memory.c:do_page_mkwrite().
 */
import { readOnce } from '#cells';
import { EAGAIN } from '../errno.ts';
import { folioMarkDirty, folioOf, folioUnlock } from '../folio/folio.ts';
import { operationsOf } from '../fs/operations.ts';
import { type Path, YP_MKWRITE } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';

/**
 * Asks the file system. The caller has a reference to the page, and not the folio's lock.
 * @returns 0: the folio is locked, dirty, and still the file's; -EAGAIN: it is the file's
 *   no more; -EFAULT: SIGBUS, no space, an error
 */
export function* pageMkwrite(k: Kernel, mapping: AddressSpace, page: number): Path<number> {
  const ask = operationsOf(mapping).pageMkwrite;
  if (ask === undefined) throw new Error(`${mapping.kind} does not want to know of writes`);
  const error = yield* ask(k, mapping, page);
  if (error !== 0) return error;
  const folio = folioOf(k, page);
  if (readOnce(k.state.frames.mapping, folio) !== mapping.id) {
    folioUnlock(k, folio);
    return -EAGAIN;
  }
  // Also where the entry turns out to be another: what has been promised is found by writeback alone.
  folioMarkDirty(k, folio);
  if (k.watched) yield YP_MKWRITE;
  return 0;
}

/**
 * The same in the first fault of a page, which is locked already: unlocked for the file system where
 * there is one that wants to know.
 * @returns as pageMkwrite; after an error the folio is not locked
 */
export function* doPageMkwrite(k: Kernel, mapping: AddressSpace, page: number): Path<number> {
  if (operationsOf(mapping).pageMkwrite === undefined) return 0;
  folioUnlock(k, folioOf(k, page));
  return yield* pageMkwrite(k, mapping, page);
}
