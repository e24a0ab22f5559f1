/** Collapsing small pages into a huge one. Compare mm/khugepaged.c:collapse_huge_page(). */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import {
  allocPages,
  collapseHugePage,
  drive,
  EAGAIN,
  EBUSY,
  EINVAL,
  ENOMEM,
  folioOrder,
  folioRefCount,
  freePages,
  type HostProcess,
  type Kernel,
  MADV_COLLAPSE,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  mmuNotifierRegister,
  mprotect,
  nrFreePages,
  pageAnonExclusive,
  PROT_READ,
  pteDirty,
  ptePage,
  pteSpecial,
  pteWrite,
  YP_COLLAPSE_CLEARED,
  YP_COLLAPSE_COPIED,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, pinUserPagesUnlocked, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { folioGet, folioOf, folioPut, folioTrylock, folioUnlock } from '../../mm/folio/folio.ts';
import { getUserPagesFastOnly } from '../../mm/gup/fast.ts';
import { pteMkold, pteMkuffdWp } from '../../mm/pgtable/pte.ts';
import { ptepGet, setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { pageoutRange } from '../../mm/swap/pageout.ts';
import { VM_UFFD_MISSING } from '../../mm/vma/flags.ts';
import { mmapReadTrylock, mmapReadUnlock } from '../../mm/vma/lock.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createProcess,
  entryAt,
  exit,
  pageAt,
  recordNotifier,
  RW,
  stepTo,
  type World,
} from './support.ts';
import {
  AT,
  adviseHuge,
  expectFilled,
  expectQuiet,
  FILLED,
  fill,
  forked,
  HPAGE_PMD_NR,
  HPAGE_PMD_SIZE,
  mapAt,
  pmdAt,
  thpWorld,
  withSmallPages,
  withThp,
} from './thp-world.ts';

const at = (i: number): number => AT + i * PAGE_SIZE;
const collapse = (p: HostProcess, khugepaged = false): number =>
  drive(collapseHugePage(p.k, p.mm, AT, khugepaged));

/** All of it is one folio now, mapped by one entry; nothing of the old pages is left. */
const expectHuge = (k: Kernel, p: HostProcess): number => {
  const entry = pmdAt(p, AT);
  expect(entry).not.toBe(0);
  const folio = ptePage(entry);
  expect(folioOrder(k, folio)).toBe(9);
  expect(folioRefCount(k, folio)).toBe(1);
  expect(pageAnonExclusive(k, folio)).toBe(true);
  expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR);
  expect(p.mm.deposited.length).toBe(1);
  return folio;
};

/** Whoever had the free frames before has left bytes in them. */
const leaveBytesBehind = ({ k }: World): void => {
  const blocks: number[] = [];
  for (let page = allocPages(k, 9, 0); page >= 0; page = allocPages(k, 9, 0)) blocks.push(page);
  for (const block of blocks) {
    k.memory.u8.fill(0xaa, k.memory.pageOffset(block), k.memory.pageOffset(block + HPAGE_PMD_NR));
    freePages(k, block, 9);
  }
};

