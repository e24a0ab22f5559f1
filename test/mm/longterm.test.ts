/**
 * FOLL_LONGTERM: what may be pinned where it is, and the migration of what may not. Facts sheet 1.8,
 * 2.8, I5 and I14. Compare mm/gup.c, check_and_migrate_movable_pages().
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  assertKernel,
  cmaDefaultArea,
  drive,
  EBUSY,
  ENOMEM,
  freePages,
  GFP_KERNEL,
  type Kernel,
  LRU_BATCH_SIZE,
  lruAddDrainAll,
  lruConfigure,
  lruSetCpu,
  MAP_SHARED,
  migrateToDevice,
  mlock,
  mmap,
  nrFreePages,
  type Path,
  pipeRelease,
  setPolicyApi,
  shmemCreate,
  swapon,
  ZONE_MOVABLE,
  zoneDeviceCreate,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  memfdPinFolios,
  pinUserPages,
  pinUserPagesFast,
  unpinFolios,
  unpinUserPages,
} from '#mm/driver-api';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import { folioIsLongtermPinnable } from '../../mm/folio/pin.ts';
import { pageZoneIndex, setPageblockIsolated } from '../../mm/frames/pageblock.ts';
import { PG_DEVICE_COHERENT } from '../../mm/frames/table.ts';
import { memallocPinScope } from '../../mm/gup/longterm.ts';
import { folioActivate } from '../../mm/lru/batch.ts';
import { folioIsolateLru, folioPutbackLru } from '../../mm/lru/isolate.ts';
import { YP_LONGTERM_UNPINNED, YP_WAIT } from '../../mm/path.ts';
import { LONGTERM_DRAINS, type LongtermDrain } from '../../mm/policy.ts';
import { mmapRead } from '../../mm/vma/lock.ts';
import { rng } from '../support/rng.ts';
import {
  createProcess,
  interleave,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
  pinsLive,
} from './support.ts';
import { checkStamps, createZonedWorld, heldByPipe, MIB, stamp } from './zone-world.ts';

const W = FOLL_WRITE;
const LT = FOLL_WRITE | FOLL_LONGTERM;

/** A machine half of which is ZONE_MOVABLE, and a process whose `nr` pages are there. */
const inMovable = (nr: number, configure: (k: Kernel) => void = () => {}) => {
  const w: World = createZonedWorld(64 * MIB, { movableBytes: 32 * MIB });
  const { k } = w;
  configure(k);
  const p = createProcess(w);
  const hva = mapAnon(p, nr);
  stamp(p, hva, nr);
  const at = (i: number): number => hva + i * PAGE_SIZE;
  const pages = new Int32Array(nr);
  for (let i = 0; i < nr; i++) expect(pageZoneIndex(k, pageAt(p, at(i)))).toBe(ZONE_MOVABLE);
  const pin = (flags = LT, n = nr): Path<number> => pinUserPagesFast(k, p.mm, hva, n, flags, pages);
  const zones = (): number[] =>
    Array.from({ length: nr }, (_, i) => pageZoneIndex(k, pageAt(p, at(i))));
  return { w, k, p, hva, at, nr, pages, pin, zones };
};

describe('the predicate — folio_is_longterm_pinnable(), 1.8', () => {
  it('not in ZONE_MOVABLE, not in a pageblock of CMA, not in one that is isolated', () => {
    const { k, p, hva } = inMovable(1);
    expect(folioIsLongtermPinnable(k, pageAt(p, hva))).toBe(false);
    const kernel = allocPages(k, 0, GFP_KERNEL);
    expect(folioIsLongtermPinnable(k, kernel)).toBe(true);
    setPageblockIsolated(k, kernel, true);
    expect(folioIsLongtermPinnable(k, kernel)).toBe(false);
    setPageblockIsolated(k, kernel, false);
    const { k: other } = createZonedWorld(64 * MIB, { cmaBytes: 8 * MIB });
    const area = cmaDefaultArea(other)!;
    expect(folioIsLongtermPinnable(other, area.basePage)).toBe(false);
    expect(folioIsLongtermPinnable(other, area.basePage - 1)).toBe(true);
  });

  it('the zero page stays, wherever it is', () => {
    const { k } = inMovable(1);
    const { zeroPage } = k.state;
    setPageblockIsolated(k, zeroPage, true);
    expect(folioIsLongtermPinnable(k, zeroPage)).toBe(true);
    setPageblockIsolated(k, zeroPage, false);
  });
});

