/** The sanitizer finds what it is there to find: one planted violation per rule (facts sheet 6). */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PTE_PPN_SHIFT, PTE_W, RAM_PFN_BASE } from '#emu';
import { registerSecondaryOps } from '#mm/secondary';
import { assertKernel, checkKernel } from '../../mm/check/sanitizer.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_ISOLATED,
  PG_LOCKED,
  PG_TABLE,
  pageToPfn,
} from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { drive } from '../../mm/path.ts';
import { makeMigrationEntry, SWP_MIGRATION_READ } from '../../mm/pgtable/swapops.ts';
import { walkPte } from '../../mm/pgtable/walk.ts';
import type { AddressSpace, Kernel, MmStruct, Vma } from '../../mm/types.ts';
import { fork } from '../../mm/vma/fork.ts';
import { PROT_READ } from '../../mm/vma/flags.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { findVma } from '../../mm/vma/vma.ts';
import { createWorld, load, mapAnon, mapFile, pageAt, store } from './gup-world.ts';

/** A healthy world with one of everything. */
interface World {
  k: Kernel;
  mm: MmStruct;
  child: MmStruct;
  /** Written after the fork: exclusive, mapped once. */
  own: number;
  /** Shared by fork. */
  shared: number;
  /** Pinned by a device. */
  pinned: number;
  /** A file's page. */
  file: number;
  mapping: AddressSpace;
  /** Read-only mapping. */
  readOnly: number;
  page: (hva: number) => number;
  word: (hva: number) => number;
  vma: (hva: number) => Vma;
}

const build = (): World => {
  const k = createWorld();
  const mm = mmCreate(k);
  const own = mapAnon(k, mm, 4);
  const shared = own + PAGE_SIZE;
  const pinned = own + 2 * PAGE_SIZE;
  for (const hva of [own, shared, pinned]) store(k, mm, hva, 1);
  drive(pinUserPagesFast(k, mm, pinned, 1, FOLL_WRITE, new Int32Array(1)));
  const mapping = shmemCreate(k, 2);
  const file = mapFile(k, mm, mapping);
  store(k, mm, file, 1);
  const readOnly = mapAnon(k, mm, 1, PROT_READ);
  load(k, mm, readOnly);
  const child = drive(fork(k, mm));
  if (typeof child === 'number') throw new Error(`fork: ${child}`);
  store(k, mm, own, 2);
  const vma = (hva: number): Vma => {
    const found = findVma(mm, hva);
    if (found === null) throw new Error('no VMA');
    return found;
  };
  const page = (hva: number): number => pageAt(k, mm, hva);
  const word = (hva: number): number => walkPte(k, mm, hva, false);
  return { k, mm, child, own, shared, pinned, file, mapping, readOnly, page, word, vma };
};

let w: World;
beforeEach(() => {
  w = build();
});

const check = (): string[] => checkKernel(w.k, { quiescent: true });

describe('a healthy kernel', () => {
  it('has no violation', () => {
    expect(check()).toEqual([]);
    expect(() => assertKernel(w.k)).not.toThrow();
  });
});

