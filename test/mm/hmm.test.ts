/** hmm_range_fault(): what it answers, what it faults in, and when it says -EBUSY. Compare mm/hmm.c, Documentation/mm/hmm.rst. */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  deviceFileCreate,
  drive,
  EBUSY,
  EFAULT,
  EPERM,
  folioRefCount,
  type HostProcess,
  hugetlbSetPool,
  type Kernel,
  MADV_DONTNEED,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  migrateFolio,
  mmap,
  mprotect,
  munmap,
  type Path,
  PROT_READ,
  pteWrite,
  secretmemCreate,
  shmemCreate,
  swapon,
  YP_FAULT_ALLOCATED,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  type HmmRange,
  hmmPfnToMapOrder,
  hmmPfnToPage,
  hmmRangeFault,
  type IntervalNotifier,
  mmuIntervalNotifierInsert,
  mmuIntervalReadBegin,
  mmuIntervalSetSeq,
} from '#mm/secondary';
import { beforeEach, describe, expect, it } from 'vitest';
import { mmapRead } from '../../mm/vma/lock.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  forked,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
} from './support.ts';

const AT = 0x1000_0000;
const PAGES = 4;
const FLAGS = HMM_PFN_VALID | HMM_PFN_WRITE | HMM_PFN_ERROR;

let w: World;
let k: Kernel;
let p: HostProcess;
let notifier: IntervalNotifier;

beforeEach(() => {
  w = createWorld();
  k = w.k;
  p = createProcess(w);
  k.intervalOps.set('mirror', {
    invalidate: (subscription, _range, seq) => {
      mmuIntervalSetSeq(subscription, seq);
      return true;
    },
  });
  const made = drive(mmuIntervalNotifierInsert(k, p.mm, AT, 1 << 22, 'mirror', 1));
  if (typeof made === 'number') throw new Error(`insert: ${made}`);
  notifier = made;
});

/** A question about PAGES pages at AT, as of now. */
const ask = (defaultFlags: number, nr = PAGES): HmmRange => ({
  notifier,
  notifierSeq: drive(mmuIntervalReadBegin(notifier)),
  start: AT,
  end: AT + nr * PAGE_SIZE,
  pfns: new Int32Array(nr),
  defaultFlags,
  pfnFlagsMask: 0,
});

const run = (range: HmmRange): Path<number> => mmapRead(p.mm, hmmRangeFault(k, range));

/** The flags that are answered, page by page. */
const flagsOf = ({ pfns }: HmmRange): number[] => [...pfns].map((pfn) => pfn & FLAGS);

const mapPages = (prot = RW, flags = MAP_PRIVATE | MAP_ANONYMOUS): void => {
  drive(mmap(k, p.mm, { hva: AT, lenBytes: PAGES * PAGE_SIZE, prot, flags }));
};

describe('without a request for faults', () => {
  it('it says what is there, and 0 for the rest', () => {
    mapPages();
    p.store32(AT + PAGE_SIZE, 1);
    const range = ask(0);
    expect(drive(run(range))).toBe(0);
    expect(flagsOf(range)).toEqual([0, HMM_PFN_VALID | HMM_PFN_WRITE, 0, 0]);
    expect(hmmPfnToPage(range.pfns[1] ?? 0)).toBe(pageAt(p, AT + PAGE_SIZE));
    expect(p.mm.rssAnon).toBe(1);
  });

  it('an entry that cannot be written to is valid, and no more', () => {
    mapPages();
    p.store32(AT, 1);
    forked(w, p);
    const range = ask(0);
    drive(run(range));
    expect(flagsOf(range)[0]).toBe(HMM_PFN_VALID);
  });

  it('the zero page is a page like any other', () => {
    mapPages();
    p.load32(AT);
    const range = ask(0);
    drive(run(range));
    expect(hmmPfnToPage(range.pfns[0] ?? 0)).toBe(k.state.zeroPage);
  });

  it('where there is no VMA, or one that devices cannot reach, it says HMM_PFN_ERROR', () => {
    drive(
      mmap(k, p.mm, { hva: AT, lenBytes: PAGE_SIZE, prot: 0, flags: MAP_PRIVATE | MAP_ANONYMOUS }),
    );
    const device = deviceFileCreate(k, 1, { how: 'remap', firstPfn: 1 << 20 });
    const hva = AT + 2 * PAGE_SIZE;
    drive(
      mmap(k, p.mm, { hva, lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: device }),
    );
    const range = ask(0);
    expect(drive(run(range))).toBe(0);
    expect(flagsOf(range)).toEqual([0, 0, 0, 0].map(() => HMM_PFN_ERROR));
  });
});

