/**
 * Interval notifiers: the number that is odd while something is being invalidated, who waits for what,
 * and a mirror that follows page tables by it. Compare mm/mmu_notifier.c.
 */
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  createPolicy,
  drive,
  EAGAIN,
  EINVAL,
  EOVERFLOW,
  fork,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  MMU_NOTIFY_CLEAR,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  mmExit,
  mprotect,
  mremap,
  munmap,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
  notifyRangeStartNonblock,
  type Path,
  PROT_READ,
  ptePage,
  ptePresent,
  pteWrite,
  YP_NOTIFIER_START,
  YP_PROTECT,
  YP_WAIT,
} from '#mm';
import {
  createSecondaryPfn,
  faultInPfn,
  type IntervalNotifier,
  type IntervalNotifierOps,
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
  releasePfn,
} from '#mm/secondary';
import { describe, expect, it } from 'vitest';
import { pageToPfn } from '../../mm/frames/table.ts';
import { type Rng, rng } from '../support/rng.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
} from './support.ts';

const AT = 0x1000_0000;
const PAGES = 8;
const LEN = PAGES * PAGE_SIZE;

/** A process with PAGES written pages at AT, and operations `iv` that set the number and write a log. */
const world = (): { w: World; p: HostProcess; k: Kernel } => {
  const w = createWorld(8 << 20);
  const p = createProcess(w);
  mapAnon(p, PAGES, RW, AT);
  for (let i = 0; i < PAGES; i++) p.store32(AT + i * PAGE_SIZE, i);
  w.k.intervalOps.set('iv', recorder(w));
  return { w, p, k: w.k };
};

const recorder = (w: World): IntervalNotifierOps => ({
  invalidate: (subscription, range, seq) => {
    mmuIntervalSetSeq(subscription, seq);
    w.log.push(`invalidate ${subscription.owner} event ${range.event}`);
    return true;
  },
});

const insert = (p: HostProcess, first: number, nr: number, owner = 1): IntervalNotifier => {
  const at = AT + first * PAGE_SIZE;
  const made = drive(mmuIntervalNotifierInsert(p.k, p.mm, at, nr * PAGE_SIZE, 'iv', owner));
  if (typeof made === 'number') throw new Error(`insert: ${made}`);
  return made;
};

const told = (w: World): string[] => w.log.filter((line) => line.startsWith('invalidate'));

/** True where the path cannot go on: it waits. */
const waits = <T>(path: Path<T>): boolean => {
  const step = path.next();
  return step.done !== true && step.value === YP_WAIT;
};

const unmap = (p: HostProcess, first: number, nr = 1): Path<number> =>
  munmap(p.k, p.mm, AT + first * PAGE_SIZE, nr * PAGE_SIZE);

describe('the number', () => {
  it('is even at rest, and a new subscription has an odd one that is not it', () => {
    const { p } = world();
    const subscription = insert(p, 0, 4);
    expect(p.mm.intervals.seq % 2).toBe(0);
    expect(subscription.seq % 2).toBe(1);
    expect(drive(mmuIntervalReadBegin(subscription))).toBe(subscription.seq);
  });

  it('is odd from start to end of a range that meets a subscription, and larger afterwards', () => {
    const { w, p, k } = world();
    const subscription = insert(p, 0, 4);
    const before = p.mm.intervals.seq;
    const path = unmap(p, 3);
    stepTo(k, path, YP_NOTIFIER_START);
    expect(p.mm.intervals.seq).toBe(before + 1);
    expect(subscription.seq).toBe(before + 1);
    drive(path);
    expect(p.mm.intervals.seq).toBe(before + 2);
    expect(told(w)).toEqual(['invalidate 1 event 0']);
  });

  it('stays even for a range beside it, which nobody is told of', () => {
    const { w, p } = world();
    insert(p, 0, 4);
    const before = p.mm.intervals.seq;
    drive(unmap(p, 4));
    expect(p.mm.intervals.seq).toBe(before);
    expect(told(w)).toEqual([]);
  });

  it('becomes even with the last of several ranges', () => {
    const { p, k } = world();
    insert(p, 0, PAGES);
    const ranges = [0, 1].map((i) =>
      notifierRange(p.mm, AT + i * PAGE_SIZE, AT + (i + 1) * PAGE_SIZE, MMU_NOTIFY_CLEAR),
    );
    for (const range of ranges) notifyRangeStart(k, range);
    if (ranges[0]) notifyRangeEnd(k, ranges[0]);
    expect(p.mm.intervals.seq % 2).toBe(1);
    if (ranges[1]) notifyRangeEnd(k, ranges[1]);
    expect(p.mm.intervals.seq % 2).toBe(0);
  });
});

