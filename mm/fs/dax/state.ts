/** What a DAX file has instead of a page cache, as plain data. Compare fs/dax.c: mapping->i_pages of a DAX inode. */

/** By offset in the file, in pages. None of it holds a reference. */
export interface DaxState {
  /** What mappings show: the block of the file, a frame; or the zero page, of a hole that was read. */
  entries: Map<number, number>;
  /** Written to since the last flush: the newest bytes may be in the caches of CPUs alone (PAGECACHE_TAG_DIRTY). */
  dirty: Map<number, true>;
  /** Somebody is changing what is there (DAX_LOCKED): others wait. */
  locked: Map<number, true>;
}

export const createDaxState = (): DaxState => ({
  entries: new Map(),
  dirty: new Map(),
  locked: new Map(),
});
