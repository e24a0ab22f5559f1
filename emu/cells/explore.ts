/**
 * Access to state that two actors can touch, as the explorer uses it: the names of plain.ts with an
 * undo journal, access sets and store buffers behind them.
 *
 * - The journal takes back everything that went through the cells since a mark, byte by byte and in
 *   the order of maps and lists, store buffers included.
 * - An access set says what an actor has read and written: words by buffer and index, so that two
 *   views of one word are one location. Fields, maps and lists are read without a cell; a write to
 *   one of them therefore counts as touching whatever the others do (`conflicting`).
 * - Under 'tso' a writeOnce goes into its actor's first-in-first-out buffer, where only the actor
 *   itself sees it, and reaches memory when the buffer is flushed: by smpMb, by an atomic, or when the
 *   explorer says so. Writes to fields, maps and lists are not delayed; they flush first, so that
 *   stores stay in order. Store buffers are all of x86-TSO (Owens, Sarkar, Sewell 2009) and the part of
 *   RVWMO that is called Ztso; reordering beyond them is left out.
 *
 * One exploration at a time in a process: the cells' signatures have no room for a context.
 */

/** True in the build that keeps a journal. */
export const EXPLORING = true;

/** Sequentially consistent, or total store order. */
export type MemoryModel = 'sc' | 'tso';

/** A store on its way to memory. */
interface Store {
  words: Int32Array;
  index: number;
  value: number;
}

/** How to take one thing back. */
type Undo =
  | { kind: 'word'; words: Int32Array; index: number; old: number }
  | { kind: 'field'; record: object; key: PropertyKey; existed: boolean; old: unknown }
  | { kind: 'map-set'; map: Map<unknown, unknown>; key: unknown; existed: boolean; old: unknown }
  | { kind: 'map-delete'; map: Map<unknown, unknown>; key: unknown; position: number; old: unknown }
  | { kind: 'list-insert'; list: unknown[]; index: number }
  | { kind: 'list-remove'; list: unknown[]; index: number; item: unknown }
  | { kind: 'buffered'; actor: number }
  | { kind: 'flushed'; actor: number; store: Store };

export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;

/** What one actor did since the sets were last taken. */
export interface AccessSet {
  /** Buffer -> index of the word in it -> ACCESS_READ | ACCESS_WRITE. */
  words: Map<ArrayBufferLike, Map<number, number>>;
  /** Records and maps -> keys written; lists -> the one key 'list'. */
  objects: Map<object, Set<unknown>>;
}

let undos: Undo[] = [];
let actor = 0;
let model: MemoryModel = 'sc';
let dropped: 'none' | 'all' | ReadonlySet<number> = 'none';
let buffers: Map<number, Store[]> = new Map();
let accesses: Map<number, AccessSet> = new Map();

/* ---- the explorer's side ---- */

/** Everything since a mark can be taken back. */
export const journal = {
  /** A place to come back to. */
  mark: (): number => undos.length,
  /** Takes back all that was done since `to`; the access sets begin anew. @throws RangeError */
  rollback: (to: number): void => {
    if (to < 0 || to > undos.length) throw new RangeError(`no mark ${to} among ${undos.length}`);
    while (undos.length > to) {
      const undo = undos.pop();
      if (undo !== undefined) takeBack(undo);
    }
    accesses = new Map();
  },
};

/** Whoever acts from now on: its store buffer, its access set. */
export const setActor = (id: number): void => {
  actor = id;
};

/** What every actor accessed since the last call; the sets begin anew. */
export const takeAccesses = (): Map<number, AccessSet> => {
  const taken = accesses;
  accesses = new Map();
  return taken;
};

