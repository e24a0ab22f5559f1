/**
 * Suite `gup`, files and devices: pages a second of direct I/O and of writeback, beside copying as many
 * pages in RAM, which is what moving them costs at least.
 */
import { PAGE_SIZE, PhysMemory } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockDeviceCreate,
  blockDirectRead,
  blockDirectWrite,
  createKernel,
  createPolicy,
  drive,
  extentCreate,
  extentMkfs,
  fileDirectRead,
  fileDirectWrite,
  fileWrite,
  ITER_DEST,
  ITER_SOURCE,
  iovIterUbuf,
  type IovIter,
  type Kernel,
  MADV_POPULATE_WRITE,
  madvise,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  mmCreate,
  type MmStruct,
  type Path,
  PROT_READ,
  PROT_WRITE,
  vfsFsync,
  writebackMapping,
} from '#mm';
import type { Samples } from './row.ts';

const MIB = 2 ** 20;
/** Pages of a pass, and bytes of one request. */
const PASS_PAGES = 4096;
const PASS_BYTES = PASS_PAGES * PAGE_SIZE;
const REQUEST_BYTES = MIB;
/** Passes before the first that counts. */
const WARM_UP = 4;
const BARE_COPY = 'bare copy';

/** A host with a disk, a file on another one, and a process with a buffer. */
interface Subject {
  k: Kernel;
  mm: MmStruct;
  /** Of PASS_BYTES, present. */
  hva: number;
  disk: BlockDevice;
  file: AddressSpace;
}

const createSubject = (): Subject => {
  const k = createKernel({
    memory: new PhysMemory(256 * MIB),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  const mm = mmCreate(k);
  const hva = drive(
    mmap(k, mm, {
      lenBytes: PASS_BYTES,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_PRIVATE | MAP_ANONYMOUS,
    }),
  );
  const error = drive(madvise(k, mm, hva, PASS_BYTES, MADV_POPULATE_WRITE));
  if (error !== 0) throw new Error(`madvise: ${error}`);
  const fs = extentMkfs(k, blockDeviceCreate(k, 'bench-fs', 4 * PASS_PAGES));
  const disk = blockDeviceCreate(k, 'bench-disk', PASS_PAGES);
  return { k, mm, hva, disk, file: extentCreate(k, fs) };
};

type Request = (s: Subject, offset: number, it: IovIter) => Path<number>;

interface Figure {
  name: string;
  direction: typeof ITER_DEST | typeof ITER_SOURCE;
  request: Request;
}

const DIRECT: readonly Figure[] = [
  {
    name: 'direct I/O read, block device',
    direction: ITER_DEST,
    request: ({ k, mm, disk }, offset, it) => blockDirectRead(k, mm, disk, offset, it),
  },
  {
    name: 'direct I/O write, block device',
    direction: ITER_SOURCE,
    request: ({ k, mm, disk }, offset, it) => blockDirectWrite(k, mm, disk, offset, it),
  },
  {
    name: 'direct I/O read, file',
    direction: ITER_DEST,
    request: ({ k, mm, file }, offset, it) => fileDirectRead(k, mm, file, offset, it),
  },
  {
    name: 'direct I/O write, file',
    direction: ITER_SOURCE,
    request: ({ k, mm, file }, offset, it) => fileDirectWrite(k, mm, file, offset, it),
  },
];

const pagesPerSecond = (ms: number): number => (PASS_PAGES * 1000) / ms;

/** All of the buffer, request by request. @returns pages a second */
const directPass = (s: Subject, { direction, request }: Figure): number => {
  const start = performance.now();
  for (let at = 0; at < PASS_BYTES; at += REQUEST_BYTES) {
    const n = drive(request(s, at, iovIterUbuf(direction, s.hva + at, REQUEST_BYTES)));
    if (n !== REQUEST_BYTES) throw new Error(`direct I/O of ${REQUEST_BYTES} bytes: ${n}`);
  }
  return pagesPerSecond(performance.now() - start);
};

/** write() of the whole file, and then its writeback, which alone is timed. @returns pages a second */
const writebackPass = ({ k, file }: Subject, bytes: Uint8Array): number => {
  for (let at = 0; at < PASS_BYTES; at += bytes.length) {
    const n = drive(fileWrite(k, file, at, bytes));
    if (n !== bytes.length) throw new Error(`write of ${bytes.length} bytes: ${n}`);
  }
  const start = performance.now();
  const error = drive(writebackMapping(k, file));
  const speed = pagesPerSecond(performance.now() - start);
  if (error !== 0) throw new Error(`writeback: ${error}`);
  const synced = drive(vfsFsync(k, file));
  if (synced !== 0) throw new Error(`fsync: ${synced}`);
  return speed;
};

/** As many pages from one place in memory to another, and nothing else. @returns pages a second */
const copyPass = (from: Uint8Array, into: Uint8Array): number => {
  const start = performance.now();
  for (let at = 0; at < PASS_BYTES; at += PAGE_SIZE)
    into.set(from.subarray(at, at + PAGE_SIZE), at);
  return pagesPerSecond(performance.now() - start);
};

const sample = (name: string): Samples => ({
  suite: 'gup',
  name,
  unit: 'pages/s',
  better: 'higher',
  samples: [],
  peers: { [BARE_COPY]: [] },
});

/** Rows of direct I/O and writeback. @param rounds samples of each figure */
export const storageSamples = (rounds: number, announce: (what: string) => void): Samples[] => {
  const subject = createSubject();
  const [from, into] = [new Uint8Array(PASS_BYTES).fill(1), new Uint8Array(PASS_BYTES)];
  const piece = new Uint8Array(REQUEST_BYTES).fill(7);
  const writeback = sample('writeback');
  const direct = DIRECT.map((figure) => ({
    figure,
    row: sample(`${figure.name}, 1 MiB at a time`),
  }));
  for (let round = -WARM_UP; round < rounds; round++) {
    announce('gup: direct I/O and writeback');
    const copy = copyPass(from, into);
    const written = writebackPass(subject, piece);
    const speeds = direct.map(({ figure }) => directPass(subject, figure));
    if (round < 0) continue;
    note(writeback, written, copy);
    for (const [i, { row }] of direct.entries()) note(row, speeds[i]!, copy);
  }
  return [...direct.map(({ row }) => row), writeback];
};

const note = (row: Samples, value: number, copy: number): void => {
  row.samples.push(value);
  row.peers[BARE_COPY]?.push(copy);
};
