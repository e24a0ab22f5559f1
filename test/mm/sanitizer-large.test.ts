/** The sanitizer on large folios, huge entries and hugetlb: one planted violation per rule. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PTE_W } from '#emu';
import {
  checkKernel,
  drive,
  fork,
  type HostProcess,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  type Kernel,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  madvise,
  memoryFailure,
  mmap,
  type MmStruct,
  munmap,
  ptePage,
} from '#mm';
import { pinUserPagesFast } from '#mm/driver-api';
import { PG_ANON_EXCLUSIVE, PG_HUGETLB, PG_HWPOISON, PG_TAIL } from '../../mm/frames/table.ts';
import { PTE_UFFD_WP } from '../../mm/pgtable/pte.ts';
import { makeSwapEntry } from '../../mm/pgtable/swapops.ts';
import { pmdLeafAt, walkEntry } from '../../mm/pgtable/walk.ts';

import { createProcess, entryAt, pageAt, RW } from './support.ts';
import { AT, HPAGE_PMD_SIZE, mapAt, pmdAt, thpWorld } from './thp-world.ts';

/** A process with each sort of large folio. */
interface Large {
  k: Kernel;
  p: HostProcess;
  child: MmStruct;
  /** One entry, its own. */
  own: number;
  /** One entry, shared by fork. */
  shared: number;
  /** Each page by itself: the entry was split by a hole at its end. */
  split: number;
  /** Pages 3 and 4 of a huge folio are pinned. */
  pinned: number;
  zero: number;
  hugetlb: number;
}

