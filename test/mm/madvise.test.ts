/** madvise(), mlock() and the flags of mmap(): what they do and what they answer. Compare mm/madvise.c, mm/mlock.c. */
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  EAGAIN,
  EFAULT,
  EINVAL,
  ENOMEM,
  EPERM,
  findVma,
  fork,
  type HostProcess,
  MADV_COLLAPSE,
  MADV_DOFORK,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_UNMERGEABLE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGE_SHIFT,
  MAP_HUGETLB,
  MAP_LOCKED,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  type MmStruct,
  mlock,
  mmap,
  mmExit,
  mprotect,
  munlock,
  munmap,
  nrFreePages,
  PROT_NONE,
  PROT_READ,
  pteSpecial,
  shmemCreate,
  mappingPut,
} from '#mm';
import { beforeEach, describe, expect, it } from 'vitest';
import { hugetlbSetPool } from '../../mm/hugetlb/pool.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { pteWrite } from '../../mm/pgtable/pte.ts';
import { isSwapEntry } from '../../mm/pgtable/swapops.ts';
import { pmdLeafAt } from '../../mm/pgtable/walk.ts';
import { swapon } from '../../mm/swap/slots.ts';
import {
  VM_DONTCOPY,
  VM_HUGEPAGE,
  VM_LOCKED,
  VM_MERGEABLE,
  VM_NOHUGEPAGE,
  VM_PFNMAP,
} from '../../mm/vma/flags.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  mapAnon,
  pageAt,
  RW,
  type World,
} from './support.ts';

const AT = 0x1000_0000;
const HUGE = 2 << 20;
const ANON = MAP_PRIVATE | MAP_ANONYMOUS;

let w: World;
let p: HostProcess;

beforeEach(() => {
  w = createWorld(16 << 20);
  p = createProcess(w);
});

const advise = (page: number, nrPages: number, advice: number): number =>
  drive(madvise(w.k, p.mm, AT + page * PAGE_SIZE, nrPages * PAGE_SIZE, advice));

const map = (lenBytes: number, flags: number, prot = RW, hva = AT): number =>
  drive(mmap(w.k, p.mm, { hva, lenBytes, prot, flags: flags | MAP_FIXED }));

const fill = (nrPages: number): void => {
  for (let i = 0; i < nrPages; i++) p.store32(AT + i * PAGE_SIZE, 100 + i);
};

/** Everything goes, and every frame is free again. */
const ends = (...others: HostProcess[]): void => {
  expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
  for (const other of [...others, p]) exit(other);
  expect(nrFreePages(w.k)).toBe(w.freeAtStart);
};

const has = (page: number, vmFlag: number): boolean =>
  ((findVma(p.mm, AT + page * PAGE_SIZE)?.flags ?? 0) & vmFlag) !== 0;

describe('MADV_DONTNEED', () => {
  it('private memory is zero afterwards, shared memory as it was', () => {
    mapAnon(p, 1, RW, AT);
    map(PAGE_SIZE, MAP_SHARED | MAP_ANONYMOUS, RW, AT + PAGE_SIZE);
    fill(2);
    expect(advise(0, 2, MADV_DONTNEED)).toBe(0);
    expect([0, 1].map((i) => p.load32(AT + i * PAGE_SIZE))).toEqual([0, 101]);
    ends();
  });

  it('a hole is -ENOMEM, and what lies behind it is done', () => {
    mapAnon(p, 1, RW, AT);
    mapAnon(p, 1, RW, AT + 2 * PAGE_SIZE);
    p.store32(AT + 2 * PAGE_SIZE, 1);
    expect(advise(0, 3, MADV_DONTNEED)).toBe(-ENOMEM);
    expect(p.load32(AT + 2 * PAGE_SIZE)).toBe(0);
    ends();
  });

  it('locked memory and memory of no pages is -EINVAL', () => {
    mapAnon(p, 2, RW, AT);
    drive(mlock(w.k, p.mm, AT, PAGE_SIZE));
    expect(advise(0, 1, MADV_DONTNEED)).toBe(-EINVAL);
    const vma = findVma(p.mm, AT + PAGE_SIZE);
    if (vma !== null) vma.flags |= VM_PFNMAP;
    expect(advise(1, 1, MADV_DONTNEED)).toBe(-EINVAL);
  });

  it('of hugetlb drops whole pages: rather too few than too many', () => {
    hugetlbSetPool(w.k, 9, 2);
    map(2 * HUGE, ANON | MAP_HUGETLB);
    p.store32(AT, 1);
    p.store32(AT + HUGE, 2);
    expect(advise(0, 512 + 511, MADV_DONTNEED)).toBe(0);
    expect([p.load32(AT), p.load32(AT + HUGE)]).toEqual([0, 2]);
    expect(advise(1, 512, MADV_DONTNEED)).toBe(-EINVAL);
  });
});

