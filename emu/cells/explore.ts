/**
 * Access to state that two actors can touch, as the explorer uses it: the names of plain.ts with an
 * undo journal (journal.ts), access sets (access.ts) and store buffers behind them.
 *
 * Memory model 'tso': what an actor stores goes into its first-in-first-out buffer, where only the
 * actor itself sees it, and reaches memory when the buffer is flushed: by smpMb, by an atomic that
 * returns a value, or when the explorer says so. These are the store buffers of x86-TSO (Owens,
 * Sarkar, Sewell 2009) and of Ztso, the same part of RVWMO. Two things go beyond x86:
 *
 * - An atomic without a value (atomicAddRelaxed, setBits, clearBits) waits in the buffer as a plain
 *   store does, and is applied to what it finds when it reaches memory. So Linux defines atomic_add()
 *   and set_bit() (Documentation/atomic_t.txt, atomic_bitops.txt: they order nothing), and so riscv
 *   (amoadd.w without aq and rl) and arm64 (stadd) may run them; on x86 the lock prefix is a barrier.
 * - A page-table entry is cleared by a plain store. Linux's ptep_get_and_clear() is a full barrier on
 *   x86 and riscv, and none on arm64; callers that need one ask for it. Nor is a TLB flush a barrier
 *   here, which it is on every real machine.
 *
 * Loads are in order and never early; reordering beyond this is left out. Writes to fields, maps,
 * lists and runs of bytes are not delayed; they flush first, so that stores stay in order, and a lock
 * that is a field is released after what it guards.
 *
 * One exploration at a time in a process: the cells' signatures have no room for a context.
 */
import { ACCESS_READ, ACCESS_WRITE, noteObject, noteWord, takeAccesses } from './access.ts';
import {
  bufferIndex,
  journalChanges,
  journalMark,
  journalPush,
  journalReset,
  journalRollback,
  type Store,
} from './journal.ts';

export { ACCESS_READ, ACCESS_WRITE, conflicting, takeAccesses } from './access.ts';
export type { AccessSet } from './access.ts';
export type { Change } from './journal.ts';

/** True in the build that keeps a journal. */
export const EXPLORING = true;

/** Sequentially consistent, or with store buffers. */
export type MemoryModel = 'sc' | 'tso';

let actor = 0;
let model: MemoryModel = 'sc';
let dropped: 'none' | 'all' | ReadonlySet<number> = 'none';
let buffers: Map<number, Store[]> = new Map();

/* ---- the explorer's side ---- */

/** Everything since a mark can be taken back. */
export const journal = {
  /** A place to come back to. */
  mark: journalMark,
  /** Takes back all that was done since `to`; the access sets begin anew. @throws RangeError */
  rollback: (to: number): void => {
    journalRollback(to);
    takeAccesses();
  },
  /** What is different since a mark; counters of events and store buffers are left out. */
  changes: journalChanges,
};

/** Whoever acts from now on: its store buffer, its access set. */
export const setActor = (id: number): void => {
  actor = id;
};

/** Changes the memory model; what is still buffered reaches memory first. */
export const setMemoryModel = (next: MemoryModel): void => {
  for (const id of buffers.keys()) flushStoreBuffer(id);
  model = next;
};

/** All stores of an actor reach memory. */
export const flushStoreBuffer = (id: number): void => {
  while (flushOldestStore(id));
};

/** The oldest store of an actor reaches memory. Returns false when there is none. */
export const flushOldestStore = (id: number): boolean => {
  const buffer = buffers.get(id);
  const store = buffer?.shift();
  if (buffer === undefined || store === undefined) return false;
  journalPush({ kind: 'flushed', buffer, store });
  applyStore(store, id);
  return true;
};

/** Stores of an actor that have not reached memory. */
export const storeBufferLength = (id: number): number => buffers.get(id)?.length ?? 0;

