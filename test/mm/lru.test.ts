/** LRU lists and the per-CPU batches before them. Compare mm/swap.c, mm/mlock.c, include/linux/mm_inline.h. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  checkKernel,
  drive,
  fork,
  LRU_ACTIVE_ANON,
  LRU_BATCH_SIZE,
  LRU_INACTIVE_ANON,
  LRU_UNEVICTABLE,
  lruAddDrain,
  lruAddDrainAll,
  lruCacheDisable,
  lruCacheEnable,
  lruConfigure,
  lruSetCpu,
  type Kernel,
  migrateFolio,
  mlock,
  mremap,
  munlock,
  nrFreePages,
} from '#mm';
import { folioPut, folioRefCount, folioTestFlags } from '../../mm/folio/folio.ts';
import { PG_ACTIVE, PG_LRU, PG_MLOCKED, PG_UNEVICTABLE } from '../../mm/frames/table.ts';
import { ZONE_DMA32, ZONE_MOVABLE } from '../../mm/frames/zone.ts';
import { getUserPagesFast } from '../../mm/gup/fast.ts';
import { folioActivate, folioMarkAccessed } from '../../mm/lru/batch.ts';
import { folioIsolateLru, folioPutbackLru } from '../../mm/lru/isolate.ts';
import { lruIndex, lruListPages } from '../../mm/lru/list.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import {
  createProcess,
  createWorld,
  exit,
  forkMm,
  mapAnon,
  pageAt,
  type World,
} from './support.ts';
import { createZonedWorld, MIB } from './zone-world.ts';

/** Folios of a list, the newest first. */
const listOf = (k: Kernel, lru: number, zone = ZONE_DMA32): number[] => {
  const folios: number[] = [];
  const { next } = k.state.frames;
  for (let at = k.state.lru.head[lruIndex(zone, lru)]!; at >= 0; at = next[at]!) folios.push(at);
  return folios;
};

