/**
 * The IOMMU against a plain reading of its specification, over random directories and tables: the same
 * address or the same fault for every request, the same bytes of memory after it, the same record.
 */
import { describe, expect, it } from 'vitest';
import { createAtsCompletion } from '#devices';
import { DMA_FAULT, PTE_R, PTE_W, PTE_X, RAM_BASE, RAM_OFFSET } from '#emu';
import { type Rng, rng } from '../../support/rng.ts';
import { type PlainDdtp, PlainIommu, type PlainRequest } from './plain-iommu.ts';
import {
  type Board,
  boardOf,
  DDTP,
  iodirDdt,
  iotinvalGvma,
  iotinvalVma,
  ppnOf,
  ROOT,
} from './support.ts';
import { DEVICES, NR_PAGES, PROCESSES, randomIova, randomWorld } from './world.ts';

const BYTES = NR_PAGES * 4096;
const MRIF = -3;
/** What the tables' own walks change: everything behind the rings. */
const TABLES = ROOT - RAM_BASE;

const NEEDS = { r: PTE_R, w: PTE_W, x: PTE_X } as const;
const TTYPS = { untranslated: { r: 2, w: 3, x: 1 }, translated: { r: 6, w: 7, x: 5 } } as const;

const randomRequest = (random: Rng, devices: readonly number[]): PlainRequest => {
  const pid = random.pick(PROCESSES);
  return {
    did: BigInt(random.pick(random.chance(0.95) ? devices : DEVICES)),
    pid: pid < 0 ? undefined : BigInt(pid),
    priv: random.chance(0.3),
    iova: randomIova(random),
    need: random.pick(['r', 'w', 'x', 'r', 'w'] as const),
    kind: random.pick(['untranslated', 'untranslated', 'translated', 'ats'] as const),
  };
};

interface Pair {
  devices: readonly number[];
  board: Board;
  plain: PlainIommu;
  same(): boolean;
  /** Tables have changed since settle(). */
  changed(): boolean;
  /** The plain model sees the rings as they are. */
  sync(): void;
  /** Invalidates everything, if tables have changed. */
  settle(): void;
}

const pairOf = (random: Rng, extended: boolean): Pair => {
  const board = boardOf({ ramBytes: BYTES, extendedFormat: extended });
  const world = randomWorld(random, extended);
  for (const [pa, word] of world.words) board.put(pa, word);
  board.set64(DDTP, 0n);
  board.set64(DDTP, (ppnOf(ROOT) << 10n) | BigInt(1 + world.levels));
  const copy = board.memory.u8.slice(RAM_OFFSET, RAM_OFFSET + BYTES);
  const words = new DataView(copy.buffer);
  const inside = (pa: bigint): boolean =>
    pa >= BigInt(RAM_BASE) && pa + 8n <= BigInt(RAM_BASE + BYTES);
  let changed = false;
  const ddtp: PlainDdtp = { mode: 1 + world.levels, ppn: ppnOf(ROOT), extended };
  const plain = new PlainIommu(
    {
      read: (pa) =>
        inside(pa) ? words.getBigUint64(Number(pa - BigInt(RAM_BASE)), true) : undefined,
      write: (pa, value) => {
        words.setBigUint64(Number(pa - BigInt(RAM_BASE)), value, true);
        changed = true;
      },
    },
    ddtp,
  );
  const ours = board.memory.u8.subarray(RAM_OFFSET + TABLES, RAM_OFFSET + BYTES);
  const { devices } = world;
  const rings = board.memory.u8.subarray(RAM_OFFSET, RAM_OFFSET + TABLES);
  // A pointer that was spoiled may lead into the rings, which only one of the two writes.
  const sync = (): void => copy.set(rings);
  const settle = (): void => {
    // A and D have been set in a word that may be something else to another walk.
    if (changed) board.command(iodirDdt(), iotinvalVma(), iotinvalGvma());
    changed = false;
  };
  return {
    board,
    plain,
    devices,
    changed: () => changed,
    sync,
    settle,
    same: () => Buffer.compare(ours, copy.subarray(TABLES)) === 0,
  };
};