describe('planted violations', () => {
  const cases: { rule: string; plant: () => void; expected: RegExp }[] = [
    {
      rule: 'I1: a writable anonymous page that is not exclusive',
      plant: () => {
        w.k.state.frames.flags[w.page(w.own)]! &= ~PG_ANON_EXCLUSIVE;
      },
      expected: /^I1 .* writable and not exclusive/,
    },
    {
      rule: 'I2: a pinned anonymous page that is not exclusive',
      plant: () => {
        w.k.state.frames.flags[w.page(w.pinned)]! &= ~PG_ANON_EXCLUSIVE;
      },
      expected: /^I2 .* pinned and not exclusive/,
    },
    {
      rule: 'I3: an exclusive page mapped in two address spaces',
      plant: () => {
        w.k.state.frames.flags[w.page(w.shared)]! |= PG_ANON_EXCLUSIVE;
      },
      expected: /^I3 .* mapped in mm \d+ as well/,
    },
    {
      rule: 'I11: a reference that nobody holds',
      plant: () => {
        w.k.state.frames.refcount[w.page(w.own)]! += 1;
      },
      expected: /^I11 1 plain references, 0 are known of/,
    },
    {
      rule: 'I11: a reference too few',
      plant: () => {
        w.k.state.frames.refcount[w.page(w.shared)]! -= 1;
      },
      expected: /^I11 page \d+: 1 references, 2 are accounted for/,
    },
    {
      rule: 'I11: an unpin that was not counted',
      plant: () => {
        w.k.state.frames.refcount[w.page(w.pinned)]! -= 1024;
      },
      expected: /^I11 pins: 0 are held, acquired - released = 1/,
    },
    {
      rule: 'I11: a pin count that went wrong by itself',
      plant: () => {
        w.k.state.stat.nr_foll_pin_acquired++;
      },
      expected: /^I11 pins: 1 are held, acquired - released = 2/,
    },
    {
      rule: 'I11: a page table with a reference',
      plant: () => {
        w.k.state.frames.refcount[w.mm.pgd]! += 1;
      },
      expected: /^I11 1 plain references, 0 are known of/,
    },
    {
      rule: 'a mapcount that the entries do not bear out',
      plant: () => {
        w.k.state.frames.mapcount[w.page(w.shared)]! += 1;
      },
      expected: /mapcount 3, 2 entries map it/,
    },
    {
      rule: 'an entry that reaches a free page',
      plant: () => {
        w.k.memory.i32[w.word(w.own)] =
          ((1900 + RAM_PFN_BASE) << PTE_PPN_SHIFT) | (w.k.memory.i32[w.word(w.own)]! & 0x3ff);
      },
      expected: /entry reaches the free page 1900/,
    },
    {
      rule: 'an entry outside every VMA',
      plant: () => {
        w.vma(w.own).end = w.own;
      },
      expected: /entry outside every VMA/,
    },
    {
      rule: 'a writable entry in a read-only VMA',
      plant: () => {
        w.vma(w.own).flags &= ~2;
      },
      expected: /writable entry in a VMA that is not/,
    },
    {
      rule: 'a writable zero page',
      plant: () => {
        w.k.memory.i32[w.word(w.readOnly)]! |= PTE_W;
      },
      expected: /the zero page is writable/,
    },
    {
      rule: 'a migration entry for a folio that nobody moves',
      plant: () => {
        w.k.memory.i32[w.word(w.own)] = makeMigrationEntry(w.page(w.own), SWP_MIGRATION_READ, 0);
      },
      expected: /migration entry for page \d+, which is not locked/,
    },
    {
      rule: 'rmap: an index that leads elsewhere',
      plant: () => {
        w.k.state.frames.index[w.page(w.own)]! += 1;
      },
      expected: /^rmap .* has index/,
    },
    {
      rule: 'rmap: an anon_vma that is not in the chain',
      plant: () => {
        w.k.state.frames.mapping[w.page(w.own)] = w.mapping.id;
      },
      expected: /^rmap .* not in the VMA's chain/,
    },
    {
      rule: "rmap: a file's page of another file",
      plant: () => {
        w.k.state.frames.mapping[w.page(w.file)] = 1;
      },
      expected: /^rmap .* not the VMA's/,
    },
    {
      rule: 'rmap: a VMA missing from its file',
      plant: () => {
        w.mapping.vmas.length = 0;
      },
      expected: /missing from mapping/,
    },
    {
      rule: 'rmap: a VMA missing from its anon_vma',
      plant: () => {
        const { anonVma } = w.vma(w.own);
        if (anonVma !== null) anonVma.vmas.length = 0;
      },
      expected: /missing from anon_vma/,
    },
    {
      rule: "cache: a mapped page that is not the file's",
      plant: () => {
        w.mapping.pages.delete(0);
      },
      expected: /is not the file's page 0/,
    },
    {
      rule: 'cache: a page at the wrong place',
      plant: () => {
        w.mapping.pages.set(1, w.page(w.file));
      },
      expected: /^cache: page \d+ is at \d+:1, and says \d+:0/,
    },
    {
      rule: 'rss: anonymous pages',
      plant: () => {
        w.mm.rssAnon++;
      },
      expected: /anonymous pages, rss/,
    },
    {
      rule: 'rss: file pages',
      plant: () => {
        w.mm.rssFile--;
      },
      expected: /file pages, rss/,
    },
    {
      rule: 'the count of page tables',
      plant: () => {
        w.mm.nrTables++;
      },
      expected: /page-table pages, counted/,
    },
    {
      rule: 'a page table that is not marked',
      plant: () => {
        w.k.state.frames.flags[w.mm.pgd]! &= ~PG_TABLE;
      },
      expected: /page table in page \d+, which is not marked/,
    },
    {
      rule: 'buddy: a free page with a reference',
      plant: () => {
        w.k.state.frames.refcount[1999] = 1;
      },
      expected: /free page 1999 has references/,
    },
    {
      rule: 'buddy: a count of free pages',
      plant: () => {
        w.k.state.zones[0]!.nrFree[0]! += 1;
      },
      expected: /free pages, counted/,
    },
    {
      rule: 'buddy: a block that does not say so itself',
      plant: () => {
        const head = w.k.state.zones[0]!.freeHead.find((page) => page >= 0) ?? -1;
        w.k.state.frames.flags[head]! &= ~PG_BUDDY;
      },
      expected: /does not say so itself/,
    },
    {
      rule: 'buddy: a frame that is lost',
      plant: () => {
        w.k.state.frames.refcount[allocPages(w.k, 0, GFP_KERNEL)] = 0;
      },
      expected: /is lost: no references, on no free list/,
    },
    {
      rule: 'at rest: a folio that stays locked',
      plant: () => {
        w.k.state.frames.flags[w.page(w.own)]! |= PG_LOCKED;
      },
      expected: /1 folios are locked by nobody/,
    },
    {
      rule: 'at rest: a folio that stays isolated',
      plant: () => {
        w.k.state.frames.flags[w.page(w.own)]! |= PG_ISOLATED;
        w.k.state.frames.refcount[w.page(w.own)]! += 1;
      },
      expected: /1 folios are isolated by nobody/,
    },
    {
      rule: 'at rest: an mmap_lock that stays held',
      plant: () => {
        w.mm.mmapLock.readers = 1;
      },
      expected: /mmap_lock is held by nobody/,
    },
    {
      rule: 'at rest: a fork sequence that stays odd',
      plant: () => {
        w.mm.writeProtectSeq[0]! += 1;
      },
      expected: /write_protect_seq is odd/,
    },
    {
      rule: 'an anonymous page in a shared mapping',
      plant: () => {
        w.k.state.frames.flags[w.page(w.file)]! |= PG_ANON;
      },
      expected: /anonymous page \d+ in a shared mapping/,
    },
  ];

  for (const { rule, plant, expected } of cases)
    it(rule, () => {
      plant();
      const report = check();
      expect(report.join('\n')).toMatch(new RegExp(expected.source, 'm'));
      expect(() => assertKernel(w.k, { quiescent: true })).toThrow(/sanitizer/);
    });
});

describe('secondary entries — I9, I10', () => {
  const report = (hva: number, pfn: number, writable: boolean, order = 0): string => {
    registerSecondaryOps(w.k, 'planted', {
      visitEntries: (visit) => visit(w.mm, hva, pfn, writable, order),
    });
    return check().join('\n');
  };

  it('one that agrees with the primary is fine', () =>
    expect(report(w.own, pageToPfn(w.page(w.own)), true)).toBe(''));
  it('I10: one that reaches another frame', () =>
    expect(report(w.own, pageToPfn(w.page(w.own)) + 1, false)).toMatch(/^I10 .* reaches pfn/));
  it('I10: one where the primary has nothing', () =>
    expect(report(w.own + 3 * PAGE_SIZE, 1, false)).toMatch(/^I10 .* no page there/));
  it('I9: one that is writable where the primary is not', () =>
    expect(report(w.shared, pageToPfn(w.page(w.shared)), true)).toMatch(/^I9 /));
});
