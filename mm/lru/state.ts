/** LRU lists and the batches before them, as plain data. Compare include/linux/mmzone.h, enum lru_list; mm/swap.c, struct cpu_fbatches. */

export const LRU_INACTIVE_ANON = 0;
export const LRU_ACTIVE_ANON = 1;
export const LRU_INACTIVE_FILE = 2;
export const LRU_ACTIVE_FILE = 3;
export const LRU_UNEVICTABLE = 4;
export const NR_LRU_LISTS = 5;

/** What a batch holds at most in Linux (PAGEVEC_SIZE): worth setting k.state.lru.batchSize to. */
export const LRU_BATCH_SIZE = 31;

/** Zones that there are lists for. */
const MAX_ZONES = 4;

/**
 * Folios on their way to a list, of one CPU. Each is in a batch once for each time that it is named
 * there, and holds a reference for it.
 */
export interface LruCpu {
  /** New ones, and isolated ones that are put back: without PG_LRU until the batch is drained. */
  add: number[];
  /** To become active: off their list, without PG_LRU. */
  activate: number[];
  /** To become unevictable, because they are locked in memory: those that are on a list have PG_LRU. */
  mlock: number[];
}

/**
 * The lists. Threaded by the frame table's `next` and `prev`; the newest first. What is unevictable is
 * counted and not threaded: `prev` counts who locks it in memory.
 */
export interface LruState {
  /** Folios that a batch holds until it is drained; 0: there are none, everything goes on its list at once. */
  batchSize: number;
  /** The CPU that the kernel runs on, and the batches of each. */
  cpu: number;
  cpus: LruCpu[];
  /** How many want no batches now (lru_cache_disable()). */
  disabled: number;
  /** By zone * NR_LRU_LISTS + LRU_*: first and last folio, -1 = none; pages. */
  head: Int32Array;
  tail: Int32Array;
  nrPages: Int32Array;
}

export const createLruCpu = (): LruCpu => ({ add: [], activate: [], mlock: [] });

/** Empty lists, one CPU, no batches. */
export const createLruState = (): LruState => ({
  batchSize: 0,
  cpu: 0,
  cpus: [createLruCpu()],
  disabled: 0,
  head: new Int32Array(MAX_ZONES * NR_LRU_LISTS).fill(-1),
  tail: new Int32Array(MAX_ZONES * NR_LRU_LISTS).fill(-1),
  nrPages: new Int32Array(MAX_ZONES * NR_LRU_LISTS),
});