describe('MADV_DONTFORK, MADV_DOFORK', () => {
  it('a child does not get what was not to be forked, until it may be', () => {
    mapAnon(p, 3, RW, AT);
    fill(3);
    advise(1, 1, MADV_DONTFORK);
    expect(p.mm.vmas.length).toBe(3);
    const child = createProcess(w, drive(fork(w.k, p.mm)) as MmStruct);
    const got = [0, 1, 2].map((i) => child.load32(AT + i * PAGE_SIZE));
    expect(got).toEqual([100, -EFAULT, 102]);
    advise(0, 3, MADV_DOFORK);
    expect(p.mm.vmas.length).toBe(1);
    const second = createProcess(w, drive(fork(w.k, p.mm)) as MmStruct);
    expect(second.load32(AT + PAGE_SIZE)).toBe(101);
    ends(child, second);
  });

  it('DOFORK of special memory is -EINVAL', () => {
    mapAnon(p, 1, RW, AT);
    const vma = findVma(p.mm, AT);
    if (vma !== null) vma.flags |= VM_PFNMAP | VM_DONTCOPY;
    expect(advise(0, 1, MADV_DOFORK)).toBe(-EINVAL);
  });
});

describe('MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE', () => {
  it('each takes back what the other said', () => {
    mapAnon(p, 2, RW, AT);
    advise(0, 1, MADV_HUGEPAGE);
    expect([has(0, VM_HUGEPAGE), has(1, VM_HUGEPAGE)]).toEqual([true, false]);
    advise(0, 2, MADV_NOHUGEPAGE);
    expect([has(0, VM_HUGEPAGE), has(0, VM_NOHUGEPAGE), p.mm.vmas.length]).toEqual([
      false,
      true,
      1,
    ]);
  });

  it('COLLAPSE makes small pages huge, and is -EINVAL for memory that must not be', () => {
    mapAnon(p, 1024, RW, AT);
    fill(512);
    expect(advise(0, 512, MADV_COLLAPSE)).toBe(0);
    expect(pmdLeafAt(w.k, p.mm, AT)).not.toBe(0);
    expect(p.load32(AT + 511 * PAGE_SIZE)).toBe(611);
    advise(512, 512, MADV_NOHUGEPAGE);
    expect(advise(512, 512, MADV_COLLAPSE)).toBe(-EINVAL);
    ends();
  });
});

describe('MADV_MERGEABLE, MADV_UNMERGEABLE', () => {
  it('UNMERGEABLE gives every merged page a frame of its own again', () => {
    mapAnon(p, 2, RW, AT);
    for (let i = 0; i < 2; i++) p.store32(AT + i * PAGE_SIZE, 7);
    advise(0, 2, MADV_MERGEABLE);
    drive(ksmScan(w.k, p.mm));
    drive(ksmScan(w.k, p.mm));
    expect(pageAt(p, AT)).toBe(pageAt(p, AT + PAGE_SIZE));
    expect(advise(0, 2, MADV_UNMERGEABLE)).toBe(0);
    expect(pageAt(p, AT)).not.toBe(pageAt(p, AT + PAGE_SIZE));
    expect(has(0, VM_MERGEABLE)).toBe(false);
    ends();
  });

  it('shared memory is passed over without an error', () => {
    map(PAGE_SIZE, MAP_SHARED | MAP_ANONYMOUS);
    expect(advise(0, 1, MADV_MERGEABLE)).toBe(0);
    expect(has(0, VM_MERGEABLE)).toBe(false);
  });
});

describe('MADV_PAGEOUT', () => {
  it('swaps anonymous pages out; locked memory is -EINVAL', () => {
    swapon(w.k, 16);
    mapAnon(p, 2, RW, AT);
    fill(2);
    expect(advise(0, 2, MADV_PAGEOUT)).toBe(0);
    expect(isSwapEntry(entryAt(p, AT))).toBe(true);
    expect(p.load32(AT)).toBe(100);
    drive(mlock(w.k, p.mm, AT, PAGE_SIZE));
    expect(advise(0, 1, MADV_PAGEOUT)).toBe(-EINVAL);
    ends();
  });
});

