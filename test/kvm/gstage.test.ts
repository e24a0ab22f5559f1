/** G-stage tables in RAM against a Map, and against the hart's own walk of them. */
import { beforeEach, describe, expect, test } from 'vitest';
import { PTE_D, PTE_R, PTE_U, PTE_W, PTE_X } from '#emu';
import { type Kernel, nrFreePages } from '#mm';
import {
  GSTAGE_GPA_LIMIT,
  GSTAGE_MAPPED,
  GSTAGE_READ_ONLY,
  GSTAGE_READ_WRITE,
  GSTAGE_REPLACED,
  GSTAGE_UNCHANGED,
  type GStage,
  gstageCreate,
  gstageFlags,
  gstageFree,
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