/** Whose smpMb() does nothing: nobody's, everybody's, or that of these actors. */
export const dropBarriers = (of: 'none' | 'all' | readonly number[]): void => {
  dropped = typeof of === 'string' ? of : new Set(of);
};

/** Forgets the journal, buffered stores, access sets and settings: a fresh exploration. */
export const resetExploration = (): void => {
  journalReset();
  takeAccesses();
  actor = 0;
  model = 'sc';
  dropped = 'none';
  buffers = new Map();
};

/* ---- the cells, as in plain.ts ---- */

export const readOnce = (words: Int32Array, index: number): number => {
  const own = buffers.get(actor);
  if (own === undefined || own.length === 0) return loadWord(words, index);
  const stores = own.filter((store) => sameWord(store, words, index));
  // What lies before a plain store of one's own cannot be seen; then memory is not read at all.
  const from = stores.findLastIndex((store) => store.kind === 'set');
  let value = from < 0 ? loadWord(words, index) : 0;
  for (const store of stores.slice(Math.max(from, 0))) value = applied(store, value);
  return value;
};

export const writeOnce = (words: Int32Array, index: number, value: number): void =>
  storeLater({ words, index, kind: 'set', value: value | 0 });

/** Adds, and returns the new value. A full barrier, as atomic_add_return is. */
export const atomicAdd = (words: Int32Array, index: number, delta: number): number => {
  const old = readForUpdate(words, index);
  storeWord(words, index, old + delta, actor);
  return (old + delta) | 0;
};

/** Adds, says nothing, and orders nothing: atomic_add(). */
export const atomicAddRelaxed = (words: Int32Array, index: number, delta: number): void =>
  storeLater({ words, index, kind: 'add', value: delta });

/** Stores `desired` if the word is `expected`; returns what the word was. */
export const cmpxchg = (
  words: Int32Array,
  index: number,
  expected: number,
  desired: number,
): number => {
  const old = readForUpdate(words, index);
  if (old === expected) storeWord(words, index, desired, actor);
  return old;
};

/** Sets bits, and returns what the word was before. */
export const fetchOr = (words: Int32Array, index: number, bits: number): number => {
  const old = readForUpdate(words, index);
  storeWord(words, index, old | bits, actor);
  return old;
};

/** Clears bits, and returns what the word was before. */
export const fetchAndNot = (words: Int32Array, index: number, bits: number): number => {
  const old = readForUpdate(words, index);
  storeWord(words, index, old & ~bits, actor);
  return old;
};

/** Sets bits, says nothing, and orders nothing: set_bit(). */
export const setBits = (words: Int32Array, index: number, bits: number): void =>
  storeLater({ words, index, kind: 'or', value: bits });

/** Clears bits, says nothing, and orders nothing: clear_bit(). */
export const clearBits = (words: Int32Array, index: number, bits: number): void =>
  storeLater({ words, index, kind: 'andnot', value: bits });

/** Full memory barrier, unless it was dropped. */
export const smpMb = (): void => {
  if (dropped === 'all' || (dropped !== 'none' && dropped.has(actor))) return;
  flushStoreBuffer(actor);
};
/** Loads are in order, and so are stores, in both models. */
export const smpRmb = (): void => {};
export const smpWmb = (): void => {};

/** To be called before bytes of memory are changed by other means than the cells. */
export const noteBytes = (bytes: Uint8Array, offset: number, lenBytes: number): void => {
  flushStoreBuffer(actor);
  journalPush({ kind: 'bytes', bytes, offset, old: bytes.slice(offset, offset + lenBytes) });
  noteObject(bytes, 'bytes', actor);
};

/** Sets one field of a shared record. */
export const setField = <T extends object, K extends keyof T>(
  record: T,
  key: K,
  value: T[K],
): void => {
  flushStoreBuffer(actor);
  const existed = Object.hasOwn(record, key);
  journalPush({ kind: 'field', record, key, existed, old: record[key] });
  noteObject(record, key, actor);
  record[key] = value;
};

