/** The secondary-MMU door: how large a mapping is, and runs of pages. Facts sheet 1.13. */
import { PAGE_SIZE } from '#emu';
import {
  createPolicy,
  drive,
  EFAULT,
  folioOf,
  folioRefCount,
  folioTestDirty,
  fork,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  POLICY_NAMES,
  PROT_READ,
  provenanceStart,
  ptePage,
  splitHugePage,
  YP_FAULT_ALLOCATED,
  YP_SECONDARY_PFN,
} from '#mm';
import {
  createInvalidateState,
  createSecondaryPfn,
  createSecondaryPfns,
  faultInPfn,
  faultInPfns,
  invalidateBegin,
  invalidateEnd,
  invalidateOpen,
  invalidateRetryRange,
  invalidateSeq,
  pageToPfn,
  releasePfn,
  releasePfns,
  secondaryState,
} from '#mm/secondary';
import { describe, expect, it } from 'vitest';
import { createHugeWorld, HUGE_NR, mapHuge } from './hugetlb-world.ts';
import { createProcess, createWorld, mapAnon, pageAt, settled, stepTo } from './support.ts';
import { AT, HPAGE_PMD_NR, mapAt, pmdAt, thpWorld } from './thp-world.ts';

describe('the invalidate sequence of a run of pages', () => {
  it('an open range that meets any part of it makes retry true', () => {
    const state = createInvalidateState();
    const seq = invalidateSeq(state);
    invalidateBegin(state, 0x3000, 0x5000);
    const retry = (at: number, end: number) => invalidateRetryRange(state, seq, at, end);
    expect([retry(0x1000, 0x3000), retry(0x5000, 0x6000)]).toEqual([false, false]);
    expect([retry(0x1000, 0x3001), retry(0x4fff, 0x9000)]).toEqual([true, true]);
    expect([retry(0x3800, 0x4000), retry(0, 0x9000)]).toEqual([true, true]);
    expect([invalidateOpen(state, 0x2fff), invalidateOpen(state, 0x3000)]).toEqual([false, true]);
    invalidateEnd(state);
    expect(retry(0, 1)).toBe(true);
    expect(invalidateOpen(state, 0x3000)).toBe(false);
  });
});