describe('MADV_POPULATE_READ, MADV_POPULATE_WRITE (FOLL_MADV_POPULATE)', () => {
  it('READ maps the zero page, WRITE pages of its own; no access of that kind faults afterwards', () => {
    mapAnon(p, 2, RW, AT);
    expect(advise(0, 2, MADV_POPULATE_READ)).toBe(0);
    expect(pteSpecial(entryAt(p, AT))).toBe(true);
    expect(advise(0, 2, MADV_POPULATE_WRITE)).toBe(0);
    const faults = w.k.state.stat.pgfault;
    fill(2);
    expect(w.k.state.stat.pgfault).toBe(faults);
    ends();
  });

  it('WRITE breaks sharing with a child', () => {
    mapAnon(p, 1, RW, AT);
    fill(1);
    const child = createProcess(w, drive(fork(w.k, p.mm)) as MmStruct);
    advise(0, 1, MADV_POPULATE_WRITE);
    expect(pageAt(p, AT)).not.toBe(pageAt(child, AT));
    ends(child);
  });

  it('nothing mapped is -ENOMEM, what the VMA does not allow -EINVAL, SIGBUS -EFAULT', () => {
    mapAnon(p, 1, PROT_READ, AT);
    mapAnon(p, 1, PROT_NONE, AT + PAGE_SIZE);
    expect(advise(8, 1, MADV_POPULATE_READ)).toBe(-ENOMEM);
    expect(advise(0, 1, MADV_POPULATE_WRITE)).toBe(-EINVAL);
    expect(advise(1, 1, MADV_POPULATE_READ)).toBe(-EINVAL);
    const mapping = shmemCreate(w.k, 1);
    const flags = MAP_SHARED | MAP_FIXED;
    const hva = AT + 4 * PAGE_SIZE;
    drive(mmap(w.k, p.mm, { hva, lenBytes: 2 * PAGE_SIZE, prot: RW, flags, mapping }));
    drive(mappingPut(w.k, mapping));
    expect(advise(4, 2, MADV_POPULATE_READ)).toBe(-EFAULT);
    expect(pageAt(p, hva)).not.toBe(-1);
    ends();
  });

  it('special memory is -EINVAL', () => {
    mapAnon(p, 1, RW, AT);
    const vma = findVma(p.mm, AT);
    if (vma !== null) vma.flags |= VM_PFNMAP;
    expect(advise(0, 1, MADV_POPULATE_READ)).toBe(-EINVAL);
  });

  it('without memory it is -ENOMEM', () => {
    mapAnon(p, 5000, RW, AT);
    expect(advise(0, 5000, MADV_POPULATE_WRITE)).toBe(-ENOMEM);
    ends();
  });
});

describe('errors of madvise()', () => {
  it('an unknown advice, an odd address: -EINVAL; no length: 0; nothing mapped: -ENOMEM', () => {
    mapAnon(p, 1, RW, AT);
    expect(advise(0, 1, 999)).toBe(-EINVAL);
    expect(drive(madvise(w.k, p.mm, AT + 1, 1, MADV_DONTNEED))).toBe(-EINVAL);
    expect(drive(madvise(w.k, p.mm, AT, -1, MADV_DONTNEED))).toBe(-EINVAL);
    expect(advise(0, 0, MADV_DONTNEED)).toBe(0);
    for (const advice of [MADV_DONTNEED, MADV_DONTFORK, MADV_HUGEPAGE, MADV_PAGEOUT])
      expect(advise(4, 1, advice)).toBe(-ENOMEM);
  });
});

