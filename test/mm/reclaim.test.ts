/** Direct reclaim: what goes, what stays, and who is told. Facts sheet 1.9. Compare mm/vmscan.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  balanceZones,
  drive,
  EIO,
  ENOMEM,
  fileRead,
  type Kernel,
  LRU_ACTIVE_FILE,
  LRU_INACTIVE_ANON,
  MAP_PRIVATE,
  mlock,
  nrFreePages,
  pageIdleClearRefs,
  type Path,
  swapon,
  tryToFreePages,
  zoneWatermarks,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { folioGet, folioPut, folioTestFlags } from '../../mm/folio/folio.ts';
import { PG_ACTIVE, PG_LRU, PG_UNEVICTABLE } from '../../mm/frames/table.ts';
import { ZONE_DMA32 } from '../../mm/frames/zone.ts';
import { folioActivate } from '../../mm/lru/batch.ts';
import { lruListPages } from '../../mm/lru/list.ts';
import { YP_BIO_SUBMITTED, YP_RECLAIM } from '../../mm/path.ts';
import { cached, isDirty, onDevice, quiet, withFile } from './file-world.ts';
import { createProcess, createWorld, exit, mapAnon, pageAt, stepTo, mapOf } from './support.ts';
import { checkStamps, stamp } from './zone-world.ts';

const KIB = 1024;

/** A small machine with a swap device, and a process with `nr` written pages. */
const withSwap = (nr: number, ramBytes = 4096 * KIB, slots = 4096) => {
  const w = createWorld(ramBytes);
  const { k } = w;
  expect(swapon(k, slots)).toBe(0);
  const p = createProcess(w);
  const hva = mapAnon(p, nr);
  stamp(p, hva, nr);
  return { w, k, p, hva, nr };
};

/** Nothing has been used for a while. */
const age = (k: Kernel): void => {
  for (let page = 0; page < k.state.frames.nrPages; page++)
    if (folioTestFlags(k, page, PG_LRU)) pageIdleClearRefs(k, page);
};

/** Reclaims `nr` folios that have not been used for a while. */
const reclaim = (k: Kernel, nr: number): number => {
  age(k);
  return drive(tryToFreePages(k, 0, nr));
};