for (const policy of POLICY_NAMES) {
  const takesGet = policy !== 'target';
  const pfnAt = (k: Kernel, p: HostProcess, hva: number, write: boolean) => {
    const out = createSecondaryPfn();
    expect(drive(faultInPfn(k, p.mm, hva, write, out))).toBe(0);
    const { pfn, order, writable } = out;
    releasePfn(k, out, false, false);
    return { pfn, order, writable };
  };

  describe(`the order of a mapping under ${policy}`, () => {
    it('is 9 for a page of 2 MiB, and 0 once its entry is split', () => {
      const w = thpWorld();
      w.k.policy = createPolicy(policy);
      const p = createProcess(w);
      mapAt(p, HPAGE_PMD_NR);
      const first = pfnAt(w.k, p, AT, true);
      expect(first).toMatchObject({ order: 9, writable: true });
      expect(first.pfn % HPAGE_PMD_NR).toBe(0);
      expect(pfnAt(w.k, p, AT + 77 * PAGE_SIZE, false)).toEqual({ ...first, pfn: first.pfn + 77 });
      expect(drive(splitHugePage(w.k, ptePage(pmdAt(p, AT))))).toBe(0);
      expect(pfnAt(w.k, p, AT + 77 * PAGE_SIZE, true).order).toBe(0);
      settled(w);
    });

    it('is 9 for hugetlb, for reading too, with what the entry allows', () => {
      const w = createHugeWorld(2);
      w.k.policy = createPolicy(policy);
      const p = createProcess(w);
      const hva = mapHuge(p, 1);
      p.store32(hva, 1);
      drive(fork(w.k, p.mm));
      const read = pfnAt(w.k, p, hva + 5 * PAGE_SIZE, false);
      expect(read).toMatchObject({ order: 9, writable: false });
      expect(HUGE_NR).toBe(2 ** read.order);
      settled(w);
    });

    it('is 0 for a page of 4 KiB', () => {
      const w = createWorld();
      w.k.policy = createPolicy(policy);
      const p = createProcess(w);
      expect(pfnAt(w.k, p, mapAnon(p, 2), true).order).toBe(0);
    });
  });

  describe(`faultInPfns under ${policy}`, () => {
    const setUp = (nrPages: number) => {
      const w = createWorld();
      w.k.policy = createPolicy(policy);
      provenanceStart(w.k);
      const p = createProcess(w);
      return { w, k: w.k, p, hva: mapAnon(p, nrPages), out: createSecondaryPfns(16) };
    };

    it('makes a run of pages present and says which they are', () => {
      const { w, k, p, hva, out } = setUp(8);
      expect(drive(faultInPfns(k, p.mm, hva, 8, true, out))).toBe(8);
      const frames = Array.from({ length: 8 }, (_, i) => pageAt(p, hva + i * PAGE_SIZE));
      expect([...out.pfns.subarray(0, 8)]).toEqual(frames.map(pageToPfn));
      expect([...out.writable.subarray(0, 8)]).toEqual(new Array(8).fill(1));
      for (const page of frames) expect(folioRefCount(k, page)).toBe(takesGet ? 2 : 1);
      releasePfns(k, out, true, true);
      for (const page of frames) {
        expect(folioRefCount(k, page)).toBe(1);
        expect(folioTestDirty(k, folioOf(k, page))).toBe(true);
      }
      expect(out.nrPages).toBe(0);
      settled(w);
    });

    it('says of each page for itself whether it may be written to', () => {
      const { w, k, p, hva, out } = setUp(4);
      for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, i);
      drive(fork(k, p.mm));
      p.store32(hva + PAGE_SIZE, 9);
      let n = 0;
      const writable: number[] = [];
      while (n < 4) {
        const got = drive(faultInPfns(k, p.mm, hva + n * PAGE_SIZE, 4 - n, false, out));
        writable.push(...out.writable.subarray(0, got));
        releasePfns(k, out, false, true);
        n += got;
      }
      expect(writable).toEqual([0, 1, 0, 0]);
      settled(w);
    });

    it('ends before a page that cannot be had; for the first one that is the error', () => {
      const { w, k, p, hva, out } = setUp(3);
      expect(drive(faultInPfns(k, p.mm, hva, 8, true, out))).toBe(3);
      releasePfns(k, out, true, true);
      expect(drive(faultInPfns(k, p.mm, hva + 3 * PAGE_SIZE, 2, true, out))).toBe(-EFAULT);
      expect(out.nrPages).toBe(0);
      releasePfns(k, out, true, true);
      const readOnly = mapAnon(p, 2, PROT_READ);
      expect(drive(faultInPfns(k, p.mm, readOnly, 2, true, out))).toBe(-EFAULT);
      settled(w);
    });

    it('a release after a retry marks nothing', () => {
      const { w, k, p, hva, out } = setUp(2);
      drive(faultInPfns(k, p.mm, hva, 2, false, out));
      releasePfns(k, out, false, false);
      drive(madvise(k, p.mm, hva, 2 * PAGE_SIZE, MADV_DONTNEED));
      p.load32(hva);
      drive(faultInPfns(k, p.mm, hva, 1, false, out));
      expect(out.writable[0]).toBe(0);
      // The zero page: dirty is for those that may be written to.
      releasePfns(k, out, true, true);
      expect(folioTestDirty(k, k.state.zeroPage)).toBe(false);
      settled(w);
    });

    it('is interrupted where nothing is decided yet: a migration there is met by the sequence', () => {
      const { w, k, p, hva, out } = setUp(2);
      for (let i = 0; i < 2; i++) p.store32(hva + i * PAGE_SIZE, 1);
      const path = faultInPfns(k, p.mm, hva, 2, true, out);
      stepTo(k, path, YP_SECONDARY_PFN);
      const old = pageAt(p, hva);
      const error = drive(migrateFolio(k, old));
      expect(error === 0).toBe(!takesGet);
      expect(drive(path)).toBe(2);
      expect(out.pfns[0] === pageToPfn(pageAt(p, hva))).toBe(takesGet);
      releasePfns(k, out, false, false);
      settled(w);
    });
  });
}

describe('a page of a run that goes while a later one is faulted in', () => {
  it('is not reported as it was: without a reference the run is looked at when all of it has been there', () => {
    const w = createWorld();
    const { k } = w;
    k.policy = createPolicy('target');
    const p = createProcess(w);
    const hva = mapAnon(p, 2);
    p.store32(hva, 1);
    const out = createSecondaryPfns(2);
    const path = faultInPfns(k, p.mm, hva, 2, true, out);
    stepTo(k, path, YP_FAULT_ALLOCATED);
    drive(madvise(k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(drive(path)).toBe(2);
    expect([...out.pfns]).toEqual([0, 1].map((i) => pageToPfn(pageAt(p, hva + i * PAGE_SIZE))));
    releasePfns(k, out, true, true);
    settled(w);
  });
});

describe('what a user keeps beside its entries', () => {
  it('is made once, by name, and is saved with the kernel', () => {
    const { k } = createWorld();
    const state = secondaryState(k, 'adapter', () => ({ nextId: 1 }));
    state.nextId = 5;
    expect(secondaryState(k, 'adapter', () => ({ nextId: 1 }))).toBe(state);
    expect(structuredClone(k.state.secondaryStates).get('adapter')).toEqual({ nextId: 5 });
  });
});
