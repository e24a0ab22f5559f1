/**
 * Suite `gup`, memory in one piece: CMA and a memory block that goes offline, on a host of 2 GiB with
 * two thirds of it in use; beside copying as many pages as had to move.
 */
import { PAGE_SIZE } from '#emu';
import { cmaAlloc, createMoveReport, createPolicy, drive } from '#mm';
import { type HarmHost, HarmHosts, harmSizes } from '../harm/host.ts';
import { measureOffline } from '../harm/measure.ts';
import type { Samples } from './row.ts';

const MIB = 2 ** 20;
const RAM_BYTES = 2048 * MIB;
const CMA_BYTES = 512 * MIB;
/** Rounds before the first that counts. */
const WARM_UP = 1;
const BARE_COPY = 'bare copy';

/** Milliseconds, and pages that were moved meanwhile. */
interface Timed {
  ms: number;
  moved: number;
}

const timed = (work: () => number): Timed => {
  const start = performance.now();
  const moved = work();
  return { ms: performance.now() - start, moved };
};

/** All of CMA in one piece. */
const allocAll = ({ k }: HarmHost): number => {
  const report = createMoveReport();
  const page = drive(cmaAlloc(k, CMA_BYTES / PAGE_SIZE, 1, report));
  if (page < 0) throw new Error(`cma_alloc: ${page}`);
  return report.moved;
};

const offlineBlock = (host: HarmHost): number => {
  const { offline, moved } = measureOffline(host);
  if (!offline) throw new Error('a block of memory does not go offline');
  return moved;
};

/** Milliseconds for copying so many pages in RAM. */
const copyMs = (buffer: Uint8Array, pages: number): number => {
  const half = buffer.length / 2;
  const start = performance.now();
  for (let i = 0; i < pages; i++) {
    const at = (i * PAGE_SIZE) % half;
    buffer.copyWithin(half + at, at, at + PAGE_SIZE);
  }
  return performance.now() - start;
};

const sample = (name: string): Samples => ({
  suite: 'gup',
  name,
  unit: 'ms',
  better: 'lower',
  samples: [],
  peers: { [BARE_COPY]: [] },
});

/** Rows of CMA and of offlining. @param rounds samples of each figure, each on a host of its own */
export const contigSamples = (rounds: number, announce: (what: string) => void): Samples[] => {
  const hosts = new HarmHosts(harmSizes(RAM_BYTES), createPolicy('linux-7'), 1, 1);
  const offline = sample('offline, a block of 128 MiB of a loaded host');
  const cma = sample('CMA allocation of 512 MiB, loaded host');
  const buffer = new Uint8Array(64 * MIB);
  const note = (row: Samples, { ms, moved }: Timed): void => {
    row.samples.push(ms);
    row.peers[BARE_COPY]?.push(copyMs(buffer, moved));
  };
  for (let round = -WARM_UP; round < rounds; round++) {
    announce('gup: loading 2 GiB');
    const host = loaded(hosts);
    announce('gup: CMA and offlining');
    const block = timed(() => offlineBlock(host));
    const area = timed(() => allocAll(host));
    if (round < 0) continue;
    note(offline, block);
    note(cma, area);
  }
  return [cma, offline];
};

const loaded = (hosts: HarmHosts): HarmHost => {
  const loading = hosts.load();
  for (;;) {
    const step = loading.next();
    if (step.done === true) return step.value;
  }
};
