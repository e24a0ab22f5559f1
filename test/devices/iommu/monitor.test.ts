/** The IOMMU's performance monitor and its translation-request registers. RISC-V IOMMU 1.0. */
import { describe, expect, it } from 'vitest';
import { RAM_BASE } from '#emu';
import {
  atp,
  type Board,
  boardOf,
  FREE,
  iotinvalVma,
  IOVA,
  IPSR,
  pscid,
  pte,
  TARGET,
  V,
  WRITE,
} from './support.ts';

const OVF = 0x58;
const INH = 0x5c;
const CYCLES = 0x60;
const CTR = 0x68;
const EVT = 0x160;
const TR_IOVA = 0x258;
const TR_CTL = 0x260;
const TR_RESPONSE = 0x268;
const OF = 1n << 63n;
const IDT = 1n << 62n;
const DV = 1n << 61n;
const PV = 1n << 60n;
const DMASK = 1n << 15n;

const boardWith = (): Board => {
  const b = boardOf();
  for (const id of [8, 9, 12])
    b.device(id, {
      ta: pscid(id),
      fsc: atp(8, FREE),
      iohgatp: id === 12 ? atp(8, FREE + 0x4000, 3) : 0n,
    });
  b.put(FREE + 8, pte(FREE + 0x1000, V));
  b.put(FREE + 0x1000, pte(FREE + 0x2000, V));
  for (let i = 0; i < 8; i++) b.put(FREE + 0x2000 + i * 8, pte(TARGET + i * 4096, WRITE));
  b.put(FREE + 0x4000 + 16, pte(RAM_BASE, WRITE));
  return b;
};
const get64 = (b: Board, offset: number): bigint =>
  BigInt(b.reg(offset)) | (BigInt(b.reg(offset + 4)) << 32n);
const access = (b: Board, id: number, page = 0): void => {
  b.iommu.spa(id, -1, IOVA + page * 4096, false);
};

describe('the performance monitor', () => {
  it('counts requests, misses, and walks of each kind', () => {
    const b = boardWith();
    [1, 4, 5, 7, 8, 6, 2].forEach((event, i) => {
      b.set(EVT + 8 * i, event);
    });
    access(b, 8);
    access(b, 8);
    access(b, 8, 1);
    b.iommu.translated(8, -1, TARGET, false); // without ATS: a fault, counted all the same
    const counts = Array.from({ length: 7 }, (_, i) => b.reg(CTR + 8 * i));
    expect(counts).toEqual([3, 2, 1, 2, 0, 0, 1]);
    access(b, 12);
    // Three entries of the first stage and the page itself go through the second.
    expect(b.reg(CTR + 8 * 4)).toBe(4);
  });

  for (const { fact, event, counted } of [
    { fact: 'no filter', event: 0n, counted: 3 },
    { fact: 'a device', event: DV | (9n << 36n), counted: 1 },
    {
      fact: 'devices whose bits above the lowest zero match',
      event: DV | DMASK | (9n << 36n),
      counted: 2,
    },
    { fact: 'a process_id that nobody has', event: PV, counted: 0 },
    { fact: 'software ids, which requests do not have', event: IDT, counted: 0 },
  ])
    it(`filter by ${fact}: ${counted} of 3 requests`, () => {
      const b = boardWith();
      b.set64(EVT, event | 1n);
      for (const id of [8, 9, 12]) access(b, id);
      expect(b.reg(CTR)).toBe(counted);
    });

  it('misses can be filtered by PSCID and GSCID', () => {
    const b = boardWith();
    b.set64(EVT, IDT | PV | (9n << 16n) | 4n);
    b.set64(EVT + 8, IDT | DV | (3n << 36n) | 4n);
    for (const id of [8, 9, 12]) access(b, id);
    expect([b.reg(CTR), b.reg(CTR + 8)]).toEqual([1, 1]);
  });

  it('an overflow sets OF and interrupts, once until OF is cleared; the counter goes on', () => {
    const b = boardWith();
    b.set64(CTR, 2n ** 64n - 1n);
    b.set(EVT, 1);
    access(b, 8);
    expect([get64(b, CTR), get64(b, EVT), b.reg(OVF), b.reg(IPSR)]).toEqual([0n, OF | 1n, 2, 4]);
    b.set(IPSR, 4);
    b.set64(CTR, 2n ** 64n - 1n);
    access(b, 8);
    expect([get64(b, CTR), b.reg(IPSR)]).toEqual([0n, 0]);
  });

  it('iocountinh stops counters; events that do not exist, and counters, read 0', () => {
    const b = boardWith();
    b.set(EVT, 1);
    b.set(INH, 2);
    access(b, 8);
    expect(b.reg(CTR)).toBe(0);
    b.set(INH, 0xffff_ffff);
    expect(b.reg(INH)).toBe(0xff);
    b.set(EVT, 9);
    b.set(EVT + 8 * 7, 1);
    b.set(CTR + 8 * 7, 1);
    expect([b.reg(EVT), b.reg(EVT + 8 * 7), b.reg(CTR + 8 * 7)]).toEqual([0, 0, 0]);
  });

  it('cycles are instructions of the machine, while they are not inhibited', () => {
    const b = boardWith();
    b.clock.now = 1000;
    expect(get64(b, CYCLES)).toBe(1000n);
    b.set(INH, 1);
    b.clock.now = 5000;
    expect(get64(b, CYCLES)).toBe(1000n);
    b.set64(CYCLES, 5n);
    b.set(INH, 0);
    b.clock.now = 5100;
    expect(get64(b, CYCLES)).toBe(105n);
  });
});

describe('tr_req', () => {
  const ask = (b: Board, id: number, iova: number, flags: number): bigint => {
    b.set64(TR_IOVA, BigInt(iova));
    b.set64(TR_CTL, (BigInt(id) << 40n) | BigInt(flags) | 1n);
    expect(b.reg(TR_CTL) & 1).toBe(0);
    return get64(b, TR_RESPONSE);
  };

  it('answers with the page, or with fault, which is reported too', () => {
    const b = boardWith();
    expect(ask(b, 8, IOVA + 0x1234, 8)).toBe(((BigInt(TARGET) + 0x1000n) >> 12n) << 10n);
    expect(ask(b, 8, IOVA + 0x1234, 4)).toBe(1n); // executable it is not
    expect(ask(b, 7, IOVA, 8)).toBe(1n);
    expect(b.faults()).toMatchObject([
      { cause: 12, ttyp: 1 },
      { cause: 258, ttyp: 2 },
    ]);
  });

  it('of a large page S is set, and the page number says in unary how large', () => {
    const b = boardWith();
    b.put(FREE + 0x1000, pte(TARGET, WRITE));
    expect(ask(b, 8, IOVA, 8)).toBe((((BigInt(TARGET) >> 12n) + 255n) << 10n) | (1n << 9n));
  });

  it('the low half may be written first: the request is made at the next other access', () => {
    const b = boardWith();
    b.set64(TR_IOVA, BigInt(IOVA));
    b.set(TR_CTL, 1 | 8);
    b.set(TR_CTL + 4, 8 << 8);
    expect(get64(b, TR_RESPONSE)).toBe((BigInt(TARGET) >> 12n) << 10n);
  });

  it('sees what the caches hold, as a device would', () => {
    const b = boardWith();
    access(b, 8);
    b.put(FREE + 0x2000, 0n);
    expect(ask(b, 8, IOVA, 8)).toBe((BigInt(TARGET) >> 12n) << 10n);
    b.command(iotinvalVma());
    expect(ask(b, 8, IOVA, 8)).toBe(1n);
  });
});
