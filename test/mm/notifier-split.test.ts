/** A huge entry that is split tells secondary MMUs of all of it: 1.14, P1. Compare mm/huge_memory.c:__split_huge_pmd(). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  mmap,
  mprotect,
  mremap,
  PROT_READ,
} from '#mm';
import { createSecondaryMmu, secondaryFault } from './secondary-mmu.ts';
import { createProcess, createWorld, RW } from './support.ts';

const HUGE = 512 * PAGE_SIZE;
const HVA = 0x4000_0000;
/** A page of the 2 MiB that no range below reaches. */
const OUTSIDE = HVA + 480 * PAGE_SIZE;
const PART = 4 * PAGE_SIZE;

/** A read fault has mapped the huge zero folio, and a secondary MMU a page of it. */
const zeroWorld = () => {
  const w = createWorld();
  w.k.state.thp.always = 1 << 9;
  const p = createProcess(w);
  drive(
    mmap(w.k, p.mm, {
      hva: HVA,
      lenBytes: HUGE,
      prot: RW,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
    }),
  );
  const mmu = createSecondaryMmu(w.k, p.mm);
  expect(p.load8(HVA)).toBe(0);
  expect(drive(secondaryFault(w.k, mmu, OUTSIDE, false))).toBe(0);
  expect(mmu.entries.size).toBe(1);
  return { w, p, mmu };
};

describe('a part of the huge zero folio changes, and small zero pages take the place of the rest', () => {
  for (const { what, change } of [
    {
      what: 'mprotect()',
      change: ({ w, p }: ReturnType<typeof zeroWorld>) =>
        drive(mprotect(w.k, p.mm, HVA, PART, PROT_READ)),
    },
    {
      what: 'madvise(MADV_DONTNEED)',
      change: ({ w, p }: ReturnType<typeof zeroWorld>) =>
        drive(madvise(w.k, p.mm, HVA, PART, MADV_DONTNEED)),
    },
    {
      what: 'mremap()',
      change: ({ w, p }: ReturnType<typeof zeroWorld>) =>
        drive(mremap(w.k, p.mm, HVA, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, HVA + 4 * HUGE)),
    },
  ])
    it(`${what} of four pages: the secondary entry of the 480th has gone or is right`, () => {
      const world = zeroWorld();
      expect(change(world)).toBeGreaterThanOrEqual(0);
      const { w, mmu } = world;
      expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
      expect(mmu.entries.size).toBe(0);
    });
});