/** Could the order of these two matter? True wherever it cannot be ruled out. */
export const conflicting = (a: AccessSet, b: AccessSet): boolean => {
  if (a.objects.size > 0 || b.objects.size > 0) return true;
  for (const [buffer, words] of a.words) {
    const others = b.words.get(buffer);
    if (others === undefined) continue;
    for (const [index, kind] of words)
      if (((kind | (others.get(index) ?? 0)) & ACCESS_WRITE) !== 0 && others.has(index))
        return true;
  }
  return false;
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
  const store = buffers.get(id)?.shift();
  if (store === undefined) return false;
  undos.push({ kind: 'flushed', actor: id, store });
  storeWord(store.words, store.index, store.value, id);
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
  undos = [];
  actor = 0;
  model = 'sc';
  dropped = 'none';
  buffers = new Map();
  accesses = new Map();
};

/* ---- the cells, as in plain.ts ---- */

export const readOnce = (words: Int32Array, index: number): number => {
  const own = buffers.get(actor);
  if (own !== undefined)
    for (let i = own.length - 1; i >= 0; i--) {
      const store = own[i];
      if (store !== undefined && sameWord(store, words, index)) return store.value;
    }
  noteWord(words, index, ACCESS_READ, actor);
  return words[index]!;
};

export const writeOnce = (words: Int32Array, index: number, value: number): void => {
  if (model === 'sc') {
    storeWord(words, index, value, actor);
    return;
  }
  let own = buffers.get(actor);
  if (own === undefined) {
    own = [];
    buffers.set(actor, own);
  }
  own.push({ words, index, value: value | 0 });
  undos.push({ kind: 'buffered', actor });
};

/** Adds, and returns the new value. A full barrier, as atomic_add_return is. */
export const atomicAdd = (words: Int32Array, index: number, delta: number): number => {
  const old = readForUpdate(words, index);
  storeWord(words, index, old + delta, actor);
  return (old + delta) | 0;
};

/** Adds, says nothing, and orders nothing: atomic_add(). */
export const atomicAddRelaxed = (words: Int32Array, index: number, delta: number): void => {
  atomicAdd(words, index, delta);
};

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
export const setBits = (words: Int32Array, index: number, bits: number): void => {
  fetchOr(words, index, bits);
};

/** Clears bits, says nothing, and orders nothing: clear_bit(). */
export const clearBits = (words: Int32Array, index: number, bits: number): void => {
  fetchAndNot(words, index, bits);
};

/** Full memory barrier, unless it was dropped. */
export const smpMb = (): void => {
  if (dropped === 'all' || (dropped !== 'none' && dropped.has(actor))) return;
  flushStoreBuffer(actor);
};
/** Loads are in order, and so are stores, in both models. */
export const smpRmb = (): void => {};
export const smpWmb = (): void => {};

/** Sets one field of a shared record. */
export const setField = <T extends object, K extends keyof T>(
  record: T,
  key: K,
  value: T[K],
): void => {
  flushStoreBuffer(actor);
  const existed = Object.hasOwn(record, key);
  undos.push({ kind: 'field', record, key, existed, old: record[key] });
  noteObject(record, key);
  record[key] = value;
};

/** Adds to a number that is only counted up and reported: ordered with nothing. */
export const addField = <K extends string>(
  record: Record<K, number>,
  key: K,
  delta: number,
): void => {
  undos.push({ kind: 'field', record, key, existed: true, old: record[key] });
  record[key] += delta;
};

export const mapSet = <K, V>(map: Map<K, V>, key: K, value: V): void => {
  flushStoreBuffer(actor);
  const existed = map.has(key);
  undos.push({
    kind: 'map-set',
    map: map as Map<unknown, unknown>,
    key,
    existed,
    old: map.get(key),
  });
  noteObject(map, key);
  map.set(key, value);
};

export const mapDelete = <K, V>(map: Map<K, V>, key: K): boolean => {
  flushStoreBuffer(actor);
  noteObject(map, key);
  if (!map.has(key)) return false;
  let position = 0;
  for (const other of map.keys()) {
    if (Object.is(other, key)) break;
    position++;
  }
  const old = map.get(key);
  undos.push({ kind: 'map-delete', map: map as Map<unknown, unknown>, key, position, old });
  return map.delete(key);
};

