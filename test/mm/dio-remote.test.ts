/** Direct I/O of files at servers that fails, at random: short answers, errors, no room, memory that ends. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { drive, munmap, remoteServerRemove } from '#mm';
import { rng } from '../support/rng.ts';
import { expectNothingHeld, pattern } from './iov-world.ts';
import { atServer, badBlock, readPath, remoteWorld, served, writePath } from './remote-world.ts';
import { interleave } from './support.ts';

const SIZE = 10 * PAGE_SIZE + 123;

describe('whatever goes wrong at a server (seeded)', () => {
  for (const kind of ['nfs', 'ceph', 'fuse'] as const)
    it(`${kind}: the result is a prefix that has been done; nothing stays held, every byte is old or new`, () => {
      const base = remoteWorld(kind, new Uint8Array(0));
      for (let seed = 1; seed <= 60; seed++) {
        const random = rng(seed);
        const old = pattern(SIZE, seed);
        const api = random.below(2) === 0 ? 'get' : 'pin';
        const r = atServer(base.w, base.p, kind, old, api);
        const { server, w } = r;
        server.rsize = PAGE_SIZE * (1 + random.below(4));
        server.wsize = 1000 * (1 + random.below(9));
        server.objectBytes = PAGE_SIZE * (1 + random.below(5));
        server.maxPages = 1 + random.below(4);
        if (random.below(3) === 0) server.maxReply = 1 + random.below(6000);
        if (random.below(3) === 0) server.quotaBytes = SIZE + random.below(2000);
        if (random.below(2) === 0) badBlock(r, 'badReads', random.below(SIZE));
        if (random.below(2) === 0) badBlock(r, 'badWrites', random.below(SIZE));
        const memory = pattern(14 * PAGE_SIZE, seed + 5);
        r.p.copyIn(r.hva, memory);
        const nr = random.below(3) === 0 ? random.below(12) : 14;
        drive(munmap(w.k, r.p.mm, r.hva + nr * PAGE_SIZE, PAGE_SIZE));
        const write = random.below(2) === 0;
        const offset = random.below(SIZE);
        const n = 1 + random.below(11 * PAGE_SIZE);
        const at = random.below(PAGE_SIZE);
        const results: number[] = [];
        const run = function* () {
          results.push(yield* write ? writePath(r, offset, n, at) : readPath(r, offset, n, at));
        };
        interleave(w.k, [run()], random);
        const [done = 0] = results;
        const now = served(r);
        for (let i = 0; i < n; i += 1 + random.below(97)) {
          const inFile = offset + i;
          if (!write && at + i >= nr * PAGE_SIZE) break;
          const byte = write ? now[inFile] : r.p.load8(r.hva + at + i);
          if (byte === undefined) break;
          const fresh = write ? memory[at + i] : (old[inFile] ?? 0);
          const before = write ? (old[inFile] ?? 0) : memory[at + i];
          const right = i < done ? byte === fresh : byte === fresh || byte === before;
          if (!right) throw new Error(`${kind} seed ${seed}: byte ${i} of ${done} done is ${byte}`);
        }
        expect(server.inFlight, `seed ${seed}`).toEqual([]);
        expectNothingHeld(w);
        drive(munmap(w.k, r.p.mm, r.hva, 64 * PAGE_SIZE));
        remoteServerRemove(w.k, server);
      }
    });
});
