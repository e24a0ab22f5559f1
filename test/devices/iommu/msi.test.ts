/**
 * MSIs through the MSI page table, and into interrupt files in memory: RISC-V IOMMU 1.0, "Process to
 * translate addresses of MSIs"; Advanced Interrupt Architecture, memory-resident interrupt files.
 */
import { describe, expect, it } from 'vitest';
import { BusPort, IOMMU_MRIF, IommuPort } from '#devices';
import { DMA_FAULT, DMA_OK, RAM_BASE } from '#emu';
import { atp, type Board, boardOf, FREE, ppnOf, pte } from './support.ts';

const TABLE = FREE;
const MRIF = FREE + 0x1200;
const NOTICE = FREE + 0x2000;
const FILE = FREE + 0x3000;
/** Interrupt files are at pages 0x28000 to 0x28003 and 0x28010 to 0x28013: bits 0, 1 and 4. */
const GPA = 0x2800_0000;
const NOTICE_ID = 0x555;

const mrifEntry = (): [bigint, bigint] => [
  ((BigInt(MRIF) >> 9n) << 7n) | 3n,
  (ppnOf(NOTICE) << 10n) | (BigInt(NOTICE_ID) & 0x3ffn) | (1n << 60n),
];

const boardWith = (): { b: Board; port: IommuPort } => {
  const b = boardOf();
  b.device(1, { msiptp: atp(1, TABLE), mask: 0x13n, pattern: 0x28000n });
  const port = new IommuPort({ iommu: b.iommu, deviceId: 1, memory: new BusPort(b.memory) });
  return { b, port };
};

const word = (value: number): Uint8Array =>
  Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);

describe('MSI page tables', () => {
  it('the bits under the mask, close together, number the interrupt file', () => {
    const { b, port } = boardWith();
    for (let i = 0; i < 8; i++) b.put(TABLE + i * 16, pte(FILE + i * 0x1000, 7));
    const places = [0, 1, 2, 3, 0x10, 0x11, 0x12, 0x13];
    expect(places.map((n) => b.iommu.spa(1, -1, GPA + n * 0x1000 + 4, true))).toEqual(
      places.map((_, i) => FILE + i * 0x1000 + 4),
    );
    expect(port.write(GPA + 0x11000, word(77), 0, 4)).toBe(DMA_OK);
    expect(b.get(FILE + 0x5000)).toBe(77n);
  });

  it('other addresses are translated as ever', () => {
    const { b } = boardWith();
    expect(b.iommu.spa(1, -1, GPA + 0x4000, true)).toBe(GPA + 0x4000);
    expect(b.iommu.spa(1, -1, RAM_BASE, true)).toBe(RAM_BASE);
  });

  for (const { fact, entry, need, cause } of [
    { fact: 'V is 0', entry: [6n, 0n], need: 4, cause: 262 },
    { fact: 'M is 0', entry: [1n, 0n], need: 4, cause: 263 },
    { fact: 'M is 2', entry: [5n, 0n], need: 4, cause: 263 },
    { fact: 'C is set', entry: [7n | (1n << 63n), 0n], need: 4, cause: 263 },
    { fact: 'a reserved bit of a basic entry', entry: [7n | 8n, 0n], need: 4, cause: 263 },
    { fact: 'its second doubleword', entry: [7n, 1n], need: 4, cause: 263 },
    { fact: 'a reserved bit of an MRIF entry', entry: [3n | 8n, 0n], need: 4, cause: 263 },
    { fact: 'and of its second doubleword', entry: [3n, 1n << 61n], need: 4, cause: 263 },
    { fact: 'execution', entry: [7n, 0n], need: 8, cause: 1 },
  ] as const)
    it(`${fact}: cause ${cause}`, () => {
      const { b } = boardWith();
      b.put(TABLE, entry[0]);
      b.put(TABLE + 8, entry[1]);
      expect(b.iommu.request(1, -1, false, GPA, need, need === 8 ? 1 : 3)).toBe(DMA_FAULT);
      expect(b.faults()).toMatchObject([{ cause, iotval: BigInt(GPA) }]);
    });

  it('a table outside memory: cause 261', () => {
    const { b } = boardWith();
    b.device(1, { msiptp: atp(1, 0x1000), mask: 0x13n, pattern: 0x28000n });
    expect(b.iommu.spa(1, -1, GPA, true)).toBe(DMA_FAULT);
    expect(b.faults()).toMatchObject([{ cause: 261 }]);
  });
});

describe('memory-resident interrupt files', () => {
  const boardWithMrif = () => {
    const { b, port } = boardWith();
    const [lo, hi] = mrifEntry();
    b.put(TABLE, lo);
    b.put(TABLE + 8, hi);
    return { b, port };
  };

  it('a write sets the pending bit of its identity; enabled, the notice is stored', () => {
    const { b, port } = boardWithMrif();
    expect(port.write(GPA, word(70), 0, 4)).toBe(DMA_OK);
    // Identities 64 to 127: pending bits at 16, enable bits at 24.
    expect([b.get(MRIF + 16), b.get(NOTICE)]).toEqual([1n << 6n, 0n]);
    b.put(MRIF + 24, 1n << 7n);
    expect(port.write(GPA, word(71), 0, 4)).toBe(DMA_OK);
    expect([b.get(MRIF + 16), b.get(NOTICE)]).toEqual([3n << 6n, BigInt(NOTICE_ID)]);
  });

  it('the page’s second word is the same, big-endian', () => {
    const { b, port } = boardWithMrif();
    port.write(GPA + 4, Uint8Array.of(0, 0, 0x07, 0xff), 0, 4);
    expect(b.get(MRIF + 31 * 16)).toBe(1n << 63n);
  });

  it('what is no MSI changes nothing: identity 0, 2048, other words, other sizes; reads are zeroes', () => {
    const { b, port } = boardWithMrif();
    for (const identity of [0, 2048, 0xffff_ffff]) port.write(GPA, word(identity), 0, 4);
    port.write(GPA + 8, word(5), 0, 4);
    port.write(GPA, word(5), 0, 2);
    for (let i = 0; i < 512; i += 8) expect(b.get(MRIF + i)).toBe(0n);
    const into = Uint8Array.of(9, 9, 9, 9);
    expect([port.read(GPA, into, 0, 4), [...into]]).toEqual([DMA_OK, [0, 0, 0, 0]]);
    expect(b.iommu.spa(1, -1, GPA, true)).toBe(IOMMU_MRIF);
    expect(port.translate(GPA, true)).toBe(DMA_FAULT);
  });

  it('a file outside memory: cause 264', () => {
    const { b, port } = boardWithMrif();
    b.put(TABLE, 3n | (8n << 7n));
    expect(port.write(GPA, word(5), 0, 4)).toBe(DMA_FAULT);
    expect(b.faults()).toMatchObject([{ cause: 264, ttyp: 3, iotval: BigInt(GPA) }]);
  });
});
