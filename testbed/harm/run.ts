/** What pinned and referenced pages harm, holder by holder: each on a host of its own, loaded alike. */
import { PAGE_SIZE } from '#emu';
import { type GupApi, type Policy, provenanceStart } from '#mm';
import { apiOf, type Holder } from './holders.ts';
import { HarmHosts, type HarmSizes, UNIT_PAGES } from './host.ts';
import {
  type CmaHarm,
  type CompactionHarm,
  type LongtermHarm,
  measureCma,
  measureCompaction,
  measureLongterm,
  measureOffline,
  type OfflineHarm,
} from './measure.ts';

/** Places where pages are held. */
const NR_UNITS = 64;

/** What one kind of holder does to a host. */
export interface HarmRow {
  holder: string;
  what: string;
  /** By which it holds, under the policy. */
  api: GupApi | '-';
  /** Pages that it holds, or maps. */
  pages: number;
  cma: CmaHarm;
  offline: OfflineHarm;
  compaction: CompactionHarm;
  longterm: LongtermHarm;
  /** CMA again, when the holder has let go. */
  cmaAfterwards: CmaHarm;
}

/** Host time of a row's measurements, in milliseconds. */
export interface HarmTimes {
  holder: string;
  loadMs: number;
  cmaMs: number;
  offlineMs: number;
  compactionMs: number;
  longtermMs: number;
}

interface HarmOptions {
  policy: Policy;
  seed: number;
  sizes: HarmSizes;
  holders: readonly Holder[];
}

export class HarmRun {
  readonly options: HarmOptions;
  readonly rows: HarmRow[];
  readonly times: HarmTimes[];
  private readonly hosts: HarmHosts;
  private readonly work: Generator<void, void, undefined>;
  private doing: string;

  constructor(options: HarmOptions) {
    this.options = options;
    this.rows = [];
    this.times = [];
    this.hosts = new HarmHosts(options.sizes, options.policy, options.seed, NR_UNITS);
    this.work = this.measureAll();
    this.doing = '';
  }

  /** Does a piece of it, some tens of milliseconds. @returns false at the end */
  step(): boolean {
    return this.work.next().done !== true;
  }

  /** Where it is, in one line. */
  status(): string {
    const { length } = this.options.holders;
    return `${Math.min(this.rows.length + 1, length)} of ${length}: ${this.doing}`;
  }

  private *measureAll(): Generator<void, void, undefined> {
    for (const holder of this.options.holders) yield* this.measure(holder);
  }

  private *measure(holder: Holder): Generator<void, void, undefined> {
    const { policy } = this.options;
    const clock = new StopWatch();
    this.doing = `${holder.name}, loading`;
    const host = yield* this.hosts.load();
    const loadMs = clock.lap();
    provenanceStart(host.k);
    holder.begin?.(host);
    const releases = host.units.map((hva, i) => holder.take(host, hva, i));
    yield;
    clock.lap();
    this.doing = `${holder.name}, compaction`;
    const compaction = yield* measureCompaction(host);
    const compactionMs = clock.lap();
    this.doing = `${holder.name}, CMA`;
    const cma = yield* measureCma(host);
    const cmaMs = clock.lap();
    this.doing = `${holder.name}, offlining`;
    const offline = measureOffline(host);
    const offlineMs = clock.lap();
    yield;
    this.doing = `${holder.name}, long-term pins`;
    const longterm = yield* measureLongterm(host);
    const longtermMs = clock.lap();
    for (const release of releases) release();
    holder.end?.(host);
    this.doing = `${holder.name}, afterwards`;
    const cmaAfterwards = yield* measureCma(host);
    this.rows.push({
      holder: holder.name,
      what: holder.what,
      api: apiOf(holder, policy),
      pages: holder.user === null ? 0 : host.units.length * UNIT_PAGES,
      cma,
      offline,
      compaction,
      longterm,
      cmaAfterwards,
    });
    this.times.push({ holder: holder.name, loadMs, cmaMs, offlineMs, compactionMs, longtermMs });
  }
}

/** Bytes that a holder holds. */
export const HELD_BYTES = NR_UNITS * UNIT_PAGES * PAGE_SIZE;

class StopWatch {
  private last: number;

  constructor() {
    this.last = performance.now();
  }

  /** Milliseconds since the last call. */
  lap(): number {
    const now = performance.now();
    const ms = now - this.last;
    this.last = now;
    return ms;
  }
}
