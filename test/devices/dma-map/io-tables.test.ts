/** Tables of IOMMU domains: read back by a walk of the test's own, straight from the manual. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE, PhysMemory, RAM_BASE } from '#emu';
import { checkKernel, createKernel, createPolicy, ENOMEM, freePages, nrFreePages } from '#mm';
import {
  IO_READ,
  IO_READ_WRITE,
  type IoTables,
  ioEntry,
  ioLimit,
  ioMap,
  ioRootPfn,
  ioTablesCreate,
  ioTablesFree,
  ioUnmap,
  visitIoLeaves,
} from '../../../devices/host/io-tables.ts';
import { rng } from '../../support/rng.ts';

const FRAMES = RAM_BASE / PAGE_SIZE;

const kernelOf = (ramMib = 16) =>
  createKernel({
    memory: new PhysMemory(ramMib << 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });

type K = ReturnType<typeof kernelOf>;

const tablesOf = (k: K, stage: 1 | 2): IoTables => {
  const t = ioTablesCreate(k, stage);
  if (typeof t === 'number') throw new Error(`tables: ${t}`);
  return t;
};

/** Sv39 and Sv39x4, in BigInt (Priv 12.3.2, 15.5.1). */
const walk = (k: K, t: IoTables, iova: bigint): { pa: bigint; write: boolean } | null => {
  const load = (pa: bigint): bigint =>
    new DataView(k.memory.readBytes(Number(pa), 8).buffer).getBigUint64(0, true);
  let table = BigInt(ioRootPfn(t)) << 12n;
  for (let level = 2n; level >= 0n; level--) {
    const bits = level === 2n && t.stage === 2 ? 0x7ffn : 0x1ffn;
    const pte = load(table + ((iova >> (12n + 9n * level)) & bits) * 8n);
    if ((pte & 1n) === 0n) return null;
    const ppn = (pte >> 10n) & 0xfff_ffff_ffffn;
    if ((pte & 0b1010n) === 0n) {
      table = ppn << 12n;
      continue;
    }
    expect(pte & 0b101_0000n).toBe(0b101_0000n); // A and U
    const offset = (1n << (12n + 9n * level)) - 1n;
    expect((ppn << 12n) & offset).toBe(0n);
    return { pa: (ppn << 12n) | (iova & offset), write: (pte & 0b1000_0100n) === 0b1000_0100n };
  }
  return null;
};

describe('a mapped run of frames', () => {
  for (const stage of [1, 2] as const)
    it(`of a stage-${stage} table is found where it was put, with its rights, up to the last page`, () => {
      const k = kernelOf();
      const t = tablesOf(k, stage);
      const top = ioLimit(stage) / PAGE_SIZE - 1;
      expect(ioMap(k, t, top, 7, 1, IO_READ, [])).toBe(0);
      expect(ioMap(k, t, 5, 100, 3, IO_READ_WRITE, [])).toBe(0);
      expect(walk(k, t, BigInt(top) << 12n)).toEqual({
        pa: BigInt(FRAMES + 7) << 12n,
        write: false,
      });
      expect(walk(k, t, 0x6123n)).toEqual({
        pa: (BigInt(FRAMES + 101) << 12n) | 0x123n,
        write: true,
      });
      expect(walk(k, t, 0x8000n)).toBeNull();
      expect([ioEntry(k, t, 6), ioEntry(k, t, 8)]).toEqual([
        { page: 101, write: true },
        { page: -1, write: false },
      ]);
    });

  it('takes leaves of 2 MiB where address, frame and length allow it', () => {
    const k = kernelOf();
    const t = tablesOf(k, 1);
    const leaves: number[] = [];
    ioMap(k, t, 512 - 3, 1024 - 3, 3 + 512 + 2, IO_READ_WRITE, []);
    visitIoLeaves(k, t, (_pfn, _page, nrPages) => leaves.push(nrPages));
    expect(leaves).toEqual([1, 1, 1, 512, 1, 1]);
    expect(t.nrMapped).toBe(517);
  });

  it('is not mapped over another', () => {
    const k = kernelOf();
    const t = tablesOf(k, 1);
    ioMap(k, t, 600, 10, 1, IO_READ, []);
    expect(() => ioMap(k, t, 599, 20, 3, IO_READ, [])).toThrow(/mapped already/);
    expect(() => ioMap(k, t, 512, 1024, 512, IO_READ, [])).toThrow(/mapped already/);
    ioMap(k, t, 1024, 1024, 512, IO_READ, []);
    expect(() => ioMap(k, t, 1030, 20, 1, IO_READ, [])).toThrow(/mapped already/);
  });

  it('of 2 MiB takes the place of a table that maps nothing any more, which the caller frees', () => {
    const k = kernelOf();
    const t = tablesOf(k, 1);
    ioMap(k, t, 600, 10, 1, IO_READ, []);
    ioUnmap(k, t, 600, 1);
    const dropped: number[] = [];
    expect(ioMap(k, t, 512, 1024, 512, IO_READ, dropped)).toBe(0);
    expect(dropped).toHaveLength(1);
    freePages(k, dropped[0]!, 0);
    expect(walk(k, t, 600n << 12n)?.pa).toBe(BigInt(FRAMES + 1024 + 88) << 12n);
    ioTablesFree(k, t);
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
  });

  it('cannot be unmapped in parts of a leaf', () => {
    const k = kernelOf();
    const t = tablesOf(k, 1);
    ioMap(k, t, 512, 1024, 512, IO_READ, []);
    expect(() => ioUnmap(k, t, 512, 256)).toThrow(/a part of a leaf/);
    expect(() => ioUnmap(k, t, 600, 512)).toThrow(/a part of a leaf/);
    expect(ioUnmap(k, t, 0, 2048)).toBe(512);
  });
});