describe('anonymous memory goes to swap — shrink_folio_list()', () => {
  it('comes back with its bytes', () => {
    const { w, k, p, hva, nr } = withSwap(64);
    expect(reclaim(k, 32)).toBeGreaterThanOrEqual(32);
    expect(p.mm.rssSwap).toBeGreaterThanOrEqual(32);
    checkStamps(p, hva, nr);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('without a swap device nothing is reclaimable', () => {
    const w = createWorld(4096 * KIB);
    const p = createProcess(w);
    const hva = mapAnon(p, 16);
    stamp(p, hva, 16);
    expect(drive(tryToFreePages(w.k, 0, 8))).toBe(0);
    expect(lruListPages(w.k, ZONE_DMA32, LRU_INACTIVE_ANON)).toBe(16);
  });

  it('what has been used since the last look goes round once more — folio_check_references()', () => {
    const { k, p, hva } = withSwap(8);
    age(k);
    const used = pageAt(p, hva + 3 * PAGE_SIZE);
    p.mmu.hostSfenceVma();
    p.load32(hva + 3 * PAGE_SIZE);
    expect(drive(tryToFreePages(k, 0, 3))).toBe(3);
    expect(pageAt(p, hva + 3 * PAGE_SIZE)).toBe(used);
  });

  it('locked memory is not looked at: it is unevictable', () => {
    const { k, p, hva } = withSwap(8);
    drive(mlock(k, p.mm, hva, 4 * PAGE_SIZE));
    expect(reclaim(k, 8)).toBe(4);
    for (let i = 0; i < 4; i++) {
      const page = pageAt(p, hva + i * PAGE_SIZE);
      expect(page >= 0 && folioTestFlags(k, page, PG_UNEVICTABLE)).toBe(true);
    }
  });

  it('pinned: kept before it gets a slot, and active from then on (1.9)', () => {
    const { k, p, hva } = withSwap(8);
    const pages = new Int32Array(2);
    expect(drive(pinUserPagesFast(k, p.mm, hva, 2, FOLL_WRITE, pages))).toBe(2);
    expect(reclaim(k, 8)).toBe(6);
    expect([...pages].map((page) => folioTestFlags(k, page, PG_ACTIVE))).toEqual([true, true]);
    expect(pageAt(p, hva)).toBe(pages[0]);
    unpinUserPages(k, pages, 2);
    expect(reclaim(k, 8)).toBe(2);
    checkStamps(p, hva, 8);
  });

  it('a plain reference keeps the frame, not the mapping', () => {
    const { k, p, hva } = withSwap(2);
    const page = pageAt(p, hva);
    folioGet(k, page);
    expect(reclaim(k, 2)).toBe(1);
    checkStamps(p, hva, 2);
    expect(pageAt(p, hva)).toBe(page);
    folioPut(k, page);
  });
});

describe('page cache', () => {
  it('clean pages are dropped, and read again', () => {
    const fw = withFile(8);
    const { w, p, hva } = fw;
    for (let i = 0; i < 8; i++) expect(p.load32(hva + i * PAGE_SIZE)).toBe(i + 1);
    expect(reclaim(w.k, 8)).toBe(8);
    expect(cached(fw, 0)).toBe(-1);
    const reads = fw.dev.nrReads;
    for (let i = 0; i < 8; i++) expect(p.load32(hva + i * PAGE_SIZE)).toBe(i + 1);
    expect(fw.dev.nrReads).toBeGreaterThan(reads);
    quiet(fw);
  });

  it('dirty ones are written first', () => {
    const fw = withFile(4);
    const { w, p, hva } = fw;
    p.store32(hva + PAGE_SIZE, 77);
    expect(isDirty(fw, 1)).toBe(true);
    expect(onDevice(fw, 1)).toBe(2);
    expect(reclaim(w.k, 4)).toBe(4);
    expect(onDevice(fw, 1)).toBe(77);
    expect(p.load32(hva + PAGE_SIZE)).toBe(77);
    quiet(fw);
  });

  it('one that could not be written is clean afterwards and goes; its file remembers the error, as in Linux', () => {
    const fw = withFile(2);
    const { w, p, hva, dev, file } = fw;
    p.store32(hva, 5);
    for (let block = 0; block < dev.nrBlocks; block++) dev.badWrites.add(block);
    expect(reclaim(w.k, 2)).toBe(2);
    expect(file.wbErr).toBe(-EIO);
    expect(p.load32(hva)).toBe(1);
    dev.badWrites.clear();
    quiet(fw);
  });

  it('pinned: kept with what its file system has of it, and active (1.9, 2.6)', () => {
    const fw = withFile(4);
    const { w, p, hva } = fw;
    const pages = new Int32Array(1);
    p.store32(hva, 9);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect(reclaim(w.k, 4)).toBe(3);
    expect(cached(fw, 0)).toBe(pages[0]);
    expect(isDirty(fw, 0)).toBe(true);
    expect(fw.inode.reserved.has(0)).toBe(true);
    expect(lruListPages(w.k, ZONE_DMA32, LRU_ACTIVE_FILE)).toBe(1);
    unpinUserPages(w.k, pages, 1);
    expect(reclaim(w.k, 4)).toBe(1);
    expect(onDevice(fw, 0)).toBe(9);
    quiet(fw);
  });

  it('pinned while it is being written: found out afterwards, and it stays', () => {
    const fw = withFile(1);
    const { w, p, hva } = fw;
    p.store32(hva, 9);
    age(w.k);
    const path = tryToFreePages(w.k, 0, 1);
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, 0, pages))).toBe(1);
    expect(drive(path)).toBe(0);
    expect(cached(fw, 0)).toBe(pages[0]);
    unpinUserPages(w.k, pages, 1);
    quiet(fw);
  });

  it('what a private mapping has made its own is anonymous, and not the file’s', () => {
    const fw = withFile(2);
    const { w, p, file } = fw;
    const own = mapOf(p, file, { flags: MAP_PRIVATE });
    p.store32(own, 50);
    expect(reclaim(w.k, 8)).toBe(2);
    expect(p.load32(own)).toBe(50);
    expect(p.load32(own + PAGE_SIZE)).toBe(2);
    quiet(fw);
  });
});

