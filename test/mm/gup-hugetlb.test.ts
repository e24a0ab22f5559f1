/** GUP on hugetlb memory, pages of 2 MiB and 1 GiB, slow and fast: facts sheet 1.1, 1.10. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT, EOPNOTSUPP } from '../../mm/errno.ts';
import { folioPut, pageAnonExclusive } from '../../mm/folio/folio.ts';
import { folioPinCount } from '../../mm/folio/pin.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_DUMP, FOLL_LONGTERM, FOLL_SPLIT_PMD, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { getUserPagesUnlocked, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage, unpinUserPages } from '../../mm/gup/unpin.ts';
import { hugetlbFileSetup } from '../../mm/hugetlb/file.ts';
import { hugetlbSetPool } from '../../mm/hugetlb/pool.ts';
import { drive } from '../../mm/path.ts';
import { ptePage } from '../../mm/pgtable/pte.ts';
import { pmdLeafAt, ptepGet, walkEntry } from '../../mm/pgtable/walk.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../../mm/thp/state.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MAP_ANONYMOUS, MAP_HUGETLB, MAP_PRIVATE } from '../../mm/vma/flags.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mmap } from '../../mm/vma/mmap.ts';
import { forkMm, createWorld, mapFile, pinsLive, RW, store, violations } from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(2048);

const mapHugetlb = (n: number, prot = RW): number =>
  drive(
    mmap(k, mm, {
      lenBytes: n * HPAGE_PMD_SIZE,
      prot,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
    }),
  );
/** The entry that maps 2 MiB at `hva`, 0 = none. */
const pmdAt = (hva: number, of = mm): number => {
  const word = pmdLeafAt(k, of, hva);
  return word > 0 ? ptepGet(k, word) : 0;
};
const headAt = (hva: number, of = mm): number => ptePage(pmdAt(hva, of));
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const pin = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesUnlocked(k, mm, hva, n, flags, pages));
const pinFast = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesFast(k, mm, hva, n, flags, pages));
const get = (hva: number, n: number, flags: number, of = mm): number =>
  drive(getUserPagesUnlocked(k, 'access-remote-vm', of, hva, n, flags, pages));

beforeEach(() => {
  k = createWorld('linux-7', 64 << 20);
  mm = mmCreate(k);
  expect(hugetlbSetPool(k, HPAGE_PMD_ORDER, 4)).toBe(4);
});

describe('hugetlb — 1.10', () => {
  it('2 MiB: pinned by the common walk, slow and fast, one exclusive flag on the head', () => {
    const hva = mapHugetlb(2);
    for (const take of [pin, pinFast]) {
      expect(take(hva + 3 * PAGE_SIZE, 1000, FOLL_WRITE)).toBe(1000);
      const head = headAt(hva);
      expect([pages[0], pages[509]]).toEqual([head + 3, headAt(hva + HPAGE_PMD_SIZE)]);
      expect([folioPinCount(k, head), pageAnonExclusive(k, head)]).toEqual([509, true]);
      expect(pageAnonExclusive(k, head + 3)).toBe(false);
      unpinUserPages(k, pages, 1000);
      expect(pinsLive(k)).toBe(0);
    }
    expect(violations(k)).toEqual([]);
  });

  it('shared by fork: a read-only pin unshares the whole page', () => {
    const hva = mapHugetlb(1);
    store(k, mm, hva, 4);
    const shared = headAt(hva);
    const child = forkOf(mm);
    expect(pinFast(hva, 1, FOLL_LONGTERM)).toBe(1);
    expect(pages[0]).not.toBe(shared);
    expect([headAt(hva), headAt(hva, child)]).toEqual([pages[0], shared]);
    unpinUserPage(k, pages[0]!);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('DUMP: a hole, unless the page is in the page cache', () => {
    expect(get(mapHugetlb(1), 1, FOLL_DUMP)).toBe(-EFAULT);
    const file = hugetlbFileSetup(k, HPAGE_PMD_ORDER, HPAGE_PMD_NR);
    if (typeof file === 'number') throw new Error(`hugetlb: ${file}`);
    const hva = mapFile(k, mm, file);
    expect(get(hva, 1, FOLL_DUMP)).toBe(-EFAULT);
    const other = mmCreate(k);
    store(k, other, mapFile(k, other, file), 6);
    expect(get(hva + PAGE_SIZE, 1, FOLL_DUMP)).toBe(1);
    expect(pages[0]).toBe(headAt(hva) + 1);
    folioPut(k, headAt(hva));
  });

  it('FOLL_SPLIT_PMD is -EOPNOTSUPP', () => {
    expect(get(mapHugetlb(1), 1, FOLL_SPLIT_PMD)).toBe(-EOPNOTSUPP);
  });

  it('1 GiB: one entry of the level above, pinned as far as asked', () => {
    k = createWorld('linux-7', 2 ** 31);
    mm = mmCreate(k);
    expect(hugetlbSetPool(k, 18, 1)).toBe(1);
    const hva = drive(
      mmap(k, mm, {
        lenBytes: 2 ** 30,
        prot: RW,
        flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (30 << 26),
      }),
    );
    for (const take of [pin, pinFast]) {
      expect(take(hva + 1000 * PAGE_SIZE, 2048, FOLL_WRITE)).toBe(2048);
      const head = ptePage(ptepGet(k, walkEntry(k, mm, hva, 2, false)));
      expect([pages[0], pages[2047]]).toEqual([head + 1000, head + 3047]);
      expect(folioPinCount(k, head)).toBe(2048);
      unpinUserPages(k, pages, 2048);
      expect(folioPinCount(k, head)).toBe(0);
    }
    const shared = ptePage(ptepGet(k, walkEntry(k, mm, hva, 2, false)));
    expect(get(hva, 3, FOLL_WRITE)).toBe(3);
    folioPut(k, shared, 3);
    expect(violations(k)).toEqual([]);
  });
});