describe('mlock(), munlock()', () => {
  it('faults in what it locks, counts pages, and splits and merges the VMA', () => {
    mapAnon(p, 4, RW, AT);
    expect(drive(mlock(w.k, p.mm, AT + PAGE_SIZE + 5, PAGE_SIZE))).toBe(0);
    expect([0, 1, 2, 3].map((i) => pageAt(p, AT + i * PAGE_SIZE) >= 0)).toEqual([
      false,
      true,
      true,
      false,
    ]);
    expect([p.mm.lockedVm, p.mm.vmas.length]).toEqual([2, 3]);
    drive(munlock(w.k, p.mm, AT, 4 * PAGE_SIZE));
    expect([p.mm.lockedVm, p.mm.vmas.length]).toEqual([0, 1]);
    ends();
  });

  it('over RLIMIT_MEMLOCK is -ENOMEM, with a limit of 0 -EPERM; what is locked already counts once', () => {
    mapAnon(p, 4, RW, AT);
    p.mm.rlimitMemlock = 2 * PAGE_SIZE;
    expect(drive(mlock(w.k, p.mm, AT, 3 * PAGE_SIZE))).toBe(-ENOMEM);
    expect(drive(mlock(w.k, p.mm, AT, 2 * PAGE_SIZE))).toBe(0);
    expect(drive(mlock(w.k, p.mm, AT, 2 * PAGE_SIZE))).toBe(0);
    expect(p.mm.lockedVm).toBe(2);
    p.mm.rlimitMemlock = 0;
    expect(drive(mlock(w.k, p.mm, AT, PAGE_SIZE))).toBe(-EPERM);
  });

  it('a hole is -ENOMEM, no memory -EAGAIN, a page that cannot be faulted in -ENOMEM', () => {
    mapAnon(p, 1, RW, AT);
    expect(drive(mlock(w.k, p.mm, AT, 2 * PAGE_SIZE))).toBe(-ENOMEM);
    p.mm.rlimitMemlock = 2 ** 40;
    mapAnon(p, 5000, RW, 2 * AT);
    expect(drive(mlock(w.k, p.mm, 2 * AT, 5000 * PAGE_SIZE))).toBe(-EAGAIN);
    const mapping = shmemCreate(w.k, 1);
    const flags = MAP_SHARED | MAP_FIXED;
    const lenBytes = 2 * PAGE_SIZE;
    drive(munmap(w.k, p.mm, 2 * AT, 5000 * PAGE_SIZE));
    drive(mmap(w.k, p.mm, { hva: 2 * AT, lenBytes, prot: RW, flags, mapping }));
    expect(drive(mlock(w.k, p.mm, 2 * AT, lenBytes))).toBe(-ENOMEM);
  });

  it('munmap takes it off the account, a child has nothing locked', () => {
    mapAnon(p, 4, RW, AT);
    drive(mlock(w.k, p.mm, AT, 4 * PAGE_SIZE));
    const child = drive(fork(w.k, p.mm)) as MmStruct;
    expect([child.lockedVm, (child.vmas[0]?.flags ?? 0) & VM_LOCKED]).toEqual([0, 0]);
    drive(mmExit(w.k, child));
    drive(munmap(w.k, p.mm, AT, 3 * PAGE_SIZE));
    expect(p.mm.lockedVm).toBe(1);
    ends();
  });

  it('mprotect of locked memory to writable breaks sharing at once', () => {
    mapAnon(p, 1, RW, AT);
    fill(1);
    const child = createProcess(w, drive(fork(w.k, p.mm)) as MmStruct);
    drive(mprotect(w.k, p.mm, AT, PAGE_SIZE, PROT_READ));
    drive(mlock(w.k, p.mm, AT, PAGE_SIZE));
    drive(mprotect(w.k, p.mm, AT, PAGE_SIZE, RW));
    expect(pageAt(p, AT)).not.toBe(pageAt(child, AT));
    expect(pteWrite(entryAt(p, AT))).toBe(true);
    ends(child);
  });
});

describe('flags of mmap()', () => {
  it('MAP_POPULATE faults everything in: of private memory for writing', () => {
    map(2 * PAGE_SIZE, ANON | MAP_POPULATE);
    expect(pteWrite(entryAt(p, AT + PAGE_SIZE))).toBe(true);
    ends();
  });

  it('MAP_LOCKED is mlock(); over the limit -EAGAIN, with a limit of 0 -EPERM', () => {
    expect(map(2 * PAGE_SIZE, ANON | MAP_LOCKED)).toBe(AT);
    expect([p.mm.lockedVm, pageAt(p, AT) >= 0]).toEqual([2, true]);
    p.mm.rlimitMemlock = 3 * PAGE_SIZE;
    expect(map(2 * PAGE_SIZE, ANON | MAP_LOCKED, RW, 2 * AT)).toBe(-EAGAIN);
    p.mm.rlimitMemlock = 0;
    expect(map(PAGE_SIZE, ANON | MAP_LOCKED, RW, 2 * AT)).toBe(-EPERM);
  });

  it('MAP_HUGETLB takes pages from the pool of the size that it says, 2 MiB without one', () => {
    hugetlbSetPool(w.k, 9, 3);
    expect(map(HUGE, ANON | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT))).toBe(AT);
    expect(map(100, ANON | MAP_HUGETLB, RW, AT + HUGE)).toBe(AT + HUGE);
    expect(w.k.state.hugetlb.hstates[0]?.reserved).toBe(2);
    expect(map(2 * HUGE, ANON | MAP_HUGETLB, RW, 2 * AT)).toBe(-ENOMEM);
    expect(map(2 * HUGE, ANON | MAP_HUGETLB | MAP_NORESERVE, RW, 2 * AT)).toBe(2 * AT);
    expect(map(HUGE, ANON | MAP_HUGETLB | (16 << MAP_HUGE_SHIFT), RW, 3 * AT)).toBe(-EINVAL);
    expect(map(HUGE, ANON | MAP_HUGETLB, RW, 3 * AT + PAGE_SIZE)).toBe(-EINVAL);
    expect(drive(munmap(w.k, p.mm, AT, PAGE_SIZE))).toBe(-EINVAL);
    exit(p);
    hugetlbSetPool(w.k, 9, 0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });
});
