/** Saved machines as files: nothing is lost in them, and nothing half-written is left beside them. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PhysMemory, RAM_BASE, RAM_OFFSET } from '#emu';
import { readSnapshot, writeSnapshot } from '#testbed';
import { restoreMemory, saveMemory } from '../../testbed/machine/snapshot.ts';
import { rng } from '../support/rng.ts';

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'gupbed-snapshot-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const RAM_BYTES = 64 * PAGE_SIZE;

describe('the image of a memory', () => {
  it('restores every byte, RAM and the records beside it', () => {
    const memory = new PhysMemory(RAM_BYTES);
    const random = rng(1);
    for (let i = 0; i < 50; i++)
      memory.u8[RAM_OFFSET + random.below(RAM_BYTES)] = 1 + random.below(255);
    memory.u8[0] = 7;
    memory.u8[RAM_OFFSET + RAM_BYTES - 1] = 9;
    const copy = new PhysMemory(RAM_BYTES);
    restoreMemory(copy, saveMemory(memory));
    expect(Buffer.compare(copy.u8, memory.u8)).toBe(0);
  });

  it('leaves out pages of zeros, also those that were written', () => {
    const memory = new PhysMemory(RAM_BYTES);
    const ofRam = (page: number): boolean => page >= RAM_OFFSET / PAGE_SIZE;
    memory.writeBytes(RAM_BASE + 3 * PAGE_SIZE, new Uint8Array(PAGE_SIZE));
    expect(saveMemory(memory).pages.filter(ofRam)).toHaveLength(0);
    memory.u8[RAM_OFFSET + 3 * PAGE_SIZE + PAGE_SIZE - 1] = 1;
    const image = saveMemory(memory);
    expect([...image.pages.filter(ofRam)]).toEqual([RAM_OFFSET / PAGE_SIZE + 3]);
    expect(image.bytes).toHaveLength(image.pages.length * PAGE_SIZE);
  });
});

describe('the file', () => {
  const path = (): string => join(folder, 'm.gup');
  /** Records as a machine's are: shared, in a circle, of every kind that is saved. */
  const records = () => {
    const shared = { n: 1n << 60n, words: Int32Array.of(-1, 2) };
    const all = {
      a: shared,
      b: shared,
      map: new Map([[1, new Set(['x'])]]),
      self: null as unknown,
    };
    all.self = all;
    return all;
  };

  it('gives back the records, and what was shared is still shared', () => {
    writeSnapshot(path(), records());
    const read = readSnapshot(readFileSync(path())) as ReturnType<typeof records>;
    expect(read).toEqual(records());
    expect(read.a).toBe(read.b);
    expect(read.self).toBe(read);
    expect(readdirSync(folder)).toEqual(['m.gup']);
  });

  it('begins with a line that says what it is', () => {
    writeSnapshot(path(), {});
    expect(readFileSync(path()).subarray(0, 17).toString()).toBe('gupbed machine 4\n');
  });

  it('of another kind, of another version, or damaged is refused', () => {
    const read = (bytes: Uint8Array | string) => () => readSnapshot(Buffer.from(bytes));
    writeSnapshot(path(), records());
    const whole = readFileSync(path());
    const flipped = Buffer.from(whole);
    flipped[whole.length - 6]! ^= 0xff;
    expect(read('')).toThrow('not a saved machine');
    expect(read('\x7fELF')).toThrow('not a saved machine');
    expect(read('gupbed machine 2\n')).toThrow('a saved machine of another version');
    expect(read('gupbed machine 4\n')).toThrow('damaged or cut short');
    expect(read(whole.subarray(0, whole.length - 1))).toThrow('damaged or cut short');
    expect(read(flipped)).toThrow('damaged or cut short');
  });

  it('a failed write leaves the old file and nothing else', () => {
    writeSnapshot(path(), { old: true });
    // A file's name with a slash behind it: everything works but the move into place.
    expect(() => writeSnapshot(`${path()}/`, { old: false })).toThrow(/ENOTDIR/);
    expect(() => writeSnapshot(join(folder, 'new/'), {})).toThrow();
    expect(() => writeSnapshot(path(), { what: () => 'not data' })).toThrow(/clone/);
    expect(readdirSync(folder)).toEqual(['m.gup']);
    expect(readSnapshot(readFileSync(path()))).toEqual({ old: true });
  });

  it('never replaces what is not a file', () => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    expect(() => writeSnapshot(pipe, {})).toThrow('not a regular file');
    expect(statSync(pipe).isFIFO()).toBe(true);
    expect(() => writeSnapshot(folder, {})).toThrow('is a directory');
  });

  it('replaces a file', () => {
    writeFileSync(path(), 'something else');
    writeSnapshot(path(), { new: true });
    expect(readSnapshot(readFileSync(path()))).toEqual({ new: true });
  });
});
