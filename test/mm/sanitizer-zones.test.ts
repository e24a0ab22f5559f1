/** What the sanitizer says of free lists, pageblocks, CMA and long-term pins that are not as they should be. */
import { describe, expect, it } from 'vitest';
import {
  checkKernel,
  cmaAlloc,
  cmaDefaultArea,
  drive,
  freeListOf,
  type Kernel,
  MIGRATE_CMA,
  MIGRATE_MOVABLE,
  offlinePages,
  MEMORY_BLOCK_PAGES,
  provenanceStart,
  ZONE_MOVABLE,
} from '#mm';
import { FOLL_LONGTERM, FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { undoIsolatePageRange, startIsolatePageRange } from '../../mm/frames/isolation.ts';
import { setPageblock, setPageblockIsolated, setPageblockType } from '../../mm/frames/pageblock.ts';
import { createProcess, mapAnon } from './support.ts';
import { BLOCK, createZonedWorld, MIB, MIB_PAGES } from './zone-world.ts';

const RAM = 32 * MIB;
const CMA_BASE = 16 * MIB_PAGES;

const createKernelOf = (): Kernel =>
  createZonedWorld(RAM, { movableBytes: 8 * MIB, cmaBytes: 8 * MIB }).k;

const zoneOf = (k: Kernel) => k.state.zones[0]!;

describe('the sanitizer of memory', () => {
  it('finds nothing in a machine with all kinds of it', () => {
    const k = createKernelOf();
    expect(cmaDefaultArea(k)?.basePage).toBe(CMA_BASE);
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
  });

  for (const { fact, harm, says } of [
    {
      fact: 'the count of free pages of CMA',
      harm: (k: Kernel) => {
        zoneOf(k).nrFreeCma[0]! += 1;
      },
      says: /2048 free of CMA, counted 2049/,
    },
    {
      fact: 'the count of a list',
      harm: (k: Kernel) => {
        zoneOf(k).nrBlocks[freeListOf(MIGRATE_CMA, 10)]! += 1;
      },
      says: /DMA32 CMA order 10: 2 blocks, counted 3/,
    },
    {
      fact: 'a free block on the list of another type',
      harm: (k: Kernel) => setPageblockType(k, CMA_BASE + BLOCK, MIGRATE_MOVABLE),
      says: /is not what its pageblock is for/,
    },
    {
      fact: 'a pageblock of an area that is not CMA any more',
      harm: (k: Kernel) => setPageblockType(k, CMA_BASE, MIGRATE_MOVABLE),
      says: /cma reserved: the pageblock of page 4096 is of another type/,
    },
    {
      fact: 'a free block of another zone',
      harm: (k: Kernel) => setPageblock(k, CMA_BASE, ZONE_MOVABLE, MIGRATE_CMA, true),
      says: /zone Movable: 2560 pages, counted 2048/,
    },
    {
      fact: 'a pageblock that is isolated while nobody is on his way',
      harm: (k: Kernel) => void startIsolatePageRange(k, CMA_BASE, CMA_BASE + 1, 'cma'),
      says: /pageblock of page 4096: isolated by nobody/,
    },
    {
      fact: 'a pageblock that is isolated, and its free pages are not',
      harm: (k: Kernel) => setPageblockIsolated(k, CMA_BASE, true),
      says: /is not what its pageblock is for/,
    },
    {
      fact: 'a page that is free and handed out',
      harm: (k: Kernel) => {
        cmaDefaultArea(k)!.bitmap[3] = 1;
      },
      says: /cma reserved: page 4192 is handed out and free/,
    },
    {
      fact: "the count of an area's bits",
      harm: (k: Kernel) => {
        cmaDefaultArea(k)!.available -= 5;
      },
      says: /2048 pages available, counted 2043/,
    },
    {
      fact: 'a lock of an area that nobody holds',
      harm: (k: Kernel) => {
        cmaDefaultArea(k)!.allocating = true;
      },
      says: /its lock is held by nobody/,
    },
  ])
    it(`finds ${fact}`, () => {
      const k = createKernelOf();
      harm(k);
      expect(checkKernel(k, { quiescent: true }).join('\n')).toMatch(says);
    });

  it('lets pageblocks be isolated while a path is on its way', () => {
    const k = createKernelOf();
    startIsolatePageRange(k, CMA_BASE, CMA_BASE + 1, 'cma');
    expect(checkKernel(k)).toEqual([]);
    undoIsolatePageRange(k, CMA_BASE, CMA_BASE + 1);
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
  });

  it('finds a page that is offline and free', () => {
    const { k } = createZonedWorld(256 * MIB);
    drive(offlinePages(k, MEMORY_BLOCK_PAGES, MEMORY_BLOCK_PAGES));
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
    const [zone] = k.state.zones;
    zone!.managedPages += 1;
    expect(checkKernel(k).join()).toMatch(/zone DMA32: 32768 pages, counted 32769/);
  });

  it('knows that what cmaAlloc() has handed out is in use', () => {
    const k = createKernelOf();
    const page = drive(cmaAlloc(k, 100));
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
    k.state.frames.refcount[page + 5] = 0;
    expect(checkKernel(k).join()).toMatch(/page 4101 is lost/);
  });
});

describe('I5: what is pinned for long is where it may stay', () => {
  const withLongtermPin = () => {
    const w = createZonedWorld(RAM, { movableBytes: 8 * MIB, cmaBytes: 8 * MIB });
    provenanceStart(w.k);
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const pages = new Int32Array(1);
    const flags = FOLL_WRITE | FOLL_LONGTERM;
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, flags, pages))).toBe(1);
    expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
    return { k: w.k, pages, page: pages[0]! };
  };

  for (const { where, zone, type, isolated } of [
    { where: 'CMA', zone: 0, type: MIGRATE_CMA, isolated: false },
    { where: 'CMA, isolated', zone: 0, type: MIGRATE_CMA, isolated: true },
    { where: 'zone MOVABLE', zone: ZONE_MOVABLE, type: MIGRATE_MOVABLE, isolated: false },
  ])
    it(`not in ${where}`, () => {
      const { k, page } = withLongtermPin();
      setPageblock(k, page, zone, type, true);
      setPageblockIsolated(k, page, isolated);
      const found = checkKernel(k).filter((line) => line.startsWith('I5'));
      expect(found.length).toBe(1);
      expect(found[0]).toContain(`I5 page ${page}: pinned for long by somebody`);
    });

  it('a pageblock that is isolated afterwards may have it: isolating does not look', () => {
    const { k, page, pages } = withLongtermPin();
    expect(startIsolatePageRange(k, page, page + 1, 'contig')).toBe(-1);
    expect(checkKernel(k)).toEqual([]);
    undoIsolatePageRange(k, page, page + 1);
    unpinUserPages(k, pages, 1);
  });
});
