/** The pinned port: the DMA engine of a guest, over pages of its VMM that only pins keep in place. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE, RAM_BASE } from '#emu';
import {
  createKernel,
  drive,
  EBUSY,
  folioOf,
  folioTestDirty,
  fork,
  type Kernel,
  migrateFolio,
  mmExit,
  type MmStruct,
  munmap,
  YP_DMA_COMPLETING,
  YP_DMA_SUBMITTED,
  YP_GUP_FAST_PINNED,
} from '#mm';
import { rng } from '../../support/rng.ts';
import { Clock, runTo } from '../support/wires.ts';
import {
  attach,
  CONTROL,
  createVmm,
  DST,
  GUEST,
  guestOf,
  HEAD,
  LATENCY,
  LIST,
  pinsLive,
  registersOf,
  RING,
  ROM,
  SECOND,
  settle,
  SLOT_PAGES,
  SRC,
  start,
  STATUS,
  stepTo,
  TAIL,
  violations,
  work,
} from './vmm.ts';

const pattern = (lenBytes: number, seed = 1): Uint8Array => {
  const bytes = new Uint8Array(lenBytes);
  for (let i = 0; i < lenBytes; i++) bytes[i] = (i * 13 + (i >>> 7) + seed) & 0xff;
  return bytes;
};

/** A started engine with 64 KiB of pattern at SRC. */
const boardOf = () => {
  const board = createVmm();
  board.put(SRC, pattern(0x1_0000));
  start(board);
  return { ...board, ...registersOf(board) };
};

/** Submits what is in descriptor 0 and lets it complete. Returns its status. */
const statusOf = (board: ReturnType<typeof boardOf>): number => {
  board.write(TAIL, 1);
  settle(board, board.clock.now + 2000);
  return board.status(0);
};

const pieces = (base: number, sizes: readonly number[], stride: number) =>
  sizes.map((size, i) => [base + i * stride, size] as const);

describe('a transfer', () => {
  it('moves bytes between guest pages and leaves no pin, no reference, no lock', () => {
    const board = boardOf();
    board.describeAt(0, { src: SRC + 123, dst: DST + 4000, len: 20_000, flags: 1 });
    expect(statusOf(board)).toBe(1);
    expect(board.get(DST + 4000, 20_000)).toEqual(board.get(SRC + 123, 20_000));
    expect(board.irq.level).toBe(true);
    expect([board.port.transfers, board.port.pagesInFlight(), pinsLive(board.k)]).toEqual([
      1, 0, 0,
    ]);
    expect(violations(board.k)).toEqual([]);
  });

  it('goes through scatter-gather lists, across slots that are apart in the host', () => {
    const board = boardOf();
    const sizes = [1, 4096, 5000, 17, 900];
    const total = sizes.reduce((a, b) => a + b);
    board.put(SECOND - 300, pattern(600, 9));
    board.listAt(LIST, [[SECOND - 300, 600] as const, ...pieces(SRC, sizes, 0x2100)]);
    board.listAt(LIST + 0x1ff8, pieces(DST, [7, total + 600 - 7], 0x5001));
    board.describeAt(0, { src: LIST, dst: LIST + 0x1ff8, len: total + 600, flags: 6 });
    expect(statusOf(board)).toBe(1);
    const sent = [
      board.get(SECOND - 300, 600),
      ...sizes.map((n, i) => board.get(SRC + i * 0x2100, n)),
    ];
    const got = [...board.get(DST, 7), ...board.get(DST + 0x5001, total + 593)];
    expect(got).toEqual(sent.flatMap((bytes) => [...bytes]));
    expect(violations(board.k)).toEqual([]);
  });

  it('tells the dirty log of exactly the bytes it wrote, page by page, the status word too', () => {
    const board = boardOf();
    board.describeAt(0, { dst: DST + 4090, len: 10 });
    statusOf(board);
    expect(board.written).toEqual([
      [DST + 4090, 6],
      [DST + 4096, 4],
      [RING + 24, 4],
    ]);
    expect(board.port.bytesWritten).toBe(14);
  });

  it('makes pages present that the guest never touched: zeroes are read, bytes written', () => {
    const board = boardOf();
    const untouched = GUEST + 200 * PAGE_SIZE;
    expect(board.frameOf(untouched)).toBe(-1);
    board.describeAt(0, { src: untouched, dst: untouched + 2 * PAGE_SIZE, len: PAGE_SIZE });
    board.put(untouched + 2 * PAGE_SIZE, Uint8Array.of(1));
    expect(statusOf(board)).toBe(1);
    expect(board.get(untouched + 2 * PAGE_SIZE, 1)).toEqual(Uint8Array.of(0));
    expect(violations(board.k)).toEqual([]);
  });

  for (const latency of [0, 1, 3000])
    it(`completes exactly ${latency} instructions after the doorbell, however late it is pinned`, () => {
      const board = boardOf();
      board.write(LATENCY, latency);
      board.describeAt(0);
      board.clock.now = 1000;
      board.write(TAIL, 1);
      const pinnedAt = 1000 + Math.floor(latency / 2);
      runTo(board.clock, pinnedAt);
      work(board);
      runTo(board.clock, 1000 + latency - 1);
      if (latency > 0) expect(board.read(HEAD)).toBe(0);
      runTo(board.clock, 1000 + latency);
      expect(board.read(HEAD)).toBe(1);
    });

  it('completes as soon as it is pinned, when that is later', () => {
    const board = boardOf();
    board.write(LATENCY, 10);
    board.describeAt(0);
    board.write(TAIL, 1);
    runTo(board.clock, 500);
    expect([board.read(HEAD), board.port.pendingWork()]).toEqual([0, 1]);
    work(board);
    runTo(board.clock, 500);
    expect(board.read(HEAD)).toBe(1);
  });
});

