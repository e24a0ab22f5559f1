/** The unpin_user_page() family. */
import type { Path } from '../path.ts';
import type { Kernel } from '../types.ts';

export const unpinUserPage = (_k: Kernel, _page: number): void => {
  throw new Error('unpinUserPage: being written');
};

/** Drops one pin of each of pages[0 .. nrPages); entries of -1 are skipped. */
export const unpinUserPages = (_k: Kernel, _pages: Int32Array, _nrPages: number): void => {
  throw new Error('unpinUserPages: being written');
};

/** The same, marking each folio dirty first if `makeDirty`: takes folio locks, so it may wait. */
export const unpinUserPagesDirtyLock = (
  _k: Kernel,
  _pages: Int32Array,
  _nrPages: number,
  _makeDirty: boolean,
): Path<void> => {
  throw new Error('unpinUserPagesDirtyLock: being written');
};
