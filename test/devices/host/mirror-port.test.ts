/** The mirror port: a device that looks at guest memory through notifiers, and holds nothing of it. */
import { describe, expect, it } from 'vitest';
import { MirrorPort } from '#devices/host';
import { DMA_FAULT, DMA_OK, DMA_WAIT, PAGE_SIZE } from '#emu';
import {
  createPolicy,
  drive,
  folioOf,
  folioRefCount,
  folioTestDirty,
  type Kernel,
  migrateFolio,
  type MmStruct,
  mmExit,
  munmap,
  YP_NOTIFIER_START,
  YP_SECONDARY_PFN,
  YP_WAIT,
} from '#mm';
import { rng } from '../../support/rng.ts';
import { createVmm, GUEST, pinsLive, ROM, SECOND, SLOT_PAGES, stepTo, violations } from './vmm.ts';

/** A port beside the DMA engine's; `told` counts calls of its listener. */
const withMirror = () => {
  const board = createVmm();
  return { ...board, ...mirrorOf(board.k, board.mm, board.hvaOf) };
};

const mirrorOf = (k: Kernel, mm: MmStruct, hvaOf: (gpa: number) => number) => {
  const dirtied: [number, number][] = [];
  const mirror = new MirrorPort({
    kernel: k,
    mm,
    name: 'guest0 ring',
    hvaOf,
    onWritten: (gpa, lenBytes) => dirtied.push([gpa, lenBytes]),
  });
  const calls = { told: 0 };
  mirror.onReady(() => calls.told++);
  return { mirror, dirtied, calls };
};

const pump = (mirror: MirrorPort): void => {
  if (mirror.pendingWork() > 0) drive(mirror.work());
};

/** Reads as a device does: again whenever it is told to. */
const readAll = (mirror: MirrorPort, gpa: number, lenBytes: number): Uint8Array | number => {
  const bytes = new Uint8Array(lenBytes);
  for (let tries = 0; tries < 10; tries++) {
    const outcome = mirror.read(gpa, bytes, 0, lenBytes);
    if (outcome !== DMA_WAIT) return outcome === DMA_OK ? bytes : outcome;
    pump(mirror);
  }
  throw new Error('the read never ends');
};

const writeAll = (mirror: MirrorPort, gpa: number, bytes: Uint8Array): number => {
  for (let tries = 0; tries < 10; tries++) {
    const outcome = mirror.write(gpa, bytes, 0, bytes.length);
    if (outcome !== DMA_WAIT) return outcome;
    pump(mirror);
  }
  throw new Error('the write never ends');
};

describe('a page that nobody has looked up', () => {
  it('is waited for; work() faults it in and tells the device', () => {
    const { mirror, put, calls } = withMirror();
    put(GUEST + 0x2000, Uint8Array.of(1, 2, 3, 4));
    const into = new Uint8Array(6);
    expect(mirror.read(GUEST + 0x2000, into, 1, 4)).toBe(DMA_WAIT);
    expect(mirror.pendingWork()).toBe(1);
    pump(mirror);
    expect(calls.told).toBe(1);
    expect(mirror.read(GUEST + 0x2000, into, 1, 4)).toBe(DMA_OK);
    expect([...into]).toEqual([0, 1, 2, 3, 4, 0]);
    expect(mirror.pendingWork()).toBe(0);
  });

  it('of an access over several, all are asked for at once', () => {
    const { mirror, put } = withMirror();
    const bytes = Uint8Array.from({ length: 3 * PAGE_SIZE }, (_, i) => i % 251);
    put(GUEST + 0x800, bytes);
    expect(mirror.read(GUEST + 0x800, new Uint8Array(bytes.length), 0, bytes.length)).toBe(
      DMA_WAIT,
    );
    expect(mirror.pendingWork()).toBe(4);
    expect(readAll(mirror, GUEST + 0x800, bytes.length)).toEqual(bytes);
  });

  it('across two slots that are apart in the host, each byte comes from its own', () => {
    const { mirror, put, get } = withMirror();
    put(SECOND - 2, Uint8Array.of(1, 2, 3, 4));
    expect(readAll(mirror, SECOND - 2, 4)).toEqual(Uint8Array.of(1, 2, 3, 4));
    expect(writeAll(mirror, SECOND - 1, Uint8Array.of(8, 9))).toBe(DMA_OK);
    expect(get(SECOND - 2, 4)).toEqual(Uint8Array.of(1, 8, 9, 4));
  });

  it('is a fault where the guest has no memory, or the host lets nobody write', () => {
    const { mirror, calls } = withMirror();
    const one = new Uint8Array(1);
    expect(mirror.read(0x1000, one, 0, 1)).toBe(DMA_FAULT);
    expect(mirror.read(GUEST + 2 * SLOT_PAGES * PAGE_SIZE - 1, new Uint8Array(2), 0, 2)).toBe(
      DMA_FAULT,
    );
    pump(mirror);
    // Whether the page can be written is known once it has been looked up.
    const outcomes: number[] = [];
    mirror.onReady(() => outcomes.push(mirror.write(ROM, one, 0, 1)));
    expect(mirror.write(ROM, one, 0, 1)).toBe(DMA_WAIT);
    pump(mirror);
    expect(outcomes).toEqual([DMA_FAULT]);
    expect(calls.told).toBe(2);
    expect(readAll(mirror, ROM, 1)).toEqual(Uint8Array.of(0));
  });
});