/** One untranslated or translated request. */
const compareRequest = ({ board, plain }: Pair, request: PlainRequest): string => {
  const expected = plain.translate(request);
  if (request.kind === 'ats') throw new Error('not this way');
  const ttyp = TTYPS[request.kind][request.need];
  const pid = request.pid === undefined ? -1 : Number(request.pid);
  const spa = board.iommu.request(
    Number(request.did),
    pid,
    request.priv,
    Number(request.iova),
    NEEDS[request.need],
    ttyp,
  );
  const faults = board.faults();
  if (expected.kind === 'ok') {
    expect({ spa: BigInt(spa), faults }).toEqual({ spa: BigInt(Number(expected.spa)), faults: [] });
  } else if (expected.kind === 'mrif') expect({ spa, faults }).toEqual({ spa: MRIF, faults: [] });
  else {
    const { cause, iotval2, dtf } = expected;
    const record = {
      cause,
      pid: request.pid === undefined ? undefined : pid,
      priv: request.pid !== undefined && request.priv,
      ttyp,
      did: Number(request.did),
      iotval: request.iova,
      iotval2,
    };
    const quiet = dtf && !(cause >= 256 && cause <= 259);
    expect({ spa, faults }).toEqual({ spa: DMA_FAULT, faults: quiet ? [] : [record] });
  }
  return expected.kind === 'fault' ? String(expected.cause) : expected.kind;
};

const NO_PERMISSION = [12, 13, 15, 20, 21, 23, 262, 266];

/** A translation request of a device that writes, and perhaps executes. */
const compareAts = ({ board, plain, changed }: Pair, request: PlainRequest): string => {
  const completion = createAtsCompletion();
  const exec = request.need === 'x';
  const noWrite = request.need === 'r';
  const read = plain.translate({ ...request, need: 'r' });
  const pid = request.pid === undefined ? -1 : Number(request.pid);
  const common = { deviceId: Number(request.did), processId: pid, iova: Number(request.iova) };
  board.iommu.atsRequest({ ...common, supervisor: request.priv, exec, noWrite }, completion);
  const nrFaults = board.faults().length;
  if (read.kind === 'fault') {
    const unsupported = read.cause >= 256 && read.cause <= 260;
    const status = NO_PERMISSION.includes(read.cause) ? 0 : unsupported ? 1 : 2;
    const quiet = status === 0 || (read.dtf && !(read.cause >= 256 && read.cause <= 259));
    expect(completion).toMatchObject({ status, read: false, write: false, exec: false });
    expect(nrFaults).toBe(quiet ? 0 : 1);
    return `ats ${read.cause}`;
  }
  expect(nrFaults).toBe(0);
  if (read.kind === 'mrif') {
    expect(completion).toMatchObject({ read: true, write: true, untranslatedOnly: true });
    return 'ats mrif';
  }
  const write = noWrite ? false : plain.translate({ ...request, need: 'w' }).kind === 'ok';
  const fetch = exec ? plain.translate({ ...request, need: 'x' }).kind === 'ok' : false;
  // Where A was set in a table that other walks use as well, the IOMMU may go by what it knew before.
  expect(completion).toMatchObject({ status: 0, read: true });
  if (!changed()) expect(completion).toMatchObject({ write, exec: fetch });
  const inside = Number(request.iova) - completion.iova;
  expect(inside).toBeGreaterThanOrEqual(0);
  expect(inside).toBeLessThan(completion.lenBytes);
  return 'ats ok';
};

describe('RISC-V IOMMU 1.0: random directories and tables, in lockstep with a plain model', () => {
  const seen = new Map<string, number>();
  for (const extended of [true, false])
    it(`gives the same answers over 40 worlds, ${extended ? 'extended' : 'base'} format`, () => {
      for (let seed = 1; seed <= 40; seed++) {
        const random = rng(seed * 2 + (extended ? 1 : 0));
        const pair = pairOf(random, extended);
        for (let i = 0; i < 250; i++) {
          const request = randomRequest(random, pair.devices);
          pair.sync();
          const kind =
            request.kind === 'ats' ? compareAts(pair, request) : compareRequest(pair, request);
          seen.set(kind, (seen.get(kind) ?? 0) + 1);
          expect(pair.same(), `seed ${seed} request ${i}`).toBe(true);
          pair.settle();
        }
      }
    });

  it('has met every outcome that tables can bring about', () => {
    const wanted = [1, 5, 7, 12, 13, 15, 20, 21, 23, 257, 258, 259, 260, 262, 263, 265, 266, 267];
    const missing = ['ok', 'mrif', 'ats ok', ...wanted.map(String)].filter((k) => !seen.has(k));
    expect(missing).toEqual([]);
  });
});
