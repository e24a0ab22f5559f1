/** Who holds mmap_lock in GUP, faults that have to wait, and signals: facts sheet 1.1, 1.2. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { EAGAIN, EFAULT, EINTR, EINVAL } from '../../mm/errno.ts';
import { handleMmFault, userFault } from '../../mm/fault/fault.ts';
import {
  FAULT_FLAG_ALLOW_RETRY,
  FAULT_FLAG_KILLABLE,
  FAULT_FLAG_RETRY_NOWAIT,
  FAULT_FLAG_TRIED,
  VM_FAULT_RETRY,
} from '../../mm/fault/flags.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_INTERRUPTIBLE, FOLL_NOWAIT, FOLL_WRITE } from '../../mm/gup/flags.ts';
import {
  getUserPages,
  getUserPagesRemote,
  getUserPagesUnlocked,
  pinUserPages,
  pinUserPagesRemote,
  pinUserPagesUnlocked,
} from '../../mm/gup/slow.ts';
import { unpinUserPages } from '../../mm/gup/unpin.ts';
import { drive, type Path, YP_MIGRATE_UNMAPPED, YP_WAIT } from '../../mm/path.ts';
import { sendSignal, SIGNAL_FATAL, SIGNAL_PENDING, signalHandled } from '../../mm/signal.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import {
  mmapRead,
  mmapReadTrylock,
  mmapReadUnlock,
  mmapWriteTrylock,
  mmapWriteUnlock,
} from '../../mm/vma/lock.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  createWorld,
  finish,
  mapAnon,
  pageAt,
  pinsLive,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(16);
const USER = 'access-remote-vm';

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

/** A page that is being moved: whoever faults on it waits until `finish` of what this returns. */
const beingMoved = (hva: number): Path<number> => {
  const moving = migrateFolio(k, pageAt(k, mm, hva));
  stepTo(k, moving, YP_MIGRATE_UNMAPPED);
  return moving;
};
/** Written pages, of which number `moved` is being moved. */
const withMoving = (n: number, moved: number): { hva: number; moving: Path<number> } => {
  const hva = mapAnon(k, mm, n);
  for (let i = 0; i < n; i++) store(k, mm, hva + i * PAGE_SIZE, i + 1);
  return { hva, moving: beingMoved(hva + moved * PAGE_SIZE) };
};
/** Steps a path to its first wait. */
const untilWaits = <T>(path: Path<T>): void => expect(path.next().value).toBe(YP_WAIT);

