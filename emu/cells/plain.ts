/**
 * Access to state that two actors can touch, as a run uses it: the bare access and nothing else.
 *
 * The names are Linux's (include/asm-generic/rwonce.h, atomic_t, smp_mb). Words are always
 * elements of an Int32Array, so that every access here stays monomorphic. The exploring build
 * (explore.ts, chosen by the import condition `explore`) exports the same names with an undo
 * journal, access sets and store buffers behind them.
 */

/** True in the build that keeps a journal. */
export const EXPLORING = false;

export const readOnce = (words: Int32Array, index: number): number => words[index]!;

export const writeOnce = (words: Int32Array, index: number, value: number): void => {
  words[index] = value;
};

/** Adds, and returns the new value. A full barrier, as atomic_add_return is. */
export const atomicAdd = (words: Int32Array, index: number, delta: number): number => {
  const value = (words[index]! + delta) | 0;
  words[index] = value;
  return value;
};

/** Adds, says nothing, and orders nothing: atomic_add(). */
export const atomicAddRelaxed = (words: Int32Array, index: number, delta: number): void => {
  words[index] = words[index]! + delta;
};

/** Stores `desired` if the word is `expected`; returns what the word was. */
export const cmpxchg = (
  words: Int32Array,
  index: number,
  expected: number,
  desired: number,
): number => {
  const old = words[index]!;
  if (old === expected) words[index] = desired;
  return old;
};

/** Sets bits, and returns what the word was before. */
export const fetchOr = (words: Int32Array, index: number, bits: number): number => {
  const old = words[index]!;
  words[index] = old | bits;
  return old;
};

/** Clears bits, and returns what the word was before. */
export const fetchAndNot = (words: Int32Array, index: number, bits: number): number => {
  const old = words[index]!;
  words[index] = old & ~bits;
  return old;
};

/** Sets bits, says nothing, and orders nothing: set_bit(). */
export const setBits = (words: Int32Array, index: number, bits: number): void => {
  words[index] = words[index]! | bits;
};

/** Clears bits, says nothing, and orders nothing: clear_bit(). */
export const clearBits = (words: Int32Array, index: number, bits: number): void => {
  words[index] = words[index]! & ~bits;
};

/** Full memory barrier. */
export const smpMb = (): void => {};
export const smpRmb = (): void => {};
export const smpWmb = (): void => {};

/** To be called before bytes of memory are changed by other means than the cells. */
export const noteBytes = (_bytes: Uint8Array, _offset: number, _lenBytes: number): void => {};

/** Sets one field of a shared record. */
export const setField = <T extends object, K extends keyof T>(
  record: T,
  key: K,
  value: T[K],
): void => {
  record[key] = value;
};

/** Adds to a number that is only counted up and reported: ordered with nothing. */
export const addField = <K extends string>(
  record: Record<K, number>,
  key: K,
  delta: number,
): void => {
  record[key] += delta;
};

export const mapSet = <K, V>(map: Map<K, V>, key: K, value: V): void => {
  map.set(key, value);
};

export const mapDelete = <K, V>(map: Map<K, V>, key: K): boolean => map.delete(key);

/** Inserts at `index` of a shared list. */
export const listInsert = <T>(list: T[], index: number, item: T): void => {
  list.splice(index, 0, item);
};

export const listPush = <T>(list: T[], item: T): void => {
  list.push(item);
};

/** Removes and returns the item at `index`. */
export const listRemoveAt = <T>(list: T[], index: number): T | undefined =>
  list.splice(index, 1)[0];
