/** ACLINT: machine timers and software interrupts (ACLINT 1.0, chapters 2 and 3). */
import { describe, expect, it } from 'vitest';
import { Aclint } from '#devices';
import { Clock, probedLine, runTo } from './support/wires.ts';

const MTIMECMP = 0x4000;
const MTIME = 0xbff8;

const boardOf = (nrHarts = 2) => {
  const clock = new Clock();
  const harts = Array.from({ length: nrHarts }, () => ({ msip: probedLine(), mtip: probedLine() }));
  const aclint = new Aclint({ clock, harts });
  const setCompare = (hart: number, ticks: bigint) => {
    aclint.write(MTIMECMP + 8 * hart, 4, Number(ticks & 0xffff_ffffn));
    aclint.write(MTIMECMP + 8 * hart + 4, 4, Number(ticks >> 32n));
  };
  return { clock, harts, aclint, setCompare };
};

describe('MTIMER', () => {
  it('mtime counts one tick every ten instructions, low and high word', () => {
    const { clock, aclint } = boardOf();
    clock.now = 10 * (3 * 2 ** 32 + 5) + 9;
    expect(aclint.read(MTIME, 4)).toBe(5);
    expect(aclint.read(MTIME + 4, 4)).toBe(3);
  });

  it('mtime ignores writes', () => {
    const { aclint } = boardOf();
    aclint.write(MTIME, 4, 77);
    expect(aclint.read(MTIME, 4)).toBe(0);
  });

  it('mtimecmp is all ones after reset, and no timer is due', () => {
    const { harts, aclint } = boardOf();
    expect([aclint.read(MTIMECMP, 4), aclint.read(MTIMECMP + 4, 4)]).toEqual([
      2 ** 32 - 1,
      2 ** 32 - 1,
    ]);
    expect(harts[0]?.mtip.level).toBe(false);
  });

  it('2.1: MTIP rises at exactly the instruction at which mtime reaches mtimecmp', () => {
    const { clock, harts, setCompare } = boardOf();
    clock.now = 7;
    setCompare(1, 100n);
    runTo(clock, 999);
    expect(harts[1]?.mtip.level).toBe(false);
    runTo(clock, 1000);
    expect(harts[1]?.mtip.level).toBe(true);
    expect(harts[0]?.mtip.edges).toEqual([]);
  });

  it('2.1: a compare value in the past is due at once; a later one takes MTIP away', () => {
    const { clock, harts, setCompare } = boardOf();
    clock.now = 5000;
    setCompare(0, 500n);
    expect(harts[0]?.mtip.level).toBe(true);
    setCompare(0, 501n);
    expect(harts[0]?.mtip.level).toBe(false);
    runTo(clock, 5010);
    expect(harts[0]?.mtip.edges).toEqual(['up', 'down', 'up']);
  });

  it('a compare value that is replaced leaves no event behind', () => {
    const { clock, harts, setCompare } = boardOf();
    setCompare(0, 10n);
    setCompare(0, (1n << 40n) + 0xffffn);
    runTo(clock, 1000);
    expect(harts[0]?.mtip.edges).toEqual([]);
    setCompare(0, (1n << 64n) - 1n);
    expect(clock.nextAt).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('MSWI', () => {
  it('3.1: bit 0 of msip drives the line, the other bits are zero', () => {
    const { harts, aclint } = boardOf();
    aclint.write(4, 4, 0xffff_ffff);
    expect(aclint.read(4, 4)).toBe(1);
    expect(harts.map((h) => h.msip.level)).toEqual([false, true]);
    aclint.write(4, 4, 0xffff_fffe);
    expect(harts[1]?.msip.edges).toEqual(['up', 'down']);
  });
});

describe('what is not there', () => {
  for (const { name, offset, sizeBytes } of [
    { name: 'msip of hart 2 of 2', offset: 8, sizeBytes: 4 },
    { name: 'mtimecmp of hart 2 of 2', offset: MTIMECMP + 16, sizeBytes: 4 },
    { name: 'a half word', offset: 0, sizeBytes: 2 },
    { name: 'a byte of mtimecmp', offset: MTIMECMP, sizeBytes: 1 },
    { name: 'a misaligned word', offset: 2, sizeBytes: 4 },
    { name: 'the last word', offset: 0xfffc, sizeBytes: 4 },
  ])
    it(`${name} reads 0 and takes no write`, () => {
      const { aclint, clock, harts } = boardOf();
      const before = aclint.save();
      aclint.write(offset, sizeBytes, 1);
      expect(aclint.read(offset, sizeBytes)).toBe(0);
      expect(aclint.save()).toEqual(before);
      expect(clock.nextAt).toBe(Number.POSITIVE_INFINITY);
      expect(harts.flatMap((h) => [...h.msip.edges, ...h.mtip.edges])).toEqual([]);
    });
});

describe('save and restore', () => {
  it('a restored timer fires at the same instruction', () => {
    const first = boardOf();
    first.setCompare(0, 30n);
    first.aclint.write(0, 4, 1);
    const second = boardOf();
    second.clock.restore(structuredClone(first.clock.save()));
    second.aclint.restore(structuredClone(first.aclint.save()));
    runTo(second.clock, 299);
    expect(second.harts[0]?.mtip.level).toBe(false);
    runTo(second.clock, 300);
    expect(second.harts[0]?.mtip.level).toBe(true);
    expect(second.aclint.read(0, 4)).toBe(1);
  });
});