describe('pages that may not stay move before they are pinned — 1.8, I5', () => {
  it('a short pin takes them where they are; a long one when they have moved out of ZONE_MOVABLE', () => {
    const { k, p, hva, nr, pages, pin, zones } = inMovable(4);
    expect(drive(pin(W))).toBe(4);
    expect(zones()).toEqual([2, 2, 2, 2]);
    unpinUserPages(k, pages, 4);
    expect(drive(pin())).toBe(4);
    expect(zones().every((zone) => zone < ZONE_MOVABLE)).toBe(true);
    expect([...pages].every((page) => folioIsLongtermPinnable(k, page))).toBe(true);
    checkStamps(p, hva, nr);
    unpinUserPages(k, pages, 4);
    assertKernel(k, { quiescent: true });
  });

  it('the slow path as well, under the mmap_lock of its caller', () => {
    const { k, p, hva, pages, zones } = inMovable(4);
    const n = drive(mmapRead(p.mm, pinUserPages(k, p.mm, hva, 4, LT, pages)));
    expect(n).toBe(4);
    expect(zones().every((zone) => zone < ZONE_MOVABLE)).toBe(true);
    unpinUserPages(k, pages, 4);
  });

  it('what it faults in by itself is not movable: memalloc_pin_save()', () => {
    const { k, p } = inMovable(1);
    const fresh = mapAnon(p, 2);
    const pages = new Int32Array(2);
    const before = k.state.stat.pgmigrate_success;
    expect(drive(pinUserPagesFast(k, p.mm, fresh, 2, LT, pages))).toBe(2);
    expect([...pages].every((page) => pageZoneIndex(k, page) < ZONE_MOVABLE)).toBe(true);
    expect(k.state.stat.pgmigrate_success).toBe(before);
    unpinUserPages(k, pages, 2);
  });

  it('the scope is the task’s alone: what others allocate between two of its steps may move', () => {
    const { k } = inMovable(1);
    const seen: number[] = [];
    function* path(): Path<void> {
      for (let i = 0; i < 2; i++) {
        seen.push(k.task.memallocPin);
        yield YP_WAIT;
      }
    }
    for (const _ of memallocPinScope(k, path())) seen.push(k.task.memallocPin);
    expect(seen).toEqual([1, 0, 1, 0]);
  });

  it('one of many: all are pinned anew, and the others stay where they are', () => {
    const { k, p, pages, at } = inMovable(8);
    expect(drive(pinUserPagesFast(k, p.mm, at(0), 7, LT, pages))).toBe(7);
    const first = [...pages.subarray(0, 7)];
    unpinUserPages(k, pages, 7);
    expect(drive(pinUserPagesFast(k, p.mm, at(0), 8, LT, pages))).toBe(8);
    expect([...pages.subarray(0, 7)]).toEqual(first);
    expect(pageZoneIndex(k, pages[7]!)).toBeLessThan(ZONE_MOVABLE);
    unpinUserPages(k, pages, 8);
  });

  it('of shmem, whose file has the page at its new place; of a page that is mapped twice', () => {
    const w = createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });
    const { k } = w;
    const file = shmemCreate(k, 4);
    const p = createProcess(w);
    const map = (): number =>
      drive(mmap(k, p.mm, { lenBytes: 2 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: file }));
    const hva = map();
    stamp(p, hva, 2);
    const twice = map();
    checkStamps(p, twice, 2);
    const pages = new Int32Array(4);
    const both = drive(
      mmap(k, p.mm, { lenBytes: 4 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: file }),
    );
    expect(drive(pinUserPagesFast(k, p.mm, both, 4, LT, pages))).toBe(4);
    for (let i = 0; i < 4; i++) expect(file.pages.get(i)).toBe(pages[i]);
    checkStamps(p, twice, 2);
    unpinUserPages(k, pages, 4);
    assertKernel(k, { quiescent: true });
  });

  it('memfd_pin_folios() does the same for the folios of a file — 1.15', () => {
    const w = createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });
    const { k } = w;
    const file = shmemCreate(k, 4);
    const p = createProcess(w);
    const hva = drive(
      mmap(k, p.mm, { lenBytes: 4 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: file }),
    );
    stamp(p, hva, 4);
    expect(pageZoneIndex(k, file.pages.get(0)!)).toBe(ZONE_MOVABLE);
    const folios = new Int32Array(4);
    const n = drive(memfdPinFolios(k, file, 0, 4 * PAGE_SIZE - 1, folios, 4, { offset: 0 }));
    expect(n).toBe(4);
    expect([...folios].every((folio) => pageZoneIndex(k, folio) < ZONE_MOVABLE)).toBe(true);
    checkStamps(p, hva, 4);
    unpinFolios(k, folios, 4);
    assertKernel(k, { quiescent: true });
  });
});

