/**
 * A saved machine as a file: one line that says what it is, then the machine's records by the
 * structured-clone algorithm (node:v8), compressed.
 *
 * Every record goes through one call, so that what two parts share is still shared afterwards. Of
 * the machine's memory, pages that hold only zeros are left out. The file is written beside its
 * name and moved into place, so that an interrupted save leaves no half of one.
 */
import { mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import { gunzipSync, gzipSync } from 'node:zlib';
import { CODE_FLAGS, DECODE_BASE, PAGE_SIZE, type PhysMemory } from '#emu';

/** The first line: what the file is, and which version of it. */
const KIND = 'gupbed machine ';
const MAGIC = `${KIND}4\n`;

/** Pages with decoded instructions, which are decoded again when they are reached. */
const DERIVED_START = DECODE_BASE / PAGE_SIZE;
const DERIVED_END = CODE_FLAGS / PAGE_SIZE;

/** The pages of a machine's memory that are not all zeros. */
export interface MemoryImage {
  ramBytes: number;
  /** Page numbers in the WebAssembly.Memory, ascending. */
  pages: Int32Array;
  /** Their bytes, one after the other. */
  bytes: Uint8Array;
}

/** The file is not a saved machine, or not one that this version can read. */
export class SnapshotError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'SnapshotError';
  }
}

/** A copy of the pages that are not all zeros; what the harts have decoded is left out. */
export const saveMemory = (memory: PhysMemory): MemoryImage => {
  const wordsPerPage = PAGE_SIZE / 4;
  const kept: number[] = [];
  const nrPages = memory.i32.length / wordsPerPage;
  for (let page = 0; page < nrPages; page++) {
    if (page >= DERIVED_START && page < DERIVED_END) continue;
    const end = (page + 1) * wordsPerPage;
    let word = page * wordsPerPage;
    while (word < end && memory.i32[word] === 0) word++;
    if (word < end) kept.push(page);
  }
  const bytes = new Uint8Array(kept.length * PAGE_SIZE);
  for (const [i, page] of kept.entries())
    bytes.set(memory.u8.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE), i * PAGE_SIZE);
  return { ramBytes: memory.ramBytes, pages: Int32Array.from(kept), bytes };
};

/** Fills a fresh memory of the same size. */
export const restoreMemory = (memory: PhysMemory, image: MemoryImage): void => {
  for (const [i, page] of image.pages.entries())
    memory.u8.set(image.bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE), page * PAGE_SIZE);
};

/**
 * Refuses a name that stands for something else than a file: the move into place would put an
 * ordinary file where a device or a pipe was.
 * @throws Error saying what it is, or the file system's error
 */
export const checkTarget = (path: string): void => {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || stat.isFile()) return;
  throw new Error(stat.isDirectory() ? 'is a directory' : 'not a regular file');
};

/** Writes the machine's file whole or not at all. @throws Error as writeWhole() */
export const writeSnapshot = (path: string, records: unknown): void => {
  checkTarget(path);
  const body = gzipSync(serialize(records), { level: 1 });
  writeWhole(path, Buffer.concat([Buffer.from(MAGIC, 'latin1'), body]));
};

/** Writes a file whole or not at all. @throws Error as checkTarget(), the file system's error */
export const writeWhole = (path: string, bytes: Uint8Array): void => {
  checkTarget(path);
  const folder = mkdtempSync(join(dirname(path), '.gupbed-'));
  try {
    const part = join(folder, basename(path));
    writeFileSync(part, bytes);
    renameSync(part, path);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
};

/** @throws SnapshotError when the bytes are not what writeSnapshot wrote */
export const readSnapshot = (bytes: Uint8Array): unknown => {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(MAGIC.length, bytes.length));
  const firstLine = head.toString('latin1');
  if (firstLine !== MAGIC)
    throw new SnapshotError(
      firstLine.startsWith(KIND) ? 'a saved machine of another version' : 'not a saved machine',
    );
  try {
    return deserialize(gunzipSync(bytes.subarray(MAGIC.length)));
  } catch {
    throw new SnapshotError('a saved machine, but damaged or cut short');
  }
};
