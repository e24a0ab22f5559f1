/**
 * S8: a file system that wants to hear of first writes never leaves an entry writable unless the page is
 * dirty, by the entry itself. Facts sheet 0, 1.7; invariant I6.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVm,
  checkKernel,
  createPolicy,
  drive,
  fileWrite,
  migrateFolio,
  mprotect,
  type Path,
  PROT_READ,
  pteDirty,
  ptePresent,
  pteWrite,
  shmemCreate,
} from '#mm';
import { rng } from '../../support/rng.ts';
import { cached, type FileWorld, pageOfBytes, quiet, sync, withFile } from '../file-world.ts';
import { createProcess, createWorld, entryAt, interleave, RW, mapOf } from '../support.ts';

const NR = 4;

/** Entries of the mapping as letters: `-` none, `r` read-only, `W` writable and dirty, `!` writable and clean. */
const entries = ({ p, hva }: FileWorld): string =>
  Array.from({ length: NR }, (_, i) => {
    const pte = entryAt(p, hva + i * PAGE_SIZE);
    if (!ptePresent(pte)) return '-';
    if (!pteWrite(pte)) return 'r';
    return pteDirty(pte) ? 'W' : '!';
  }).join('');

describe('S8: writable means dirty', () => {
  it('a read maps the page read-only, the first write makes the entry writable and dirty at once', () => {
    const fw = withFile(NR);
    fw.p.load32(fw.hva);
    fw.p.load32(fw.hva + PAGE_SIZE);
    fw.p.store32(fw.hva + 2 * PAGE_SIZE, 9);
    expect(entries(fw)).toBe('rrW-');
    expect([0, 1, 2].map((i) => fw.inode.reserved.has(i))).toEqual([false, false, true]);
    fw.p.store32(fw.hva, 9);
    expect(entries(fw)).toBe('WrW-');
    expect(checkKernel(fw.w.k)).toEqual([]);
  });

  it('writeback makes it read-only and clean in one step; a later write asks again', () => {
    const fw = withFile(NR);
    fw.p.store32(fw.hva, 9);
    sync(fw);
    expect([entries(fw), fw.inode.reserved.has(0)]).toEqual(['r---', false]);
    fw.p.store32(fw.hva, 10);
    expect([entries(fw), fw.inode.reserved.has(0)]).toEqual(['W---', true]);
    quiet(fw);
  });

  it('mprotect() to read-only and back makes a clean page writable only by a fault', () => {
    const fw = withFile(NR);
    fw.p.load32(fw.hva);
    fw.p.store32(fw.hva + PAGE_SIZE, 9);
    const protect = (prot: number): number =>
      drive(mprotect(fw.w.k, fw.p.mm, fw.hva, NR * PAGE_SIZE, prot));
    expect([protect(PROT_READ), protect(RW)]).toEqual([0, 0]);
    // What is dirty may be made writable at once; what is clean must not.
    expect(entries(fw)[0]).toBe('r');
    expect(entries(fw)).not.toContain('!');
    fw.p.store32(fw.hva, 9);
    expect(entries(fw)[0]).toBe('W');
    quiet(fw);
  });

  it('migration keeps both, or neither', () => {
    const fw = withFile(NR);
    fw.p.load32(fw.hva);
    fw.p.store32(fw.hva + PAGE_SIZE, 9);
    for (const i of [0, 1]) expect(drive(migrateFolio(fw.w.k, cached(fw, i)))).toBe(0);
    expect(entries(fw)).toBe('rW--');
    quiet(fw);
  });

  it('shmem does not want to hear: its entries are writable from the first read', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapOf(p, shmemCreate(w.k, 1));
    p.load32(hva);
    const pte = entryAt(p, hva);
    expect([pteWrite(pte), pteDirty(pte)]).toEqual([true, false]);
  });

  for (const seed of [1, 2, 3])
    it(`whoever comes between, seed ${seed}: stores, a tracer, write(), mprotect(), fsync(), migration`, () => {
      const fw = withFile(NR);
      const { w, p, hva, file } = fw;
      const { k } = w;
      k.policy = createPolicy('target');
      const random = rng(seed);
      const at = (): number => hva + random.below(NR) * PAGE_SIZE;
      let clean = 0;
      const look = (): void => {
        expect(entries(fw)).not.toContain('!');
        expect(checkKernel(k).filter((line) => line.startsWith('I6'))).toEqual([]);
        if (entries(fw).includes('r')) clean++;
      };
      function* writer(): Path<void> {
        for (let i = 0; i < 60; i++) {
          const roll = random.below(4);
          if (roll === 0) yield* p.storePath(at(), 4, i);
          else if (roll === 1) yield* p.loadPath(at(), 4);
          else if (roll === 2) yield* accessRemoteVm(k, p.mm, at(), Uint8Array.of(i), true);
          else yield* fileWrite(k, file, random.below(NR) * PAGE_SIZE, pageOfBytes(i));
          look();
        }
      }
      function* other(): Path<void> {
        for (let i = 0; i < 30; i++) {
          const roll = random.below(3);
          const page = cached(fw, random.below(NR));
          if (roll === 0) yield* protectAndBack();
          else if (roll === 1 && page >= 0) yield* migrateFolio(k, page);
          else sync(fw);
          look();
        }
      }
      function* protectAndBack(): Path<void> {
        yield* mprotect(k, p.mm, hva, NR * PAGE_SIZE, PROT_READ);
        yield* mprotect(k, p.mm, hva, NR * PAGE_SIZE, RW);
      }
      interleave(k, [writer(), writer(), other()], random);
      sync(fw);
      expect(clean).toBeGreaterThan(10);
      quiet(fw);
    });
});