describe('dirtying', () => {
  it('marks the folio of each page written, and of no page only read', () => {
    const board = boardOf();
    const { k } = board;
    const [source, target] = [GUEST + 0x9_0000, GUEST + 0xa_0000];
    board.describeAt(0, { src: source, dst: target, len: 64 });
    expect(statusOf(board)).toBe(1);
    board.get(source, 1);
    const dirty = [source, target].map((gpa) => folioTestDirty(k, folioOf(k, board.frameOf(gpa))));
    expect(dirty).toEqual([false, true]);
  });
});

describe('pins in flight', () => {
  const inFlight = () => {
    const board = boardOf();
    board.describeAt(0, { len: 8192 });
    board.write(TAIL, 1);
    work(board);
    return board;
  };

  it('cover source, destination and descriptor, and are reported by frame', () => {
    const board = inFlight();
    expect([board.port.transfersInFlight(), board.port.pagesInFlight()]).toEqual([1, 5]);
    expect(pinsLive(board.k)).toBe(5);
    const frames = [SRC, SRC + 4096, DST, DST + 4096, RING].map((gpa) => board.frameOf(gpa));
    expect(frames.map((frame) => board.port.isInFlight(frame))).toEqual(frames.map(() => true));
    expect(board.port.isInFlight(board.frameOf(SRC + 8192))).toBe(false);
  });

  it('keep their folios from migrating; afterwards these migrate', () => {
    const board = inFlight();
    const frame = board.frameOf(DST);
    expect(drive(migrateFolio(board.k, frame))).toBe(-EBUSY);
    settle(board, 2000);
    expect(drive(migrateFolio(board.k, board.frameOf(DST)))).toBe(0);
    expect(board.get(DST, 8192)).toEqual(board.get(SRC, 8192));
  });

  it('a fork in between does not take the bytes away from the parent', () => {
    const board = boardOf();
    board.put(GUEST + 0x8_0000, pattern(4096, 3));
    board.describeAt(0, { dst: GUEST + 0x8_0000, len: 4096 });
    board.write(TAIL, 1);
    work(board);
    const child = drive(fork(board.k, board.mm)) as MmStruct;
    settle(board, 2000);
    expect(board.get(GUEST + 0x8_0000, 4096)).toEqual(board.get(SRC, 4096));
    expect(guestOf(board.k, child, board.hvaOf).get(GUEST + 0x8_0000, 4096)).toEqual(
      pattern(4096, 3),
    );
    drive(mmExit(board.k, child));
    expect(violations(board.k)).toEqual([]);
  });

  it('keep frames alive that the VMM has unmapped: the bytes go nowhere else', () => {
    const board = inFlight();
    const frame = board.frameOf(SRC);
    expect(drive(munmap(board.k, board.mm, board.hvaOf(SRC), 8192))).toBe(0);
    expect(board.k.state.frames.refcount[frame]).toBe(1024);
    settle(board, 2000);
    expect(board.status(0)).toBe(1);
    expect(board.get(DST, 8192)).toEqual(pattern(0x1_0000).subarray(0, 8192));
    expect(board.k.state.frames.refcount[frame]).toBe(0);
    expect(violations(board.k)).toEqual([]);
  });

  it('are what holds the bytes: with migration deaf to pins, the guest never sees them', () => {
    const board = inFlight();
    board.k.sabotage.migratePinned = true;
    expect(drive(migrateFolio(board.k, board.frameOf(DST)))).toBe(0);
    settle(board, 2000);
    expect(board.status(0)).toBe(1);
    expect(board.get(DST, 4096)).toEqual(new Uint8Array(4096));
    expect(board.get(DST + 4096, 4096)).toEqual(board.get(SRC + 4096, 4096));
  });

  it('are given back by work(), after the completion', () => {
    const board = inFlight();
    runTo(board.clock, 2000);
    expect([board.read(HEAD), board.port.pagesInFlight(), pinsLive(board.k)]).toEqual([1, 0, 5]);
    expect(board.port.pendingWork()).toBe(1);
    work(board);
    expect([board.port.pendingWork(), pinsLive(board.k)]).toEqual([0, 0]);
  });
});