/** Inserts at `index` of a shared list. */
export const listInsert = <T>(list: T[], index: number, item: T): void => {
  flushStoreBuffer(actor);
  noteObject(list, 'list');
  undos.push({ kind: 'list-insert', list, index: spliceIndex(list, index) });
  list.splice(index, 0, item);
};

export const listPush = <T>(list: T[], item: T): void => listInsert(list, list.length, item);

/** Removes and returns the item at `index`. */
export const listRemoveAt = <T>(list: T[], index: number): T | undefined => {
  flushStoreBuffer(actor);
  noteObject(list, 'list');
  const at = spliceIndex(list, index);
  if (at >= list.length) return undefined;
  const item = list.splice(at, 1)[0];
  undos.push({ kind: 'list-remove', list, index: at, item });
  return item;
};

/* ---- inside ---- */

/** Index as Array.prototype.splice() takes it: from the end where negative, cut to the list. */
const spliceIndex = (list: readonly unknown[], index: number): number =>
  index < 0 ? Math.max(list.length + index, 0) : Math.min(index, list.length);

/** An atomic's load: everything buffered is in memory, and so is what it will store. */
const readForUpdate = (words: Int32Array, index: number): number => {
  flushStoreBuffer(actor);
  noteWord(words, index, ACCESS_READ, actor);
  return words[index]!;
};

const storeWord = (words: Int32Array, index: number, value: number, by: number): void => {
  undos.push({ kind: 'word', words, index, old: words[index]! });
  noteWord(words, index, ACCESS_WRITE, by);
  words[index] = value;
};

/** Index of a word counted from the start of its buffer. */
const bufferIndex = (words: Int32Array, index: number): number => words.byteOffset / 4 + index;

const sameWord = (store: Store, words: Int32Array, index: number): boolean =>
  store.words.buffer === words.buffer &&
  bufferIndex(store.words, store.index) === bufferIndex(words, index);

const accessSetOf = (id: number): AccessSet => {
  let set = accesses.get(id);
  if (set === undefined) {
    set = { words: new Map(), objects: new Map() };
    accesses.set(id, set);
  }
  return set;
};

const noteWord = (words: Int32Array, index: number, kind: number, by: number): void => {
  const { words: buffersOf } = accessSetOf(by);
  let indices = buffersOf.get(words.buffer);
  if (indices === undefined) {
    indices = new Map();
    buffersOf.set(words.buffer, indices);
  }
  const at = bufferIndex(words, index);
  indices.set(at, (indices.get(at) ?? 0) | kind);
};

const noteObject = (object: object, key: unknown): void => {
  const { objects } = accessSetOf(actor);
  const keys = objects.get(object);
  if (keys === undefined) objects.set(object, new Set([key]));
  else keys.add(key);
};

const takeBack = (undo: Undo): void => {
  switch (undo.kind) {
    case 'word':
      undo.words[undo.index] = undo.old;
      break;
    case 'field':
      if (undo.existed) Reflect.set(undo.record, undo.key, undo.old);
      else Reflect.deleteProperty(undo.record, undo.key);
      break;
    case 'map-set':
      if (undo.existed) undo.map.set(undo.key, undo.old);
      else undo.map.delete(undo.key);
      break;
    case 'map-delete': {
      // A map keeps the order of insertion: what came after the key is inserted anew, after it.
      const later = [...undo.map].slice(undo.position);
      for (const [key] of later) undo.map.delete(key);
      undo.map.set(undo.key, undo.old);
      for (const [key, value] of later) undo.map.set(key, value);
      break;
    }
    case 'list-insert':
      undo.list.splice(undo.index, 1);
      break;
    case 'list-remove':
      undo.list.splice(undo.index, 0, undo.item);
      break;
    case 'buffered':
      buffers.get(undo.actor)?.pop();
      break;
    case 'flushed':
      buffers.get(undo.actor)?.unshift(undo.store);
      break;
  }
};
