/** Copy on write over many processes: each sees its own bytes and nobody else's (I13). */
import {
  assertKernel,
  drive,
  folioWriteProtect,
  migrateFolio,
  nrFreePages,
  type Path,
  shmemCreate,
  mappingPut,
  YP_MIGRATE_COPIED,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { rng } from '../support/rng.ts';
import { PlainProcess, plainFile } from './plain-process.ts';
import { createProcess, createWorld, exit, interleave } from './support.ts';

describe('fork and COW — I13: no process sees what another writes after the fork', () => {
  for (const seed of [1, 2, 3])
    it(`holds through 6,000 random calls of up to six processes, seed ${seed}`, () => {
      const w = createWorld();
      const random = rng(seed);
      const files = [plainFile(shmemCreate(w.k, 64)), plainFile(shmemCreate(w.k, 300))];
      let processes = [new PlainProcess(createProcess(w))];
      for (let i = 0; i < 6000; i++) {
        const who = random.pick(processes);
        if (processes.length < 6 && random.chance(0.02)) processes.push(drive(who.fork(w)));
        else if (processes.length > 1 && random.chance(0.01)) {
          processes = processes.filter((p) => p !== who);
          exit(who.p);
        } else drive(who.randomStep(random, files));
        if (i % 500 === 0) assertKernel(w.k, { quiescent: true });
      }
      for (const p of processes) p.checkAll();
      assertKernel(w.k, { quiescent: true });
      for (const p of processes) exit(p.p);
      for (const file of files) drive(mappingPut(w.k, file.mapping));
      expect(nrFreePages(w.k)).toBe(w.freeAtStart);
      expect(w.k.state.mms.size).toBe(0);
      expect(w.k.state.mappings.size).toBe(0);
    });

  for (const seed of [11, 12, 13])
    it(`holds when every yield goes to another actor while pages migrate, seed ${seed}`, () => {
      const w = createWorld();
      const { k } = w;
      const random = rng(seed);
      const files = [plainFile(shmemCreate(k, 40)), plainFile(shmemCreate(k, 200))];
      const done: PlainProcess[] = [];
      let forks = 0;
      let alive = 1;
      /** A process: random calls, and children that do the same. Process n uses word n of each page. */
      function* life(plain: PlainProcess, slot: number): Path<void> {
        for (let i = 0; i < 600; i++) {
          if (forks < 3 && random.chance(0.01)) {
            alive++;
            const childSlot = ++forks;
            actors.push(life(yield* plain.fork(w), childSlot));
          } else yield* plain.randomStep(random, files, slot);
        }
        done[slot] = plain;
        alive--;
      }
      /** The machine moves whatever it can, and write-protects. */
      function* mover(): Path<void> {
        while (alive > 0) {
          // Low frames are handed out first: most are in use.
          yield* migrateFolio(k, random.below(500));
          if (random.chance(0.9)) yield* folioWriteProtect(k, random.below(500));
          yield YP_MIGRATE_COPIED;
        }
      }
      const actors: Path<void>[] = [mover(), mover(), life(new PlainProcess(createProcess(w)), 0)];
      interleave(k, actors, random);
      assertKernel(k, { quiescent: true });
      expect(k.state.stat.pgmigrate_success).toBeGreaterThan(20);
      expect(k.state.stat.wrprotect).toBeGreaterThan(5);
      expect(forks).toBe(3);
      done.forEach((plain, slot) => {
        plain.checkAll(slot);
      });
      for (const plain of done) exit(plain.p);
      for (const file of files) drive(mappingPut(k, file.mapping));
      expect(nrFreePages(k)).toBe(w.freeAtStart);
    });
});