describe('memory that cannot be pinned: status 2, and everything is given back', () => {
  for (const { fact, d } of [
    { fact: 'source outside every slot', d: { src: 0x1000 } },
    {
      fact: 'destination runs out of its slot',
      d: { dst: SECOND + SLOT_PAGES * PAGE_SIZE - 64, len: 65 },
    },
    { fact: 'destination is read-only in the VMM', d: { dst: ROM } },
    { fact: 'an address of 2^63', d: { dst: 2 ** 63 } },
    { fact: 'a list outside every slot', d: { src: 0x1000, flags: 2 } },
  ])
    it(fact, () => {
      const board = boardOf();
      board.describeAt(0, d);
      expect(statusOf(board)).toBe(2);
      expect(board.read(STATUS)).toBe(2);
      expect(pinsLive(board.k)).toBe(0);
      expect(violations(board.k)).toEqual([]);
      board.describeAt(1);
      board.write(TAIL, 2);
      settle(board, board.clock.now + 2000);
      expect(board.status(1)).toBe(1);
    });

  it('a read-only page is a good source', () => {
    const board = boardOf();
    board.put(DST, pattern(64));
    board.describeAt(0, { src: ROM });
    expect(statusOf(board)).toBe(1);
    expect(board.get(DST, 64)).toEqual(new Uint8Array(64));
  });

  it('a ring outside every slot halts the engine, with no work left', () => {
    const board = boardOf();
    board.write(0x10, 0x1000);
    board.write(TAIL, 1);
    work(board);
    expect([board.read(STATUS), board.port.pendingWork(), pinsLive(board.k)]).toEqual([2, 0, 0]);
  });
});

describe('a reset', () => {
  it('before the submission leaves nothing to do', () => {
    const board = boardOf();
    board.describeAt(0);
    board.write(TAIL, 1);
    board.write(CONTROL, 0x8000_0000);
    expect(board.port.pendingWork()).toBe(0);
  });

  it('with a transfer in flight gives its pins back, and no byte moves', () => {
    const board = boardOf();
    board.describeAt(0);
    board.write(TAIL, 1);
    work(board);
    board.write(CONTROL, 0x8000_0000);
    settle(board, 5000);
    expect(pinsLive(board.k)).toBe(0);
    expect(board.get(DST, 64)).toEqual(new Uint8Array(64));
    expect(board.status(0)).toBe(0xdead_beef);
  });

  for (const point of [YP_GUP_FAST_PINNED, YP_DMA_SUBMITTED])
    for (const again of [false, true])
      it(`at any yield ${point} of a submission${again ? ', and a new doorbell' : ''}: nothing stays pinned`, () => {
        for (let nth = 1; ; nth++) {
          const board = boardOf();
          board.listAt(LIST, pieces(SRC, [100, 5000, 100], 0x3000));
          board.describeAt(0, { src: LIST, len: 5200, flags: 2 });
          board.write(TAIL, 1);
          const path = board.port.work();
          if (!stepTo(board.k, path, point, nth)) {
            expect(nth).toBeGreaterThan(1);
            break;
          }
          board.write(CONTROL, 0x8000_0000);
          expect(board.port.pendingWork()).toBe(0); // work() is running
          if (again) {
            start(board);
            board.describeAt(0, { len: 32 });
            board.write(TAIL, 1);
          }
          drive(path);
          settle(board, board.clock.now + 4000);
          expect(pinsLive(board.k)).toBe(0);
          expect(violations(board.k)).toEqual([]);
          expect(board.status(0)).toBe(again ? 1 : 0xdead_beef);
          expect(board.get(DST, 33)[32]).toBe(0);
        }
      });

  it('between the completion and its unpinning: the next transfer is not disturbed', () => {
    const board = boardOf();
    board.describeAt(0);
    board.write(TAIL, 1);
    work(board);
    runTo(board.clock, 2000);
    const path = board.port.work();
    expect(stepTo(board.k, path, YP_DMA_COMPLETING)).toBe(true);
    board.write(CONTROL, 0x8000_0000);
    start(board);
    board.describeAt(0, { dst: DST + 0x1000 });
    board.write(TAIL, 1);
    drive(path);
    settle(board, 6000);
    expect(board.get(DST + 0x1000, 64)).toEqual(board.get(SRC, 64));
    expect(violations(board.k)).toEqual([]);
  });
});