describe('with a request for faults', () => {
  it('everything is faulted in, for reading', () => {
    mapPages();
    const range = ask(HMM_PFN_REQ_FAULT);
    expect(drive(run(range))).toBe(0);
    expect(flagsOf(range)).toEqual([0, 0, 0, 0].map(() => HMM_PFN_VALID));
  });

  it('for writing it breaks COW, and nothing is referenced or pinned', () => {
    mapPages();
    p.store32(AT, 1);
    const before = pageAt(p, AT);
    const child = forked(w, p);
    // Its own fault replaces the page, of which the subscriber is told: once more.
    expect(drive(run(ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)))).toBe(-EBUSY);
    const range = ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
    expect(drive(run(range))).toBe(0);
    const page = hmmPfnToPage(range.pfns[0] ?? 0);
    expect(page).toBe(pageAt(p, AT));
    expect(page).not.toBe(before);
    expect(pteWrite(entryAt(p, AT))).toBe(true);
    expect(pageAt(child, AT)).toBe(before);
    expect(folioRefCount(k, page)).toBe(1);
    expect(k.state.stat.nr_foll_pin_acquired).toBe(0);
    assertKernel(k, { quiescent: true });
  });

  it('page by page: only what is asked for in the array', () => {
    mapPages();
    p.load32(AT);
    p.store32(AT + PAGE_SIZE, 1);
    const range = { ...ask(0), pfnFlagsMask: HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE };
    range.pfns[0] = HMM_PFN_REQ_FAULT;
    range.pfns[1] = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
    expect(drive(run(range))).toBe(0);
    const [first, second] = flagsOf(range);
    expect([first, second]).toEqual([HMM_PFN_VALID, HMM_PFN_VALID | HMM_PFN_WRITE]);
    expect(flagsOf(range).slice(2)).toEqual([0, 0]);
  });

  it('a request that the mask leaves out is none', () => {
    mapPages();
    const range = ask(0);
    range.pfns.fill(HMM_PFN_REQ_FAULT);
    expect(drive(run(range))).toBe(0);
    expect(flagsOf(range)).toEqual([0, 0, 0, 0]);
  });

  it('-EPERM where the VMA may not be written to', () => {
    mapPages(PROT_READ);
    expect(drive(run(ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)))).toBe(-EPERM);
    expect(drive(run(ask(HMM_PFN_REQ_FAULT)))).toBe(0);
  });

  it('-EFAULT where there is no VMA, no right to read, or nothing that a device could reach', () => {
    expect(drive(run(ask(HMM_PFN_REQ_FAULT)))).toBe(-EFAULT);
    mapPages(0);
    expect(drive(run(ask(HMM_PFN_REQ_FAULT)))).toBe(-EFAULT);
  });

  it('-EFAULT beyond the end of a file', () => {
    const mapping = shmemCreate(k, 2);
    const lenBytes = PAGES * PAGE_SIZE;
    drive(mmap(k, p.mm, { hva: AT, lenBytes, prot: RW, flags: MAP_SHARED, mapping }));
    expect(drive(run(ask(HMM_PFN_REQ_FAULT, 2)))).toBe(0);
    expect(drive(run(ask(HMM_PFN_REQ_FAULT, 3)))).toBe(-EFAULT);
  });

  it('secretmem, which GUP refuses, it would show: nothing of it knows', () => {
    const mapping = secretmemCreate(k, PAGES);
    drive(mmap(k, p.mm, { hva: AT, lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }));
    expect(drive(run(ask(HMM_PFN_REQ_FAULT, 1)))).toBe(0);
  });

  it('what is swapped out comes back', () => {
    swapon(k, 64);
    mapPages();
    for (let i = 0; i < PAGES; i++) p.store32(AT + i * PAGE_SIZE, i + 1);
    drive(madvise(k, p.mm, AT, PAGES * PAGE_SIZE, MADV_PAGEOUT));
    const range = ask(0);
    drive(run(range));
    expect(flagsOf(range)).toEqual([0, 0, 0, 0]);
    const faulting = ask(HMM_PFN_REQ_FAULT);
    expect(drive(run(faulting))).toBe(0);
    expect(flagsOf(faulting).every((flags) => (flags & HMM_PFN_VALID) !== 0)).toBe(true);
    expect(p.load32(AT + PAGE_SIZE)).toBe(2);
  });

  it('a page that is being moved is waited for', () => {
    mapPages();
    p.store32(AT, 7);
    const move = migrateFolio(k, pageAt(p, AT));
    stepTo(k, move, YP_MIGRATE_UNMAPPED);
    const range = ask(HMM_PFN_REQ_FAULT, 1);
    range.notifierSeq = notifier.seq;
    const path = run(range);
    expect(path.next().value).toBe(YP_WAIT);
    while (move.next().done !== true);
    expect(drive(path)).toBe(0);
    expect(hmmPfnToPage(range.pfns[0] ?? 0)).toBe(pageAt(p, AT));
  });
});

