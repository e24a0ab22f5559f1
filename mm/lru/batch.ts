/**
 * Batches: what is on its way to an LRU list waits on the CPU that sent it, until there are enough to
 * take the list's lock for. Compare mm/swap.c.
 *
 * A folio in a batch has a reference more than anybody can account for, and is on no list. Whoever
 * wants to know whether a folio has other users drains first: its own CPU (lruAddDrain()), or all of
 * them, which Linux does by work on every CPU (lruAddDrainAll()).
 */
import { listPush, listRemoveAt, readOnce, setField, writeOnce } from '#cells';
import {
  folioClearFlags,
  folioGet,
  folioPut,
  folioSetFlags,
  folioTestFlags,
} from '../folio/folio.ts';
import {
  PG_ACTIVE,
  PG_HEAD,
  PG_LRU,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_UNEVICTABLE,
} from '../frames/table.ts';
import type { Kernel } from '../types.ts';
import { lruListAdd, lruListDel } from './list.ts';
import { createLruCpu, type LruCpu } from './state.ts';

/** Batches for `nrCpus` CPUs of `batchSize` folios each, empty; 0: everything goes on its list at once. */
export const lruConfigure = (k: Kernel, batchSize: number, nrCpus = 1): void => {
  lruAddDrainAll(k);
  const { lru } = k.state;
  setField(lru, 'batchSize', batchSize);
  setField(lru, 'cpu', 0);
  setField(lru, 'cpus', Array.from({ length: nrCpus }, createLruCpu));
};

/** The kernel runs on another CPU from now on. */
export const lruSetCpu = (k: Kernel, cpu: number): void => setField(k.state.lru, 'cpu', cpu);

const cpuOf = (k: Kernel, cpu: number): LruCpu => {
  const batches = k.state.lru.cpus[cpu];
  if (batches === undefined) throw new Error(`there is no CPU ${cpu}`);
  return batches;
};

/** May a folio wait in a batch? One that is large never does. Compare folio_may_be_lru_cached(). */
export const folioMayBeLruCached = (k: Kernel, folio: number): boolean =>
  !folioTestFlags(k, folio, PG_HEAD);

/** Compare mapping_unevictable(). */
const inUnevictableFile = (k: Kernel, folio: number): boolean =>
  k.state.mappings.get(readOnce(k.state.frames.mapping, folio))?.kind === 'gmem';

/** Puts a folio on the list that is due to it: locked in memory, it is unevictable. Compare lru_add(). */
const addToList = (k: Kernel, folio: number): void => {
  if (folioTestFlags(k, folio, PG_MLOCKED)) {
    folioClearFlags(k, folio, PG_ACTIVE);
    folioSetFlags(k, folio, PG_UNEVICTABLE);
    lruListAdd(k, folio);
    writeOnce(k.state.frames.prev, folio, 1);
    return;
  }
  if (folioTestFlags(k, folio, PG_UNEVICTABLE) && !inUnevictableFile(k, folio))
    folioClearFlags(k, folio, PG_UNEVICTABLE);
  lruListAdd(k, folio);
};

/** Puts the folio, with one reference more, into a batch of this CPU; drains it where it is full, or must not wait. */
const addToBatch = (
  k: Kernel,
  folio: number,
  which: keyof LruCpu,
  move: (k: Kernel, folio: number) => void,
): void => {
  const { lru } = k.state;
  const batch = cpuOf(k, lru.cpu)[which];
  folioGet(k, folio);
  listPush(batch, folio);
  if (batch.length < lru.batchSize && lru.disabled === 0 && folioMayBeLruCached(k, folio)) return;
  drainBatch(k, batch, move);
};

/** Every folio of a batch goes where it was to go, oldest first, and its reference. */
const drainBatch = (k: Kernel, batch: number[], move: (k: Kernel, folio: number) => void): void => {
  for (let folio = listRemoveAt(batch, 0); folio !== undefined; folio = listRemoveAt(batch, 0)) {
    move(k, folio);
    folioPut(k, folio);
  }
};

/** Puts a folio that is on no list where reclaim and compaction find it, sooner or later. */
export const folioAddLru = (k: Kernel, folio: number): void => {
  if (k.state.lru.batchSize === 0) addToList(k, folio);
  else addToBatch(k, folio, 'add', addToList);
};

