/** G-stage tables in RAM against a Map, and against the hart's own walk of them. */
import { beforeEach, describe, expect, test } from 'vitest';
import { PTE_A, PTE_D, PTE_R, PTE_U, PTE_W, PTE_X } from '#emu';
import { type Kernel, nrFreePages } from '#mm';
import {
  GSTAGE_GPA_LIMIT,
  GSTAGE_MAPPED,
  GSTAGE_READ_ONLY,
  GSTAGE_READ_WRITE,
  GSTAGE_REPLACED,
  GSTAGE_UNCHANGED,
  type GStage,
  gstageAge,
  gstageBytes,
  gstageCreate,
  gstageFlags,
  gstageFree,
  gstageFreeDetached,
  gstageLevel,
  gstageMap,
  gstageNextMapped,
  gstageNrTablePages,
  gstagePfn,
  gstageRootPfn,
  gstageUnmap,
  gstageUnmapRange,
  gstageWriteProtect,
  gstageWriteProtectRange,
} from '../../kvm/gstage.ts';
import { rng } from '../support/rng.ts';
import { testKernel } from './kernel.ts';

const PAGE = 4096;
const HUGE = 2 ** 21;
const GIB = 2 ** 30;

describe('Priv 15.5.1: Sv39x4 tables', () => {
  let k: Kernel;
  let g: GStage;
  beforeEach(() => {
    k = testKernel(16);
    g = gstageCreate(k) as GStage;
  });

  test('the root is 16 KiB, aligned to its size, and translates nothing', () => {
    expect((gstageRootPfn(g) * PAGE) % 16384).toBe(0);
    expect(gstageNrTablePages(g)).toBe(4);
    expect(gstageNextMapped(k, g, 0, GSTAGE_GPA_LIMIT)).toBe(-1);
  });

  test('a mapping at the first and at the last page of 41 bits is found again', () => {
    for (const gpa of [0, GSTAGE_GPA_LIMIT - PAGE]) {
      expect(gstageMap(k, g, gpa, 0x8_0123, GSTAGE_READ_WRITE)).toBe(GSTAGE_MAPPED);
      expect(gstagePfn(k, g, gpa)).toBe(0x8_0123);
      expect(gstageNextMapped(k, g, gpa, GSTAGE_GPA_LIMIT)).toBe(gpa);
    }
    expect(gstageNrTablePages(g)).toBe(4 + 2 * 2);
  });

  test('every leaf has U; write protection takes W and D and leaves the rest', () => {
    gstageMap(k, g, 5 * PAGE, 0x8_0001, GSTAGE_READ_WRITE);
    const bits = PTE_R | PTE_W | PTE_X | PTE_U | PTE_D;
    expect(gstageFlags(k, g, 5 * PAGE) & bits).toBe(bits);
    expect(gstageWriteProtect(k, g, 5 * PAGE)).toBe(true);
    expect(gstageFlags(k, g, 5 * PAGE) & bits).toBe(PTE_R | PTE_X | PTE_U);
    expect(gstageWriteProtect(k, g, 5 * PAGE)).toBe(false);
    expect(gstagePfn(k, g, 5 * PAGE)).toBe(0x8_0001);
  });

  test('mapping says whether TLBs may hold something else', () => {
    expect(gstageMap(k, g, 0, 0x8_0001, GSTAGE_READ_ONLY)).toBe(GSTAGE_MAPPED);
    expect(gstageMap(k, g, 0, 0x8_0001, GSTAGE_READ_ONLY)).toBe(GSTAGE_UNCHANGED);
    expect(gstageMap(k, g, 0, 0x8_0001, GSTAGE_READ_WRITE)).toBe(GSTAGE_REPLACED);
    expect(gstageMap(k, g, 0, 0x8_0002, GSTAGE_READ_WRITE)).toBe(GSTAGE_REPLACED);
    expect(g.nrMapped).toBe(1);
  });

  test('a leaf of 2 MiB or 1 GiB maps every page in it, and counts once', () => {
    for (const [level, pages] of [
      [1, 512],
      [2, 512 * 512],
    ] as const) {
      const gpa = level * 8 * GIB;
      expect(gstageMap(k, g, gpa, 0x10_0000, GSTAGE_READ_WRITE, level)).toBe(GSTAGE_MAPPED);
      expect(gstageBytes(level)).toBe(pages * PAGE);
      expect(gstageLevel(k, g, gpa + (pages - 1) * PAGE)).toBe(level);
      expect(gstagePfn(k, g, gpa + 77 * PAGE)).toBe(0x10_0000 + 77);
      expect(gstagePfn(k, g, gpa + (pages - 1) * PAGE)).toBe(0x10_0000 + pages - 1);
      expect(gstagePfn(k, g, gpa + pages * PAGE)).toBe(-1);
      expect(g.leaves[level]).toBe(1);
    }
    expect(g.nrMapped).toBe(512 + 512 * 512);
  });

  test('a page below a huge leaf splits it: the other pages are mapped as before', () => {
    gstageMap(k, g, 4 * HUGE, 0x8_0200, GSTAGE_READ_ONLY, 1);
    // Says as much already: nothing to do.
    expect(gstageMap(k, g, 4 * HUGE + 5 * PAGE, 0x8_0205, GSTAGE_READ_ONLY)).toBe(GSTAGE_UNCHANGED);
    expect(gstageMap(k, g, 4 * HUGE + 5 * PAGE, 0x8_0205, GSTAGE_READ_WRITE)).toBe(GSTAGE_REPLACED);
    expect([...g.leaves]).toEqual([512, 0, 0]);
    for (const page of [0, 4, 5, 6, 511]) {
      expect(gstagePfn(k, g, 4 * HUGE + page * PAGE)).toBe(0x8_0200 + page);
      const flags = gstageFlags(k, g, 4 * HUGE + page * PAGE);
      expect((flags & PTE_W) !== 0).toBe(page === 5);
    }
  });

  test('1 GiB splits twice on the way to a page', () => {
    gstageMap(k, g, 3 * GIB, 0x10_0000, GSTAGE_READ_ONLY, 2);
    expect(gstageMap(k, g, 3 * GIB, 0x10_0000, GSTAGE_READ_WRITE)).toBe(GSTAGE_REPLACED);
    expect([...g.leaves]).toEqual([512, 511, 0]);
    expect(g.nrMapped).toBe(512 * 512);
    expect(gstagePfn(k, g, 3 * GIB + 511 * HUGE + 3 * PAGE)).toBe(0x10_0000 + 511 * 512 + 3);
  });

  test('a huge leaf over pages takes their table out, which is freed after the flush', () => {
    const free = nrFreePages(k);
    for (const page of [0, 3, 300])
      gstageMap(k, g, 6 * HUGE + page * PAGE, 0x8_0400 + page, GSTAGE_READ_WRITE);
    const tables = gstageNrTablePages(g);
    expect(gstageMap(k, g, 6 * HUGE, 0x8_0400, GSTAGE_READ_WRITE, 1)).toBe(GSTAGE_REPLACED);
    expect([...g.leaves]).toEqual([0, 1, 0]);
    expect(g.nrMapped).toBe(512);
    expect(gstageNrTablePages(g)).toBe(tables);
    gstageFreeDetached(k, g);
    expect(gstageNrTablePages(g)).toBe(tables - 1);
    // The table of 2 MiB entries above it.
    expect(nrFreePages(k)).toBe(free - 1);
  });

  test('unmapping and protecting a part of a huge leaf does it to all of it', () => {
    gstageMap(k, g, 2 * HUGE, 0x8_0200, GSTAGE_READ_WRITE, 1);
    gstageMap(k, g, 3 * HUGE, 0x8_0400, GSTAGE_READ_WRITE, 1);
    const part = 2 * HUGE + 500 * PAGE;
    expect(gstageWriteProtectRange(k, g, part, part + PAGE)).toBe(1);
    expect(gstageFlags(k, g, 2 * HUGE) & (PTE_W | PTE_D)).toBe(0);
    expect(gstageUnmapRange(k, g, part, 3 * HUGE + PAGE)).toBe(2);
    expect(g.nrMapped).toBe(0);
  });

  test('aging takes A from what was used, and says so once; the hart sets it again', () => {
    gstageMap(k, g, 0, 0x8_0001, GSTAGE_READ_WRITE);
    gstageMap(k, g, HUGE, 0x8_0200, GSTAGE_READ_ONLY, 1);
    expect(gstageAge(k, g, 0, 2 * HUGE, false)).toBe(true);
    expect(gstageAge(k, g, 0, PAGE, true)).toBe(true);
    expect(gstageAge(k, g, 0, PAGE, true)).toBe(false);
    expect(gstageFlags(k, g, 0) & PTE_A).toBe(0);
    expect(gstageFlags(k, g, 0) & (PTE_W | PTE_D)).toBe(PTE_W | PTE_D);
    expect(gstageAge(k, g, HUGE + 9 * PAGE, HUGE + 10 * PAGE, true)).toBe(true);
    expect(gstageAge(k, g, 0, 2 * HUGE, false)).toBe(false);
  });

  test('an aged huge leaf still says as much as a page of it', () => {
    gstageMap(k, g, HUGE, 0x8_0200, GSTAGE_READ_ONLY, 1);
    gstageAge(k, g, HUGE, 2 * HUGE, true);
    expect(gstageMap(k, g, HUGE + PAGE, 0x8_0201, GSTAGE_READ_ONLY)).toBe(GSTAGE_UNCHANGED);
    expect(gstageLevel(k, g, HUGE)).toBe(1);
  });

  test('8,000 random operations on leaves of all sizes leave what a Map of pages has', () => {
    const random = rng(97);
    const model = new Map<number, { pfn: number; writable: boolean; group: number }>();
    let groups = 0;
    const base = 8 * GIB;
    const gpaOf = (page: number): number => base + page * PAGE;
    const PAGES = 4 * 512;
    /** What a partial change of a leaf takes along: the pages of its group. */
    const groupOf = (page: number): number[] => {
      const group = model.get(page)?.group;
      return group === undefined
        ? []
        : [...model].filter(([, v]) => v.group === group).map(([p]) => p);
    };
    for (let i = 0; i < 8_000; i++) {
      const page = random.below(PAGES);
      switch (random.below(16)) {
        case 0:
          expect(gstageUnmap(k, g, gpaOf(page))).toBe(model.get(page)?.pfn ?? -1);
          for (const p of groupOf(page)) model.delete(p);
          break;
        case 1: {
          const writable = model.get(page)?.writable ?? false;
          expect(gstageWriteProtect(k, g, gpaOf(page))).toBe(writable);
          for (const p of groupOf(page)) model.get(p)!.writable = false;
          break;
        }
        case 2: {
          const first = page - (page % 512);
          const writable = random.chance(0.5);
          const flags = writable ? GSTAGE_READ_WRITE : GSTAGE_READ_ONLY;
          gstageMap(k, g, gpaOf(first), 0x8_0000 + first, flags, 1);
          gstageFreeDetached(k, g);
          groups++;
          for (let p = first; p < first + 512; p++)
            model.set(p, { pfn: 0x8_0000 + p, writable, group: groups });
          break;
        }
        default: {
          const writable = random.chance(0.5);
          const old = model.get(page);
          const pfn = 0x8_0000 + page;
          const result = gstageMap(
            k,
            g,
            gpaOf(page),
            pfn,
            writable ? GSTAGE_READ_WRITE : GSTAGE_READ_ONLY,
          );
          const huge = groupOf(page).length > 1;
          if (huge && (old?.writable || !writable)) expect(result).toBe(GSTAGE_UNCHANGED);
          else {
            for (const p of groupOf(page)) model.get(p)!.group = ++groups;
            model.set(page, { pfn, writable, group: ++groups });
          }
        }
      }
    }
    expect(g.nrMapped).toBe(model.size);
    for (let page = 0; page < PAGES; page++) {
      expect(gstagePfn(k, g, gpaOf(page))).toBe(model.get(page)?.pfn ?? -1);
      expect((gstageFlags(k, g, gpaOf(page)) & PTE_W) !== 0).toBe(
        model.get(page)?.writable ?? false,
      );
    }
  });

  test('20,000 random operations leave what a Map has', () => {
    const random = rng(41);
    const model = new Map<number, { pfn: number; writable: boolean }>();
    // Close together and far apart, so that tables are shared and not.
    const places = [0, 2 * 2 ** 20 - 8 * PAGE, GIB - 16 * PAGE, 7 * GIB, 1999 * GIB];
    const anyGpa = (): number => random.pick(places) + random.below(32) * PAGE;
    for (let i = 0; i < 20_000; i++) {
      const gpa = anyGpa();
      const endGpa = gpa + random.below(12) * PAGE;
      const inRange = [...model.keys()].filter((at) => at >= gpa && at < endGpa);
      switch (random.below(8)) {
        case 0:
          expect(gstageUnmap(k, g, gpa)).toBe(model.get(gpa)?.pfn ?? -1);
          model.delete(gpa);
          break;
        case 1:
          expect(gstageUnmapRange(k, g, gpa, endGpa)).toBe(inRange.length);
          for (const at of inRange) model.delete(at);
          break;
        case 2: {
          const writable = inRange.filter((at) => model.get(at)?.writable);
          expect(gstageWriteProtectRange(k, g, gpa, endGpa)).toBe(writable.length);
          for (const at of writable) model.set(at, { pfn: model.get(at)!.pfn, writable: false });
          break;
        }
        default: {
          const pfn = 0x8_0000 + random.below(4096);
          const writable = random.chance(0.5);
          gstageMap(k, g, gpa, pfn, writable ? GSTAGE_READ_WRITE : GSTAGE_READ_ONLY);
          model.set(gpa, { pfn, writable });
        }
      }
    }
    expect(g.nrMapped).toBe(model.size);
    const sorted = [...model.keys()].sort((a, b) => a - b);
    const found: number[] = [];
    for (
      let at = gstageNextMapped(k, g, 0, GSTAGE_GPA_LIMIT);
      at >= 0;
      at = gstageNextMapped(k, g, at + PAGE, GSTAGE_GPA_LIMIT)
    )
      found.push(at);
    expect(found).toEqual(sorted);
    for (const [gpa, { pfn, writable }] of model) {
      expect(gstagePfn(k, g, gpa)).toBe(pfn);
      expect((gstageFlags(k, g, gpa) & PTE_W) !== 0).toBe(writable);
    }
  });

  test('freeing gives every table page back', () => {
    const fresh = testKernel(16);
    const free = nrFreePages(fresh);
    const tables = gstageCreate(fresh) as GStage;
    for (let i = 0; i < 40; i++)
      gstageMap(fresh, tables, i * 3 * GIB + i * PAGE, 0x8_0000 + i, GSTAGE_READ_ONLY);
    expect(nrFreePages(fresh)).toBe(free - gstageNrTablePages(tables));
    gstageFree(fresh, tables);
    expect(nrFreePages(fresh)).toBe(free);
  });

  test('without a page for a table the mapping is refused with -ENOMEM', () => {
    const small = testKernel(1);
    const tables = gstageCreate(small) as GStage;
    let result = 0;
    for (let i = 0; result === GSTAGE_MAPPED && i < 1000; i++)
      result = gstageMap(small, tables, i * GIB, 0x8_0000, GSTAGE_READ_ONLY);
    expect(result).toBe(-12);
  });
});
