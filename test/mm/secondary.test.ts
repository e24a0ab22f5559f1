/** The secondary-MMU door: facts sheet 1.13, 1.14, S6, S10. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  createInvalidateState,
  createSecondaryPfn,
  drive,
  faultInPfn,
  invalidateBegin,
  invalidateEnd,
  invalidateRetry,
  invalidateSeq,
  releasePfn,
} from '#mm/secondary';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { EAGAIN, EFAULT } from '../../mm/errno.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_ACTIVE, PG_DIRTY, PG_REFERENCED, pageToPfn, pfnToPage } from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { YP_MIGRATE_UNMAPPED, YP_NOTIFIER_END, YP_SECONDARY_PFN } from '../../mm/path.ts';
import { pteWrite } from '../../mm/pgtable/pte.ts';
import { POLICY_NAMES, type PolicyName } from '../../mm/policy.ts';
import { fork } from '../../mm/vma/fork.ts';
import { MADV_DONTNEED, MAP_SHARED, PROT_READ } from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import { remapPfnRange } from '../../mm/vma/pfnmap.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createWorld,
  entryAt,
  finish,
  load,
  mapAnon,
  mapFile,
  pageAt,
  RW,
  stepTo,
  store,
  violations,
} from './gup-world.ts';
import { createSecondaryMmu, secondaryFault } from './secondary-mmu.ts';

const setUp = (policy: PolicyName) => {
  const k = createWorld(policy);
  const mm = mmCreate(k);
  return { k, mm, mmu: createSecondaryMmu(k, mm) };
};

describe('the invalidate sequence — 1.13', () => {
  it('an open invalidation makes retry true inside its range only', () => {
    const state = createInvalidateState();
    const seq = invalidateSeq(state);
    invalidateBegin(state, 0x1000, 0x3000);
    expect(invalidateRetry(state, seq, 0x0fff)).toBe(false);
    expect(invalidateRetry(state, seq, 0x1000)).toBe(true);
    expect(invalidateRetry(state, seq, 0x2fff)).toBe(true);
    expect(invalidateRetry(state, seq, 0x3000)).toBe(false);
  });

  it('a finished one makes it true for everybody who sampled before, anywhere', () => {
    const state = createInvalidateState();
    const before = invalidateSeq(state);
    invalidateBegin(state, 0x1000, 0x2000);
    invalidateEnd(state);
    expect(invalidateRetry(state, before, 0x9000)).toBe(true);
    expect(invalidateRetry(state, invalidateSeq(state), 0x1000)).toBe(false);
  });

  it('ranges only accumulate until none is open', () => {
    const state = createInvalidateState();
    invalidateBegin(state, 0x1000, 0x2000);
    invalidateBegin(state, 0x8000, 0x9000);
    invalidateEnd(state);
    expect(invalidateRetry(state, invalidateSeq(state), 0x4000)).toBe(true);
    invalidateEnd(state);
    invalidateBegin(state, 0x8000, 0x9000);
    expect(invalidateRetry(state, invalidateSeq(state), 0x4000)).toBe(false);
  });

  it('an end without a begin is a bug', () =>
    expect(() => invalidateEnd(createInvalidateState())).toThrow(/begin/));
});

for (const policy of POLICY_NAMES) {
  const takesGet = policy !== 'target';
  describe(`faultInPfn under ${policy}`, () => {
    it('a write gives a writable page, present in the primary', () => {
      const { k, mm } = setUp(policy);
      const hva = mapAnon(k, mm, 1);
      const out = createSecondaryPfn();
      expect(drive(faultInPfn(k, mm, hva, true, out))).toBe(0);
      expect(out).toMatchObject({
        pfn: pageToPfn(pageAt(k, mm, hva)),
        writable: true,
        held: takesGet,
      });
      expect(k.state.frames.refcount[pfnToPage(out.pfn)]).toBe(takesGet ? 2 : 1);
      expect(violations(k, takesGet ? 1 : 0)).toEqual([]);
      releasePfn(k, out, true, true);
      expect(out.pfn).toBe(-1);
      const flags = k.state.frames.flags[pageAt(k, mm, hva)]!;
      expect(flags & PG_DIRTY).not.toBe(0);
      // By GUP a first time, and then it is active.
      expect(flags & (takesGet ? PG_ACTIVE : PG_REFERENCED)).not.toBe(0);
      expect(violations(k)).toEqual([]);
    });

    it('a read of fresh memory gives the zero page, not writable', () => {
      const { k, mm } = setUp(policy);
      const out = createSecondaryPfn();
      expect(drive(faultInPfn(k, mm, mapAnon(k, mm, 1), false, out))).toBe(0);
      expect(out).toMatchObject({ pfn: pageToPfn(k.state.zeroPage), writable: false });
      expect(() => releasePfn(k, out, true, true)).toThrow(/writable/);
      releasePfn(k, out, false, true);
      expect(violations(k)).toEqual([]);
    });

    it('a read of a page that is writable already reports it as writable', () => {
      const { k, mm } = setUp(policy);
      const hva = mapAnon(k, mm, 1);
      store(k, mm, hva, 1);
      const out = createSecondaryPfn();
      drive(faultInPfn(k, mm, hva, false, out));
      expect(out.writable).toBe(true);
      releasePfn(k, out, false, false);
      expect(violations(k)).toEqual([]);
    });

    it('a read of a page shared by fork is not writable, a write breaks COW', () => {
      const { k, mm } = setUp(policy);
      const hva = mapAnon(k, mm, 1);
      store(k, mm, hva, 1);
      drive(fork(k, mm));
      const shared = pageAt(k, mm, hva);
      const out = createSecondaryPfn();
      drive(faultInPfn(k, mm, hva, false, out));
      expect(out).toMatchObject({ pfn: pageToPfn(shared), writable: false });
      releasePfn(k, out, false, false);
      drive(faultInPfn(k, mm, hva, true, out));
      expect(out.pfn).not.toBe(pageToPfn(shared));
      releasePfn(k, out, true, true);
      expect(violations(k)).toEqual([]);
    });

    it('no memory there, or not for writing: -EFAULT and a cleared record', () => {
      const { k, mm } = setUp(policy);
      const out = createSecondaryPfn();
      expect(drive(faultInPfn(k, mm, 0x1000, false, out))).toBe(-EFAULT);
      const hva = mapAnon(k, mm, 1, PROT_READ);
      expect(drive(faultInPfn(k, mm, hva, true, out))).toBe(-EFAULT);
      expect(out).toMatchObject({ pfn: -1, writable: false, held: false });
      releasePfn(k, out, false, false);
      expect(violations(k)).toEqual([]);
    });

    it('memory without page structs: the frame of its entry, no reference, and no folio to mark', () => {
      const { k, mm } = setUp(policy);
      const out = createSecondaryPfn();
      const frame = allocPages(k, 0, GFP_KERNEL);
      for (const prot of [RW, PROT_READ]) {
        const hva = mapFile(k, mm, shmemCreate(k, 2), MAP_SHARED, prot);
        const vma = findVma(mm, hva);
        if (vma === null) throw new Error('no VMA');
        remapPfnRange(k, vma, hva, pageToPfn(frame), PAGE_SIZE);
        const wanted = { pfn: pageToPfn(frame), held: false, hasFolio: false };
        expect(drive(faultInPfn(k, mm, hva, false, out))).toBe(0);
        expect(out).toMatchObject({ ...wanted, writable: pteWrite(entryAt(k, mm, hva)) });
        releasePfn(k, out, false, true);
        expect(drive(faultInPfn(k, mm, hva, true, out))).toBe(prot === RW ? 0 : -EFAULT);
        releasePfn(k, out, prot === RW, true);
      }
      expect([k.state.frames.refcount[frame], k.state.frames.flags[frame]]).toEqual([1, 0]);
      expect(mm.mmapLock.readers).toBe(0);
    });

    it('a migration between lookup and installation: refused today, seen by the sequence under target', () => {
      const { k, mm, mmu } = setUp(policy);
      const hva = mapAnon(k, mm, 1);
      store(k, mm, hva, 42);
      const old = pageAt(k, mm, hva);
      const faulting = secondaryFault(k, mmu, hva, true);
      stepTo(k, faulting, YP_SECONDARY_PFN);
      expect(drive(migrateFolio(k, old))).toBe(takesGet ? -EAGAIN : 0);
      expect(finish(faulting)).toBe(0);
      // Either way an invalidation ran in between, and the fault was tried again.
      expect(mmu.retries).toBe(1);
      expect(pageAt(k, mm, hva) === old).toBe(takesGet);
      expect(mmu.entries.get(hva)?.pfn).toBe(pageToPfn(pageAt(k, mm, hva)));
      expect(checkKernel(k, { quiescent: true })).toEqual([]);
    });

    it('without an invalidation in between there is no retry', () => {
      const { k, mm, mmu } = setUp(policy);
      const hva = mapAnon(k, mm, 2);
      const faulting = secondaryFault(k, mmu, hva, true);
      stepTo(k, faulting, YP_SECONDARY_PFN);
      store(k, mm, hva + PAGE_SIZE, 1);
      expect(finish(faulting)).toBe(0);
      expect(mmu.retries).toBe(0);
    });

    it('a migration that is under way is waited for', () => {
      const { k, mm, mmu } = setUp(policy);
      const hva = mapAnon(k, mm, 1);
      store(k, mm, hva, 42);
      const old = pageAt(k, mm, hva);
      const moving = migrateFolio(k, old);
      stepTo(k, moving, YP_MIGRATE_UNMAPPED);
      const faulting = secondaryFault(k, mmu, hva, true);
      expect(faulting.next()).toEqual({ done: false, value: 0 });
      expect(finish(moving)).toBe(0);
      expect(finish(faulting)).toBe(0);
      expect(mmu.entries.get(hva)?.pfn).toBe(pageToPfn(pageAt(k, mm, hva)));
    });
  });
}

describe('subscribers — 1.14', () => {
  it('P1: between start and end of a range no entry for it is installed', () => {
    const { k, mm, mmu } = setUp('target');
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 1);
    drive(secondaryFault(k, mmu, hva, true));
    const protecting = folioWriteProtect(k, pageAt(k, mm, hva));
    stepTo(k, protecting, YP_NOTIFIER_END);
    expect(mmu.entries.size).toBe(0);
    const faulting = secondaryFault(k, mmu, hva, true);
    expect(faulting.next()).toEqual({ done: false, value: 0 });
    expect(mmu.entries.size).toBe(0);
    finish(protecting);
    expect(finish(faulting)).toBe(0);
    expect(mmu.entries.get(hva)?.writable).toBe(true);
  });

  it('P2: write protection of the primary takes the writable entry away (S6)', () => {
    const { k, mm, mmu } = setUp('target');
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    drive(secondaryFault(k, mmu, hva, true));
    drive(folioWriteProtect(k, pageAt(k, mm, hva)));
    expect(mmu.entries.size).toBe(0);
    drive(secondaryFault(k, mmu, hva, false));
    expect(mmu.entries.get(hva)?.writable).toBe(false);
    expect(checkKernel(k)).toEqual([]);
  });

  for (const [what, act] of [
    ['munmap', munmap],
    ['MADV_DONTNEED', madvise],
  ] as const)
    it(`P3: ${what} leaves no entry`, () => {
      const { k, mm, mmu } = setUp('target');
      const hva = mapAnon(k, mm, 4);
      for (let i = 0; i < 4; i++) drive(secondaryFault(k, mmu, hva + i * PAGE_SIZE, true));
      drive(act(k, mm, hva + PAGE_SIZE, 2 * PAGE_SIZE, MADV_DONTNEED));
      expect([...mmu.entries.keys()]).toEqual([hva, hva + 3 * PAGE_SIZE]);
      expect(checkKernel(k)).toEqual([]);
    });

  it('COW in the primary: a reader of the old page is told', () => {
    const { k, mm, mmu } = setUp('target');
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    drive(secondaryFault(k, mmu, hva, false));
    store(k, mm, hva, 1);
    expect(mmu.entries.size).toBe(0);
  });

  it('release: at exit every entry goes', () => {
    const { k, mm, mmu } = setUp('target');
    const hva = mapAnon(k, mm, 1);
    drive(secondaryFault(k, mmu, hva, true));
    drive(mmExit(k, mm));
    expect(mmu.released).toBe(true);
    expect(mmu.entries.size).toBe(0);
    expect(violations(k)).toEqual([]);
  });
});
