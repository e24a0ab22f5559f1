/** Host page tables in RAM against a Map. Privileged ISA 12.4 (Sv39), 12.5 (Sv48). */
import { ATP_MODE_SV39, ATP_MODE_SV48, PAGE_SIZE } from '#emu';
import { mmCreate, mmExit, drive, nrFreePages, ptepGet, taskSize, walkPte } from '#mm';
import { describe, expect, it } from 'vitest';
import { freePgtables, nextMapped, setPteAt } from '../../mm/pgtable/walk.ts';
import { rng } from '../support/rng.ts';
import { createWorld } from './support.ts';

for (const [name, mode, levels] of [
  ['Sv39', ATP_MODE_SV39, 3],
  ['Sv48', ATP_MODE_SV48, 4],
] as const) {
  describe(`page tables in ${name}`, () => {
    it('are what a Map from address to entry is', () => {
      const { k, freeAtStart } = createWorld(32 << 20, mode);
      const mm = mmCreate(k);
      const model = new Map<number, number>();
      const random = rng(mode);
      // Clusters, so that tables are shared, at places all over user space.
      const bases = Array.from({ length: 12 }, () => random.below(taskSize(k) / 2 ** 24) * 2 ** 24);
      for (let i = 0; i < 5000; i++) {
        const hva = random.pick(bases) + random.below(1 << 12) * PAGE_SIZE;
        if (random.chance(0.3)) {
          const word = walkPte(k, mm, hva, false);
          if (word !== 0) setPteAt(k, word, 0);
          model.delete(hva);
        } else {
          const pte = random.below(2 ** 31);
          setPteAt(k, walkPte(k, mm, hva, true), pte);
          model.set(hva, pte);
        }
      }
      for (const base of bases)
        for (let page = 0; page < 1 << 12; page++) {
          const hva = base + page * PAGE_SIZE;
          const word = walkPte(k, mm, hva, false);
          const pte = word === 0 ? 0 : ptepGet(k, word);
          if (pte !== (model.get(hva) ?? 0)) throw new Error(`entry of 0x${hva.toString(16)}`);
        }
      for (const hva of model.keys()) setPteAt(k, walkPte(k, mm, hva, false), 0);
      drive(mmExit(k, mm));
      expect(nrFreePages(k)).toBe(freeAtStart);
    });

    it(`take ${levels} tables for one address, and give them back but for the root`, () => {
      const { k } = createWorld(4 << 20, mode);
      const mm = mmCreate(k);
      walkPte(k, mm, 0x1234_5000, true);
      expect(mm.nrTables).toBe(levels);
      freePgtables(k, mm, 0x1234_5000, 0x1234_6000, 0, taskSize(k));
      expect(mm.nrTables).toBe(1);
      expect(walkPte(k, mm, 0x1234_5000, false)).toBe(0);
    });

    it('keep a table that a neighbour outside [floor, ceiling) may use', () => {
      const { k } = createWorld(4 << 20, mode);
      const mm = mmCreate(k);
      walkPte(k, mm, 0x1234_5000, true);
      freePgtables(k, mm, 0x1234_5000, 0x1234_6000, 0x1234_5000, taskSize(k));
      expect(mm.nrTables).toBe(levels);
      freePgtables(k, mm, 0x1234_5000, 0x1234_6000, 0, 0x1234_6000);
      expect(mm.nrTables).toBe(levels);
    });

    it('nextMapped goes to the next leaf table in one step per missing level', () => {
      const { k } = createWorld(4 << 20, mode);
      const mm = mmCreate(k);
      const far = taskSize(k) - 2 ** 21;
      walkPte(k, mm, far + 0x3000, true);
      expect(nextMapped(k, mm, 0x1000, taskSize(k))).toBe(far);
      expect(nextMapped(k, mm, far + 0x5000, taskSize(k))).toBe(far + 0x5000);
      expect(nextMapped(k, mm, 0x1000, far)).toBe(far);
    });
  });
}