describe('MADV_COLLAPSE', () => {
  it('makes 512 pages one folio: writable, dirty, exclusive, every byte as it was', () => {
    const { w, k, p } = withSmallPages();
    const tables = p.mm.nrTables;
    const free = nrFreePages(k);
    expect(collapse(p)).toBe(0);
    expectHuge(k, p);
    expect(pteWrite(pmdAt(p, AT)) && pteDirty(pmdAt(p, AT))).toBe(true);
    // The old table is the one that is kept back now.
    expect(p.mm.nrTables).toBe(tables);
    expect(nrFreePages(k)).toBe(free);
    expect(k.state.stat.thp_collapse_alloc).toBe(1);
    expectQuiet(w);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    fill(p, AT, HPAGE_PMD_NR, 3);
    expectFilled(p, AT, HPAGE_PMD_NR, 3);
    drive(mprotect(k, p.mm, at(1), PAGE_SIZE, PROT_READ)); // splits: the kept table is usable
    expectFilled(p, AT, HPAGE_PMD_NR, 3);
    expectQuiet(w);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('is given over any range; what is whole in it is collapsed', () => {
    const w = thpWorld(0);
    const p = createProcess(w);
    mapAt(p, 3 * HPAGE_PMD_NR);
    for (let i = 0; i < 3 * HPAGE_PMD_NR; i += 37) p.store32(at(i), i + 1);
    const from = AT + PAGE_SIZE;
    expect(drive(madvise(w.k, p.mm, from, 2 * HPAGE_PMD_SIZE, MADV_COLLAPSE))).toBe(0);
    const huge = [0, 1, 2].map((i) => pmdAt(p, AT + i * HPAGE_PMD_SIZE) !== 0);
    expect(huge).toEqual([false, true, false]);
    for (let i = 0; i < 3 * HPAGE_PMD_NR; i += 37) expect(p.load32(at(i))).toBe(i + 1);
    expectQuiet(w);
  });

  it('fills what is missing, and the zero page, with zeros', () => {
    const w = thpWorld(0);
    leaveBytesBehind(w);
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.store32(at(9), 1);
    p.load32(at(10));
    expect(collapse(p)).toBe(0);
    expectHuge(w.k, p);
    expect([8, 9, 10, 511].map((i) => p.load32(at(i)))).toEqual([0, 1, 0, 0]);
    expectQuiet(w);
  });

  it('collapses pages that others share as well: they keep theirs', () => {
    const { w, k, p } = withSmallPages();
    const child = forked(w, p);
    expect(collapse(p)).toBe(0);
    expectHuge(k, p);
    expectQuiet(w);
    fill(p, AT, HPAGE_PMD_NR, 3);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expect(collapse(child)).toBe(0);
    expectHuge(k, child);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectFilled(p, AT, HPAGE_PMD_NR, 3);
    exit(p);
    exit(child);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('makes a huge page of the pages of a huge page again', () => {
    const { w, k, p, folio } = withThp();
    drive(madvise(k, p.mm, at(100), PAGE_SIZE, MADV_DONTNEED));
    expect(collapse(p)).toBe(0);
    expect(expectHuge(k, p)).not.toBe(folio);
    expectFilled(p, AT, 100, FILLED);
    expect(p.load32(at(100))).toBe(0);
    expectQuiet(w);
  });

  it('is done where one entry maps it already, the huge zero folio included', () => {
    const { w, k, p } = withThp();
    expect(collapse(p)).toBe(0);
    mapAt(p, HPAGE_PMD_NR);
    p.load32(AT);
    expect(collapse(p)).toBe(0);
    expect(pteSpecial(pmdAt(p, AT))).toBe(true);
    expect(k.state.stat.thp_collapse_alloc).toBe(0);
    expectQuiet(w);
  });

  it('of a read-only VMA maps it read-only, exclusive all the same', () => {
    const { w, k, p } = withSmallPages();
    drive(mprotect(k, p.mm, AT, HPAGE_PMD_SIZE, PROT_READ));
    expect(collapse(p)).toBe(0);
    expectHuge(k, p);
    expect(pteWrite(pmdAt(p, AT))).toBe(false);
    drive(mprotect(k, p.mm, AT, HPAGE_PMD_SIZE, RW));
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('reads swapped pages in', () => {
    const { w, k, p } = withSmallPages();
    swapon(k, 2048);
    const vma = findVma(p.mm, AT);
    if (vma === null) throw new Error('no VMA');
    drive(pageoutRange(k, vma, at(10), at(40)));
    expect(p.mm.rssSwap).toBe(30);
    expect(collapse(p)).toBe(0);
    expectHuge(k, p);
    expect(p.mm.rssSwap).toBe(0);
    expect(k.state.swap.nrFree).toBe(2048);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('tells the notifiers of the 2 MiB, once', () => {
    const { w, k, p } = withSmallPages();
    recordNotifier(w, 'test');
    mmuNotifierRegister(k, p.mm, 'test', 1);
    w.log.length = 0;
    expect(collapse(p)).toBe(0);
    expect(w.log).toEqual(['start CLEAR 512', 'flush', 'end CLEAR 512']);
  });
});

describe('refusals leave everything as it was', () => {
  const expectUnchanged = (p: HostProcess): void => {
    expect(pmdAt(p, AT)).toBe(0);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
  };

  it('a pinned page: -EAGAIN (2.2, 1.9)', () => {
    const { w, k, p } = withSmallPages();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, at(200), 1, FOLL_WRITE, pages));
    expect(collapse(p)).toBe(-EAGAIN);
    // Seen at the first look: nothing was allocated, and the table stayed where it is.
    expect(k.state.stat.thp_collapse_alloc).toBe(0);
    expectUnchanged(p);
    expect(pageAt(p, at(200))).toBe(pages[0]);
    expectQuiet(w);
    unpinUserPages(k, pages, 1);
    expect(collapse(p)).toBe(0);
    expectQuiet(w);
  });

  it('a pinned page of a large folio in it: -EAGAIN', () => {
    const w = thpWorld(1 << 4);
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    fill(p, AT, HPAGE_PMD_NR, FILLED);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, at(200), 1, FOLL_WRITE, pages));
    expect(collapse(p)).toBe(-EAGAIN);
    expectUnchanged(p);
    unpinUserPages(w.k, pages, 1);
    expect(collapse(p)).toBe(0);
    expectHuge(w.k, p);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('a plain reference: -EAGAIN; a locked page: -EAGAIN', () => {
    const { w, k, p } = withSmallPages();
    folioGet(k, pageAt(p, at(3)));
    expect(collapse(p)).toBe(-EAGAIN);
    folioPut(k, pageAt(p, at(3)));
    folioTrylock(k, pageAt(p, at(3)));
    expect(collapse(p)).toBe(-EAGAIN);
    folioUnlock(k, pageAt(p, at(3)));
    expectUnchanged(p);
    expectQuiet(w);
  });

  it('no 2 MiB in one piece: -ENOMEM', () => {
    const { w, k, p } = withSmallPages();
    while (allocPages(k, 9, 0) >= 0);
    expect(collapse(p)).toBe(-ENOMEM);
    expectUnchanged(p);
    expectQuiet(w);
  });

  it('memory that may not be huge, or does not fill the 2 MiB, or was never written: -EINVAL', () => {
    const { w, p } = withSmallPages();
    adviseHuge(p, HPAGE_PMD_NR, false);
    expect(collapse(p)).toBe(-EINVAL);
    mapAt(p, HPAGE_PMD_NR - 1);
    p.store32(AT, 1);
    expect(collapse(p)).toBe(-EINVAL);
    mapAt(p, HPAGE_PMD_NR);
    expect(collapse(p)).toBe(-EINVAL);
    p.load32(AT);
    expect(collapse(p)).toBe(-EINVAL);
    expect(drive(collapseHugePage(p.k, p.mm, AT + 8 * HPAGE_PMD_SIZE))).toBe(-EINVAL);
    expectQuiet(w);
  });

  it('userfaultfd: an entry that is write-protected -EINVAL; something missing -EBUSY', () => {
    const { w, k, p } = withSmallPages();
    const word = walkPte(k, p.mm, at(7), false);
    const entry = ptepGet(k, word);
    setPteAt(k, word, pteMkuffdWp(entry));
    expect(collapse(p)).toBe(-EINVAL);
    setPteAt(k, word, entry);
    const vma = findVma(p.mm, AT);
    if (vma === null) throw new Error('no VMA');
    drive(madvise(k, p.mm, at(7), PAGE_SIZE, MADV_DONTNEED));
    setField(vma, 'flags', vma.flags | VM_UFFD_MISSING);
    expect(collapse(p)).toBe(-EBUSY);
    setField(vma, 'flags', vma.flags & ~VM_UFFD_MISSING);
    expect(collapse(p)).toBe(0);
    expectQuiet(w);
  });
});

describe('khugepaged', () => {
  it('collapses only where huge pages are switched on', () => {
    const { w, k, p } = withSmallPages();
    expect(collapse(p, true)).toBe(-EINVAL);
    k.state.thp.always = 1 << 9;
    expect(collapse(p, true)).toBe(0);
    expectHuge(k, p);
    expectQuiet(w);
  });

  it('leaves alone what nobody has used of late', () => {
    const { w, k, p } = withSmallPages();
    k.state.thp.always = 1 << 9;
    for (let i = 0; i < HPAGE_PMD_NR; i++) {
      const word = walkPte(k, p.mm, at(i), false);
      setPteAt(k, word, pteMkold(ptepGet(k, word)));
    }
    k.tlb.flushAsid(p.mm.asid);
    expect(collapse(p, true)).toBe(-EINVAL);
    p.load32(at(5));
    expect(collapse(p, true)).toBe(0);
    expectQuiet(w);
  });

  it('keeps its limits of missing and of shared pages', () => {
    const w = thpWorld(0);
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    fill(p, AT, 100, FILLED);
    w.k.state.thp.always = 1 << 9;
    w.k.state.thp.maxPtesNone = 411;
    expect(collapse(p, true)).toBe(-EBUSY);
    w.k.state.thp.maxPtesNone = 412;
    const child = forked(w, p);
    w.k.state.thp.maxPtesShared = 99;
    expect(collapse(p, true)).toBe(-EINVAL);
    w.k.state.thp.maxPtesShared = 100;
    expect(collapse(p, true)).toBe(0);
    expectFilled(child, AT, 100, FILLED);
    expectQuiet(w);
  });
});

describe('races with GUP-fast (2.13)', () => {
  const pages = new Int32Array(2);

  it("it has read an entry, and not counted: the page may be another's by now; it lets go and pins the huge page", () => {
    const { w, k, p } = withSmallPages();
    const old = pageAt(p, at(5));
    const pin = pinUserPagesFast(k, p.mm, at(5), 2, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_READ);
    expect(collapse(p)).toBe(0);
    expect(drive(pin)).toBe(2);
    const folio = expectPinned(k, p);
    expect([...pages]).toEqual([folio + 5, folio + 6]);
    expect(folioOf(k, old)).not.toBe(folio);
    unpinUserPages(k, pages, 2);
    expectQuiet(w);
  });

  /** The huge folio with two pins. */
  const expectPinned = (k: Kernel, p: HostProcess): number => {
    const folio = ptePage(pmdAt(p, AT));
    expect(folioRefCount(k, folio)).toBe(3);
    return folio;
  };

  it('it has counted before the table went: the collapse sees the count and hangs the table back', () => {
    const { w, k, p } = withSmallPages();
    const page = pageAt(p, at(5));
    const pin = pinUserPagesFast(k, p.mm, at(5), 2, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_PINNED);
    expect(collapse(p)).toBe(-EAGAIN);
    expect(drive(pin)).toBe(2);
    expect(pages[0]).toBe(page);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    unpinUserPages(k, pages, 2);
    expectQuiet(w);
  });

  it('it looks again while the table is off: it sees that, lets go, and the collapse goes on', () => {
    const { w, k, p } = withSmallPages();
    const collapsing = collapseHugePage(k, p.mm, AT);
    const get = getUserPagesFastOnly(k, 'kvm', p.mm, at(5), 2, FOLL_WRITE, pages);
    stepTo(k, get, YP_GUP_FAST_READ);
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    expect(drive(get)).toBe(0);
    expect(checkKernel(k)).toEqual([]);
    expect(drive(collapsing)).toBe(0);
    expectHuge(k, p);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('it has counted, the table goes, it looks again: one of the two has seen the other', () => {
    for (const first of ['gup', 'collapse']) {
      const { w, k, p } = withSmallPages();
      const collapsing = collapseHugePage(k, p.mm, AT);
      const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
      stepTo(k, pin, YP_GUP_FAST_READ);
      stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
      stepTo(k, pin, YP_GUP_FAST_PINNED);
      if (first === 'gup') {
        stepTo(k, pin, YP_GUP_FAST_DONE);
        expect(drive(collapsing)).toBe(0);
      } else {
        expect(drive(collapsing)).toBe(-EAGAIN);
      }
      expect(drive(pin)).toBe(1);
      expect(pages[0]).toBe(first === 'gup' ? ptePage(pmdAt(p, AT)) + 5 : pageAt(p, at(5)));
      expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
      unpinUserPages(k, pages, 1);
      expectQuiet(w);
    }
  });

  it('starts while the table is off: finds nothing, and waits for mmap_lock in the slow path', () => {
    const { w, k, p } = withSmallPages();
    const collapsing = collapseHugePage(k, p.mm, AT);
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    expect(pin.next().value).toBe(YP_WAIT);
    expect(drive(collapsing)).toBe(0);
    expect(drive(pin)).toBe(1);
    expect(pages[0]).toBe(ptePage(pmdAt(p, AT)) + 5);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('a process shares the page and pins its own: the collapse has looked, and only copies', () => {
    const { w, k, p } = withSmallPages();
    const child = forked(w, p);
    const collapsing = collapseHugePage(k, p.mm, AT);
    stepTo(k, collapsing, YP_COLLAPSE_COPIED);
    expect(drive(pinUserPagesUnlocked(k, child.mm, at(5), 1, 0, pages))).toBe(1);
    expect(child.store32(at(5), 1)).toBe(0);
    expect(drive(collapsing)).toBe(0);
    expect(pageAt(child, at(5))).toBe(pages[0]);
    expect(p.load32(at(5))).toBe(FILLED + 5);
    expect(child.load32(at(5))).toBe(1);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });
});

describe('races with everybody else', () => {
  it('while the table is off the sanitizer finds what it maps, and a load waits', () => {
    const { w, k, p } = withSmallPages();
    const collapsing = collapseHugePage(k, p.mm, AT);
    for (const point of [YP_COLLAPSE_CLEARED, YP_COLLAPSE_COPIED]) {
      stepTo(k, collapsing, point);
      expect(checkKernel(k)).toEqual([]);
      const load = p.loadPath(at(9), 4);
      expect(load.next().value).toBe(YP_WAIT);
      load.return(0);
    }
    expect(drive(collapsing)).toBe(0);
    expect(drive(p.loadPath(at(9), 4))).toBe(FILLED + 9);
    expectQuiet(w);
  });

  it('a page that is being moved is waited for, as a swapped one is read in', () => {
    const { w, k, p } = withSmallPages();
    const moving = migrateFolio(k, pageAt(p, at(9)));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    const collapsing = collapseHugePage(k, p.mm, AT);
    expect(collapsing.next().value).toBe(YP_WAIT);
    expect(drive(moving)).toBe(0);
    expect(drive(collapsing)).toBe(0);
    expectHuge(k, p);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('a move that began before the table went waits with its entries until the table is back', () => {
    const { w, k, p } = withSmallPages();
    const collapsing = collapseHugePage(k, p.mm, AT);
    const moving = migrateFolio(k, pageAt(p, at(9)));
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    k.watched = true;
    const seen: number[] = [];
    for (let i = 0; i < 5; i++) seen.push(moving.next().value as number);
    k.watched = false;
    // It cannot walk to the entry, and must not think that nobody maps the page.
    expect(seen.at(-1)).toBe(YP_WAIT);
    expect(drive(collapsing)).toBe(-EAGAIN);
    expect(drive(moving)).toBe(0);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('a move that began before the lock was had: its entries are in the table that is off, and it waits', () => {
    const { w, k, p } = withSmallPages();
    expect(mmapReadTrylock(p.mm)).toBe(true);
    const collapsing = collapseHugePage(k, p.mm, AT);
    expect(collapsing.next().value).toBe(YP_WAIT); // has looked, and wants mmap_lock for writing
    const moving = migrateFolio(k, pageAt(p, at(9)));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    mmapReadUnlock(p.mm);
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    expect(moving.next().value).toBe(YP_WAIT);
    expect(drive(collapsing)).toBe(-EINVAL);
    expect(drive(moving)).toBe(0);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('of a page that another process shares the entries come back in both, when the table is back', () => {
    const { w, k, p } = withSmallPages();
    const child = forked(w, p);
    const collapsing = collapseHugePage(k, child.mm, AT);
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    const moving = migrateFolio(k, pageAt(p, at(9)));
    expect(moving.next().value).toBe(YP_WAIT);
    expect(drive(collapsing)).toBe(-EAGAIN);
    expect(drive(moving)).toBe(0);
    expect(collapse(child)).toBe(0);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expect(pteWrite(entryAt(p, at(9)))).toBe(false);
    expectQuiet(w);
  });

  it('two collapses of what two processes share: one waits for the other', () => {
    const { w, k, p } = withSmallPages();
    const child = forked(w, p);
    const first = collapseHugePage(k, p.mm, AT);
    stepTo(k, first, YP_COLLAPSE_CLEARED);
    const second = collapseHugePage(k, child.mm, AT);
    expect(second.next().value).toBe(YP_WAIT);
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
    expectHuge(k, p);
    expectHuge(k, child);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });
});