describe('a lookup', () => {
  it('begins when the invalidation has ended', () => {
    const { p, k } = world();
    const subscription = insert(p, 0, 4);
    const path = unmap(p, 0);
    stepTo(k, path, YP_NOTIFIER_START);
    const begin = mmuIntervalReadBegin(subscription);
    expect(waits(begin)).toBe(true);
    drive(path);
    expect(drive(begin)).toBe(subscription.seq);
  });

  it('has to be done again when an invalidation came between, and not for one beside it', () => {
    const { p } = world();
    const subscription = insert(p, 0, 4);
    const seq = drive(mmuIntervalReadBegin(subscription));
    drive(unmap(p, 5));
    expect(mmuIntervalReadRetry(subscription, seq)).toBe(false);
    drive(unmap(p, 1));
    expect(mmuIntervalReadRetry(subscription, seq)).toBe(true);
  });
});

describe('subscriptions that come and go', () => {
  it('while one is being invalidated: a new one waits for the end, and is not told before', () => {
    const { w, p, k } = world();
    insert(p, 0, 4, 1);
    const path = unmap(p, 0);
    stepTo(k, path, YP_NOTIFIER_START);
    const late = insert(p, 0, 4, 2);
    expect(late.inTree).toBe(false);
    const range = notifierRange(p.mm, AT, AT + LEN, MMU_NOTIFY_CLEAR);
    notifyRangeStart(k, range);
    expect(told(w)).toEqual(['invalidate 1 event 0', 'invalidate 1 event 1']);
    expect(waits(mmuIntervalReadBegin(late))).toBe(true);
    notifyRangeEnd(k, range);
    drive(path);
    expect(late.inTree).toBe(true);
    expect(drive(mmuIntervalReadBegin(late))).toBe(late.seq);
  });

  it('while a range is open that met nobody: the new one may be meant, and lookups wait', () => {
    const { p, k } = world();
    drive(mmuIntervalNotifierRemove(insert(p, 7, 1)));
    const path = unmap(p, 0);
    stepTo(k, path, YP_NOTIFIER_START);
    expect(p.mm.intervals.seq % 2).toBe(0);
    const subscription = insert(p, 0, 4);
    expect(p.mm.intervals.seq % 2).toBe(1);
    expect(waits(mmuIntervalReadBegin(subscription))).toBe(true);
    drive(path);
    expect(p.mm.intervals.seq % 2).toBe(0);
  });

  it('one that goes meanwhile is gone when nobody can be calling it any more', () => {
    const { p, k } = world();
    const subscription = insert(p, 0, 4);
    const path = unmap(p, 0);
    stepTo(k, path, YP_NOTIFIER_START);
    const removing = mmuIntervalNotifierRemove(subscription);
    expect(waits(removing)).toBe(true);
    expect(p.mm.intervals.list).toEqual([subscription]);
    drive(path);
    drive(removing);
    expect(p.mm.intervals.list).toEqual([]);
  });

  it('one that came and goes within one invalidation need not wait', () => {
    const { p, k } = world();
    insert(p, 0, 4, 1);
    const path = unmap(p, 0);
    stepTo(k, path, YP_NOTIFIER_START);
    drive(mmuIntervalNotifierRemove(insert(p, 0, 4, 2)));
    drive(path);
    expect(p.mm.intervals.list.map(({ owner }) => owner)).toEqual([1]);
  });

  it('the first of an address space waits for whoever changes it, who may not tell anybody', () => {
    const { p, k } = world();
    const path = unmap(p, 0, 4);
    stepTo(k, path, YP_PROTECT);
    const inserting = mmuIntervalNotifierInsert(k, p.mm, AT, LEN, 'iv', 1);
    expect(waits(inserting)).toBe(true);
    drive(path);
    expect(typeof drive(inserting)).toBe('object');
  });

  it('exit tells every one of all there is; afterwards there are no new ones: -EINVAL', () => {
    const { w, p, k } = world();
    insert(p, 0, 1, 1);
    insert(p, 7, 1, 2);
    drive(mmExit(k, p.mm));
    expect(told(w).slice(0, 2)).toEqual(['invalidate 1 event 5', 'invalidate 2 event 5']);
    expect(p.mm.intervals.seq % 2).toBe(0);
    expect(drive(mmuIntervalNotifierInsert(k, p.mm, AT, LEN, 'iv', 3))).toBe(-EINVAL);
  });

  it('an empty range is -EOVERFLOW, operations that nobody knows are an error', () => {
    const { p, k } = world();
    expect(drive(mmuIntervalNotifierInsert(k, p.mm, AT, 0, 'iv', 1))).toBe(-EOVERFLOW);
    expect(drive(mmuIntervalNotifierInsert(k, p.mm, AT, 2 ** 53, 'iv', 1))).toBe(-EOVERFLOW);
    expect(() => drive(mmuIntervalNotifierInsert(k, p.mm, AT, 1, 'nobody', 1))).toThrow(/nobody/);
  });
});

