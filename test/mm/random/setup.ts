/** The hosts that the random driver plays on: every kind of memory switched on, in little RAM. */
import { PAGE_SIZE } from '#emu';
import {
  hugetlbFileSetup,
  hugetlbSetPool,
  type PolicyName,
  provenanceStart,
  remoteFileCreate,
  remoteServerCreate,
  shmemCreate,
  swapon,
} from '#mm';
import { RandomDriver } from './driver.ts';
import { History } from './history.ts';
import { createFileModel } from './model.ts';

const PMD_ORDER = 9;
/** Pages of a file at a server. */
const REMOTE_PAGES = 8;
/** Pages of 2 MiB that hugetlb has. */
const POOL = 5;

export interface RandomRun {
  seed: number;
  policy?: PolicyName;
  /** 24 MiB at least, for the pool; less, and there are no huge pages at all, little swap, and much -ENOMEM. */
  ramBytes?: number;
  /** Every reference and pin is to have a record of who has it. */
  provenance?: boolean;
}

/** A driver with 16 KiB, 64 KiB and 2 MiB folios, swap, a hugetlb pool, and three files. */
export const createRandomDriver = ({
  seed,
  policy = 'target',
  ramBytes = 32 << 20,
  provenance = false,
}: RandomRun): RandomDriver => {
  const tiny = ramBytes < 24 << 20;
  const driver = new RandomDriver({
    seed,
    policy,
    ramBytes,
    prepare: (k) => {
      if (provenance) provenanceStart(k);
      if (tiny) {
        swapon(k, 40);
        return;
      }
      k.state.thp.always = (1 << PMD_ORDER) | (1 << 4) | (1 << 2);
      swapon(k, 2048);
      hugetlbSetPool(k, PMD_ORDER, POOL);
    },
  });
  const words = (n: number): History[] => Array.from({ length: n }, () => new History(0));
  for (let i = 0; i < 2; i++)
    driver.files.push(createFileModel('shmem', shmemCreate(driver.k, 6), words(6)));
  for (const kind of ['nfs', 'ceph', 'fuse'] as const) {
    const server = remoteServerCreate(driver.k, kind);
    const file = remoteFileCreate(server, REMOTE_PAGES * PAGE_SIZE);
    driver.remotes.push({ user: `${kind}-dio`, file, words: words(REMOTE_PAGES) });
  }
  if (tiny) return driver;
  const huge = hugetlbFileSetup(driver.k, PMD_ORDER, 1024);
  if (typeof huge === 'number') throw new Error(`hugetlb: ${huge}`);
  driver.files.push(createFileModel('hugetlb', huge, words(64), { stride: 16, unit: 512 }));
  return driver;
};

/** What is wrong, and when it was found. */
export interface RandomFailure {
  operations: number;
  problems: string[];
}

/** Sanitizer passes: a quick one while paths are suspended, the strict one after all have ended. */
const CHECK_STEPS = 1000;
const QUIESCENT_STEPS = 4000;

/**
 * Runs until `operations` have been begun, and then lets go of everything.
 * @param told called now and then
 * @returns null where every byte was explained, no invariant broken and nothing left over
 */
export const runRandom = (
  driver: RandomDriver,
  operations: number,
  told: (operations: number) => void = () => {},
): RandomFailure | null => {
  try {
    for (let step = 1; driver.begun < operations; step++) {
      driver.step();
      let problems: string[] = [];
      if (step % CHECK_STEPS === 0) problems = driver.violations(false);
      if (step % QUIESCENT_STEPS === 0) {
        driver.drain();
        problems = driver.violations(true);
        told(driver.begun);
      }
      if (problems.length > 0) return { operations: driver.begun, problems };
    }
    const problems = driver.finish();
    return problems.length === 0 ? null : { operations: driver.begun, problems };
  } catch (error) {
    return { operations: driver.begun, problems: [(error as Error).stack ?? String(error)] };
  }
};
