/**
 * An IOMMU whose memory is not always there: whatever meets a page that has to be waited for is done again
 * from its beginning when it has come, nothing twice, nothing lost. And saved in the middle of it.
 */
import { describe, expect, it } from 'vitest';
import { BusPort, Iommu, IommuPort } from '#devices';
import { Clock, DMA_FAULT, DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { rng } from '../../support/rng.ts';
import { probedLine } from '../support/wires.ts';
import {
  atp,
  type Board,
  boardOf,
  CQ,
  CQCSR,
  CQH,
  CQT,
  DDTP,
  FQ,
  FQCSR,
  FQT,
  FREE,
  iodirDdt,
  iofence,
  iotinvalVma,
  IOVA,
  LEAF,
  MIDDLE,
  pscid,
  pte,
  ROOT,
  TARGET,
  V,
  WRITE,
} from './support.ts';

/** A port whose pages have to be waited for, each once after it was taken away. */
class LatePort implements DmaPort {
  readonly away: Set<number>;
  readonly bus: DmaPort;
  private readonly listeners: (() => void)[];
  private wanted: Set<number>;

  constructor(bus: DmaPort) {
    this.bus = bus;
    this.away = new Set();
    this.listeners = [];
    this.wanted = new Set();
  }

  take(...pas: readonly number[]): void {
    for (const pa of pas) this.away.add(Math.floor(pa / 4096));
  }

  /** Brings one page that is waited for. @returns false when none is */
  bring(): boolean {
    const [page] = this.wanted;
    if (page === undefined) return false;
    this.wanted.delete(page);
    this.away.delete(page);
    for (const listener of this.listeners) listener();
    return true;
  }

  onReady(listener: () => void): void {
    this.listeners.push(listener);
  }

  private late(pa: number): boolean {
    const page = Math.floor(pa / 4096);
    if (!this.away.has(page)) return false;
    this.wanted.add(page);
    return true;
  }

  read(pa: number, into: Uint8Array, at: number, len: number): number {
    return this.late(pa) ? DMA_WAIT : this.bus.read(pa, into, at, len);
  }
  write(pa: number, from: Uint8Array, at: number, len: number): number {
    return this.late(pa) ? DMA_WAIT : this.bus.write(pa, from, at, len);
  }
  atomicAdd32(pa: number, delta: number): number | undefined {
    return this.late(pa) ? undefined : this.bus.atomicAdd32(pa, delta);
  }
  translate(pa: number, write: boolean): number {
    return this.late(pa) ? DMA_WAIT : this.bus.translate(pa, write);
  }
}

const lateBoard = (): { b: Board; late: LatePort } => {
  const made: LatePort[] = [];
  const b = boardOf({
    wrap: (bus) => {
      const late = new LatePort(bus);
      made.push(late);
      return late;
    },
  });
  b.device(1, { ta: pscid(5), fsc: atp(8, FREE) });
  b.put(FREE + 8, pte(MIDDLE, V));
  b.put(MIDDLE, pte(LEAF, V));
  for (let i = 0; i < 8; i++) b.put(LEAF + i * 8, pte(TARGET + i * 4096, WRITE));
  const [late] = made;
  if (late === undefined) throw new Error('no port was made');
  return { b, late };
};

describe('memory that has to be waited for', () => {
  it('a walk waits at each table, and the device is told each time', () => {
    const { b, late } = lateBoard();
    let told = 0;
    b.iommu.onReady(() => told++);
    late.take(ROOT, FREE, MIDDLE, LEAF);
    for (let n = 0; n < 4; n++) {
      expect(b.iommu.spa(1, -1, IOVA, false)).toBe(DMA_WAIT);
      expect(late.bring()).toBe(true);
      expect(told).toBe(n + 1);
    }
    expect(b.iommu.spa(1, -1, IOVA, false)).toBe(TARGET);
    expect(b.faults()).toEqual([]);
  });

  it('commands stop at a page that is away, and go on by themselves; a fence stores once', () => {
    const { b, late } = lateBoard();
    late.take(CQ, FREE + 0x8000);
    b.command(iotinvalVma(), iofence({ pa: FREE + 0x8000, data: 1 }), iodirDdt());
    expect(b.reg(CQH)).toBe(0);
    late.bring();
    expect([b.reg(CQH), b.reg(CQCSR)]).toEqual([1, 0x1_0003]);
    late.bring();
    expect([b.reg(CQH), b.get(FREE + 0x8000)]).toEqual([3, 1n]);
  });

  it('fault records keep their order, and appear when they are stored', () => {
    const { b, late } = lateBoard();
    late.take(FQ);
    for (let i = 0; i < 5; i++) b.iommu.spa(9, -1, i * 4096, false);
    expect([b.reg(FQT), b.reg(0x54)]).toEqual([0, 0]);
    late.bring();
    expect(b.faults().map(({ iotval }) => Number(iotval) / 4096)).toEqual([0, 1, 2, 3, 4]);
    expect(b.reg(0x54)).toBe(2);
  });

  it('records that wait count as in the queue: it overflows as it would have', () => {
    const { b, late } = lateBoard();
    late.take(FQ);
    for (let i = 0; i < 130; i++) b.iommu.spa(9, -1, i * 4096, false);
    expect(b.reg(FQCSR) & (1 << 9)).not.toBe(0);
    late.bring();
    expect(b.faults().length).toBe(127);
  });

  it('tr_req stays busy', () => {
    const { b, late } = lateBoard();
    late.take(LEAF);
    b.set64(0x258, BigInt(IOVA));
    b.set64(0x260, (1n << 40n) | 1n);
    expect(b.reg(0x260) & 1).toBe(1);
    late.bring();
    expect(b.reg(0x260) & 1).toBe(0);
    expect(b.reg(0x268)).toBe(((TARGET / 4096) * 1024) >>> 0);
  });

  it('a copy says how far it came', () => {
    const { b, late } = lateBoard();
    const port = new IommuPort({ iommu: b.iommu, deviceId: 1, memory: late });
    late.take(TARGET + 0x5000);
    expect(port.copy(IOVA + 0x4000, IOVA, 8192)).toBe(DMA_WAIT);
    expect(port.copied).toBe(4096);
    late.bring();
    expect(port.copy(IOVA + 0x5000, IOVA + 0x1000, 4096)).toBe(DMA_OK);
  });

  it('pages that come and go at random delay everything and change nothing', () => {
    const random = rng(3);
    const { b, late } = lateBoard();
    const { b: prompt } = lateBoard();
    const pages = [ROOT, FREE, MIDDLE, LEAF, CQ, FQ, TARGET];
    const settle = (run: () => number): number => {
      let outcome = run();
      while (outcome === DMA_WAIT) {
        late.bring();
        outcome = run();
      }
      return outcome;
    };
    for (let i = 0; i < 400; i++) {
      if (random.chance(0.4)) late.take(random.pick(pages), random.pick(pages));
      const iova = random.chance(0.8) ? IOVA + random.below(10) * 4096 : random.below(2 ** 30);
      const write = random.chance(0.5);
      const got = settle(() => b.iommu.spa(1, -1, iova, write));
      expect(got).toBe(prompt.iommu.spa(1, -1, iova, write));
      if (random.chance(0.1)) {
        const command = random.pick([iotinvalVma(), iotinvalVma({ pscid: 5, iova }), iodirDdt(1)]);
        b.command(command);
        prompt.command(command);
        while (late.bring());
        expect(b.reg(CQH)).toBe(prompt.reg(CQH));
      }
      while (late.bring());
      if (random.chance(0.05)) expect(b.faults()).toEqual(prompt.faults());
    }
    expect(b.faults()).toEqual(prompt.faults());
  });
});

describe('a saved IOMMU', () => {
  it('goes on in another machine: caches, rings, what waits, and what is owed', () => {
    const { b, late } = lateBoard();
    b.iommu.spa(1, -1, IOVA, true);
    b.put(LEAF, 0n); // only the cache knows the page
    b.set64(0x160, 1n);
    late.take(FQ);
    b.iommu.spa(9, -1, 0x7000, false);
    const state = structuredClone(b.iommu.save());

    const { memory } = b;
    const lines = [probedLine(), probedLine(), probedLine(), probedLine()];
    const port = new BusPort(memory);
    const clock = new Clock();
    const iommu = new Iommu({ memory, port, irq: lines, name: 'iommu', clock });
    iommu.restore(state);
    expect(structuredClone(iommu.save())).toEqual(state);
    expect(iommu.spa(1, -1, IOVA, true)).toBe(TARGET);
    for (const offset of [DDTP, CQT, CQCSR, FQCSR, 0x160])
      expect(iommu.read(offset, 4)).toBe(b.reg(offset));
    // The record that waits is stored when its memory is there.
    expect(iommu.read(FQT, 4)).toBe(0);
    expect(iommu.spa(9, -1, 0x8000, false)).toBe(DMA_FAULT);
    expect(state.faults.pending.length).toBe(1);
  });
});