const ramOf = (k: Kernel): Uint8Array => k.memory.readBytes(RAM_BASE, k.memory.ramBytes);

describe('save and restore', () => {
  it('is refused while work() is suspended', () => {
    const board = boardOf();
    board.describeAt(0);
    board.write(TAIL, 1);
    const path = board.port.work();
    stepTo(board.k, path, YP_DMA_SUBMITTED);
    expect(() => board.port.save()).toThrow('in the middle of work()');
    drive(path);
    board.port.save();
  });

  for (const { when, prepare } of [
    { when: 'a submission waits', prepare: () => {} },
    { when: 'a transfer is in flight', prepare: work },
    {
      when: 'its pins wait to be given back',
      prepare: (board: ReturnType<typeof boardOf>) => {
        work(board);
        runTo(board.clock, 2000);
      },
    },
  ])
    it(`where ${when}: the rest goes as without`, () => {
      const first = boardOf();
      first.describeAt(0, { len: 9000, flags: 1 });
      first.write(TAIL, 1);
      prepare(first);
      const saved = structuredClone({
        state: first.k.state,
        mm: first.mm,
        clock: first.clock.save(),
        engine: first.engine.save(),
        port: first.port.save(),
      });
      const second = createVmm();
      second.k.memory.writeBytes(RAM_BASE, ramOf(first.k));
      const k = createKernel({
        memory: second.k.memory,
        tlb: first.k.tlb,
        policy: first.k.policy,
        state: saved.state,
      });
      const clock = new Clock();
      const board = { k, clock, ...attach(k, saved.mm, first.hvaOf, clock) };
      clock.restore(saved.clock);
      board.port.restore(saved.port);
      board.engine.restore(saved.engine);
      for (const each of [first, board]) settle(each, 3000);
      expect(first.status(0)).toBe(1);
      expect(Buffer.compare(ramOf(k), ramOf(first.k))).toBe(0);
      expect(k.state.stat).toEqual(first.k.state.stat);
      expect(board.engine.save()).toEqual(first.engine.save());
      expect(board.port.save()).toEqual(first.port.save());
    });
});

describe('hostile guests', () => {
  for (const seed of [1, 2, 3])
    it(`random descriptors, lists and resets at random yields, seed ${seed}: no pin is ever lost`, () => {
      const board = boardOf();
      const random = rng(seed);
      board.write(LATENCY, 20);
      const place = () =>
        random.pick([GUEST, SRC, DST, LIST, RING, SECOND - 700, 0, ROM, 2 ** 63]) +
        random.below(5000);
      for (let round = 0; round < 150; round++) {
        board.listAt(
          LIST,
          Array.from({ length: 1 + random.below(6) }, () => [place(), random.below(7000)] as const),
        );
        for (let i = 0; i < 8; i++)
          board.describeAt(i, {
            src: random.pick([SRC, LIST, place()]),
            dst: random.pick([DST, LIST, place()]),
            len: random.pick([1, 100, 9000, 70_000, random.u32()]),
            flags: random.pick([0, 1, 2, 4, 6]),
          });
        board.write(TAIL, board.read(HEAD) + random.below(9));
        for (let turn = 0; turn < 6; turn++) {
          if (board.port.pendingWork() > 0) {
            const path = board.port.work();
            board.k.watched = true;
            for (let left = random.below(12); left > 0; left--)
              if (path.next().done === true) break;
            board.k.watched = false;
            if (random.chance(0.2)) {
              board.write(CONTROL, 0x8000_0000);
              start(board);
              board.write(LATENCY, 20);
              board.write(TAIL, random.below(9));
            }
            drive(path);
          }
          runTo(board.clock, board.clock.now + random.below(30));
        }
        if (round % 30 !== 29) continue;
        board.write(CONTROL, 0x8000_0000);
        settle(board, board.clock.now + 100);
        expect(pinsLive(board.k)).toBe(0);
        expect(violations(board.k)).toEqual([]);
        start(board);
        board.write(LATENCY, 20);
      }
    });
});
