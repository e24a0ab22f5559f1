/**
 * Was everything taken back? A copy of the state in which every run begins, and what differs from it.
 *
 * The journal knows of what went through the cells and of nothing else; a plain store to shared
 * state would leak from one run into the next, and the search would judge what never happens.
 */
import { RAM_OFFSET, type PhysMemory } from '#emu';

export class StateGuard {
  private readonly roots: () => unknown;
  private readonly rootsCopy: unknown;
  private readonly ram: Uint8Array | null;
  private readonly ramCopy: Uint8Array | null;

  /** @param roots plain data: what structuredClone() can copy; asked for anew each time */
  constructor(roots: () => unknown, memory: PhysMemory | null) {
    this.roots = roots;
    this.rootsCopy = structuredClone(roots());
    this.ram = memory?.u8.subarray(RAM_OFFSET, RAM_OFFSET + memory.ramBytes) ?? null;
    this.ramCopy = this.ram?.slice() ?? null;
  }

  /** Where the state is not what it was, or null. */
  difference(): string | null {
    if (
      this.ram !== null &&
      this.ramCopy !== null &&
      Buffer.compare(this.ram, this.ramCopy) !== 0
    ) {
      const at = this.ram.findIndex((byte, i) => byte !== this.ramCopy?.[i]);
      return `byte 0x${at.toString(16)} of RAM`;
    }
    return different(this.roots(), this.rootsCopy, 'state', new Set());
  }
}

/** The path to the first difference between two graphs of plain data, or null. */
const different = (a: unknown, b: unknown, path: string, seen: Set<object>): string | null => {
  if (typeof a !== 'object' || a === null || typeof b !== 'object' || b === null)
    return Object.is(a, b) ? null : path;
  if (seen.has(a)) return null;
  seen.add(a);
  if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) return sameBytes(a, b) ? null : path;
  if (a instanceof Set && b instanceof Set) return different([...a], [...b], path, seen);
  if (a instanceof Map && b instanceof Map) return different([...a], [...b], path, seen);
  const keys = Object.keys(a);
  if (keys.join() !== Object.keys(b).join()) return path;
  for (const key of keys) {
    const found = different(Reflect.get(a, key), Reflect.get(b, key), `${path}.${key}`, seen);
    if (found !== null) return found;
  }
  return null;
};

const sameBytes = (a: ArrayBufferView, b: ArrayBufferView): boolean =>
  Buffer.compare(bytesOf(a), bytesOf(b)) === 0;

const bytesOf = (view: ArrayBufferView): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
