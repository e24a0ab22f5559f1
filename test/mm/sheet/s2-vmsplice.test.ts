/**
 * S2: vmsplice() to a pipe takes FOLL_GET pages. Anybody may hold a reference for ever, which breaks
 * CMA and memory offline and hurts compaction; it should be FOLL_PIN | FOLL_LONGTERM. Facts sheet 0,
 * 1.8, 1.11, 2.9.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  cmaAlloc,
  cmaDefaultArea,
  compactZone,
  createMoveReport,
  createPipe,
  createPolicy,
  drive,
  EBUSY,
  GFP_KERNEL,
  GFP_MOVABLE,
  type HostProcess,
  mmExit,
  offlinePages,
  pageZoneIndex,
  type Pipe,
  PIPE_BUFFERS,
  type Policy,
  pipeRead,
  setPolicyApi,
  vmspliceToPipe,
  ZONE_DMA32,
  ZONE_MOVABLE,
} from '#mm';
import { createProcess, exit, mapAnon, pageAt, type World } from '../support.ts';
import {
  assertAtRest,
  BLOCK,
  createZonedWorld,
  giveAll,
  MIB,
  stamp,
  takeAll,
} from '../zone-world.ts';

/** A process with `nrPages` pages, the middle one of which is in a pipe that nobody reads. */
const held = (
  w: World,
  policy: Policy,
  nrPages: number,
  fill = (): void => {},
): { p: HostProcess; hva: number; pipe: Pipe; before: number; at: number } => {
  w.k.policy = policy;
  const p = createProcess(w);
  const hva = mapAnon(p, nrPages);
  for (let i = 0; i < nrPages; i++) p.load32(hva + i * PAGE_SIZE);
  fill();
  stamp(p, hva, nrPages);
  const at = hva + (nrPages >> 1) * PAGE_SIZE;
  const before = pageAt(p, at);
  const pipe = createPipe(w.k);
  expect(drive(vmspliceToPipe(w.k, p.mm, pipe, at, PAGE_SIZE, 0))).toBe(PAGE_SIZE);
  return { p, hva, pipe, before, at };
};

/** Under linux-7 the page is where it was; under target it has left for good memory that must be able to move. */
const POLICIES = [
  { policy: 'linux-7', free: false, says: 'fails, and names it' },
  { policy: 'target', free: true, says: 'works: the page has left before it was pinned' },
] as const;

describe('S2: a page in a pipe that nobody reads', () => {
  for (const { policy, free, says } of POLICIES) {
    it(`under ${policy}, CMA ${says}`, () => {
      const w = createZonedWorld(32 * MIB, { cmaBytes: 8 * MIB });
      const area = cmaDefaultArea(w.k);
      if (area === null) throw new Error('no CMA');
      const others: number[] = [];
      const { p, pipe } = held(w, createPolicy(policy), area.nrPages, () => {
        // What is not CMA is in use for a moment, and the process's pages come from CMA.
        others.push(...takeAll(w.k, GFP_KERNEL).slice(64));
        giveAll(w.k, others.splice(0, 64));
      });
      giveAll(w.k, others);
      const report = createMoveReport();
      const got = drive(cmaAlloc(w.k, area.nrPages, 1, report));
      expect(got).toBe(free ? area.basePage : -EBUSY);
      expect(report.held.map(({ holders }) => holders)).toEqual(
        free ? [] : [[`vmsplice (pipe ${pipe.id})`]],
      );
      exit(p);
    });

    it(`under ${policy}, memory offline ${says}`, () => {
      const w = createZonedWorld(256 * MIB, { movableBytes: 128 * MIB });
      const { p, pipe, before, at } = held(w, createPolicy(policy), 64);
      expect(pageZoneIndex(w.k, before)).toBe(ZONE_MOVABLE);
      const first = w.k.state.frames.nrPages / 2;
      const report = drive(offlinePages(w.k, first, first, { maxRounds: 20 }));
      expect(report.error).toBe(free ? 0 : -EBUSY);
      expect(report.held.map(({ page, holders }) => [page, ...holders])).toEqual(
        free ? [] : [[pageAt(p, at), `vmsplice (pipe ${pipe.id})`]],
      );
    });
  }

  for (const { policy, whole } of [
    { policy: 'linux-7', whole: false },
    { policy: 'linux-7 with vmsplice=copy', whole: true },
  ] as const)
    it(`under ${policy}, compaction makes ${whole ? 'its block whole' : 'no whole block where it is'}`, () => {
      const w = createZonedWorld(32 * MIB);
      if (whole) expect(setPolicyApi(w.k.policy, 'vmsplice', 'copy')).toBeNull();
      const { p, before } = held(w, w.k.policy, 1536);
      // What else there is, is in use but for every other page.
      const others = takeAll(w.k, GFP_MOVABLE);
      giveAll(w.k, others.splice(0, 64));
      giveAll(
        w.k,
        others.filter((page) => page % 2 === 1),
      );
      const zone = w.k.state.zones[ZONE_DMA32];
      if (zone === undefined) throw new Error('no zone');
      const report = drive(compactZone(w.k, zone, -1));
      expect(report.moved).toBeGreaterThan(1000);
      const left = report.held.map(({ page }) => page);
      expect(left).toEqual(whole ? [] : [before]);
      const block = before - (before % BLOCK);
      const used = Array.from({ length: BLOCK }, (_, i) => block + i).filter(
        (page) => w.k.state.frames.refcount[page] !== 0,
      );
      expect(used).toEqual(whole ? [] : [before]);
      exit(p);
    });
});

describe('S2: anybody may', () => {
  it('no RLIMIT_MEMLOCK bounds what pipes hold, after the process is gone too', () => {
    const w = createZonedWorld(32 * MIB);
    const p = createProcess(w);
    p.mm.rlimitMemlock = 0;
    const nrPages = 4 * PIPE_BUFFERS;
    const hva = mapAnon(p, nrPages);
    stamp(p, hva, nrPages);
    const pages = Array.from({ length: nrPages }, (_, i) => pageAt(p, hva + i * PAGE_SIZE));
    const pipes = [0, 1, 2, 3].map(() => createPipe(w.k));
    const each = PIPE_BUFFERS * PAGE_SIZE;
    for (const [i, pipe] of pipes.entries())
      expect(drive(vmspliceToPipe(w.k, p.mm, pipe, hva + i * each, each, 0))).toBe(each);
    expect([p.mm.lockedVm, p.mm.pinnedVm]).toEqual([0, 0]);
    drive(mmExit(w.k, p.mm));
    const { refcount } = w.k.state.frames;
    expect(pages.filter((page) => refcount[page] === 1)).toHaveLength(nrPages);
    for (const pipe of pipes) expect(pipeRead(w.k, pipe, new Uint8Array(each))).toBe(each);
    expect(pages.filter((page) => refcount[page] !== 0)).toEqual([]);
    assertAtRest(w.k);
  });
});