describe('errors, after which nothing stays pinned — 1.8, I14', () => {
  it('-ENOMEM where somebody has a reference: a page of a pipe that nobody reads', () => {
    const { k, p, hva, pin, at } = inMovable(3);
    const pipe = heldByPipe(p, at(1));
    expect(drive(pin())).toBe(-ENOMEM);
    expect(pinsLive(k)).toBe(0);
    checkStamps(p, hva, 3);
    assertKernel(k, { quiescent: true });
    pipeRelease(k, pipe);
    expect(drive(pin())).toBe(3);
  });

  it('-ENOMEM where a short pin is on it already', () => {
    const { k, pin, pages } = inMovable(2);
    const others = new Int32Array(2);
    expect(drive(pin(W))).toBe(2);
    others.set(pages);
    expect(drive(pin())).toBe(-ENOMEM);
    expect(pinsLive(k)).toBe(2);
    unpinUserPages(k, others, 2);
    expect(drive(pin())).toBe(2);
  });

  it('-ENOMEM where there is no memory that it may move to', () => {
    const { k, pin, pages } = inMovable(2);
    const taken: number[] = [];
    for (let page = allocPages(k, 0, GFP_KERNEL); page >= 0; page = allocPages(k, 0, GFP_KERNEL))
      taken.push(page);
    expect(nrFreePages(k)).toBeGreaterThan(1000);
    expect(drive(pin())).toBe(-ENOMEM);
    expect(pinsLive(k)).toBe(0);
    for (const page of taken) freePages(k, page, 0);
    expect(drive(pin())).toBe(2);
    unpinUserPages(k, pages, 2);
  });

  it('with a swap device others make room for it', () => {
    const { w, k, p, hva, pin, pages } = inMovable(2);
    swapon(k, 512);
    const q = createProcess(w);
    const cold = mapAnon(q, 300);
    // In the kernel's zone, as what has once been pinned for long.
    const first = new Int32Array(300);
    expect(drive(pinUserPagesFast(k, q.mm, cold, 300, LT, first))).toBe(300);
    unpinUserPages(k, first, 300);
    stamp(q, cold, 300);
    while (allocPages(k, 0, GFP_KERNEL) >= 0);
    expect(drive(pin())).toBe(2);
    expect(q.mm.rssSwap).toBeGreaterThan(0);
    checkStamps(p, hva, 2);
    unpinUserPages(k, pages, 2);
    checkStamps(q, cold, 300);
  });

  it('-EBUSY where coherent memory of a device does not move back; it does when nobody has it', () => {
    const { k, p, hva, nr, pin, at, pages } = inMovable(3);
    const device = zoneDeviceCreate(k, PG_DEVICE_COHERENT, 1);
    if (typeof device === 'number') throw new Error(`device: ${device}`);
    expect(drive(migrateToDevice(k, pageAt(p, at(1)), device))).toBe(0);
    const far = pageAt(p, at(1));
    folioGet(k, far);
    expect(drive(pin())).toBe(-EBUSY);
    expect(pinsLive(k)).toBe(0);
    folioPut(k, far);
    expect(drive(pin())).toBe(3);
    checkStamps(p, hva, nr);
    unpinUserPages(k, pages, 3);
    assertKernel(k, { quiescent: true });
  });

  it('a folio that cannot be isolated is waited for without end: whoever has it has to give it back', () => {
    const { k, p, pin, at, pages } = inMovable(2);
    const page = pageAt(p, at(0));
    expect(folioIsolateLru(k, page)).toBe(true);
    const path = pin();
    for (let i = 0; i < 50; i++) expect(path.next()).toEqual({ done: false, value: YP_WAIT });
    expect(pinsLive(k)).toBe(0);
    folioPutbackLru(k, page);
    expect(drive(path)).toBe(2);
    unpinUserPages(k, pages, 2);
  });

  it('between unpinning and pinning again somebody may come first: then it fails (2.8)', () => {
    const { k, pin, pages } = inMovable(1);
    const path = pin();
    stepTo(k, path, YP_LONGTERM_UNPINNED);
    const other = new Int32Array(1);
    expect(drive(pin(W))).toBe(1);
    other.set(pages);
    setPolicyApi(k.policy, 'longterm-drain', 'referenced');
    expect(drive(path)).toBe(-ENOMEM);
    unpinUserPages(k, other, 1);
    assertKernel(k, { quiescent: true });
  });
});