const build = (): Large => {
  const { k, mmu, log, freeAtStart } = thpWorld(1 << 9, 48);
  const p = createProcess({ k, mmu, log, freeAtStart });
  const [own, shared, split, pinned, zero] = [0, 1, 2, 3, 4].map(
    (i) => AT + i * HPAGE_PMD_SIZE,
  ) as [number, number, number, number, number];
  mapAt(p, 5 * 512);
  p.store32(shared, 1);
  const child = drive(fork(k, p.mm));
  if (typeof child === 'number') throw new Error(`fork: ${child}`);
  for (const hva of [own, split, pinned]) p.store32(hva, 1);
  drive(madvise(k, p.mm, split + 511 * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
  drive(pinUserPagesFast(k, p.mm, pinned + 3 * PAGE_SIZE, 2, 1, new Int32Array(2)));
  p.load32(zero);
  hugetlbSetPool(k, HUGETLB_ORDER_2M, 3);
  const hugetlb = drive(
    mmap(k, p.mm, {
      lenBytes: 2 * HPAGE_PMD_SIZE,
      prot: RW,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
    }),
  );
  p.store32(hugetlb, 1);
  return { k, p, child, own, shared, split, pinned, zero, hugetlb };
};

let w: Large;
beforeEach(() => {
  w = build();
});

const check = (): string => checkKernel(w.k, { quiescent: true }).join('\n');
const folioAt = (hva: number): number => ptePage(pmdAt(w.p, hva));
const flagsOf = (): Int32Array => w.k.state.frames.flags;
const pool = () => w.k.state.hugetlb.hstates[0]!;

it('a healthy kernel with every sort of huge memory has no violation', () => {
  expect(check()).toBe('');
  expect(pmdAt(w.p, w.own)).not.toBe(0);
  expect(pmdAt(w.p, w.split)).toBe(0);
  expect(folioAt(w.zero)).toBe(w.k.state.hugeZeroFolio);
  expect(w.k.state.stat.nr_foll_pin_acquired).toBe(2);
});

describe('planted violations', () => {
  const cases: { rule: string; plant: () => void; expected: RegExp }[] = [
    {
      rule: 'I1: a writable huge entry whose head is not exclusive',
      plant: () => {
        flagsOf()[folioAt(w.own)]! &= ~PG_ANON_EXCLUSIVE;
      },
      expected: /^I1 .* writable and not exclusive/m,
    },
    {
      rule: 'I3: an exclusive head that two address spaces map whole',
      plant: () => {
        flagsOf()[folioAt(w.shared)]! |= PG_ANON_EXCLUSIVE;
      },
      expected: /^I3 .* mapped in mm \d+ as well/m,
    },
    {
      rule: 'I3: an exclusive page of a folio that another maps whole',
      plant: () => {
        const page = folioAt(w.shared) + 7;
        drive(madvise(w.k, w.p.mm, w.shared, PAGE_SIZE, MADV_DONTNEED));
        flagsOf()[page]! |= PG_ANON_EXCLUSIVE;
      },
      expected: /^I3 .*exclusive page \d+ is mapped in mm \d+ as well/m,
    },
    {
      rule: 'I2: a pinned folio none of whose pages is exclusive',
      plant: () => {
        flagsOf()[folioAt(w.pinned)]! &= ~PG_ANON_EXCLUSIVE;
      },
      expected: /^I2 page \d+: anonymous, pinned and not exclusive/m,
    },
    {
      rule: 'I11: a pin that the head counts and nobody has',
      plant: () => {
        w.k.state.frames.pincount[folioAt(w.own)]! += 1;
        w.k.state.frames.refcount[folioAt(w.own)]! += 1;
      },
      expected: /^I11 pins: 3 are held, acquired - released = 2/m,
    },
    {
      rule: 'I11: a tail with a reference of its own',
      plant: () => {
        w.k.state.frames.refcount[folioAt(w.own) + 5] = 1;
      },
      expected: /^I11 page \d+: a tail with 1 references/m,
    },
    {
      rule: 'a tail that belongs to another folio',
      plant: () => {
        w.k.state.frames.head[folioAt(w.own) + 5] = folioAt(w.shared);
      },
      expected: /is a tail, and \d+ not its head/,
    },
    {
      rule: 'the entire mapcount',
      plant: () => {
        w.k.state.frames.index[folioAt(w.own) + 1]! += 1;
      },
      expected: /entire mapcount 2, 1 entries map all of it/,
    },
    {
      rule: 'the large mapcount',
      plant: () => {
        w.k.state.frames.pincount[(pageAt(w.p, w.split) & ~511) + 1]! += 1;
      },
      expected: /large mapcount 512, 511 entries map something of it/,
    },
    {
      rule: 'the mapcount of one page of a folio',
      plant: () => {
        w.k.state.frames.mapcount[pageAt(w.p, w.split + 9 * PAGE_SIZE)]! += 1;
      },
      expected: /mapcount 2, 1 entries map it/,
    },
    {
      rule: 'a table too few that is kept back',
      plant: () => {
        w.p.mm.deposited.pop();
      },
      expected: /3 tables kept back for 4 huge entries/,
    },
    {
      rule: 'a huge entry for what is no whole folio',
      plant: () => {
        w.k.memory.i32[pmdLeafAt(w.k, w.p.mm, w.own)]! += 512 << 8;
      },
      expected: /huge entry for page \d+, no folio of 512 pages/,
    },
    {
      rule: 'a huge entry that reaches beyond its VMA',
      plant: () => {
        w.p.mm.vmas.find((vma) => vma.end === AT + 5 * HPAGE_PMD_SIZE)!.end -= PAGE_SIZE;
      },
      expected: /huge entry reaches beyond its VMA/,
    },
    {
      rule: 'a writable huge zero folio',
      plant: () => {
        w.k.memory.i32[pmdLeafAt(w.k, w.p.mm, w.zero)]! |= PTE_W;
      },
      expected: /the zero page is writable/,
    },
    {
      rule: 'a writable entry that userfaultfd has protected',
      plant: () => {
        w.k.memory.i32[pmdLeafAt(w.k, w.p.mm, w.own)]! |= PTE_UFFD_WP;
      },
      expected: /writable entry that userfaultfd has protected/,
    },
    {
      rule: 'an entry in a directory that is not present',
      plant: () => {
        w.k.memory.i32[walkEntry(w.k, w.p.mm, w.zero, 1, false)] = makeSwapEntry(1);
      },
      expected: /entry 0x\w+ in a directory/,
    },
    {
      rule: 'rss: a huge folio is 512 pages',
      plant: () => {
        w.p.mm.rssAnon -= 511;
      },
      expected: /anonymous pages, rss/,
    },
    {
      rule: 'hugetlb: counted apart from rss',
      plant: () => {
        w.p.mm.hugetlbUsage = 0;
      },
      expected: /512 pages of hugetlb, counted 0/,
    },
    {
      rule: 'hugetlb: a page of a pool outside of a VMA for it',
      plant: () => {
        flagsOf()[folioAt(w.own)]! |= PG_HUGETLB;
      },
      expected: /page \d+ of a hugetlb pool in a VMA that is not for it/,
    },
    {
      rule: 'hugetlb: more promised than free',
      plant: () => {
        pool().reserved = 3;
      },
      expected: /hugetlb order 9: 3 reserved of 2 free/,
    },
    {
      rule: 'hugetlb: a page lost to the pool',
      plant: () => {
        pool().nrPages = 4;
      },
      expected: /hugetlb order 9: 2 free and 1 in use, the pool counts 4/,
    },
    {
      rule: 'hugetlb: a free page with a reference',
      plant: () => {
        w.k.state.frames.refcount[pool().free[0]!] = 1;
      },
      expected: /hugetlb order 9: free page \d+ has 1 references/,
    },
    {
      rule: 'hugetlb: a free page twice',
      plant: () => {
        pool().free.push(pool().free[0]!);
      },
      expected: /is free twice/,
    },
    {
      rule: 'hugetlb: an entry whose head is not exclusive is not writable',
      plant: () => {
        flagsOf()[folioAt(w.hugetlb)]! &= ~PG_ANON_EXCLUSIVE;
      },
      expected: /^I1 .* writable and not exclusive/m,
    },
    {
      rule: 'a hwpoison entry for a sound page',
      plant: () => {
        const hva = w.split;
        const page = pageAt(w.p, hva);
        drive(memoryFailure(w.k, page));
        flagsOf()[page]! &= ~PG_HWPOISON;
      },
      expected: /hwpoison entry for page \d+, which is not poisoned/,
    },
  ];

  for (const { rule, plant, expected } of cases)
    it(rule, () => {
      plant();
      expect(check()).toMatch(expected);
    });
});

describe('what is right', () => {
  it('a poisoned page keeps one reference for ever, which nobody else has', () => {
    const hva = w.split;
    const page = pageAt(w.p, hva);
    expect(drive(memoryFailure(w.k, page))).toBe(0);
    expect(w.k.state.frames.refcount[page]).toBe(1);
    expect(entryAt(w.p, hva)).not.toBe(0);
    expect(check()).toBe('');
  });

  it('a poisoned huge page of hugetlb stays out of the pool, and in its count', () => {
    expect(drive(memoryFailure(w.k, folioAt(w.hugetlb)))).toBe(0);
    expect(w.p.mm.hugetlbUsage).toBe(0);
    expect(check()).toBe('');
    drive(munmap(w.k, w.p.mm, w.hugetlb, 2 * HPAGE_PMD_SIZE));
    expect([pool().free.length, pool().nrPages]).toEqual([2, 3]);
    expect(check()).toBe('');
  });

  it('flags of tails mean nothing while one entry maps the folio', () => {
    flagsOf()[folioAt(w.shared) + 3]! |= PG_ANON_EXCLUSIVE;
    expect(flagsOf()[folioAt(w.shared) + 3]! & PG_TAIL).not.toBe(0);
    expect(check()).toBe('');
  });
});
