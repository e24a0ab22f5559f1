/** The hosts that the random driver plays on: every kind of memory switched on, in little RAM. */
import { PAGE_SIZE } from '#emu';
import {
  blockDeviceCreate,
  deviceDaxCreate,
  deviceDaxRemove,
  drive,
  type ExtentFs,
  extentCreate,
  extentMkfs,
  extentUnmount,
  fileTruncate,
  hugetlbFileSetup,
  pmemDeviceCreate,
  pmemDeviceRemove,
  hugetlbSetPool,
  LRU_BATCH_SIZE,
  lruConfigure,
  type PolicyName,
  provenanceStart,
  remoteFileCreate,
  remoteServerCreate,
  shmemCreate,
  swapon,
} from '#mm';
import { RandomDriver } from './driver.ts';
import { History } from './history.ts';
import { createFileModel, type FileModel } from './model.ts';

const PMD_ORDER = 9;
/** Pages of a file at a server. */
const REMOTE_PAGES = 8;
/** Pages of 2 MiB that hugetlb has. */
const POOL = 5;

export interface RandomRun {
  seed: number;
  policy?: PolicyName;
  /** 24 MiB at least, for the pool; from 192 MiB on a memory block goes offline now and then; less than 24, and there are no huge pages at all, little swap, and much -ENOMEM. */
  ramBytes?: number;
  /** Every reference and pin is to have a record of who has it. */
  provenance?: boolean;
}

const MIB = 1 << 20;

/** Zone MOVABLE: a whole memory block where there is room for one, so that it can go offline. */
const movableBytesOf = (ramBytes: number): number => {
  if (ramBytes >= 192 * MIB) return 128 * MIB;
  return ramBytes < 24 * MIB ? 0 : 8 * MIB;
};

/** A driver with 16 KiB, 64 KiB and 2 MiB folios, swap, a hugetlb pool, and three files. */
export const createRandomDriver = ({
  seed,
  policy = 'target',
  ramBytes = 48 << 20,
  provenance = false,
}: RandomRun): RandomDriver => {
  const tiny = ramBytes < 24 << 20;
  const driver = new RandomDriver({
    seed,
    policy,
    ramBytes,
    movableBytes: movableBytesOf(ramBytes),
    cmaBytes: tiny ? 0 : 8 << 20,
    prepare: (k) => {
      lruConfigure(k, tiny ? 4 : LRU_BATCH_SIZE, 2);
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
  addDisk(driver, seed);
  addPmem(driver);
  const huge = hugetlbFileSetup(driver.k, PMD_ORDER, 1024);
  if (typeof huge === 'number') throw new Error(`hugetlb: ${huge}`);
  driver.files.push(createFileModel('hugetlb', huge, words(64), { stride: 16, unit: 512 }));
  return driver;
};

/** Blocks of the disk, and pages of the persistent memory. */
const DISK_BLOCKS = 512;
const PMEM_PAGES = 128;

/** A file of the extent file system, at its full length. */
const addExtentFile = (
  driver: RandomDriver,
  name: string,
  fs: ExtentFs,
  nrPages: number,
  direct: boolean,
): FileModel => {
  const mapping = extentCreate(driver.k, fs);
  const error = drive(fileTruncate(driver.k, mapping, nrPages * PAGE_SIZE));
  if (error !== 0) throw new Error(`${name}: ${error}`);
  const words = Array.from({ length: nrPages }, () => new History(0));
  const file = createFileModel(name, mapping, words, { direct });
  driver.files.push(file);
  return file;
};

/** A disk with a file that is mapped and one that is written directly, by seed with checksums or without. */
const addDisk = (driver: RandomDriver, seed: number): void => {
  const { k } = driver;
  const dev = blockDeviceCreate(k, 'vda', DISK_BLOCKS);
  const checksums = seed % 2 === 1;
  // A checksum is of bytes that stay until they are written.
  const fs = extentMkfs(k, dev, { checksums, stablePages: checksums || seed % 4 === 0 });
  driver.filesystems.push(fs);
  for (const [name, direct] of [
    ['extent', false],
    ['direct', true],
  ] as const) {
    addExtentFile(driver, name, fs, 8, direct).disk = dev;
  }
  driver.closers.push(() => extentUnmount(k, fs));
};

/** Persistent memory: a file of a DAX file system, and a device-dax file. */
const addPmem = (driver: RandomDriver): void => {
  const { k } = driver;
  const dev = pmemDeviceCreate(k, 'pmem0', PMEM_PAGES);
  if (typeof dev === 'number') throw new Error(`pmem: ${dev}`);
  const fs = extentMkfs(k, dev, { dax: true });
  driver.filesystems.push(fs);
  addExtentFile(driver, 'fsdax', fs, 6, false);
  driver.closers.push(
    () => extentUnmount(k, fs),
    () => pmemDeviceRemove(k, dev),
  );
  const devdax = deviceDaxCreate(k, 4, PAGE_SIZE);
  if (typeof devdax === 'number') throw new Error(`device-dax: ${devdax}`);
  const words = Array.from({ length: 4 }, () => new History(0));
  driver.files.push(createFileModel('devdax', devdax, words));
  driver.closers.push(() => deviceDaxRemove(k, devdax));
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