describe('operations that fail, and operations in two passes', () => {
  it('where the range may not block one may fail: -EAGAIN, the rest is not told, the number is even', () => {
    const { w, p, k } = world();
    insert(p, 0, 4, 1);
    const fails: IntervalNotifierOps = { invalidate: () => false };
    k.intervalOps.set('iv', fails);
    insert(p, 0, 4, 2);
    const range = notifierRange(p.mm, AT, AT + LEN, MMU_NOTIFY_CLEAR);
    expect(notifyRangeStartNonblock(k, range)).toBe(-EAGAIN);
    expect(p.mm.intervals.seq % 2).toBe(0);
    expect(p.mm.intervals.active).toBe(0);
    expect(() => notifyRangeStart(k, notifierRange(p.mm, AT, AT + LEN, 1))).toThrow(/may block/);
    expect(told(w)).toEqual([]);
  });

  it('the second pass comes when all have been told', () => {
    const { w, p } = world();
    const { invalidate } = recorder(w);
    w.k.intervalOps.set('iv', {
      invalidate,
      invalidateFinish: ({ owner }) => w.log.push(`invalidate ${owner} finished`),
    });
    insert(p, 0, 4, 1);
    insert(p, 2, 4, 2);
    drive(unmap(p, 3));
    expect(told(w)).toEqual([
      'invalidate 1 event 0',
      'invalidate 2 event 0',
      'invalidate 1 finished',
      'invalidate 2 finished',
    ]);
  });
});

/** A device's copy of a part of a process's page tables, with neither pins nor references. */
interface Mirror {
  k: Kernel;
  subscription: IntervalNotifier;
  entries: Map<number, { pfn: number; writable: boolean }>;
  retries: number;
}

function* createMirror(k: Kernel, p: HostProcess, owner: number): Path<Mirror> {
  const entries: Mirror['entries'] = new Map();
  k.intervalOps.set(`mirror${owner}`, {
    invalidate: (subscription, range, seq) => {
      mmuIntervalSetSeq(subscription, seq);
      for (const hva of [...entries.keys()])
        if (hva >= range.start && hva < range.end) entries.delete(hva);
      return true;
    },
  });
  const name = `mirror${owner}`;
  const subscription = yield* mmuIntervalNotifierInsert(k, p.mm, AT, LEN, name, owner);
  if (typeof subscription === 'number') throw new Error(`insert: ${subscription}`);
  return { k, subscription, entries, retries: 0 };
}

/** A device fault. @param careless installs what it looked up without asking whether it is still true */
function* mirrorFault(m: Mirror, hva: number, write: boolean, careless: boolean): Path<void> {
  const { k, subscription } = m;
  const out = createSecondaryPfn();
  for (;;) {
    const seq = yield* mmuIntervalReadBegin(subscription);
    if ((yield* faultInPfn(k, subscription.mm, hva, write, out)) !== 0) return;
    if (!careless && mmuIntervalReadRetry(subscription, seq)) {
      m.retries++;
      releasePfn(k, out, false, false);
      continue;
    }
    m.entries.set(hva, { pfn: out.pfn, writable: out.writable });
    releasePfn(k, out, out.writable, true);
    return;
  }
}

