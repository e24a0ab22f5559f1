/** The door for modules: pins only, and bytes of pinned pages. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  HPAGE_PMD_ORDER,
  HPAGE_PMD_SIZE,
  MADV_HUGEPAGE,
  madvise,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  mmap,
  PROT_READ,
} from '#mm';
import * as door from '#mm/driver-api';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { byteOf, createWorld, load, mapAnon, pageAt, store, violations } from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(2);

beforeEach(() => {
  k = createWorld('target');
  mm = mmCreate(k);
});

describe('mm/driver-api', () => {
  it('offers no FOLL_GET and nothing that takes a plain reference (S10)', () => {
    const names = Object.keys(door);
    expect(names).toContain('pinUserPagesFast');
    for (const name of names) expect(name).not.toMatch(/get|GET/);
  });

  it('a device writes where the process reads, and the other way round', () => {
    const hva = mapAnon(k, mm, 2);
    store(k, mm, hva + 7, 1);
    expect(door.drive(door.pinUserPagesFast(k, mm, hva, 2, door.FOLL_WRITE, pages))).toBe(2);
    door.writePinnedPage(k, pages[1]!, 4090, Uint8Array.of(9, 8, 7, 6), 1, 3);
    const into = new Uint8Array(2);
    door.readPinnedPage(k, pages[0]!, 7, into, 1, 1);
    expect([...into]).toEqual([0, 1]);
    expect(door.pinnedPageOffset(k, pages[0]!)).toBe(k.memory.pageOffset(pages[0]!));
    door.drive(door.unpinUserPagesDirtyLock(k, pages, 2, true));
    expect(load(k, mm, hva + PAGE_SIZE + 4090)).toBe(8);
    expect(byteOf(k, pageAt(k, mm, hva + PAGE_SIZE), 4092)).toBe(6);
    expect(violations(k)).toEqual([]);
  });

  it('zero pages, the small and the huge, are pinned without counting and can be read', () => {
    k.state.thp.madvise = 1 << HPAGE_PMD_ORDER;
    const at = 64 * HPAGE_PMD_SIZE;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    door.drive(mmap(k, mm, { hva: at, lenBytes: HPAGE_PMD_SIZE, prot: PROT_READ, flags }));
    door.drive(madvise(k, mm, at, HPAGE_PMD_SIZE, MADV_HUGEPAGE));
    const huge = at + 5 * PAGE_SIZE;
    for (const hva of [mapAnon(k, mm, 1), huge]) {
      expect(door.drive(door.pinUserPagesUnlocked(k, mm, hva, 1, 0, pages))).toBe(1);
      const into = Uint8Array.of(1, 1);
      door.readPinnedPage(k, pages[0]!, PAGE_SIZE - 2, into, 0, 2);
      expect([...into]).toEqual([0, 0]);
      door.unpinUserPage(k, pages[0]!);
    }
    expect(pages[0]).toBe(k.state.hugeZeroFolio + 5);
    expect(violations(k)).toEqual([]);
  });

  it('bytes of a page that is not pinned, or beyond its end, are refused', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const page = pageAt(k, mm, hva);
    const bytes = new Uint8Array(8);
    expect(() => door.readPinnedPage(k, page, 0, bytes, 0, 8)).toThrow(/not pinned/);
    door.drive(door.pinUserPagesUnlocked(k, mm, hva, 1, door.FOLL_WRITE, pages));
    expect(() => door.writePinnedPage(k, page, 4090, bytes, 0, 8)).toThrow(/leaves the page/);
    door.unpinUserPage(k, page);
  });
});
