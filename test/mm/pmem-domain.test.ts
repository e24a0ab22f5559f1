/**
 * Persistent memory of the kernel under a persistence domain: what the kernel flushes is durable there,
 * and what the domain says is durable is what a loss of power leaves.
 */
import { PAGE_SIZE, PERSIST_LINE_BYTES, PersistDomain } from '#emu';
import { drive, fileRead, fileWrite, munmap, pmemCrashImage, pmemPowerFail, vfsFsync } from '#mm';
import { describe, expect, it } from 'vitest';
import { AT, blockPage, daxWorld, type DaxWorld, pageOf, powerFail, wordOf } from './dax-world.ts';

const NR = 8;
const none = (): boolean => false;

/** A DAX file whose device is a domain as a whole. */
const world = (): DaxWorld & { domain: PersistDomain } => {
  const d = daxWorld(NR);
  const { k, dev } = d;
  const domain = new PersistDomain({
    memory: k.memory,
    firstOffset: k.memory.pageOffset(dev.pmemPage),
    lenBytes: dev.nrBlocks * PAGE_SIZE,
    mode: 'adr',
  });
  return { ...d, domain };
};

/** Line of the domain where a page of the file begins. */
const lineOf = (d: DaxWorld, pgoff: number): number =>
  ((blockPage(d, pgoff) - d.dev.pmemPage) * PAGE_SIZE) / PERSIST_LINE_BYTES;

describe('what the kernel makes durable', () => {
  it('write() stores past the caches: nothing of it is pending in the domain', () => {
    const d = world();
    drive(fileWrite(d.k, d.file, 3 * PAGE_SIZE, pageOf(7)));
    expect(d.domain.choicesOf(lineOf(d, 3))).toBe(1);
    expect(d.domain.media[lineOf(d, 3) * PERSIST_LINE_BYTES]).toBe(7);
  });

  it('a store to a mapping is pending until fsync()', () => {
    const d = world();
    drive(vfsFsync(d.k, d.file));
    d.p.store32(AT + PAGE_SIZE, 1);
    d.p.store32(AT + PAGE_SIZE + 64, 2);
    expect([d.domain.choicesOf(lineOf(d, 1)), d.domain.choicesOf(lineOf(d, 1) + 1)]).toEqual([
      2, 2,
    ]);
    drive(vfsFsync(d.k, d.file));
    expect([d.domain.choicesOf(lineOf(d, 1)), d.domain.choicesOf(lineOf(d, 1) + 1)]).toEqual([
      1, 1,
    ]);
  });
});

describe('what the domain knows to be durable', () => {
  it('a line that a CPU has written back is in the image, without fsync()', () => {
    const d = world();
    drive(vfsFsync(d.k, d.file));
    d.p.store32(AT, 1);
    d.p.store32(AT + 128, 2);
    const at = d.k.memory.pageOffset(blockPage(d, 0));
    d.domain.clean(0, at);
    d.domain.fence(0);
    const image = pmemCrashImage(d.k, d.dev, none);
    const bytes = image.get(blockPage(d, 0) - d.dev.pmemPage) ?? new Uint8Array(PAGE_SIZE);
    expect([wordOf(bytes), wordOf(bytes.subarray(128))]).toEqual([1, 0]);
    const kept = pmemCrashImage(d.k, d.dev, () => true).get(blockPage(d, 0) - d.dev.pmemPage);
    expect(wordOf((kept ?? new Uint8Array(PAGE_SIZE)).subarray(128))).toBe(2);
  });

  it('a loss of power leaves just that in the frames, and the file system mounts', () => {
    for (const keeps of [false, true]) {
      const d = world();
      drive(vfsFsync(d.k, d.file));
      d.p.store32(AT, 1);
      d.p.store32(AT + 128, 2);
      d.domain.clean(0, d.k.memory.pageOffset(blockPage(d, 0)));
      d.domain.fence(0);
      drive(munmap(d.k, d.p.mm, AT, NR * PAGE_SIZE));
      const file = powerFail(d, () => keeps);
      if (typeof file === 'number') throw new Error(`errno ${-file}`);
      const bytes = new Uint8Array(PAGE_SIZE);
      drive(fileRead(d.k, file, 0, bytes));
      expect([wordOf(bytes), wordOf(bytes.subarray(128))]).toEqual([1, keeps ? 2 : 0]);
      expect(d.domain.pendingLines().length).toBe(0);
    }
  });

  it('frames outside the domain follow the kernel alone', () => {
    const d = daxWorld(NR);
    const { k, dev } = d;
    const first = blockPage(d, 0);
    const domain = new PersistDomain({
      memory: k.memory,
      firstOffset: k.memory.pageOffset(first),
      lenBytes: PAGE_SIZE,
      mode: 'adr',
    });
    drive(vfsFsync(k, d.file));
    d.p.store32(AT, 1);
    d.p.store32(AT + PAGE_SIZE, 2);
    expect([...domain.pendingLines()]).toEqual([0]);
    pmemPowerFail(k, dev, none);
    const word = (pgoff: number): number =>
      k.memory.i32[k.memory.pageOffset(blockPage(d, pgoff)) >>> 2]!;
    expect([word(0), word(1)]).toEqual([100, 101]);
  });
});
