/** MMU notifiers: who is told what, when. Compare mm/mmu_notifier.c, include/linux/mmu_notifier.h. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EAGAIN,
  EINVAL,
  fork,
  type HostProcess,
  MADV_DONTNEED,
  MMU_NOTIFY_CLEAR,
  madvise,
  MAP_PRIVATE,
  MAP_SHARED,
  migrateFolio,
  mmap,
  mmCreate,
  mmExit,
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  mmuNotifierRegister,
  mmuNotifierTestYoung,
  mmuNotifierUnregister,
  mprotect,
  munmap,
  type NotifierOps,
  notifierRange,
  notifyRangeStart,
  notifyRangeStartNonblock,
  PROT_READ,
  pageIdleClearRefs,
  ptePage,
  ptepGet,
  shmemCreate,
  YP_NOTIFIER_END,
  YP_NOTIFIER_START,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { pmdLeafAt } from '../../mm/pgtable/walk.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  mapAnon,
  pageAt,
  recordNotifier,
  RW,
  stepTo,
  type World,
} from './support.ts';

const world = (nrPages: number): { w: World; p: HostProcess; hva: number } => {
  const w = createWorld();
  const p = createProcess(w);
  const hva = mapAnon(p, nrPages);
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
  recordNotifier(w, 'rec');
  mmuNotifierRegister(w.k, p.mm, 'rec', 1);
  w.log.length = 0;
  return { w, p, hva };
};

describe('start before the entries change, end after the flush', () => {
  it('munmap: UNMAP over what goes', () => {
    const { w, p, hva } = world(3);
    drive(munmap(w.k, p.mm, hva, 2 * PAGE_SIZE));
    expect(w.log).toEqual(['start UNMAP 2', 'flush', 'end UNMAP 2']);
  });

  it('MADV_DONTNEED: CLEAR', () => {
    const { w, p, hva } = world(2);
    drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(w.log).toEqual(['start CLEAR 1', 'flush', 'end CLEAR 1']);
  });

  it('mprotect: PROTECTION_VMA', () => {
    const { w, p, hva } = world(4);
    drive(mprotect(w.k, p.mm, hva, 4 * PAGE_SIZE, PROT_READ));
    expect(w.log).toEqual(['start PROTECTION_VMA 4', 'flush', 'end PROTECTION_VMA 4']);
  });

  it('fork: PROTECTION_PAGE over each VMA with COW; the flush comes at the end of the whole', () => {
    const { w, p } = world(2);
    drive(fork(w.k, p.mm));
    expect(w.log).toEqual(['start PROTECTION_PAGE 2', 'end PROTECTION_PAGE 2', 'flush']);
  });

  it('fork: nothing for a shared mapping', () => {
    const { w, p } = world(1);
    drive(munmap(w.k, p.mm, p.mm.vmas[0]?.start ?? 0, PAGE_SIZE));
    const mapping = shmemCreate(w.k, 1);
    drive(mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }));
    w.log.length = 0;
    drive(fork(w.k, p.mm));
    expect(w.log).toEqual(['flush']);
  });

  it('COW by a copy: CLEAR over the page; by reuse: nothing', () => {
    const { w, p, hva } = world(1);
    const child = drive(fork(w.k, p.mm));
    w.log.length = 0;
    p.store32(hva, 9);
    expect(w.log).toEqual(['start CLEAR 1', 'flush', 'end CLEAR 1']);
    if (typeof child === 'number') throw new Error('fork');
    drive(mmExit(w.k, child));
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ));
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
    w.log.length = 0;
    p.store32(hva, 10);
    expect(w.log).toEqual([]);
  });

  it('a private file mapping that is written: CLEAR', () => {
    const { w, p } = world(1);
    const mapping = shmemCreate(w.k, 1);
    const at = drive(mmap(w.k, p.mm, { lenBytes: 1, prot: RW, flags: MAP_PRIVATE, mapping }));
    p.load32(at);
    w.log.length = 0;
    p.store32(at, 1);
    expect(w.log).toEqual(['start CLEAR 1', 'flush', 'end CLEAR 1']);
  });

  it('migration: CLEAR over the page, in every address space that maps it', () => {
    const { w, p, hva } = world(1);
    expect(drive(migrateFolio(w.k, pageAt(p, hva)))).toBe(0);
    expect(w.log).toEqual(['start CLEAR 1', 'flush', 'end CLEAR 1']);
    expect(p.load32(hva)).toBe(1);
  });

  it('between start and end of a munmap the entry is there, then gone', () => {
    const { w, p, hva } = world(1);
    const path = munmap(w.k, p.mm, hva, PAGE_SIZE);
    stepTo(w.k, path, YP_NOTIFIER_START);
    expect(w.log).toEqual(['start UNMAP 1']);
    expect(entryAt(p, hva)).not.toBe(0);
    stepTo(w.k, path, YP_NOTIFIER_END);
    expect(entryAt(p, hva)).toBe(0);
    expect(w.log).toEqual(['start UNMAP 1', 'flush']);
    expect(drive(path)).toBe(0);
  });
});

describe('subscriptions', () => {
  it('exit: release, and then no more calls', () => {
    const { w, p } = world(2);
    drive(mmExit(w.k, p.mm));
    expect(w.log[0]).toBe('release');
    expect(w.log.filter((line) => line !== 'flush')).toEqual(['release']);
  });

  it('a fork does not inherit them', () => {
    const { w, p } = world(1);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    expect(child.notifiers).toEqual([]);
  });

  it('who subscribes between start and end hears nothing of that range', () => {
    const { w, p, hva } = world(1);
    recordNotifier(w, 'late').invalidateRangeEnd = () => w.log.push('late end');
    const path = munmap(w.k, p.mm, hva, PAGE_SIZE);
    stepTo(w.k, path, YP_NOTIFIER_START);
    mmuNotifierRegister(w.k, p.mm, 'late', 1);
    drive(path);
    expect(w.log).not.toContain('late end');
  });

  it('after unregistering nobody is called, and a second subscription is refused', () => {
    const { w, p, hva } = world(1);
    expect(() => mmuNotifierRegister(w.k, p.mm, 'rec', 1)).toThrow(/subscribed already/);
    mmuNotifierUnregister(p.mm, 'rec', 1);
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    expect(w.log).toEqual(['flush', 'flush']);
    expect(() => mmuNotifierRegister(w.k, mmCreate(w.k), 'nobody', 1)).toThrow(/nobody/);
  });
});

describe('ranges that may not block', () => {
  const nonblock = (w: World, p: HostProcess, hva: number): number =>
    notifyRangeStartNonblock(w.k, notifierRange(p.mm, hva, hva + PAGE_SIZE, MMU_NOTIFY_CLEAR));

  it('one that would have to block: -EAGAIN; the others are told of the start, and of the end at once', () => {
    const { w, p, hva } = world(1);
    w.k.notifierOps.set('busy', { invalidateRangeStart: () => -EAGAIN });
    mmuNotifierRegister(w.k, p.mm, 'busy', 1);
    recordNotifier(w, 'after');
    mmuNotifierRegister(w.k, p.mm, 'after', 1);
    expect(nonblock(w, p, hva)).toBe(-EAGAIN);
    expect(w.log).toEqual(['start CLEAR 1', 'start CLEAR 1', 'end CLEAR 1', 'end CLEAR 1']);
  });

  it('without such a one it is 0, and nobody is told of an end', () => {
    const { w, p, hva } = world(1);
    expect(nonblock(w, p, hva)).toBe(0);
    expect(w.log).toEqual(['start CLEAR 1']);
  });

  it('who may fail must have no end, and a range that may block must not fail', () => {
    const { w, p, hva } = world(1);
    w.k.notifierOps.set('busy', {
      invalidateRangeStart: () => -EAGAIN,
      invalidateRangeEnd: () => {},
    });
    mmuNotifierRegister(w.k, p.mm, 'busy', 1);
    expect(() => nonblock(w, p, hva)).toThrow(/has an end/);
    w.k.notifierOps.set('busy', { invalidateRangeStart: () => -EAGAIN });
    const range = notifierRange(p.mm, hva, hva + PAGE_SIZE, MMU_NOTIFY_CLEAR);
    expect(() => notifyRangeStart(w.k, range)).toThrow(/may block/);
  });
});

describe('hardware that walks the primary tables (arch_invalidate_secondary_tlbs)', () => {
  const archOps = (w: World): NotifierOps => ({
    archInvalidateSecondaryTlbs: (_owner, _mm, start, end) =>
      w.log.push(`secondary TLBs ${(end - start) / PAGE_SIZE}`),
  });

  it('is told with each flush, when the entries have changed already', () => {
    const { w, p, hva } = world(2);
    w.k.notifierOps.set('arch', archOps(w));
    mmuNotifierRegister(w.k, p.mm, 'arch', 1);
    drive(mprotect(w.k, p.mm, hva, 2 * PAGE_SIZE, PROT_READ));
    const event = 'PROTECTION_VMA 2';
    expect(w.log).toEqual([`start ${event}`, 'flush', 'secondary TLBs 2', `end ${event}`]);
  });

  it('has neither start nor end: both is -EINVAL', () => {
    const { w, p } = world(1);
    w.k.notifierOps.set('both', { ...archOps(w), invalidateRangeEnd: () => {} });
    expect(mmuNotifierRegister(w.k, p.mm, 'both', 1)).toBe(-EINVAL);
    w.k.notifierOps.set('both', { ...archOps(w), invalidateRangeStart: () => 0 });
    expect(mmuNotifierRegister(w.k, p.mm, 'both', 1)).toBe(-EINVAL);
    expect(p.mm.notifiers.length).toBe(1);
  });
});

describe('aging', () => {
  it('is the or of what the subscribers say; clearing asks all of them, testing stops at the first', () => {
    const { w, p, hva } = world(1);
    const asked: string[] = [];
    const ages = (name: string, young: boolean): void => {
      const say = (how: string) => () => {
        asked.push(`${name} ${how}`);
        return young;
      };
      w.k.notifierOps.set(name, {
        testYoung: say('test'),
        clearYoung: say('clear'),
        clearFlushYoung: say('flush'),
      });
      mmuNotifierRegister(w.k, p.mm, name, 1);
    };
    ages('a', true);
    ages('b', false);
    expect(mmuNotifierTestYoung(w.k, p.mm, hva)).toBe(true);
    expect(mmuNotifierClearYoung(w.k, p.mm, hva, hva + PAGE_SIZE)).toBe(true);
    expect(mmuNotifierClearFlushYoung(w.k, p.mm, hva, hva + PAGE_SIZE)).toBe(true);
    expect(asked).toEqual(['a test', 'a clear', 'b clear', 'a flush', 'b flush']);
    mmuNotifierUnregister(p.mm, 'a', 1);
    expect(mmuNotifierTestYoung(w.k, p.mm, hva)).toBe(false);
  });
});

describe('idle page tracking (mm/page_idle.c)', () => {
  it('says whether a process or a secondary MMU has used the page, and forgets it', () => {
    const { w, p, hva } = world(2);
    const page = pageAt(p, hva);
    const asked: number[] = [];
    let used = false;
    w.k.notifierOps.set('mmu', {
      clearYoung: (_owner, _mm, start, end) => {
        asked.push((start - hva) / PAGE_SIZE, (end - start) / PAGE_SIZE);
        const was = used;
        used = false;
        return was;
      },
    });
    mmuNotifierRegister(w.k, p.mm, 'mmu', 1);
    expect(pageIdleClearRefs(w.k, page)).toBe(true);
    expect(pageIdleClearRefs(w.k, page)).toBe(false);
    p.mmu.hostSfenceVma(undefined, p.mm.asid);
    p.load32(hva);
    expect(pageIdleClearRefs(w.k, page)).toBe(true);
    used = true;
    expect(pageIdleClearRefs(w.k, page)).toBe(true);
    expect(pageIdleClearRefs(w.k, page)).toBe(false);
    expect(asked.slice(0, 2)).toEqual([0, 1]);
  });

  it('asks for 2 MiB at once where one entry maps them', () => {
    const w = createWorld();
    w.k.state.thp.always = 1 << 9;
    const p = createProcess(w);
    const hva = mapAnon(p, 512);
    p.store32(hva, 1);
    const lengths: number[] = [];
    w.k.notifierOps.set('mmu', {
      clearYoung: (_owner, _mm, start, end) => {
        lengths.push((end - start) / PAGE_SIZE);
        return false;
      },
    });
    mmuNotifierRegister(w.k, p.mm, 'mmu', 1);
    const folio = ptePage(ptepGet(w.k, pmdLeafAt(w.k, p.mm, hva)));
    expect([pageIdleClearRefs(w.k, folio), pageIdleClearRefs(w.k, folio)]).toEqual([true, false]);
    expect(lengths).toEqual([512, 512]);
  });
});
