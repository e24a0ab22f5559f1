/**
 * P1, P2 and P3 of 1.14: the sanitizer knows every user of mm/secondary.ts by its own account, and finds
 * the one that keeps what it should have given back.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  checkKernel,
  drive,
  fork,
  guestMemfdConvert,
  guestMemfdCreate,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  mmExit,
  mprotect,
  munmap,
  PROT_READ,
  ptePage,
  YP_NOTIFIER_START,
} from '#mm';
import {
  guestMemfdBind,
  mmuIntervalNotifierInsert,
  mmuIntervalSetSeq,
  pageToPfn,
  registerGuestMemfdOps,
  registerSecondary,
  registerSecondaryIntervalOps,
  registerSecondaryOps,
} from '#mm/secondary';
import { describe, expect, it } from 'vitest';
import { AT, HPAGE_PMD_NR, mapAt, pmdAt, thpWorld } from './thp-world.ts';
import { createProcess, createWorld, mapAnon, pageAt, stepTo, type World } from './support.ts';

interface Entry {
  hva: number;
  pfn: number;
  writable: boolean;
  order?: number;
}

interface User {
  w: World;
  k: Kernel;
  p: HostProcess;
  hva: number;
  entries: Entry[];
}

/** A user who is told of everything and keeps what it has. */
const keeper = (how: 'start and end' | 'interval' | 'arch', nrPages = 2): User => {
  const w = createWorld();
  const p = createProcess(w);
  const hva = mapAnon(p, nrPages);
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, i);
  const user: User = { w, k: w.k, p, hva, entries: [] };
  const visitEntries = (
    visit: (...entry: [HostProcess['mm'], number, number, boolean, number?]) => void,
  ): void => {
    for (const { hva: at, pfn, writable, order } of user.entries)
      visit(p.mm, at, pfn, writable, order);
  };
  if (how === 'interval') {
    registerSecondaryIntervalOps(w.k, 'keeper', {
      invalidate: (notifier, _range, seq) => {
        mmuIntervalSetSeq(notifier, seq);
        return true;
      },
      visitEntries,
    });
    const lenBytes = nrPages * PAGE_SIZE;
    drive(mmuIntervalNotifierInsert(w.k, p.mm, hva, lenBytes, 'keeper', 1));
  } else {
    registerSecondaryOps(w.k, 'keeper', {
      ...(how === 'arch'
        ? { archInvalidateSecondaryTlbs: () => {} }
        : { invalidateRangeStart: () => 0, invalidateRangeEnd: () => {} }),
      visitEntries,
    });
    expect(registerSecondary(w.k, p.mm, 'keeper', 1)).toBe(0);
  }
  return user;
};

const enter = ({ p, hva, entries }: User, pgoff: number, writable: boolean): void => {
  const at = hva + pgoff * PAGE_SIZE;
  entries.push({ hva: at, pfn: pageToPfn(pageAt(p, at)), writable });
};

describe('P1: no entry outlives an invalidation that covers it', () => {
  for (const how of ['start and end', 'interval'] as const)
    it(`${how}: an entry that stays is found at the end, though it may be right again`, () => {
      const user = keeper(how);
      enter(user, 0, false);
      expect(checkKernel(user.k)).toEqual([]);
      // Write-protected and nothing else: the entry reaches what the primary reaches.
      drive(mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ));
      expect(checkKernel(user.k)).toEqual([
        expect.stringMatching(/^P1 secondary entry of keeper .* as its invalidation ends$/),
      ]);
    });

  it('entries beside the range are nobody`s business', () => {
    const user = keeper('start and end');
    enter(user, 1, true);
    drive(madvise(user.k, user.p.mm, user.hva, PAGE_SIZE, MADV_DONTNEED));
    expect(checkKernel(user.k)).toEqual([]);
  });

  it('an entry that was made within is found as well', () => {
    const user = keeper('start and end');
    const protect = mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ);
    stepTo(user.k, protect, YP_NOTIFIER_START);
    enter(user, 0, false);
    drive(protect);
    expect(checkKernel(user.k)[0]).toMatch(/^P1 /);
  });

  it('is kept with the machine until somebody looks, and not without k.checked', () => {
    const user = keeper('start and end');
    enter(user, 0, false);
    user.k.checked = false;
    drive(mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ));
    expect(user.k.state.secondaryFaults).toEqual([]);
    user.k.checked = true;
    drive(mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ | 2));
    expect(structuredClone(user.k.state.secondaryFaults)).toHaveLength(1);
  });

  it('does not hold those whose hardware walks the primary tables: they may find the new entry', () => {
    const user = keeper('arch');
    enter(user, 0, false);
    drive(mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ));
    expect(checkKernel(user.k)).toEqual([]);
  });
});