/** P1 to P3: what the mirror reaches is what the process reaches now, and it may write no more. */
const mirrorError = (p: HostProcess, mirrors: readonly Mirror[]): string | null => {
  for (const { entries } of mirrors)
    for (const [hva, { pfn, writable }] of entries) {
      const pte = entryAt(p, hva);
      if (!ptePresent(pte)) return `P3 ${hva}: the page is gone`;
      if (pageToPfn(ptePage(pte)) !== pfn) return `P1 ${hva}: another page`;
      if (writable && !pteWrite(pte)) return `P2 ${hva}: writable`;
    }
  return null;
};

/** Device faults against everything that changes entries; checked after every step. @returns the first violation */
const race = (seed: number, careless: boolean): { error: string | null; retries: number } => {
  const { w, p, k } = world();
  k.policy = createPolicy('target');
  const random = rng(seed);
  const mirrors: Mirror[] = [];
  let retries = 0;
  const hva = (): number => AT + random.below(PAGES) * PAGE_SIZE;
  function* device(owner: number, rounds: number): Path<void> {
    for (let round = 0; round < rounds; round++) {
      const mirror = yield* createMirror(k, p, owner);
      mirrors.push(mirror);
      for (let i = 0; i < 12; i++) yield* mirrorFault(mirror, hva(), random.chance(0.5), careless);
      yield* mmuIntervalNotifierRemove(mirror.subscription);
      mirrors.splice(mirrors.indexOf(mirror), 1);
      retries += mirror.retries;
    }
  }
  const actors = [device(1, 3), device(2, 6), device(3, 2), ...changers(p, random, hva)];
  const error = stepAll(k, actors, random, () => mirrorError(p, mirrors));
  if (error === null) expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
  return { error, retries };
};

/** Whoever takes entries away, moves pages or takes rights. */
function changers(p: HostProcess, random: Rng, hva: () => number): Path<void>[] {
  const { k, mm } = p;
  const times = function* (n: number, what: () => Path<unknown>): Path<void> {
    for (let i = 0; i < n; i++) {
      yield* what();
      if (k.watched) yield 1;
    }
  };
  function* moveAndBack(): Path<void> {
    const from = hva();
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    if ((yield* mremap(k, mm, from, PAGE_SIZE, PAGE_SIZE, flags, 2 * AT)) < 0) return;
    yield* mremap(k, mm, 2 * AT, PAGE_SIZE, PAGE_SIZE, flags, from);
  }
  function* forkAndExit(): Path<void> {
    const child = yield* fork(k, mm);
    if (typeof child !== 'number') yield* mmExit(k, child);
  }
  return [
    times(15, () => mprotect(k, mm, hva(), PAGE_SIZE, random.chance(0.5) ? RW : PROT_READ)),
    times(15, () => madvise(k, mm, hva(), PAGE_SIZE, MADV_DONTNEED)),
    times(15, () => migrateFolio(k, Math.max(0, pageAt(p, hva())))),
    times(4, forkAndExit),
    times(6, moveAndBack),
    times(15, () => p.storePath(hva(), 4, random.below(1000))),
  ];
}

const stepAll = (
  k: Kernel,
  running: Path<void>[],
  random: Rng,
  check: () => string | null,
): string | null => {
  k.watched = true;
  let waiting = 0;
  while (running.length > 0) {
    const i = random.below(running.length);
    const step = running[i]?.next();
    if (step === undefined || step.done === true) running.splice(i, 1);
    waiting = step?.done !== true && step?.value === YP_WAIT ? waiting + 1 : 0;
    if (waiting > 10_000) throw new Error(`deadlock: ${running.length} actors wait`);
    const error = check();
    if (error !== null) return error;
  }
  k.watched = false;
  return null;
};

describe('a mirror without references, against everything that changes entries', () => {
  for (let seed = 1; seed <= 8; seed++)
    it(`never reaches what the process does not, seed ${seed}`, () => {
      expect(race(seed, false).error).toBe(null);
    });

  it('has had to look up again: the races did take place', () => {
    let retries = 0;
    for (let seed = 1; seed <= 4; seed++) retries += race(seed, false).retries;
    expect(retries).toBeGreaterThan(0);
  });

  it('without readRetry() it does', () => {
    const errors = [1, 2, 3, 4, 5, 6, 7, 8].map((seed) => race(seed, true).error);
    expect(errors.some((error) => error !== null)).toBe(true);
  });
});
