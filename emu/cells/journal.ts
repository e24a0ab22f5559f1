/**
 * The exploring build's undo journal: what was done since a mark, and how to take it back, the last
 * thing first. Byte by byte, and in the order of maps and lists; store buffers included.
 */

/** A store on its way to memory. An atomic without a value is applied to what it finds there. */
export interface Store {
  words: Int32Array;
  index: number;
  kind: 'set' | 'add' | 'or' | 'andnot';
  value: number;
}

/** How to take one thing back. */
export type Undo =
  | { kind: 'word'; words: Int32Array; index: number; old: number }
  | { kind: 'bytes'; bytes: Uint8Array; offset: number; old: Uint8Array }
  | { kind: 'field'; record: object; key: PropertyKey; existed: boolean; old: unknown }
  | { kind: 'count'; record: object; key: PropertyKey; old: number }
  | { kind: 'map-set'; map: Map<unknown, unknown>; key: unknown; existed: boolean; old: unknown }
  | { kind: 'map-delete'; map: Map<unknown, unknown>; key: unknown; position: number; old: unknown }
  | { kind: 'list-insert'; list: unknown[]; index: number }
  | { kind: 'list-remove'; list: unknown[]; index: number; item: unknown }
  | { kind: 'buffered'; buffer: Store[] }
  | { kind: 'flushed'; buffer: Store[]; store: Store };

/** What is different since a mark, taken together: a word or a field that came back is not. */
export type Change =
  | { kind: 'word'; words: Int32Array; index: number; old: number; now: number }
  | { kind: 'field'; record: object; key: PropertyKey; old: unknown; now: unknown }
  /** Something was done to it, and may have been undone. */
  | { kind: 'object'; object: object };

let undos: Undo[] = [];

/** Writes down how to take back what is about to be done. */
export const journalPush = (undo: Undo): void => {
  undos.push(undo);
};

/** A place to come back to. */
export const journalMark = (): number => undos.length;

export const journalReset = (): void => {
  undos = [];
};

/** Takes back all that was done since `to`. @throws RangeError */
export const journalRollback = (to: number): void => {
  if (to < 0 || to > undos.length) throw new RangeError(`no mark ${to} among ${undos.length}`);
  while (undos.length > to) {
    const undo = undos.pop();
    if (undo !== undefined) takeBack(undo);
  }
};

/** Index of a word counted from the start of its buffer. */
export const bufferIndex = (words: Int32Array, index: number): number =>
  words.byteOffset / 4 + index;

/** What is different since the mark. What only counts events is left out, and so are store buffers. */
export const journalChanges = (since: number): Change[] => {
  const changes: Change[] = [];
  const seen = new Map<object, Set<unknown>>();
  /** The oldest undo of a place says what was there. */
  const first = (object: object, key: unknown): boolean => {
    const keys = seen.get(object) ?? new Set();
    seen.set(object, keys);
    if (keys.has(key)) return false;
    keys.add(key);
    return true;
  };
  for (const undo of undos.slice(since)) {
    switch (undo.kind) {
      case 'word': {
        const { words, index, old } = undo;
        const now = words[index]!;
        if (first(words.buffer, bufferIndex(words, index)) && now !== old)
          changes.push({ kind: 'word', words, index, old, now });
        break;
      }
      case 'field': {
        const { record, key, old } = undo;
        const now: unknown = Reflect.get(record, key);
        if (first(record, key) && !Object.is(now, old))
          changes.push({ kind: 'field', record, key, old, now });
        break;
      }
      case 'bytes':
        if (first(undo.bytes, 'bytes')) changes.push({ kind: 'object', object: undo.bytes });
        break;
      case 'map-set':
      case 'map-delete':
        if (first(undo.map, 'map')) changes.push({ kind: 'object', object: undo.map });
        break;
      case 'list-insert':
      case 'list-remove':
        if (first(undo.list, 'list')) changes.push({ kind: 'object', object: undo.list });
        break;
      case 'count':
      case 'buffered':
      case 'flushed':
        break;
    }
  }
  return changes;
};

const takeBack = (undo: Undo): void => {
  switch (undo.kind) {
    case 'word':
      undo.words[undo.index] = undo.old;
      break;
    case 'bytes':
      undo.bytes.set(undo.old, undo.offset);
      break;
    case 'field':
      if (undo.existed) Reflect.set(undo.record, undo.key, undo.old);
      else Reflect.deleteProperty(undo.record, undo.key);
      break;
    case 'count':
      Reflect.set(undo.record, undo.key, undo.old);
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
      undo.buffer.pop();
      break;
    case 'flushed':
      undo.buffer.unshift(undo.store);
      break;
  }
};