describe('a page that has been looked up', () => {
  it('has neither a pin nor a reference', () => {
    const { k, mirror, put, frameOf } = withMirror();
    put(GUEST, Uint8Array.of(7));
    const before = folioRefCount(k, folioOf(k, frameOf(GUEST)));
    readAll(mirror, GUEST, 1);
    expect(mirror.nrEntries).toBe(1);
    expect(folioRefCount(k, folioOf(k, frameOf(GUEST)))).toBe(before);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('is migrated all the same, and looked up again', () => {
    const { k, mirror, put, get, frameOf } = withMirror();
    put(GUEST, Uint8Array.of(7));
    writeAll(mirror, GUEST + 1, Uint8Array.of(8));
    const old = frameOf(GUEST);
    expect(drive(migrateFolio(k, folioOf(k, old)))).toBe(0);
    expect(mirror.nrEntries).toBe(0);
    expect(mirror.invalidations).toBe(1);
    expect(writeAll(mirror, GUEST + 2, Uint8Array.of(9))).toBe(DMA_OK);
    expect(frameOf(GUEST)).not.toBe(old);
    expect(get(GUEST, 3)).toEqual(Uint8Array.of(7, 8, 9));
  });

  it('for reading does not make the folio dirty; for writing does, and is in the dirty log', () => {
    const { k, mirror, dirtied, frameOf } = withMirror();
    readAll(mirror, SECOND, 1);
    const clean = folioTestDirty(k, folioOf(k, frameOf(SECOND)));
    writeAll(mirror, SECOND + 5, Uint8Array.of(1, 2));
    expect([clean, folioTestDirty(k, folioOf(k, frameOf(SECOND)))]).toEqual([false, true]);
    expect(dirtied).toEqual([[SECOND + 5, 2]]);
  });

  it('of zeroes, for writing, becomes one of its own', () => {
    const { k, mirror, get } = withMirror();
    expect(readAll(mirror, GUEST, 4)).toEqual(new Uint8Array(4));
    expect(writeAll(mirror, GUEST, Uint8Array.of(5))).toBe(DMA_OK);
    expect(get(GUEST, 2)).toEqual(Uint8Array.of(5, 0));
    expect(get(GUEST + PAGE_SIZE, 1)).toEqual(Uint8Array.of(0));
    expect(violations(k)).toEqual([]);
  });

  it('has atomics, and gives its offset for the rest of the page', () => {
    const { k, mirror, put, get } = withMirror();
    put(GUEST + 8, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    expect(mirror.atomicAdd32(GUEST + 8, 2)).toBeUndefined();
    pump(mirror);
    expect(mirror.atomicAdd32(GUEST + 8, 2)).toBe(0xffff_ffff);
    expect(get(GUEST + 8, 4)).toEqual(Uint8Array.of(1, 0, 0, 0));
    expect(k.memory.u8[mirror.translate(GUEST + 8, false)]).toBe(1);
    expect(() => mirror.atomicAdd32(GUEST + 9, 1)).toThrow(RangeError);
  });
});

describe('an invalidation', () => {
  it('between look-up and entering makes work() look again, where no reference is in its way', () => {
    const { k, mirror, put, frameOf } = withMirror();
    k.policy = createPolicy('target');
    put(GUEST, Uint8Array.of(7));
    mirror.read(GUEST, new Uint8Array(1), 0, 1);
    const work = mirror.work();
    expect(stepTo(k, work, YP_SECONDARY_PFN)).toBe(true);
    const old = frameOf(GUEST);
    drive(migrateFolio(k, folioOf(k, old)));
    drive(work);
    expect(frameOf(GUEST)).not.toBe(old);
    expect(mirror.translate(GUEST, false)).toBe(k.memory.pageOffset(frameOf(GUEST)));
    expect(violations(k)).toEqual([]);
  });

  it('that is open is waited for: nothing is entered meanwhile', () => {
    const { k, mm, mirror, put, hvaOf } = withMirror();
    put(GUEST, Uint8Array.of(7));
    k.watched = true;
    const range = munmap(k, mm, hvaOf(GUEST), PAGE_SIZE);
    for (let step = range.next(); step.value !== YP_NOTIFIER_START; step = range.next())
      if (step.done === true) throw new Error('munmap() told nobody');
    mirror.read(GUEST, new Uint8Array(1), 0, 1);
    const work = mirror.work();
    let waits = 0;
    for (let i = 0; i < 50; i++) if (work.next().value === YP_WAIT) waits++;
    expect(waits).toBeGreaterThan(0);
    expect(mirror.nrEntries).toBe(0);
    k.watched = false;
    drive(range);
    const outcomes: number[] = [];
    mirror.onReady(() => outcomes.push(mirror.read(GUEST, new Uint8Array(1), 0, 1)));
    drive(work);
    expect(outcomes).toEqual([DMA_FAULT]);
  });

  it('of the whole address space ends the port', () => {
    const { k, mm, mirror } = withMirror();
    readAll(mirror, GUEST, 1);
    mirror.read(SECOND, new Uint8Array(1), 0, 1);
    drive(mmExit(k, mm));
    expect(mirror.nrEntries).toBe(0);
    expect(mirror.pendingWork()).toBe(0);
    expect(mirror.read(GUEST, new Uint8Array(1), 0, 1)).toBe(DMA_FAULT);
    mirror.close();
    expect(violations(k)).toEqual([]);
  });
});

describe('a port that is closed', () => {
  it('in the middle of a look-up enters nothing, and leaves the address space', () => {
    const { k, mm, mirror } = withMirror();
    mirror.read(GUEST, new Uint8Array(1), 0, 1);
    const work = mirror.work();
    expect(stepTo(k, work, YP_SECONDARY_PFN)).toBe(true);
    mirror.close();
    drive(work);
    expect(mirror.nrEntries).toBe(0);
    expect(mm.notifiers).toEqual([]);
    expect(violations(k)).toEqual([]);
  });
});

describe('aging', () => {
  it('a page that a device looks at is young; clearing it takes that away, once', () => {
    const { k, mm, mirror, hvaOf } = withMirror();
    readAll(mirror, GUEST, 1);
    const { ops } = mm.notifiers[0]!;
    const { testYoung, clearYoung } = k.notifierOps.get(ops)!;
    const hva = hvaOf(GUEST);
    expect(testYoung?.(0, mm, hva)).toBe(true);
    expect(testYoung?.(0, mm, hva + PAGE_SIZE)).toBe(false);
    expect(clearYoung?.(0, mm, hva, hva + PAGE_SIZE)).toBe(true);
    expect(clearYoung?.(0, mm, hva, hva + PAGE_SIZE)).toBe(false);
    readAll(mirror, GUEST, 1);
    expect(testYoung?.(0, mm, hva)).toBe(true);
  });
});

describe('a saved port', () => {
  it('goes on where it was: the same entries, the same pages waited for, no second subscription', () => {
    const { k, mm, hvaOf, mirror, put } = withMirror();
    put(GUEST, Uint8Array.of(7));
    readAll(mirror, GUEST, 1);
    mirror.read(SECOND, new Uint8Array(1), 0, 1);
    const state = structuredClone(mirror.save());
    const again = mirrorOf(k, mm, hvaOf);
    again.mirror.restore(state);
    expect(mm.notifiers.length).toBe(1);
    expect(again.mirror.read(GUEST, new Uint8Array(1), 0, 1)).toBe(DMA_OK);
    expect(again.mirror.pendingWork()).toBe(1);
    expect(again.mirror.save()).toEqual(state);
  });

  it('cannot be saved while it looks a page up', () => {
    const { k, mirror } = withMirror();
    mirror.read(GUEST, new Uint8Array(1), 0, 1);
    const work = mirror.work();
    stepTo(k, work, YP_SECONDARY_PFN);
    expect(() => mirror.save()).toThrow('in the middle');
  });
});

describe('random accesses while the pages are moved', () => {
  for (const seed of [1, 2, 3, 4])
    it(`seed ${seed}: every byte is what a plain array has`, () => {
      const random = rng(seed);
      const { k, mirror, get, frameOf } = withMirror();
      const plain = new Uint8Array(8 * PAGE_SIZE);
      const base = SECOND - 4 * PAGE_SIZE;
      for (let i = 0; i < 400; i++) {
        const at = random.below(plain.length - 64);
        const lenBytes = 1 + random.below(63);
        if (random.chance(0.3)) {
          const frame = frameOf(base + at);
          if (frame >= 0) drive(migrateFolio(k, folioOf(k, frame)));
        } else if (random.chance(0.5)) {
          const bytes = Uint8Array.from({ length: lenBytes }, () => random.below(256));
          expect(writeAll(mirror, base + at, bytes)).toBe(DMA_OK);
          plain.set(bytes, at);
        } else {
          expect(readAll(mirror, base + at, lenBytes)).toEqual(plain.slice(at, at + lenBytes));
        }
      }
      expect(get(base, plain.length)).toEqual(plain);
      expect(violations(k)).toEqual([]);
    });
});
