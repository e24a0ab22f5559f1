/** Swap and KSM among everything else: paths interleaved by the seed, against a shadow of memory and the sanitizer. */
import { PAGE_SIZE } from '#emu';
import { checkKernel, drive, type Kernel, madvise, MADV_MERGEABLE, nrFreePages } from '#mm';
import { describe, expect, it } from 'vitest';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { type Rng, rng } from '../support/rng.ts';
import { createWorld, freeOf, pinsLive } from './gup-world.ts';
import { ARENA, ARENA_PAGES, PlainProcess } from './plain-process.ts';
import { RandomDriver } from './random-driver.ts';
import { createProcess, createWorld as createMachine, exit, RW } from './support.ts';

const STEPS = 8000;
const SLOTS = 200;

describe('random interleavings with swapping out and merging', () => {
  for (const { seed, also, ramBytes, nrSlots } of [
    { seed: 11, also: { swap: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 12, also: { swap: true }, ramBytes: 256 << 10, nrSlots: 12 },
    { seed: 13, also: { ksm: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 14, also: { swap: true, ksm: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 15, also: { swap: true, ksm: true }, ramBytes: 320 << 10, nrSlots: 20 },
  ])
    it(`seed ${seed}, ${Object.keys(also).join(' and ')}, ${ramBytes >> 10} KiB, ${nrSlots} slots: every byte as stored, no violation, nothing leaked`, () => {
      const k = createWorld('linux-7', ramBytes);
      swapon(k, nrSlots);
      const free = freeOf(k);
      const driver = new RandomDriver(k, seed, also);
      for (let i = 1; i <= STEPS; i++) {
        driver.step();
        if (i % 500 === 0) expect(driver.violations(false)).toEqual([]);
        if (i % 2000 === 0) {
          driver.drain();
          expect(driver.violations(true)).toEqual([]);
        }
      }
      driver.finish();
      expect(driver.violations(true)).toEqual([]);
      expect(pinsLive(k)).toBe(0);
      expect(freeOf(k)).toBe(free);
      expect(k.state.swap.nrFree).toBe(nrSlots);
      expect(k.state.ksm.nodes).toEqual([]);
      if (also.swap) expect(driver.counts.get('reclaimed')).toBeGreaterThan(50);
      if (also.ksm) expect(driver.counts.get('merged')).toBeGreaterThan(10);
    });
});

/** Swaps out some page that is mapped. */
const reclaimAny = (k: Kernel, random: Rng): boolean => {
  const mapped: number[] = [];
  k.state.frames.mapcount.forEach((count, page) => {
    if (count > 0) mapped.push(page);
  });
  return mapped.length > 0 && drive(reclaimFolio(k, random.pick(mapped))) === 0;
};

describe('processes whose loads and stores go through TLBs, against plain arrays', () => {
  for (const { seed, orders } of [
    { seed: 21, orders: 0 },
    { seed: 22, orders: (1 << 9) | (1 << 4) },
  ])
    it(`seed ${seed}: every word as stored through swapping out, merging, fork and exit`, () => {
      const w = createMachine();
      const { k } = w;
      k.state.thp.always = orders;
      swapon(k, 4000);
      const random = rng(seed);
      let processes = [new PlainProcess(createProcess(w))];
      for (const process of processes) drive(process.map(0, ARENA_PAGES, RW, false, null, 0));
      let reclaimed = 0;
      let merged = 0;
      for (let step = 0; step < 2000; step++) {
        const process = random.pick(processes);
        const { p } = process;
        const what = random.below(100);
        if (what < 25) reclaimed += reclaimAny(k, random) ? 1 : 0;
        // Few values, so that there is something to merge.
        else if (what < 50) drive(process.store(random.below(ARENA_PAGES), 0, random.below(4)));
        else if (what < 52) {
          drive(madvise(k, p.mm, ARENA, ARENA_PAGES * PAGE_SIZE, MADV_MERGEABLE));
          merged += drive(ksmScan(k, random.chance(0.5) ? p.mm : null));
        } else if (what < 54 && processes.length < 4) processes.push(drive(process.fork(w)));
        else if (what < 55 && processes.length > 1) {
          exit(p);
          processes = processes.filter((other) => other !== process);
        } else drive(process.randomStep(random, []));
        if (step % 250 === 0) expect(checkKernel(k, { quiescent: true })).toEqual([]);
      }
      for (const process of processes) process.checkAll();
      expect(checkKernel(k, { quiescent: true })).toEqual([]);
      for (const { p } of processes) exit(p);
      expect([nrFreePages(k), k.state.swap.nrFree]).toEqual([w.freeAtStart, 4000]);
      expect([reclaimed > 200, merged > 50]).toEqual([true, true]);
    });
});
