/** What an entry remembers besides the slot, and what a page remembers that is merged: bits of userfaultfd and soft-dirty; locked memory, poison, saved kernels. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EFAULT, EHWPOISON, EINVAL } from '../../mm/errno.ts';
import { FAULT_FLAG_WRITE, userFault } from '../../mm/fault/fault.ts';
import { folioGet, folioPut, pageAnonExclusive } from '../../mm/folio/folio.ts';
import { PG_HWPOISON } from '../../mm/frames/table.ts';
import { createKernel } from '../../mm/kernel.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { drive } from '../../mm/path.ts';
import { pteSoftDirty, pteUffdWp, pteWrite } from '../../mm/pgtable/pte.ts';
import { PTE_SWP_SOFT_DIRTY, PTE_SWP_UFFD_WP } from '../../mm/pgtable/swapops.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { UFFD_FEATURE_SIGBUS } from '../../mm/uffd/state.ts';
import { uffdOpen, uffdRegister, uffdWriteprotect } from '../../mm/uffd/uffd.ts';
import { MADV_MERGEABLE, MADV_PAGEOUT } from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mlock } from '../../mm/vma/mlock.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { clearRefsSoftDirty } from '../../mm/vma/soft-dirty.ts';
import { createWorld, entryAt, load, mapAnon, pageAt, store, violations } from './gup-world.ts';

const SLOTS = 16;
let k: Kernel;
let mm: MmStruct;
let hva: number;

const swapOut = (at = hva): number => drive(reclaimFolio(k, pageAt(k, mm, at)));
const quiet = (gets = 0): void => expect(violations(k, gets)).toEqual([]);

beforeEach(() => {
  k = createWorld();
  swapon(k, SLOTS);
  mm = mmCreate(k);
  hva = mapAnon(k, mm, 2);
  for (const i of [0, 1]) store(k, mm, hva + i * PAGE_SIZE, 42);
});

describe('userfaultfd write protection — 1.5, pte_swp_uffd_wp()', () => {
  const protect = (on: boolean): void =>
    expect(drive(uffdWriteprotect(k, mm, hva, PAGE_SIZE, on))).toBe(0);

  beforeEach(() => {
    // Nobody is told: what would be delivered is -EFAULT.
    uffdOpen(mm, UFFD_FEATURE_SIGBUS);
    expect(drive(uffdRegister(k, mm, hva, 2 * PAGE_SIZE))).toBe(0);
    protect(true);
  });

  it('stays: the page comes back exclusive, and read-only all the same', () => {
    swapOut();
    expect(entryAt(k, mm, hva) & PTE_SWP_UFFD_WP).not.toBe(0);
    expect(load(k, mm, hva)).toBe(42);
    const pte = entryAt(k, mm, hva);
    expect([pteUffdWp(pte), pteWrite(pte), pageAnonExclusive(k, pageAt(k, mm, hva))]).toEqual([
      true,
      false,
      true,
    ]);
    expect(store(k, mm, hva, 43)).toBe(-EFAULT);
    quiet();
  });

  it('a write to what is swapped out is for the handler too', () => {
    swapOut();
    expect([store(k, mm, hva, 43), load(k, mm, hva)]).toEqual([-EFAULT, 42]);
    protect(false);
    expect([store(k, mm, hva, 43), load(k, mm, hva)]).toEqual([0, 43]);
  });

  it('taken off the entry of a slot, it is off', () => {
    swapOut();
    protect(false);
    expect(entryAt(k, mm, hva) & PTE_SWP_UFFD_WP).toBe(0);
    expect(store(k, mm, hva, 43)).toBe(0);
    quiet();
  });

  it('stays on an entry whose page is merged: the first of two', () => {
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    expect(drive(ksmScan(k, mm))).toBe(1);
    expect(pageAt(k, mm, hva)).toBe(pageAt(k, mm, hva + PAGE_SIZE));
    expect([0, 1].map((i) => pteUffdWp(entryAt(k, mm, hva + i * PAGE_SIZE)))).toEqual([
      true,
      false,
    ]);
    expect([store(k, mm, hva, 1), store(k, mm, hva + PAGE_SIZE, 1)]).toEqual([-EFAULT, 0]);
  });

  it('and the second of two', () => {
    protect(false);
    drive(uffdWriteprotect(k, mm, hva + PAGE_SIZE, PAGE_SIZE, true));
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    expect(drive(ksmScan(k, mm))).toBe(1);
    expect([0, 1].map((i) => pteUffdWp(entryAt(k, mm, hva + i * PAGE_SIZE)))).toEqual([
      false,
      true,
    ]);
  });
});

describe('soft-dirty', () => {
  it('goes through swap: set it stays set, clear it stays clear until the next write', () => {
    drive(clearRefsSoftDirty(k, mm));
    store(k, mm, hva, 43);
    for (const i of [0, 1]) swapOut(hva + i * PAGE_SIZE);
    expect([0, 1].map((i) => entryAt(k, mm, hva + i * PAGE_SIZE) & PTE_SWP_SOFT_DIRTY)).toEqual([
      PTE_SWP_SOFT_DIRTY,
      0,
    ]);
    for (const i of [0, 1]) load(k, mm, hva + i * PAGE_SIZE);
    const dirty = (): boolean[] =>
      [0, 1].map((i) => pteSoftDirty(entryAt(k, mm, hva + i * PAGE_SIZE)));
    expect(dirty()).toEqual([true, false]);
    expect(pteWrite(entryAt(k, mm, hva + PAGE_SIZE))).toBe(false);
    store(k, mm, hva + PAGE_SIZE, 44);
    expect(dirty()).toEqual([true, true]);
    quiet();
  });

  it('stays on an entry whose page is merged', () => {
    drive(clearRefsSoftDirty(k, mm));
    for (const i of [0, 1]) store(k, mm, hva + i * PAGE_SIZE, 43);
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    expect(drive(ksmScan(k, mm))).toBe(1);
    for (const i of [0, 1]) expect(pteSoftDirty(entryAt(k, mm, hva + i * PAGE_SIZE))).toBe(true);
    quiet();
  });
});

describe('memory that is locked', () => {
  it('is not swapped out, by reclaim or by advice; what it read in keeps no slot', () => {
    swapOut();
    expect(drive(mlock(k, mm, hva, 2 * PAGE_SIZE))).toBe(0);
    expect(k.state.swap.nrFree).toBe(SLOTS);
    expect(pageAt(k, mm, hva)).toBeGreaterThan(0);
    expect(swapOut()).toBe(-EAGAIN);
    expect(pageAt(k, mm, hva)).toBeGreaterThan(0);
    expect(drive(madvise(k, mm, hva, PAGE_SIZE, MADV_PAGEOUT))).toBe(-EINVAL);
    quiet();
  });
});

describe('poison', () => {
  it('in the swap cache: the fault says -EHWPOISON, the entry stays', () => {
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    expect(swapOut()).toBe(-EAGAIN);
    k.state.frames.flags[page]! |= PG_HWPOISON;
    const entry = entryAt(k, mm, hva);
    expect(drive(userFault(k, mm, hva, FAULT_FLAG_WRITE))).toBe(-EHWPOISON);
    expect(entryAt(k, mm, hva)).toBe(entry);
    k.state.frames.flags[page]! &= ~PG_HWPOISON;
    folioPut(k, page);
    expect(load(k, mm, hva)).toBe(42);
    quiet();
  });
});

describe('a saved kernel', () => {
  it('has the device with its bytes, and the records of merged pages', () => {
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    drive(ksmScan(k, mm));
    const other = mapAnon(k, mm, 1);
    store(k, mm, other, 7);
    swapOut(other);
    const { memory, tlb, policy } = k;
    const restored = createKernel({ memory, tlb, policy, state: structuredClone(k.state) });
    const owner = restored.state.mms.get(mm.id);
    if (owner === undefined) throw new Error('the address space is gone');
    expect(violations(restored)).toEqual([]);
    expect(load(restored, owner, other)).toBe(7);
    store(restored, owner, hva, 1);
    expect(load(restored, owner, hva + PAGE_SIZE)).toBe(42);
    expect(violations(restored)).toEqual([]);
  });
});
