/** fault_in_*() and fixup_user_fault(): mm/gup.c. What they return is what could NOT be faulted in. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PTE_A, PTE_D } from '#emu';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { EFAULT, EINTR } from '../../mm/errno.ts';
import { FAULT_FLAG_WRITE } from '../../mm/fault/flags.ts';
import { memoryFailure } from '../../mm/fault/memory-failure.ts';
import {
  faultInReadable,
  faultInSafeWriteable,
  faultInWriteable,
  fixupUserFault,
} from '../../mm/gup/fault-in.ts';
import { drive, YP_MIGRATE_UNMAPPED, YP_WAIT } from '../../mm/path.ts';
import { pteMkclean, pteMkold } from '../../mm/pgtable/pte.ts';
import { setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import { sendSignal, SIGNAL_FATAL, signalHandled } from '../../mm/signal.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { PROT_NONE, PROT_READ } from '../../mm/vma/flags.ts';
import { mmapReadTrylock, mmapReadUnlock } from '../../mm/vma/lock.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  createWorld,
  entryAt,
  finish,
  load,
  mapAnon,
  pageAt,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

const FAMILY = [
  { name: 'fault_in_readable', make: faultInReadable, writes: false },
  { name: 'fault_in_writeable', make: faultInWriteable, writes: true },
  { name: 'fault_in_safe_writeable', make: faultInSafeWriteable, writes: true },
];

for (const { name, make, writes } of FAMILY)
  describe(name, () => {
    const faultIn = (hva: number, lenBytes: number): number => drive(make(k, mm, hva, lenBytes));

    it('touches every page of the range once: 0', () => {
      const hva = mapAnon(k, mm, 4);
      expect(faultIn(hva + 10, 2 * PAGE_SIZE)).toBe(0);
      expect(k.state.stat.pgfault).toBe(3);
      expect(pageAt(k, mm, hva + 2 * PAGE_SIZE)).not.toBe(-1);
      expect(pageAt(k, mm, hva + 3 * PAGE_SIZE)).toBe(-1);
      expect(violations(k)).toEqual([]);
    });

    it('holds nothing', () => {
      const hva = mapAnon(k, mm, 1);
      store(k, mm, hva, 1);
      const before = k.state.frames.refcount[pageAt(k, mm, hva)];
      faultIn(hva, 1);
      expect(k.state.frames.refcount[pageAt(k, mm, hva)]).toBe(before);
      expect(mm.hasPinned).toBe(false);
    });

    it('a hole: the bytes from its first on', () => {
      const hva = mapAnon(k, mm, 3);
      drive(munmap(k, mm, hva + 2 * PAGE_SIZE, PAGE_SIZE));
      expect(faultIn(hva + 100, 3 * PAGE_SIZE)).toBe(PAGE_SIZE + 100);
      expect(faultIn(hva + 2 * PAGE_SIZE, 7)).toBe(7);
    });

    it('what the VMA does not allow: all of it', () => {
      expect(faultIn(mapAnon(k, mm, 1, PROT_NONE), 5)).toBe(5);
      expect(faultIn(mapAnon(k, mm, 1, PROT_READ), 5)).toBe(writes ? 5 : 0);
    });

    it('nothing asked for: 0; above user space: all of it', () => {
      expect(faultIn(0x1_0000, 0)).toBe(0);
      expect(faultIn(2 ** 38 - 1, 2)).toBe(2);
    });
  });

describe('reading, writing, and writing safely', () => {
  it('reading maps the zero page, writing a page of its own', () => {
    const hva = mapAnon(k, mm, 1);
    drive(faultInReadable(k, mm, hva, 1));
    expect(pageAt(k, mm, hva)).toBe(k.state.zeroPage);
    drive(faultInSafeWriteable(k, mm, hva, 1));
    expect(pageAt(k, mm, hva)).not.toBe(k.state.zeroPage);
  });

  it('fault_in_writeable writes a zero at the start and into each page, the safe one does not', () => {
    const hva = mapAnon(k, mm, 2);
    for (const at of [hva, hva + 5, hva + PAGE_SIZE]) store(k, mm, at, 7);
    drive(faultInSafeWriteable(k, mm, hva + 5, PAGE_SIZE));
    expect([load(k, mm, hva + 5), load(k, mm, hva + PAGE_SIZE)]).toEqual([7, 7]);
    drive(faultInWriteable(k, mm, hva + 5, PAGE_SIZE));
    expect([hva, hva + 5, hva + PAGE_SIZE].map((at) => load(k, mm, at))).toEqual([7, 0, 0]);
  });
});

describe('fixup_user_fault', () => {
  const fixup = (hva: number, flags: number): number => {
    mmapReadTrylock(mm);
    const error = drive(fixupUserFault(k, mm, hva, flags, null));
    mmapReadUnlock(mm);
    return error;
  };

  it('faults though the entry is there, and so sets A and D', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    setPteAt(k, walkPte(k, mm, hva, false), pteMkold(pteMkclean(entryAt(k, mm, hva))));
    expect(fixup(hva, 0)).toBe(0);
    expect(entryAt(k, mm, hva) & (PTE_A | PTE_D)).toBe(PTE_A);
    expect(fixup(hva, FAULT_FLAG_WRITE)).toBe(0);
    expect(entryAt(k, mm, hva) & (PTE_A | PTE_D)).toBe(PTE_A | PTE_D);
  });

  it('-EFAULT without a VMA, and where it does not allow the access', () => {
    expect(fixup(0x1_0000, 0)).toBe(-EFAULT);
    expect(fixup(mapAnon(k, mm, 1, PROT_READ), FAULT_FLAG_WRITE)).toBe(-EFAULT);
    expect(fixup(mapAnon(k, mm, 1, PROT_NONE), 0)).toBe(-EFAULT);
  });

  it('poison is -EFAULT', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    drive(memoryFailure(k, pageAt(k, mm, hva)));
    expect(fixup(hva, 0)).toBe(-EFAULT);
  });

  it('where it waits the lock is dropped and retaken, which it says; a fatal signal is -EINTR', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const moving = migrateFolio(k, pageAt(k, mm, hva));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    mmapReadTrylock(mm);
    const note = { unlocked: false };
    const path = fixupUserFault(k, mm, hva, 0, note);
    expect(path.next().value).toBe(YP_WAIT);
    expect([note.unlocked, mm.mmapLock.readers]).toEqual([false, 0]);
    finish(moving);
    expect(finish(path)).toBe(0);
    expect([note.unlocked, mm.mmapLock.readers]).toEqual([true, 1]);
    sendSignal(k, SIGNAL_FATAL);
    expect(drive(fixupUserFault(k, mm, hva, 0, note))).toBe(-EINTR);
    expect(drive(fixupUserFault(k, mm, hva, 0, null))).toBe(0);
    signalHandled(k);
    mmapReadUnlock(mm);
    expect(violations(k)).toEqual([]);
  });
});