describe('P2: what may write stands for what may write', () => {
  it('an entry that was writable before fork shared the page', () => {
    const user = keeper('start and end');
    enter(user, 0, true);
    drive(fork(user.k, user.p.mm));
    expect(checkKernel(user.k)).toContainEqual(
      expect.stringMatching(/^I9 .* writable, the primary is not \(P2\)$/),
    );
  });

  it('of hardware that walks the tables it is asked outside of ranges only', () => {
    const user = keeper('arch');
    enter(user, 0, true);
    const protect = mprotect(user.k, user.p.mm, user.hva, PAGE_SIZE, PROT_READ);
    stepTo(user.k, protect, YP_NOTIFIER_START);
    expect(user.p.mm.openRanges).toHaveLength(1);
    expect(checkKernel(user.k)).toEqual([]);
    drive(protect);
    expect(user.p.mm.openRanges).toEqual([]);
    expect(checkKernel(user.k)[0]).toMatch(/\(P2\)$/);
  });
});

describe('P3: no entry reaches a page that was freed', () => {
  it('nor one that the process has given up', () => {
    const user = keeper('arch');
    enter(user, 0, false);
    drive(munmap(user.k, user.p.mm, user.hva, PAGE_SIZE));
    expect(checkKernel(user.k)[0]).toMatch(/^I10 .* which is free \(P3\).*no page there$/);
  });

  it('nor the frame that a page was migrated from', () => {
    const user = keeper('arch');
    enter(user, 0, true);
    drive(migrateFolio(user.k, pageAt(user.p, user.hva)));
    expect(checkKernel(user.k)[0]).toMatch(/^I10 .* which is free \(P3\); the primary \d+$/);
  });

  it('nor anything of an address space that has ended', () => {
    const user = keeper('start and end');
    enter(user, 0, false);
    drive(mmExit(user.k, user.p.mm));
    expect(checkKernel(user.k)[0]).toMatch(/^I10 .* which is free \(P3\)/);
  });

  it('a large entry is held against every page that it maps', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.store32(AT, 1);
    const pfn = pageToPfn(ptePage(pmdAt(p, AT)));
    registerSecondaryOps(w.k, 'large', {
      visitEntries: (visit) => visit(p.mm, AT, pfn, true, 9),
    });
    expect(checkKernel(w.k)).toEqual([]);
    drive(madvise(w.k, p.mm, AT + 100 * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
    const at = (AT + 100 * PAGE_SIZE).toString(16);
    expect(checkKernel(w.k)).toEqual([
      expect.stringMatching(new RegExp(`^I10 .* hva 0x${at}: reaches pfn ${pfn + 100}`)),
    ]);
  });
});

describe('the same of pages of a guest_memfd, which no address stands for', () => {
  const withFile = () => {
    const w = createWorld();
    const file = guestMemfdCreate(w.k, 2 * PAGE_SIZE, 0) as AddressSpace;
    const entries: [number, number][] = [];
    registerGuestMemfdOps(w.k, 'keeper', {
      invalidateStart: () => {},
      invalidateEnd: () => {},
      released: () => {},
      visitFileEntries: (visit) => {
        for (const [pgoff, pfn] of entries) visit(file, pgoff, pfn, true);
      },
    });
    const binding = { ops: 'keeper', owner: 1, slot: 0, pgoff: 0, nrPages: 2 };
    expect(drive(guestMemfdBind(w.k, file, binding))).toBe(0);
    return { w, file, entries };
  };

  it('P1: an entry that stays while the page changes sides', () => {
    const { w, file, entries } = withFile();
    entries.push([0, pageToPfn(5)]);
    drive(guestMemfdConvert(w.k, file, 0, 1, false));
    expect(checkKernel(w.k)).toContainEqual(
      expect.stringMatching(/^P1 secondary entry of keeper for file \d+ page 0: /),
    );
  });

  it('P3: an entry where the file has nothing', () => {
    const { w, entries } = withFile();
    entries.push([1, pageToPfn(w.k.state.frames.nrPages - 1)]);
    expect(checkKernel(w.k)).toEqual([
      expect.stringMatching(/^I10 .* which is free \(P3\); the file has no page there$/),
    ]);
  });
});