describe('who holds mmap_lock — 1.1', () => {
  it('get_user_pages and pin_user_pages: the caller, and it is an error of his if not', () => {
    const hva = mapAnon(k, mm, 1);
    for (const path of [
      getUserPages(k, USER, mm, hva, 1, 0, pages),
      pinUserPages(k, mm, hva, 1, 0, pages),
      getUserPagesRemote(k, USER, mm, hva, 1, 0, pages, null),
      pinUserPagesRemote(k, mm, hva, 1, 0, pages, null),
    ])
      expect(() => drive(path)).toThrow(/without mmap_lock/);
    expect(pinsLive(k)).toBe(0);
  });

  it('held for writing will do as well', () => {
    const hva = mapAnon(k, mm, 1);
    mmapWriteTrylock(mm);
    expect(drive(pinUserPages(k, mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    mmapWriteUnlock(mm);
    unpinUserPages(k, pages, 1);
  });

  it('get_user_pages and pin_user_pages never drop it: they wait with the lock', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = mmapRead(mm, pinUserPages(k, mm, hva, 1, FOLL_WRITE, pages));
    untilWaits(pinning);
    expect(mm.mmapLock.readers).toBe(1);
    finish(moving);
    expect(finish(pinning)).toBe(1);
    expect([pages[0], mm.mmapLock.readers]).toEqual([pageAt(k, mm, hva), 0]);
    unpinUserPages(k, pages, 1);
  });

  it('..._unlocked takes it, drops it where a fault waits, and has let go of it at the end', () => {
    const { hva, moving } = withMoving(3, 1);
    const pinning = pinUserPagesUnlocked(k, mm, hva, 3, FOLL_WRITE, pages);
    untilWaits(pinning);
    expect(mm.mmapLock.readers).toBe(0);
    expect(pinsLive(k)).toBe(1);
    finish(moving);
    expect(finish(pinning)).toBe(3);
    for (let i = 0; i < 3; i++) expect(pages[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
    expect(mm.mmapLock.readers).toBe(0);
    unpinUserPages(k, pages, 3);
    expect(violations(k)).toEqual([]);
  });

  it('..._remote with `locked` may drop it, and says so by a 0', () => {
    const { hva, moving } = withMoving(3, 1);
    expect(mmapReadTrylock(mm)).toBe(true);
    const lock = { locked: 1 };
    const getting = getUserPagesRemote(k, USER, mm, hva, 3, 0, pages, lock);
    untilWaits(getting);
    expect(mm.mmapLock.readers).toBe(0);
    finish(moving);
    expect(finish(getting)).toBe(3);
    expect([lock.locked, mm.mmapLock.readers]).toEqual([0, 0]);
    for (let i = 0; i < 3; i++) folioPut(k, pages[i]!);
    expect(violations(k)).toEqual([]);
  });

  it('..._remote with `locked` keeps the lock where nothing had to wait', () => {
    const hva = mapAnon(k, mm, 2);
    mmapReadTrylock(mm);
    const lock = { locked: 1 };
    expect(drive(pinUserPagesRemote(k, mm, hva, 2, FOLL_WRITE, pages, lock))).toBe(2);
    expect([lock.locked, mm.mmapLock.readers]).toEqual([1, 1]);
    mmapReadUnlock(mm);
    unpinUserPages(k, pages, 2);
  });

  it('the fast entry takes it for what is left to the slow path', () => {
    const { hva, moving } = withMoving(2, 1);
    const pinning = pinUserPagesFast(k, mm, hva, 2, FOLL_WRITE, pages);
    untilWaits(pinning);
    expect([pinsLive(k), mm.mmapLock.readers]).toEqual([1, 0]);
    finish(moving);
    expect(finish(pinning)).toBe(2);
    unpinUserPages(k, pages, 2);
  });
});

describe('VM_FAULT_RETRY — 1.2', () => {
  it('the page that caused it is looked up anew: it may be gone with its VMA', () => {
    const { hva, moving } = withMoving(3, 1);
    const pinning = pinUserPagesUnlocked(k, mm, hva, 3, FOLL_WRITE, pages);
    untilWaits(pinning);
    drive(munmap(k, mm, hva + PAGE_SIZE, PAGE_SIZE));
    finish(moving);
    expect(finish(pinning)).toBe(1);
    unpinUserPages(k, pages, 1);
    expect(violations(k)).toEqual([]);
  });

  it('the retry is marked TRIED: a second wait keeps the lock', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = pinUserPagesUnlocked(k, mm, hva, 1, FOLL_WRITE, pages);
    untilWaits(pinning);
    finish(moving);
    const again = beingMoved(hva);
    untilWaits(pinning);
    expect(mm.mmapLock.readers).toBe(1);
    finish(again);
    expect(finish(pinning)).toBe(1);
    unpinUserPages(k, pages, 1);
    expect(violations(k)).toEqual([]);
  });

  it('after the retried page the walk goes on in one piece', () => {
    const { hva, moving } = withMoving(6, 2);
    const pinning = pinUserPagesUnlocked(k, mm, hva, 6, FOLL_WRITE, pages);
    untilWaits(pinning);
    finish(moving);
    const faults = k.state.stat.pgfault;
    expect(finish(pinning)).toBe(6);
    expect(k.state.stat.pgfault - faults).toBe(0);
    for (let i = 0; i < 6; i++) expect(pages[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
    unpinUserPages(k, pages, 6);
  });

  it('a fault answers it with the lock dropped; with RETRY_NOWAIT the lock is kept', () => {
    const { hva, moving } = withMoving(1, 0);
    mmapReadTrylock(mm);
    const nowait = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT;
    expect(drive(handleMmFault(k, mm, hva, nowait))).toBe(VM_FAULT_RETRY);
    expect(mm.mmapLock.readers).toBe(1);
    const faulting = handleMmFault(k, mm, hva, FAULT_FLAG_ALLOW_RETRY);
    untilWaits(faulting);
    expect(mm.mmapLock.readers).toBe(0);
    finish(moving);
    expect(finish(faulting)).toBe(VM_FAULT_RETRY);
  });

  it('a fault of user code is retried', () => {
    const { hva, moving } = withMoving(1, 0);
    const faulting = userFault(k, mm, hva, 0);
    untilWaits(faulting);
    expect(mm.mmapLock.readers).toBe(0);
    finish(moving);
    expect(finish(faulting)).toBe(0);
    expect(mm.mmapLock.readers).toBe(0);
  });
});

describe('FOLL_NOWAIT — 1.1', () => {
  it('0 pages where the fault would wait, the count so far behind others; the lock stays', () => {
    const { hva, moving } = withMoving(2, 1);
    mmapReadTrylock(mm);
    const nowait = (at: number, n: number): number =>
      drive(getUserPages(k, USER, mm, at, n, FOLL_NOWAIT, pages));
    expect(nowait(hva + PAGE_SIZE, 1)).toBe(0);
    expect(nowait(hva, 2)).toBe(1);
    expect(mm.mmapLock.readers).toBe(1);
    mmapReadUnlock(mm);
    folioPut(k, pages[0]!);
    const unlocked = getUserPagesUnlocked(k, USER, mm, hva + PAGE_SIZE, 1, FOLL_NOWAIT, pages);
    expect(drive(unlocked)).toBe(0);
    finish(moving);
    expect(violations(k)).toEqual([]);
  });

  it('a fault that need not wait is taken', () => {
    const hva = mapAnon(k, mm, 1);
    const path = pinUserPagesUnlocked(k, mm, hva, 1, FOLL_WRITE | FOLL_NOWAIT, pages);
    expect(drive(path)).toBe(1);
    unpinUserPages(k, pages, 1);
  });
});

describe('signals — 1.2', () => {
  const pinPath = (hva: number, n: number, flags = 0): Path<number> =>
    pinUserPagesUnlocked(k, mm, hva, n, FOLL_WRITE | flags, pages);

  it('step 3: with a fatal one nothing is taken, not even what is there: -EINTR', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    sendSignal(k, SIGNAL_FATAL);
    expect(drive(pinPath(hva, 1))).toBe(-EINTR);
    sendSignal(k, SIGNAL_PENDING);
    expect(drive(pinPath(hva, 1, FOLL_INTERRUPTIBLE))).toBe(-EINTR);
    signalHandled(k);
    expect(drive(pinPath(hva, 1))).toBe(1);
    unpinUserPages(k, pages, 1);
  });

  it('one that is not fatal does not matter where nobody waits', () => {
    const hva = mapAnon(k, mm, 1);
    sendSignal(k, SIGNAL_PENDING);
    expect(drive(pinPath(hva, 1, FOLL_INTERRUPTIBLE))).toBe(1);
    unpinUserPages(k, pages, 1);
  });

  it('a fatal one ends a wait: -EINTR, or the count so far', () => {
    const { hva, moving } = withMoving(2, 1);
    const pinning = pinPath(hva + PAGE_SIZE, 1);
    const both = pinPath(hva, 2);
    untilWaits(pinning);
    untilWaits(both);
    sendSignal(k, SIGNAL_FATAL);
    expect(finish(pinning)).toBe(-EINTR);
    expect(finish(both)).toBe(1);
    expect(mm.mmapLock.readers).toBe(0);
    unpinUserPages(k, pages, 1);
    signalHandled(k);
    finish(moving);
    expect(violations(k)).toEqual([]);
  });

  it('any other ends it only with FOLL_INTERRUPTIBLE', () => {
    const { hva, moving } = withMoving(1, 0);
    const deaf = pinPath(hva, 1);
    const pinning = pinPath(hva, 1, FOLL_INTERRUPTIBLE);
    untilWaits(deaf);
    untilWaits(pinning);
    sendSignal(k, SIGNAL_PENDING);
    untilWaits(deaf);
    expect(finish(pinning)).toBe(-EINTR);
    finish(moving);
    expect(finish(deaf)).toBe(1);
    unpinUserPages(k, pages, 1);
    expect(pinsLive(k)).toBe(0);
  });

  it('killed before mmap_lock could be had at all: -EAGAIN', () => {
    const hva = mapAnon(k, mm, 1);
    mmapWriteTrylock(mm);
    const pinning = pinPath(hva, 1);
    untilWaits(pinning);
    sendSignal(k, SIGNAL_PENDING);
    untilWaits(pinning);
    sendSignal(k, SIGNAL_FATAL);
    expect(finish(pinning)).toBe(-EAGAIN);
    mmapWriteUnlock(mm);
    expect(mm.hasPinned).toBe(false);
  });

  it('killed while it waits to have the lock back: -EINTR', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = pinPath(hva, 1);
    untilWaits(pinning);
    expect(mmapWriteTrylock(mm)).toBe(true);
    finish(moving);
    untilWaits(pinning);
    sendSignal(k, SIGNAL_FATAL);
    expect(finish(pinning)).toBe(-EINTR);
    mmapWriteUnlock(mm);
    expect(pinsLive(k)).toBe(0);
  });

  it('killed in the second wait: the fault itself drops the lock', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = pinPath(hva, 1);
    untilWaits(pinning);
    finish(moving);
    const again = beingMoved(hva);
    untilWaits(pinning);
    expect(mm.mmapLock.readers).toBe(1);
    sendSignal(k, SIGNAL_FATAL);
    expect(finish(pinning)).toBe(-EINTR);
    expect(mm.mmapLock.readers).toBe(0);
    signalHandled(k);
    finish(again);
    expect(violations(k)).toEqual([]);
  });

  it('a fault without ALLOW_RETRY waits whatever comes', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = mmapRead(mm, pinUserPages(k, mm, hva, 1, FOLL_WRITE, pages));
    untilWaits(pinning);
    sendSignal(k, SIGNAL_FATAL);
    untilWaits(pinning);
    finish(moving);
    // The lookup after it is one too many.
    expect(finish(pinning)).toBe(-EINTR);
  });

  it('a fault of user code ends with any: -EINTR, for the signal to be handled first', () => {
    const { hva, moving } = withMoving(1, 0);
    const faulting = userFault(k, mm, hva, 0);
    untilWaits(faulting);
    sendSignal(k, SIGNAL_PENDING);
    expect(finish(faulting)).toBe(-EINTR);
    finish(moving);
    const killed = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE | FAULT_FLAG_TRIED;
    sendSignal(k, SIGNAL_FATAL);
    const again = beingMoved(hva);
    mmapReadTrylock(mm);
    expect(drive(handleMmFault(k, mm, hva, killed))).toBe(VM_FAULT_RETRY);
    expect(mm.mmapLock.readers).toBe(0);
    finish(again);
  });
});

describe('after an error', () => {
  it('nothing is held: a hole behind a page that waits', () => {
    const { hva, moving } = withMoving(1, 0);
    const pinning = pinUserPagesUnlocked(k, mm, hva, 2, FOLL_WRITE, pages);
    untilWaits(pinning);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    finish(moving);
    expect(finish(pinning)).toBe(-EFAULT);
    expect([pinsLive(k), mm.mmapLock.readers]).toEqual([0, 0]);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_INTERRUPTIBLE, pages))).toBe(-EINVAL);
    expect(violations(k)).toEqual([]);
  });
});