it('without memory for a table nothing is lost', () => {
  const k = kernelOf(4);
  const t = tablesOf(k, 1);
  const before = nrFreePages(k);
  let error = 0;
  for (let gib = 0; error === 0; gib++) error = ioMap(k, t, gib * 2 ** 9, 5, 1, IO_READ, []);
  expect(error).toBe(-ENOMEM);
  ioTablesFree(k, t);
  expect(nrFreePages(k)).toBe(before + 1);
});

for (const seed of [1, 2, 3])
  it(`maps and unmaps at random as a plain table of pages says (seed ${seed})`, () => {
    const k = kernelOf();
    const start = nrFreePages(k);
    const random = rng(seed);
    const t = tablesOf(k, seed === 2 ? 2 : 1);
    const runs: { pfn: number; page: number; nr: number; write: boolean }[] = [];
    const overlaps = (pfn: number, nr: number): boolean =>
      runs.some((run) => run.pfn < pfn + nr && pfn < run.pfn + run.nr);
    for (let step = 0; step < 300; step++) {
      const nr = random.pick([1, 2, 5, 512, 513, 1024]);
      const pfn = random.below(8) * 512 + random.pick([0, 0, 1, 511]);
      const page = random.pick([0, 512, 1024, 3]);
      if (!overlaps(pfn, nr)) {
        const write = random.chance(0.5);
        const dropped: number[] = [];
        ioMap(k, t, pfn, page, nr, write ? IO_READ_WRITE : IO_READ, dropped);
        for (const table of dropped) freePages(k, table, 0);
        runs.push({ pfn, page, nr, write });
      } else {
        const [run] = runs.splice(random.below(runs.length), 1);
        expect(ioUnmap(k, t, run!.pfn, run!.nr)).toBe(run!.nr);
      }
      for (let i = 0; i < 8; i++) {
        const at = random.below(5000);
        const run = runs.find((r) => at >= r.pfn && at < r.pfn + r.nr);
        const found = walk(k, t, BigInt(at) << 12n);
        if (run === undefined) expect(found).toBeNull();
        else {
          const pa = BigInt(FRAMES + run.page + at - run.pfn) << 12n;
          expect(found).toEqual({ pa, write: run.write });
        }
      }
      expect(t.nrMapped).toBe(runs.reduce((sum, run) => sum + run.nr, 0));
    }
    ioTablesFree(k, t);
    expect(nrFreePages(k)).toBe(start);
  });
