/**
 * The exploring build's access sets: what each actor has read and written since they were last
 * taken. Words by buffer and index, so that two views of one word are one location. Fields, maps and
 * lists are read without a cell; a write to one of them therefore counts as touching whatever the
 * others do.
 */
import { bufferIndex } from './journal.ts';

export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;

/** What one actor did. */
export interface AccessSet {
  /** Buffer -> index of the word in it -> ACCESS_READ | ACCESS_WRITE. */
  words: Map<ArrayBufferLike, Map<number, number>>;
  /** Records and maps -> keys written; lists -> the one key 'list'; arrays of bytes -> 'bytes'. */
  objects: Map<object, Set<unknown>>;
}

let accesses: Map<number, AccessSet> = new Map();

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

const accessSetOf = (actor: number): AccessSet => {
  let set = accesses.get(actor);
  if (set === undefined) {
    set = { words: new Map(), objects: new Map() };
    accesses.set(actor, set);
  }
  return set;
};

/** @param kind ACCESS_READ or ACCESS_WRITE */
export const noteWord = (words: Int32Array, index: number, kind: number, actor: number): void => {
  const { words: buffersOf } = accessSetOf(actor);
  let indices = buffersOf.get(words.buffer);
  if (indices === undefined) {
    indices = new Map();
    buffersOf.set(words.buffer, indices);
  }
  const at = bufferIndex(words, index);
  indices.set(at, (indices.get(at) ?? 0) | kind);
};

export const noteObject = (object: object, key: unknown, actor: number): void => {
  const { objects } = accessSetOf(actor);
  const keys = objects.get(object);
  if (keys === undefined) objects.set(object, new Set([key]));
  else keys.add(key);
};