describe('references of batches — 2.8', () => {
  /** Pages in batches of this CPU, of the other one, or of mlock(), and what becomes of a long pin. */
  const outcome = (drain: LongtermDrain, where: 'own' | 'other' | 'mlock'): number | string => {
    const { k, p, hva, nr, pin } = inMovable(2, (kernel) =>
      lruConfigure(kernel, LRU_BATCH_SIZE, 2),
    );
    setPolicyApi(k.policy, 'longterm-drain', drain);
    if (where === 'mlock') {
      lruAddDrainAll(k);
      // Active already, so that being looked up does not send them to yet another batch.
      for (let i = 0; i < nr; i++) folioActivate(k, pageAt(p, hva + i * PAGE_SIZE));
      lruAddDrainAll(k);
      drive(mlock(k, p.mm, hva, nr * PAGE_SIZE));
    }
    lruSetCpu(k, where === 'own' ? 0 : 1);
    const path = pin();
    for (let spins = 0; spins < 100; spins++) {
      const step = path.next();
      if (step.done === true) return step.value;
    }
    return 'spins';
  };

  for (const [drain, own, other, locked] of [
    ['none', 'spins', 'spins', -ENOMEM],
    ['not-lru', 2, 2, -ENOMEM],
    ['referenced', 2, 2, 2],
    ['wait', 2, 2, 2],
  ] as const)
    it(`longterm-drain=${drain}: in this CPU's batch ${own}, in another's ${other}, in mlock()'s ${locked}`, () => {
      expect(outcome(drain, 'own')).toBe(own);
      expect(outcome(drain, 'other')).toBe(other);
      expect(outcome(drain, 'mlock')).toBe(locked);
    });

  it('presets: Linux drained by PG_lru until 6.16, by references since', () => {
    const { k } = inMovable(1);
    expect(k.policy.longtermDrain).toBe('referenced');
  });
});

describe('concurrent pinners — 2.8', () => {
  /** K actors that pin the same pages for a while, some for long; how many long pins failed. */
  const contend = (drain: LongtermDrain, pinners: number, seed: number): [number, number] => {
    const random = rng(seed);
    let failed = 0;
    let tried = 0;
    for (let round = 0; round < 12; round++) {
      const { k, p, hva, nr } = inMovable(2, (kernel) => lruConfigure(kernel, 8, 2));
      setPolicyApi(k.policy, 'longterm-drain', drain);
      function* actor(long: boolean): Path<void> {
        const pages = new Int32Array(nr);
        lruSetCpu(k, long ? 0 : 1);
        const n = yield* pinUserPagesFast(k, p.mm, hva, nr, long ? LT : W, pages);
        if (long) tried++;
        if (n < 0) {
          expect(n).toBe(-ENOMEM);
          failed++;
          return;
        }
        for (let i = 0; i < 4; i++) yield 1;
        unpinUserPages(k, pages, n);
      }
      const actors = Array.from({ length: pinners }, (_, i) => actor(i % 2 === 0));
      interleave(k, actors, random);
      lruAddDrainAll(k);
      assertKernel(k, { quiescent: true });
      checkStamps(p, hva, nr);
    }
    return [failed, tried];
  };

  it('break each other where nobody waits, and hardly where they wait for references', () => {
    const rates = LONGTERM_DRAINS.filter((drain) => drain !== 'none').map((drain) => {
      const [failed, tried] = contend(drain, 4, 3);
      return { drain, failed, tried };
    });
    const failedOf = (drain: string): number =>
      rates.find((rate) => rate.drain === drain)?.failed ?? -1;
    expect(rates.map(({ tried }) => tried)).toEqual([24, 24, 24]);
    expect(failedOf('referenced')).toBeGreaterThan(0);
    expect(failedOf('not-lru')).toBeGreaterThanOrEqual(failedOf('referenced'));
    expect(failedOf('wait')).toBeLessThan(failedOf('referenced') / 3);
  });

  it('one alone never fails', () => {
    for (const drain of LONGTERM_DRAINS.slice(1)) expect(contend(drain, 1, 5)[0]).toBe(0);
  });
});