describe('a fault that gets no memory reclaims some, and is tried again', () => {
  it('a process may use more than there is RAM, as far as swap goes', () => {
    const nr = 1500;
    const { w, k, p, hva } = withSwap(nr);
    expect(k.memory.nrPages).toBeLessThan(nr);
    checkStamps(p, hva, nr);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('GUP as well: a pin of memory that is swapped out, when RAM is full', () => {
    const nr = 1500;
    const { k, p, hva } = withSwap(nr);
    const pages = new Int32Array(256);
    expect(drive(pinUserPagesFast(k, p.mm, hva, 256, FOLL_WRITE, pages))).toBe(256);
    checkStamps(p, hva, nr);
    for (let i = 0; i < 256; i++) expect(pageAt(p, hva + i * PAGE_SIZE)).toBe(pages[i]);
    unpinUserPages(k, pages, 256);
  });

  it('page cache makes room for anonymous memory', () => {
    const fw = withFile(400, { nrBlocks: 2048 });
    const { w, p, file, hva } = fw;
    const free = nrFreePages(w.k);
    const big = mapAnon(p, free + 100);
    let stored = 0;
    while (stored < free + 100 && p.store32(big + stored * PAGE_SIZE, stored + 1) === 0) stored++;
    expect(stored).toBe(free + 100);
    expect(file.pages.size).toBeLessThan(300);
    expect(p.load32(hva + 399 * PAGE_SIZE)).toBe(400);
    const bytes = new Uint8Array(4);
    drive(fileRead(w.k, file, 10 * PAGE_SIZE, bytes));
    expect(bytes[0]).toBe(11);
  });

  it('-ENOMEM when nothing more can be had', () => {
    const { k, p } = withSwap(8, 2048 * KIB, 16);
    const hva = mapAnon(p, 1024);
    let i = 0;
    let outcome = 0;
    while (outcome === 0 && i < 1024) outcome = p.store32(hva + i++ * PAGE_SIZE, 1);
    expect(outcome).toBe(-ENOMEM);
    expect(k.state.swap.nrFree).toBe(0);
  });
});

describe('lists and watermarks', () => {
  it('active folios become inactive where those are few — shrink_active_list()', () => {
    const { k, p, hva, nr } = withSwap(32);
    for (let i = 0; i < nr; i++) folioActivate(k, pageAt(p, hva + i * PAGE_SIZE));
    expect(lruListPages(k, ZONE_DMA32, LRU_INACTIVE_ANON)).toBe(0);
    expect(reclaim(k, 4)).toBeGreaterThanOrEqual(4);
    checkStamps(p, hva, nr);
  });

  it('min is the square root of 16 times the size in KiB; low and high a quarter and a half above', () => {
    const { k } = createWorld(64 << 20);
    const { min, low, high } = zoneWatermarks(k, k.state.zones[ZONE_DMA32]!);
    expect([min, low, high]).toEqual([256, 320, 384]);
  });

  it('kswapd goes on until free pages are above high — balance_pgdat()', () => {
    const { k, p, hva } = withSwap(900);
    const zone = k.state.zones[ZONE_DMA32]!;
    const { high } = zoneWatermarks(k, zone);
    const extra = mapAnon(p, 200);
    for (let i = 0; nrFreePages(k) > high / 2; i++) p.store32(extra + i * PAGE_SIZE, 1);
    const { freed } = drive(balanceZones(k));
    expect(freed).toBeGreaterThan(0);
    expect(nrFreePages(k)).toBeGreaterThanOrEqual(high);
    expect(drive(balanceZones(k)).freed).toBe(0);
    checkStamps(p, hva, 900);
  });

  it('between two folios anybody may come: what he touches is safe', () => {
    const { k, p, hva, nr } = withSwap(40);
    age(k);
    const path: Path<number> = tryToFreePages(k, 0, 32);
    k.watched = true;
    let step = path.next();
    for (let i = 0; step.done !== true; i++) {
      if (step.value === YP_RECLAIM) {
        k.watched = false;
        expect(p.load32(hva + (i % nr) * PAGE_SIZE)).toBe(((i % nr) * 7) | 1);
        k.watched = true;
      }
      step = path.next();
    }
    k.watched = false;
    checkStamps(p, hva, nr);
  });
});
