/** memory_failure(), and FOLL_HWPOISON: facts sheet 1.1; mm/memory-failure.c. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { EBUSY, EFAULT, EHWPOISON, ENXIO } from '../../mm/errno.ts';
import { memoryFailure } from '../../mm/fault/memory-failure.ts';
import { folioOrder, folioRefCount } from '../../mm/folio/folio.ts';
import { PG_HWPOISON } from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_HWPOISON, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { accessRemoteVm } from '../../mm/gup/remote.ts';
import { getUserPagesUnlocked, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { hugetlbSetPool } from '../../mm/hugetlb/pool.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { drive } from '../../mm/path.ts';
import { isHwpoisonEntry } from '../../mm/pgtable/swapops.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../../mm/thp/state.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MADV_MERGEABLE, MAP_ANONYMOUS, MAP_HUGETLB, MAP_PRIVATE } from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mmap, munmap } from '../../mm/vma/mmap.ts';
import {
  forkMm,
  createWorld,
  entryAt,
  freeOf,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  RW,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(8);

const fail = (page: number): number => drive(memoryFailure(k, page));
const pin = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesUnlocked(k, mm, hva, n, flags, pages));
const poisoned = (page: number): boolean => (k.state.frames.flags[page]! & PG_HWPOISON) !== 0;
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);

beforeEach(() => {
  k = createWorld('linux-7', 32 << 20);
  mm = mmCreate(k);
});

describe('a poisoned page and GUP — 1.1', () => {
  it('-EHWPOISON with FOLL_HWPOISON, -EFAULT without; fast falls back to the same', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    expect(fail(pageAt(k, mm, hva))).toBe(0);
    expect(pin(hva, 1, 0)).toBe(-EFAULT);
    expect(pin(hva, 1, FOLL_WRITE | FOLL_HWPOISON)).toBe(-EHWPOISON);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, 0, pages))).toBe(-EFAULT);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('behind pages that could be had it ends the walk: the count so far', () => {
    const hva = mapAnon(k, mm, 3);
    for (let i = 0; i < 3; i++) store(k, mm, hva + i * PAGE_SIZE, 1);
    fail(pageAt(k, mm, hva + PAGE_SIZE));
    expect(pin(hva, 3, FOLL_HWPOISON)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(drive(accessRemoteVm(k, mm, hva, new Uint8Array(3 * PAGE_SIZE), false))).toBe(PAGE_SIZE);
    expect(violations(k)).toEqual([]);
  });

  it('a load or a store of the process is SIGBUS: -EHWPOISON', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    fail(pageAt(k, mm, hva));
    expect(load(k, mm, hva)).toBe(-EHWPOISON);
    expect(store(k, mm, hva, 2)).toBe(-EHWPOISON);
  });

  it('one that is pinned is unmapped all the same, and -EBUSY says that somebody reaches it', () => {
    const hva = mapAnon(k, mm, 1);
    expect(pin(hva, 1, FOLL_WRITE)).toBe(1);
    const page = pages[0]!;
    expect(fail(page)).toBe(-EBUSY);
    expect(isHwpoisonEntry(entryAt(k, mm, hva))).toBe(true);
    unpinUserPage(k, page);
    expect([folioRefCount(k, page), pinsLive(k)]).toEqual([1, 0]);
    expect(violations(k)).toEqual([]);
  });
});

describe('memory_failure', () => {
  it('replaces every entry, in every process that shares the page', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 3);
    const child = forkOf(mm);
    const page = pageAt(k, mm, hva);
    expect(fail(page)).toBe(0);
    for (const of of [mm, child]) expect(isHwpoisonEntry(entryAt(k, of, hva))).toBe(true);
    expect([mm.rssAnon, child.rssAnon]).toEqual([0, 0]);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('fork hands the entries on, munmap forgets them, and the page never comes back', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 3);
    const page = pageAt(k, mm, hva);
    fail(page);
    const child = forkOf(mm);
    expect(load(k, child, hva)).toBe(-EHWPOISON);
    drive(mmExit(k, child));
    const free = freeOf(k);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    expect(freeOf(k)).toBeGreaterThanOrEqual(free);
    expect([folioRefCount(k, page), poisoned(page)]).toEqual([1, true]);
    expect(violations(k)).toEqual([]);
  });

  it('a page of shmem stays in the cache, marked: later faults find it', () => {
    const file = shmemCreate(k, 2);
    const hva = mapFile(k, mm, file);
    const copy = mapFile(k, mm, file, MAP_PRIVATE);
    store(k, mm, hva, 3);
    const page = pageAt(k, mm, hva);
    expect(fail(page)).toBe(0);
    expect(load(k, mm, hva)).toBe(-EHWPOISON);
    expect([load(k, mm, copy), store(k, mm, copy, 1)]).toEqual([-EHWPOISON, -EHWPOISON]);
    expect(file.pages.get(0)).toBe(page);
    expect(pin(copy, 1, FOLL_WRITE | FOLL_HWPOISON)).toBe(-EHWPOISON);
    store(k, mm, hva + PAGE_SIZE, 4);
    expect(load(k, mm, copy + PAGE_SIZE)).toBe(4);
    expect(violations(k)).toEqual([]);
  });

  it('known already: -EHWPOISON; no such page: -ENXIO; a page of the kernel’s own: -EBUSY', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const page = pageAt(k, mm, hva);
    fail(page);
    expect(fail(page)).toBe(-EHWPOISON);
    expect([fail(-1), fail(k.memory.nrPages)]).toEqual([-ENXIO, -ENXIO]);
    expect([fail(mm.pgd), fail(k.state.zeroPage)]).toEqual([-EBUSY, -EBUSY]);
    expect(poisoned(mm.pgd)).toBe(false);
  });

  it('a free page leaves the allocator, and only that one', () => {
    const free = freeOf(k);
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const page = pageAt(k, mm, hva);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    expect(fail(page)).toBe(0);
    expect(freeOf(k)).toBe(free - 1);
    expect(fail(k.memory.nrPages - 3)).toBe(0);
    expect(freeOf(k)).toBe(free - 2);
    expect(violations(k)).toEqual([]);
    // Whoever wants memory gets another.
    const other = mapAnon(k, mm, 1);
    store(k, mm, other, 1);
    expect(pageAt(k, mm, other)).not.toBe(page);
  });

  it('a merged page goes for everybody, and nothing is merged with it any more', () => {
    const hva = mapAnon(k, mm, 3);
    for (const i of [0, 1]) store(k, mm, hva + i * PAGE_SIZE, 9);
    drive(madvise(k, mm, hva, 3 * PAGE_SIZE, MADV_MERGEABLE));
    for (let i = 0; i < 3; i++) drive(ksmScan(k, mm));
    const merged = pageAt(k, mm, hva);
    expect(pageAt(k, mm, hva + PAGE_SIZE)).toBe(merged);
    expect(fail(merged)).toBe(0);
    for (const i of [0, 1]) expect(load(k, mm, hva + i * PAGE_SIZE)).toBe(-EHWPOISON);
    store(k, mm, hva + 2 * PAGE_SIZE, 9);
    for (let i = 0; i < 3; i++) drive(ksmScan(k, mm));
    expect(load(k, mm, hva + 2 * PAGE_SIZE)).toBe(9);
    expect(pageAt(k, mm, hva + 2 * PAGE_SIZE)).not.toBe(merged);
    expect(mm.rssAnon).toBe(1);
    drive(munmap(k, mm, hva, 3 * PAGE_SIZE));
    expect(violations(k)).toEqual([]);
  });

  it('a page in the swap cache: who swaps it in finds the mark', () => {
    swapon(k, 16);
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const child = forkOf(mm);
    expect(drive(reclaimFolio(k, pageAt(k, mm, hva)))).toBe(0);
    // The parent has it back; the child's entry still names the slot.
    expect(load(k, mm, hva)).toBe(1);
    expect(fail(pageAt(k, mm, hva))).toBe(0);
    for (const of of [mm, child]) expect(load(k, of, hva)).toBe(-EHWPOISON);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('migration leaves it alone', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 1);
    const page = pageAt(k, mm, hva);
    fail(page);
    expect(drive(migrateFolio(k, page))).toBeLessThan(0);
    expect(load(k, mm, hva)).toBe(-EHWPOISON);
    expect(violations(k)).toEqual([]);
  });
});

describe('large folios', () => {
  it('a THP is split: one page is lost, the others stay', () => {
    k.state.thp.always = 1 << HPAGE_PMD_ORDER;
    const hva = drive(
      mmap(k, mm, {
        hva: 0x4000_0000,
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_PRIVATE | MAP_ANONYMOUS,
      }),
    );
    for (let i = 0; i < HPAGE_PMD_NR; i++) store(k, mm, hva + i * PAGE_SIZE, 1 + (i % 100));
    const page = pageAt(k, mm, hva + 5 * PAGE_SIZE);
    expect(fail(page)).toBe(0);
    expect(load(k, mm, hva + 5 * PAGE_SIZE)).toBe(-EHWPOISON);
    expect([load(k, mm, hva + 4 * PAGE_SIZE), load(k, mm, hva + 6 * PAGE_SIZE)]).toEqual([5, 7]);
    expect([folioOrder(k, page), mm.rssAnon]).toEqual([0, HPAGE_PMD_NR - 1]);
    expect(violations(k)).toEqual([]);
  });

  it('one that is pinned cannot be split: -EBUSY, and nothing has changed', () => {
    k.state.thp.always = 1 << HPAGE_PMD_ORDER;
    const hva = mapAnon(k, mm, 2 * HPAGE_PMD_NR);
    const at = hva + HPAGE_PMD_SIZE - (hva % HPAGE_PMD_SIZE);
    expect(pin(at, 1, FOLL_WRITE)).toBe(1);
    const page = pages[0]! + 7;
    expect(fail(page)).toBe(-EBUSY);
    expect([poisoned(page), load(k, mm, at + 7 * PAGE_SIZE)]).toEqual([false, 0]);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('one of hugetlb is poisoned whole, and does not return to its pool', () => {
    expect(hugetlbSetPool(k, HPAGE_PMD_ORDER, 3)).toBe(3);
    const hva = drive(
      mmap(k, mm, {
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
      }),
    );
    store(k, mm, hva, 8);
    const child = forkOf(mm);
    const page = pageAt(k, mm, hva + 3 * PAGE_SIZE);
    expect(fail(page)).toBe(0);
    for (const of of [mm, child]) expect(load(k, of, hva + PAGE_SIZE)).toBe(-EHWPOISON);
    expect(pin(hva, 1, FOLL_HWPOISON)).toBe(-EHWPOISON);
    expect(drive(getUserPagesUnlocked(k, 'kvm', mm, hva, 1, 0, pages))).toBe(-EFAULT);
    const second = forkOf(child);
    expect(load(k, second, hva)).toBe(-EHWPOISON);
    for (const of of [second, child]) drive(mmExit(k, of));
    drive(munmap(k, mm, hva, HPAGE_PMD_SIZE));
    expect(k.state.hugetlb.hstates[0]?.free.includes(page - 3)).toBe(false);
    expect(violations(k)).toEqual([]);
  });
});