/** Back on the list, as an active one. Compare lru_activate(). */
const activate = (k: Kernel, folio: number): void => {
  if (!folioTestFlags(k, folio, PG_UNEVICTABLE)) folioSetFlags(k, folio, PG_ACTIVE);
  addToList(k, folio);
};

/**
 * A folio that is used a lot: among the active ones. One that waits in this CPU's batch will be; one
 * in another CPU's stays as it is. Compare folio_activate().
 */
export const folioActivate = (k: Kernel, folio: number): void => {
  const word = readOnce(k.state.frames.flags, folio);
  if ((word & (PG_ACTIVE | PG_UNEVICTABLE)) !== 0) return;
  if ((word & PG_LRU) === 0) {
    if (cpuOf(k, k.state.lru.cpu).add.includes(folio)) folioSetFlags(k, folio, PG_ACTIVE);
    return;
  }
  lruListDel(k, folio);
  if (k.state.lru.batchSize === 0) activate(k, folio);
  else addToBatch(k, folio, 'activate', activate);
};

/** Somebody used it: the first time it is marked, the second time it becomes active. Compare folio_mark_accessed(). */
export const folioMarkAccessed = (k: Kernel, folio: number): void => {
  const word = readOnce(k.state.frames.flags, folio);
  if ((word & PG_REFERENCED) === 0) {
    folioSetFlags(k, folio, PG_REFERENCED);
  } else if ((word & (PG_UNEVICTABLE | PG_ACTIVE)) === 0) {
    folioActivate(k, folio);
    folioClearFlags(k, folio, PG_REFERENCED);
  }
};

/** A folio that is locked in memory, on a list or not, is counted as unevictable. Compare __mlock_folio(). */
const makeUnevictable = (k: Kernel, folio: number): void => {
  const { flags, prev } = k.state.frames;
  const word = readOnce(flags, folio);
  if ((word & PG_LRU) === 0 || (word & PG_MLOCKED) === 0) return;
  if ((word & PG_UNEVICTABLE) !== 0) {
    writeOnce(prev, folio, readOnce(prev, folio) + 1);
    return;
  }
  lruListDel(k, folio);
  addToList(k, folio);
};

/** One VMA more locks the folio in memory. Compare mlock_folio(). */
export const folioMlock = (k: Kernel, folio: number): void => {
  folioSetFlags(k, folio, PG_MLOCKED);
  if (k.state.lru.batchSize === 0) makeUnevictable(k, folio);
  else addToBatch(k, folio, 'mlock', makeUnevictable);
};

/** One VMA less does; after the last it is an ordinary folio again. Compare munlock_folio(). */
export const folioMunlock = (k: Kernel, folio: number): void => {
  const { flags, prev } = k.state.frames;
  const listed = PG_LRU | PG_UNEVICTABLE;
  if ((readOnce(flags, folio) & listed) === listed && readOnce(prev, folio) > 1) {
    writeOnce(prev, folio, readOnce(prev, folio) - 1);
    return;
  }
  if ((folioClearFlags(k, folio, PG_MLOCKED) & listed) !== listed) return;
  lruListDel(k, folio);
  addToList(k, folio);
};

const drainCpu = (k: Kernel, { add, activate: active, mlock }: LruCpu): void => {
  if (add.length > 0) drainBatch(k, add, addToList);
  if (active.length > 0) drainBatch(k, active, activate);
  if (mlock.length > 0) drainBatch(k, mlock, makeUnevictable);
};

/** Empties the batches of this CPU. */
export const lruAddDrain = (k: Kernel): void => {
  if (k.state.lru.batchSize > 0) drainCpu(k, cpuOf(k, k.state.lru.cpu));
};

/** Empties the batches of every CPU. */
export const lruAddDrainAll = (k: Kernel): void => {
  if (k.state.lru.batchSize > 0) for (const cpu of k.state.lru.cpus) drainCpu(k, cpu);
};

/** From now on nothing waits in a batch, and nothing is left in one: until lruCacheEnable(). They nest. */
export const lruCacheDisable = (k: Kernel): void => {
  setField(k.state.lru, 'disabled', k.state.lru.disabled + 1);
  lruAddDrainAll(k);
};

export const lruCacheEnable = (k: Kernel): void =>
  setField(k.state.lru, 'disabled', k.state.lru.disabled - 1);
