/**
 * What can be left of a guest's persistent memory at one moment of a run: of an NVDIMM by cache lines,
 * of the file behind virtio-pmem by blocks of the disk that it is on.
 */
import { PERSIST_LINE_BYTES, PersistDomain } from '#emu';
import type { BlockDevice } from '#mm';
import type { HostMachine } from '../machine/host.ts';
import type { GuestPart } from '../machine/part.ts';
import type { CrashChoices } from './choices.ts';
import {
  type BadImage,
  enumerateImages,
  type Enumeration,
  type Judge,
  sampleImage,
  shrinkBadImage,
} from './enumerate.ts';

/** A persistent memory of a running guest. */
export interface CrashSource {
  /** Changes whenever what a loss of power can leave may have changed. */
  readonly moment: number;
  /** Where it is at the moment, in words, where nobody tells of its events. */
  describe(): string;
  /**
   * Judges everything that power lost now can leave, or so many images at random where that is more.
   * @param below uniform in [0, bound)
   */
  judge(judge: Judge, most: number, below: (bound: number) => number): Enumeration;
  /** The bad image that differs least from nothing being lost. */
  shrink(judge: Judge, bad: BadImage): BadImage;
}

/** The domain of a guest's NVDIMM as it is at the moment. */
class DomainChoices implements CrashChoices {
  readonly sizeBytes: number;
  readonly unitBytes: number;
  private readonly domain: PersistDomain;

  constructor(domain: PersistDomain) {
    this.domain = domain;
    this.sizeBytes = domain.lenBytes;
    this.unitBytes = PERSIST_LINE_BYTES;
  }

  states(unit: number): number {
    return this.domain.choicesOf(unit);
  }

  bytes(unit: number, state: number): Uint8Array {
    return this.domain.lineAfter(unit, state);
  }
}

/** All that can be told apart, or a sample of it. */
const judgeChoices = (
  choices: CrashChoices,
  judge: Judge,
  most: number,
  below: (bound: number) => number,
): Enumeration => {
  const all = enumerateImages(choices, judge, most);
  if (all.complete) return all;
  // Too many: the first ones differ in what is read last alone, so that chance does better.
  const sample: Enumeration = { images: 0, complete: false, bad: [] };
  for (; sample.images < most; sample.images++) {
    const bad = sampleImage(choices, judge, below);
    if (bad !== null) sample.bad.push(bad);
  }
  return { images: all.images + sample.images, complete: false, bad: [...all.bad, ...sample.bad] };
};

export const nvdimmSource = (domain: PersistDomain): CrashSource => {
  const choices = new DomainChoices(domain);
  return {
    get moment() {
      return domain.events;
    },
    describe: () => `${domain.events} events`,
    judge: (judge, most, below) => judgeChoices(choices, judge, most, below),
    shrink: (judge, bad) => shrinkBadImage(choices, judge, bad),
  };
};

/** The persistence domain of a machine's NVDIMM, or undefined. */
export const domainOf = (machine: HostMachine): PersistDomain | undefined =>
  machine.memory.storeWatchers.find((watcher) => watcher instanceof PersistDomain);

/** The disk behind a guest's virtio-pmem, or undefined. */
export const pmemDiskOf = (machine: HostMachine): BlockDevice | undefined =>
  [...machine.k.state.blockDevices.values()].find(({ name }) => name.includes('virtio-pmem'));

/** Of the file behind virtio-pmem: each block of the disk's volatile cache has been written or has not. */
export const fileSource = (dev: BlockDevice, part: GuestPart): CrashSource => {
  const judgeKept = (judge: Judge, kept: ReadonlySet<number>): string | null => {
    const bytes = part.powerFail?.((block) => kept.has(block));
    if (bytes === undefined) throw new Error('this part has nothing that a loss of power leaves');
    const read = (offset: number, lenBytes: number): Uint8Array =>
      bytes.subarray(offset, offset + lenBytes);
    return judge({ sizeBytes: bytes.length, read });
  };
  const decided = (kept: ReadonlySet<number>): BadImage['decided'] =>
    [...dev.cache.keys()].map((unit) => ({ unit, state: kept.has(unit) ? 1 : 0, states: 2 }));
  const tryOne = (judge: Judge, into: Enumeration, kept: ReadonlySet<number>): void => {
    const what = judgeKept(judge, kept);
    into.images++;
    if (what !== null) into.bad.push({ what, decided: decided(kept) });
  };
  return {
    get moment() {
      // Completed requests: between two of them neither the media nor the cache changes.
      return dev.nrWrites + dev.nrFlushes;
    },
    describe: () => `the disk has completed ${dev.nrWrites} writes and ${dev.nrFlushes} flushes`,
    judge: (judge, most, below) => {
      const blocks = [...dev.cache.keys()];
      const result: Enumeration = { images: 0, complete: blocks.length < 31, bad: [] };
      if (result.complete && 2 ** blocks.length <= most) {
        for (let mask = 0; mask < 2 ** blocks.length; mask++)
          tryOne(judge, result, new Set(blocks.filter((_, i) => ((mask >>> i) & 1) === 1)));
        return result;
      }
      result.complete = false;
      tryOne(judge, result, new Set());
      while (result.images < most)
        tryOne(judge, result, new Set(blocks.filter(() => below(2) === 1)));
      return result;
    },
    shrink: (judge, bad) => {
      const kept = new Set(bad.decided.filter((d) => d.state === 1).map((d) => d.unit));
      let { what } = bad;
      for (const block of dev.cache.keys()) {
        if (kept.has(block)) continue;
        const now = judgeKept(judge, new Set([...kept, block]));
        if (now === null) continue;
        kept.add(block);
        what = now;
      }
      return { what, decided: decided(kept) };
    },
  };
};