/** Adds to a number that is only counted up and reported: ordered with nothing, in nobody's access set. */
export const addField = <K extends string>(
  record: Record<K, number>,
  key: K,
  delta: number,
): void => {
  journalPush({ kind: 'count', record, key, old: record[key] });
  record[key] += delta;
};

export const mapSet = <K, V>(map: Map<K, V>, key: K, value: V): void => {
  flushStoreBuffer(actor);
  const existed = map.has(key);
  journalPush({
    kind: 'map-set',
    map: map as Map<unknown, unknown>,
    key,
    existed,
    old: map.get(key),
  });
  noteObject(map, key, actor);
  map.set(key, value);
};

export const mapDelete = <K, V>(map: Map<K, V>, key: K): boolean => {
  flushStoreBuffer(actor);
  noteObject(map, key, actor);
  if (!map.has(key)) return false;
  let position = 0;
  for (const other of map.keys()) {
    if (Object.is(other, key)) break;
    position++;
  }
  const old = map.get(key);
  journalPush({ kind: 'map-delete', map: map as Map<unknown, unknown>, key, position, old });
  return map.delete(key);
};

/** Inserts at `index` of a shared list. */
export const listInsert = <T>(list: T[], index: number, item: T): void => {
  flushStoreBuffer(actor);
  noteObject(list, 'list', actor);
  journalPush({ kind: 'list-insert', list, index: spliceIndex(list, index) });
  list.splice(index, 0, item);
};

export const listPush = <T>(list: T[], item: T): void => listInsert(list, list.length, item);

/** Removes and returns the item at `index`. */
export const listRemoveAt = <T>(list: T[], index: number): T | undefined => {
  flushStoreBuffer(actor);
  noteObject(list, 'list', actor);
  const at = spliceIndex(list, index);
  if (at >= list.length) return undefined;
  const item = list.splice(at, 1)[0];
  journalPush({ kind: 'list-remove', list, index: at, item });
  return item;
};

/* ---- inside ---- */

/** Index as Array.prototype.splice() takes it: from the end where negative, cut to the list. */
const spliceIndex = (list: readonly unknown[], index: number): number =>
  index < 0 ? Math.max(list.length + index, 0) : Math.min(index, list.length);

const loadWord = (words: Int32Array, index: number): number => {
  noteWord(words, index, ACCESS_READ, actor);
  return words[index]!;
};

/** An atomic's load: everything buffered is in memory, and so is what it will store. */
const readForUpdate = (words: Int32Array, index: number): number => {
  flushStoreBuffer(actor);
  return loadWord(words, index);
};

/** Into the actor's buffer; at once into memory where there are none. */
const storeLater = (store: Store): void => {
  if (model === 'sc') {
    applyStore(store, actor);
    return;
  }
  let own = buffers.get(actor);
  if (own === undefined) {
    own = [];
    buffers.set(actor, own);
  }
  own.push(store);
  journalPush({ kind: 'buffered', buffer: own });
};

/** A store reaches memory. */
const applyStore = (store: Store, by: number): void => {
  const { words, index } = store;
  if (store.kind !== 'set') noteWord(words, index, ACCESS_READ, by);
  storeWord(words, index, applied(store, words[index]!), by);
};

/** What the word is after the store, when it was `value` before. */
const applied = (store: Store, value: number): number => {
  switch (store.kind) {
    case 'set':
      return store.value;
    case 'add':
      return (value + store.value) | 0;
    case 'or':
      return value | store.value;
    case 'andnot':
      return value & ~store.value;
  }
};

const storeWord = (words: Int32Array, index: number, value: number, by: number): void => {
  journalPush({ kind: 'word', words, index, old: words[index]! });
  noteWord(words, index, ACCESS_WRITE, by);
  words[index] = value;
};

const sameWord = (store: Store, words: Int32Array, index: number): boolean =>
  store.words.buffer === words.buffer &&
  bufferIndex(store.words, store.index) === bufferIndex(words, index);