/** A process with `nr` written pages. */
const withPages = (nr: number, w: World = createWorld()) => {
  const p = createProcess(w);
  const hva = mapAnon(p, nr);
  for (let i = 0; i < nr; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
  const pages = Array.from({ length: nr }, (_, i) => pageAt(p, hva + i * PAGE_SIZE));
  return { w, k: w.k, p, hva, pages };
};

/** The same on a machine with batches. */
const withBatches = (nr: number, batchSize = LRU_BATCH_SIZE, nrCpus = 2) => {
  const w = createWorld();
  lruConfigure(w.k, batchSize, nrCpus);
  return withPages(nr, w);
};

describe('the lists', () => {
  it('new anonymous folios are inactive, the newest first; nothing waits without batches', () => {
    const { k, pages } = withPages(3);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual(pages.toReversed());
    expect(pages.map((page) => folioRefCount(k, page))).toEqual([1, 1, 1]);
  });

  it('used twice a folio becomes active — folio_mark_accessed()', () => {
    const { k, pages } = withPages(3);
    const [, second] = pages as [number, number, number];
    folioMarkAccessed(k, second);
    expect(listOf(k, LRU_ACTIVE_ANON)).toEqual([]);
    folioMarkAccessed(k, second);
    expect(listOf(k, LRU_ACTIVE_ANON)).toEqual([second]);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([pages[2], pages[0]]);
    assertKernel(k, { quiescent: true });
  });

  it('a folio is on the list of its own zone', () => {
    const w = createZonedWorld(64 * MIB, { movableBytes: 32 * MIB });
    const { k, pages } = withPages(2, w);
    expect(listOf(k, LRU_INACTIVE_ANON, ZONE_MOVABLE)).toEqual(pages.toReversed());
    expect(listOf(k, LRU_INACTIVE_ANON, ZONE_DMA32)).toEqual([]);
    assertKernel(k);
  });

  it('the last reference takes it off the list — __page_cache_release()', () => {
    const { w, k, p } = withPages(3);
    exit(p);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([]);
    expect(lruListPages(k, ZONE_DMA32, LRU_INACTIVE_ANON)).toBe(0);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('isolated it is on none, nobody else can isolate it, and it comes back as the newest', () => {
    const { k, pages } = withPages(3);
    const first = pages[0]!;
    expect(folioIsolateLru(k, first)).toBe(true);
    expect(folioIsolateLru(k, first)).toBe(false);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([pages[2], pages[1]]);
    expect(folioRefCount(k, first)).toBe(2);
    folioPutbackLru(k, first);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([first, pages[2], pages[1]]);
    assertKernel(k, { quiescent: true });
  });

  it('what is active stays so when it migrates', () => {
    const { k, p, hva, pages } = withPages(1);
    folioActivate(k, pages[0]!);
    expect(drive(migrateFolio(k, pages[0]!))).toBe(0);
    expect(listOf(k, LRU_ACTIVE_ANON)).toEqual([pageAt(p, hva)]);
    assertKernel(k, { quiescent: true });
  });
});

describe('batches — folio_batch_add_and_move()', () => {
  it('a new folio waits on its CPU, with a reference more and on no list, until the batch is full', () => {
    const { w, k, pages } = withBatches(3, 4);
    expect(pages.map((page) => folioRefCount(k, page))).toEqual([2, 2, 2]);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([]);
    assertKernel(k, { quiescent: true });
    const more = withPages(1, w);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([...pages, ...more.pages].toReversed());
    assertKernel(k, { quiescent: true });
  });

  it('lru_add_drain() empties those of this CPU, lru_add_drain_all() those of all', () => {
    const { k, pages } = withBatches(2);
    lruSetCpu(k, 1);
    lruAddDrain(k);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([]);
    lruAddDrainAll(k);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual(pages.toReversed());
    expect(pages.map((page) => folioRefCount(k, page))).toEqual([1, 1]);
  });

  it('what is freed by everybody else stays in memory as long as a batch has it', () => {
    const { w, k, p } = withBatches(2);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart - 2);
    lruAddDrainAll(k);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
    assertKernel(k, { quiescent: true });
  });

  it('while somebody has them disabled nothing waits — lru_cache_disable()', () => {
    const { w, k } = withBatches(2);
    lruCacheDisable(k);
    expect(listOf(k, LRU_INACTIVE_ANON)).toHaveLength(2);
    withPages(1, w);
    expect(listOf(k, LRU_INACTIVE_ANON)).toHaveLength(3);
    lruCacheEnable(k);
    withPages(1, w);
    expect(listOf(k, LRU_INACTIVE_ANON)).toHaveLength(3);
  });

  it('activated in this CPU’s batch it comes out active; in that of another CPU it does not', () => {
    const { k, pages } = withBatches(2);
    folioActivate(k, pages[0]!);
    lruSetCpu(k, 1);
    folioActivate(k, pages[1]!);
    lruAddDrainAll(k);
    expect(listOf(k, LRU_ACTIVE_ANON)).toEqual([pages[0]]);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([pages[1]]);
  });

  it('on its way among the active ones it is on no list', () => {
    const { k, pages } = withBatches(1);
    lruAddDrain(k);
    folioActivate(k, pages[0]!);
    expect(folioTestFlags(k, pages[0]!, PG_LRU)).toBe(false);
    expect(folioIsolateLru(k, pages[0]!)).toBe(false);
    assertKernel(k, { quiescent: true });
    lruAddDrain(k);
    expect(listOf(k, LRU_ACTIVE_ANON)).toEqual([pages[0]]);
    expect(folioTestFlags(k, pages[0]!, PG_ACTIVE | PG_LRU)).toBe(true);
  });
});

describe('who drains before he looks at references', () => {
  it('a write after fork and exit reuses the page, this CPU’s batch or not — wp_can_reuse_anon_folio()', () => {
    const { w, k, p, hva, pages } = withBatches(1);
    exit(createProcess(w, forkMm(k, p.mm)));
    p.store32(hva, 9);
    expect(pageAt(p, hva)).toBe(pages[0]);
  });

  it('that of another CPU is taken for somebody who uses it, and the page is copied', () => {
    const { w, k, p, hva, pages } = withBatches(1);
    exit(createProcess(w, forkMm(k, p.mm)));
    lruSetCpu(k, 1);
    p.store32(hva, 9);
    expect(pageAt(p, hva)).not.toBe(pages[0]);
    lruAddDrainAll(k);
    assertKernel(k, { quiescent: true });
  });

  it('migration and swapping out take a folio out of the batches first', () => {
    const { k, p, hva, pages } = withBatches(2);
    swapon(k, 8);
    expect(drive(migrateFolio(k, pages[0]!))).toBe(0);
    expect(p.load32(hva)).toBe(1);
    expect(drive(reclaimFolio(k, pages[1]!))).toBe(0);
    expect(p.load32(hva + PAGE_SIZE)).toBe(2);
    lruAddDrainAll(k);
    assertKernel(k, { quiescent: true });
  });

  it('a GUP reference is told from a batch: that one stays', () => {
    const { w, k, p, hva, pages } = withBatches(1);
    const child = createProcess(w, forkMm(k, p.mm));
    const held = new Int32Array(1);
    expect(drive(getUserPagesFast(k, 'gup-test', child.mm, hva, 1, 0, held))).toBe(1);
    exit(child);
    p.store32(hva, 9);
    expect(pageAt(p, hva)).not.toBe(pages[0]);
    folioPut(k, held[0]!);
  });
});

describe('locked memory is unevictable — mm/mlock.c', () => {
  const unevictable = (k: Kernel): number => lruListPages(k, ZONE_DMA32, LRU_UNEVICTABLE);

  it('mlock() takes what is there off its list, munlock() puts it back', () => {
    const { k, p, hva, pages } = withPages(2);
    expect(drive(mlock(k, p.mm, hva, 2 * PAGE_SIZE))).toBe(0);
    expect(unevictable(k)).toBe(2);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([]);
    expect(folioTestFlags(k, pages[0]!, PG_UNEVICTABLE | PG_MLOCKED)).toBe(true);
    expect(drive(munlock(k, p.mm, hva, PAGE_SIZE))).toBe(0);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([pages[0]]);
    assertKernel(k, { quiescent: true });
  });

  it('what is faulted in later, and what a child gets of it', () => {
    const { w, k, p, hva } = withPages(2);
    drive(mlock(k, p.mm, hva, 2 * PAGE_SIZE));
    const more = drive(mremap(k, p.mm, hva, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 1, 0));
    expect(p.load32(more + 2 * PAGE_SIZE)).toBe(0);
    p.store32(more + 2 * PAGE_SIZE, 3);
    expect(unevictable(k)).toBe(3);
    const child = createProcess(w, forkMm(k, p.mm));
    child.store32(more, 7);
    expect(listOf(k, LRU_INACTIVE_ANON)).toEqual([pageAt(child, more)]);
    exit(child);
    exit(p);
    expect(unevictable(k)).toBe(0);
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
  });

  it('two that lock a page: it is evictable when both have let go', () => {
    const { w, k, p, hva } = withPages(1);
    const child = createProcess(w, forkMm(k, p.mm));
    drive(mlock(k, p.mm, hva, PAGE_SIZE));
    drive(mlock(k, child.mm, hva, PAGE_SIZE));
    drive(munlock(k, p.mm, hva, PAGE_SIZE));
    expect(unevictable(k)).toBe(1);
    drive(munlock(k, child.mm, hva, PAGE_SIZE));
    expect(unevictable(k)).toBe(0);
  });

  it('the batch of mlock() has a reference to a folio that is on its list (2.8)', () => {
    const { k, p, hva, pages } = withBatches(1);
    lruAddDrain(k);
    drive(mlock(k, p.mm, hva, PAGE_SIZE));
    expect(folioTestFlags(k, pages[0]!, PG_LRU | PG_MLOCKED)).toBe(true);
    expect(folioRefCount(k, pages[0]!)).toBe(2);
    lruAddDrain(k);
    expect(unevictable(k)).toBe(1);
    assertKernel(k, { quiescent: true });
  });
});

describe('the sanitizer knows of the lists', () => {
  for (const { fact, spoil, says } of [
    {
      fact: 'PG_LRU on none',
      spoil: (k: Kernel, page: number) => {
        folioIsolateLru(k, page);
        k.state.frames.flags[page] = k.state.frames.flags[page]! | PG_LRU;
      },
      says: /says that it is on a list, and is on none/,
    },
    {
      fact: 'the wrong list',
      spoil: (k: Kernel, page: number) => {
        k.state.frames.flags[page] = k.state.frames.flags[page]! | PG_ACTIVE;
      },
      says: /belongs on another/,
    },
    {
      fact: 'a count that is off',
      spoil: (k: Kernel) => {
        k.state.lru.nrPages[lruIndex(ZONE_DMA32, LRU_INACTIVE_ANON)]!++;
      },
      says: /has 3 pages, counted 4/,
    },
    {
      fact: 'a broken link',
      spoil: (k: Kernel, page: number) => {
        k.state.frames.prev[page] = page;
      },
      says: /broken back link/,
    },
    {
      fact: 'a batch without its reference',
      spoil: (k: Kernel, page: number) => {
        k.state.lru.cpus[0]!.add.push(page);
      },
      says: /is in a batch, and on a list/,
    },
  ])
    it(fact, () => {
      const { k, pages } = withPages(3);
      spoil(k, pages[1]!);
      expect(checkKernel(k).join('\n')).toMatch(says);
    });
});

it('batches of several CPUs under fork, exit and swap: every page comes back', () => {
  const { w, k, p, hva } = withBatches(16, 4, 3);
  swapon(k, 64);
  for (let round = 0; round < 12; round++) {
    lruSetCpu(k, round % 3);
    const child = drive(fork(k, p.mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    const q = createProcess(w, child);
    for (let i = 0; i < 16; i++) q.store32(hva + i * PAGE_SIZE, 100 * round + i);
    for (let i = round % 2; i < 16; i += 2) drive(reclaimFolio(k, pageAt(p, hva + i * PAGE_SIZE)));
    assertKernel(k, { quiescent: true });
    for (let i = 0; i < 16; i++) expect(p.load32(hva + i * PAGE_SIZE)).toBe(i + 1);
    exit(q);
  }
  exit(p);
  lruAddDrainAll(k);
  expect(nrFreePages(k)).toBe(w.freeAtStart);
});