describe('huge entries', () => {
  it('say how much they map, and each page of them its own frame', () => {
    hugetlbSetPool(k, 9, 1);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    const hva = drive(mmap(k, p.mm, { hva: AT, lenBytes: 1 << 21, prot: RW, flags }));
    expect(hva).toBe(AT);
    const range = ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE, 512);
    expect(drive(run(range))).toBe(0);
    const first = hmmPfnToPage(range.pfns[0] ?? 0);
    expect(hmmPfnToPage(range.pfns[511] ?? 0)).toBe(first + 511);
    expect(hmmPfnToMapOrder(range.pfns[0] ?? 0)).toBe(9);
  });
});

describe('-EBUSY', () => {
  it('where the sequence has moved before: nothing is looked at', () => {
    mapPages();
    p.store32(AT, 1);
    const range = ask(HMM_PFN_REQ_FAULT);
    drive(madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED));
    expect(drive(run(range))).toBe(-EBUSY);
    expect(p.mm.rssAnon).toBe(0);
  });

  it('where it moves while a page is faulted in', () => {
    mapPages();
    p.store32(AT + PAGE_SIZE, 1);
    const range = ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE);
    const path = run(range);
    stepTo(k, path, YP_FAULT_ALLOCATED);
    // Another thread: DONTNEED takes mmap_lock for reading as well.
    drive(madvise(k, p.mm, AT + PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
    expect(drive(path)).toBe(-EBUSY);
    expect(drive(run(ask(HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)))).toBe(0);
  });

  it('not by what happens outside of the subscription', () => {
    mapPages();
    const elsewhere = mapAnon(p, 1);
    p.store32(elsewhere, 1);
    const range = ask(HMM_PFN_REQ_FAULT);
    drive(munmap(k, p.mm, elsewhere, PAGE_SIZE));
    expect(drive(run(range))).toBe(0);
  });

  it('by mprotect(), which takes the right to write away', () => {
    mapPages();
    p.store32(AT, 1);
    const range = ask(0);
    drive(mprotect(k, p.mm, AT, PAGE_SIZE, PROT_READ));
    expect(drive(run(range))).toBe(-EBUSY);
  });
});

it('without mmap_lock is our own mistake', () => {
  mapPages();
  expect(() => drive(hmmRangeFault(k, ask(0)))).toThrow('without mmap_lock');
});
