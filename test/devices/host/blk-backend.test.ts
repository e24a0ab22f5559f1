/**
 * The host side of a virtio disk: requests against a file of the model, with O_DIRECT from and to the
 * guest's memory. What the disk does with bios is in test/mm/.
 */
import { describe, expect, it } from 'vitest';
import {
  type BlkClient,
  type BlkPiece,
  type BlkRange,
  type BlkRequest,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
} from '#devices';
import { BLK_BOUNCE_BYTES, FileDisk } from '#devices/host';
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVm,
  blockCrashImage,
  drive,
  type ExtentFs,
  extentCreate,
  extentSetSize,
  fork,
  type Path,
  YP_BIO_SUBMITTED,
} from '#mm';
import { type Rng, rng } from '../../support/rng.ts';
import { contents, createDiskWorld, inodeOf, write } from '../../mm/extent-support.ts';
import { createProcess, interleave, mapAnon, pinsLive, settled, stepTo } from '../../mm/support.ts';

const GUEST = 0x8000_0000;
/** Guest memory: two slots that follow one another for the guest, and not for the VMM. */
const SLOT_PAGES = 24;
const FILE_PAGES = 32;
const NR_SECTORS = (FILE_PAGES * PAGE_SIZE) / 512;

/** The part of a disk that its host side sees. */
class Client implements BlkClient {
  readonly waiting: BlkRequest[] = [];
  readonly done: BlkRequest[] = [];

  get nrWaiting(): number {
    return this.waiting.length;
  }

  nextRequest(): BlkRequest | undefined {
    return this.waiting.shift();
  }

  complete(request: BlkRequest, status: number): void {
    request.status = status;
    this.done.push(request);
  }
}

type Ask = Pick<BlkRequest, 'op'> & Partial<BlkRequest>;

/** A VMM with guest memory, and a disk over a file of `FILE_PAGES` pages. */
const vmmOf = ({ nrWorkers = 1, fill = 0 } = {}) => {
  const w = createDiskWorld();
  const { k } = w;
  const p = createProcess(w);
  const second = mapAnon(p, SLOT_PAGES);
  const first = mapAnon(p, SLOT_PAGES);
  const bounceHva = mapAnon(p, (nrWorkers * BLK_BOUNCE_BYTES) / PAGE_SIZE);
  const half = SLOT_PAGES * PAGE_SIZE;
  const hvaOf = (gpa: number): number => {
    if (gpa >= GUEST && gpa < GUEST + half) return first + (gpa - GUEST);
    return gpa >= GUEST + half && gpa < GUEST + 2 * half ? second + (gpa - GUEST - half) : -1;
  };
  const file = extentCreate(k, w.fs);
  drive(extentSetSize(k, file, FILE_PAGES * PAGE_SIZE));
  if (fill !== 0) write(k, file, 0, new Uint8Array(FILE_PAGES * PAGE_SIZE).fill(fill));
  const dirty: [number, number][] = [];
  const disk = new FileDisk({
    kernel: k,
    mm: p.mm,
    file,
    nrSectors: NR_SECTORS,
    readOnly: false,
    serial: 'test',
    nrWorkers,
    bounceHva,
    hvaOf,
    onWritten: (gpa, lenBytes) => dirty.push([gpa, lenBytes]),
  });
  const client = new Client();
  const post = (ask: Ask): BlkRequest => {
    const pieces: BlkPiece[] = ask.pieces ?? [];
    const request: BlkRequest = {
      queue: 0,
      chain: undefined as never,
      void: false,
      sector: 0,
      pieces,
      lenBytes: pieces.reduce((sum, { lenBytes }) => sum + lenBytes, 0),
      durable: false,
      ranges: [],
      status: -1,
      ...ask,
    };
    client.waiting.push(request);
    disk.post(client);
    return request;
  };
  const run = (ask: Ask): number => {
    const request = post(ask);
    drive(disk.workers[0]!.work());
    return request.status;
  };
  /** By the VMM's addresses, page by page: the slots do not follow one another there. */
  const access = (gpa: number, bytes: Uint8Array, isWrite: boolean): Uint8Array => {
    for (let done = 0, n = 0; done < bytes.length; done += n) {
      n = Math.min(bytes.length - done, PAGE_SIZE - ((gpa + done) % PAGE_SIZE));
      const part = bytes.subarray(done, done + n);
      drive(accessRemoteVm(k, p.mm, hvaOf(gpa + done), part, isWrite));
    }
    return bytes;
  };
  const put = (gpa: number, bytes: Uint8Array): Uint8Array => access(gpa, bytes, true);
  const get = (gpa: number, lenBytes: number): Uint8Array =>
    access(gpa, new Uint8Array(lenBytes), false);
  return { ...w, p, file, disk, client, dirty, hvaOf, post, run, put, get };
};

const at = (gpa: number, lenBytes: number): BlkPiece => ({ address: gpa, lenBytes });
const range = (sector: number, nrSectors: number, unmap = false): BlkRange => ({
  sector,
  nrSectors,
  unmap,
});

/** Blocks that a file has on its device. */
const blocksOf = ({ file }: { fs: ExtentFs; file: ReturnType<typeof vmmOf>['file'] }): number =>
  inodeOf(file).extents.reduce((sum, { nr }) => sum + nr, 0);

describe('reads and writes', () => {
  it('go past the page cache, by pins that are gone afterwards', () => {
    const vmm = vmmOf();
    vmm.put(GUEST + 512, new Uint8Array(1024).fill(7));
    expect(vmm.run({ op: 'write', sector: 3, pieces: [at(GUEST + 512, 1024)] })).toBe(
      VIRTIO_BLK_S_OK,
    );
    expect(vmm.file.pages.size).toBe(0);
    expect(vmm.run({ op: 'read', sector: 2, pieces: [at(GUEST + 0x4000, 2048)] })).toBe(
      VIRTIO_BLK_S_OK,
    );
    expect([...vmm.get(GUEST + 0x4000, 2048)].filter((byte) => byte === 7)).toHaveLength(1024);
    expect(vmm.k.state.stat.nr_foll_pin_acquired).toBeGreaterThan(1);
    expect(pinsLive(vmm.k)).toBe(0);
    settled(vmm);
  });

  it('memory that the guest has in two slots is one buffer', () => {
    const vmm = vmmOf();
    const seam = GUEST + SLOT_PAGES * PAGE_SIZE;
    vmm.put(
      seam - 1024,
      Uint8Array.from({ length: 2048 }, (_, i) => i >> 4),
    );
    expect(vmm.run({ op: 'write', pieces: [at(seam - 1024, 2048)] })).toBe(VIRTIO_BLK_S_OK);
    expect(vmm.run({ op: 'read', pieces: [at(GUEST, 2048)] })).toBe(VIRTIO_BLK_S_OK);
    expect([...vmm.get(GUEST, 2048)]).toEqual(Array.from({ length: 2048 }, (_, i) => i >> 4));
  });

  it('a buffer at any byte goes through one of the VMM', () => {
    const vmm = vmmOf();
    const bytes = Uint8Array.from({ length: 1024 }, (_, i) => i * 3);
    vmm.put(GUEST + 5, bytes);
    const pieces = [at(GUEST + 5, 700), at(GUEST + 705, 324)];
    expect(vmm.run({ op: 'write', sector: 9, pieces })).toBe(VIRTIO_BLK_S_OK);
    expect(vmm.run({ op: 'read', sector: 9, pieces: [at(GUEST + 0x3001, 1024)] })).toBe(
      VIRTIO_BLK_S_OK,
    );
    expect(vmm.get(GUEST + 0x3001, 1024)).toEqual(bytes);
    expect(contents(vmm.k, vmm.file).subarray(9 * 512, 11 * 512)).toEqual(bytes);
    settled(vmm);
  });

  it('memory that the guest does not have is an error, and nothing is moved', () => {
    const vmm = vmmOf({ fill: 1 });
    vmm.put(GUEST, new Uint8Array(512).fill(9));
    const end = GUEST + 2 * SLOT_PAGES * PAGE_SIZE;
    for (const pieces of [
      [at(end - 512, 1024)],
      [at(GUEST, 512), at(0x1000, 512)],
      [at(2 ** 40, 512)],
    ])
      for (const op of ['write', 'read'] as const)
        expect(vmm.run({ op, pieces })).toBe(VIRTIO_BLK_S_IOERR);
    expect(contents(vmm.k, vmm.file).every((byte) => byte === 1)).toBe(true);
    expect(vmm.get(GUEST, 512).every((byte) => byte === 9)).toBe(true);
  });

  it('an error of the disk is the guest’s', () => {
    const vmm = vmmOf({ fill: 1 });
    expect(vmm.run({ op: 'flush' })).toBe(VIRTIO_BLK_S_OK);
    const { block } = inodeOf(vmm.file).extents[0]!;
    vmm.dev.badReads.add(block);
    vmm.dev.badWrites.add(block);
    for (const op of ['write', 'read'] as const)
      expect(vmm.run({ op, pieces: [at(GUEST, 512)] })).toBe(VIRTIO_BLK_S_IOERR);
    vmm.dev.badReads.clear();
    vmm.dev.badWrites.clear();
    expect(vmm.run({ op: 'read', pieces: [at(GUEST, 512)] })).toBe(VIRTIO_BLK_S_OK);
    settled(vmm);
  });

  it('a fork of the VMM while the disk writes to a page: the guest keeps the page that is written', () => {
    const vmm = vmmOf({ fill: 4 });
    vmm.run({ op: 'flush' });
    vmm.put(GUEST, new Uint8Array(8).fill(1));
    vmm.post({ op: 'read', sector: 0, pieces: [at(GUEST, 4096)] });
    const work = vmm.disk.workers[0]!.work();
    stepTo(vmm.k, work, YP_BIO_SUBMITTED);
    const child = drive(fork(vmm.k, vmm.p.mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    vmm.p.store32(vmm.hvaOf(GUEST + 0x2000), 1);
    drive(work);
    expect(vmm.get(GUEST, 4096).every((byte) => byte === 4)).toBe(true);
    settled(vmm);
  });
});

describe('durability', () => {
  const survives = (vmm: ReturnType<typeof vmmOf>, value: number): boolean =>
    [...blockCrashImage(vmm.dev, () => false).values()].some(
      (bytes) => bytes[0] === value && bytes[511] === value,
    );

  it('a write is volatile until a flush, and a flush is an fsync()', () => {
    const vmm = vmmOf();
    vmm.put(GUEST, new Uint8Array(512).fill(0x5a));
    vmm.run({ op: 'write', pieces: [at(GUEST, 512)] });
    expect(survives(vmm, 0x5a)).toBe(false);
    expect(vmm.run({ op: 'flush' })).toBe(VIRTIO_BLK_S_OK);
    expect(survives(vmm, 0x5a)).toBe(true);
  });

  it('one that is to be durable is so when it completes', () => {
    const vmm = vmmOf();
    vmm.put(GUEST, new Uint8Array(512).fill(0x5b));
    vmm.run({ op: 'write', pieces: [at(GUEST, 512)], durable: true });
    expect(survives(vmm, 0x5b)).toBe(true);
  });
});

describe('discard and write zeroes', () => {
  it('a discarded range has no blocks any more, a zeroed one has, unless it may give them up', () => {
    const vmm = vmmOf({ fill: 3 });
    vmm.run({ op: 'flush' });
    const before = blocksOf(vmm);
    expect(vmm.run({ op: 'discard', ranges: [range(8, 16)] })).toBe(VIRTIO_BLK_S_OK);
    expect(blocksOf(vmm)).toBe(before - 2);
    expect(vmm.run({ op: 'write-zeroes', ranges: [range(64, 16)] })).toBe(VIRTIO_BLK_S_OK);
    expect(blocksOf(vmm)).toBe(before - 2);
    expect(vmm.run({ op: 'write-zeroes', ranges: [range(96, 16, true)] })).toBe(VIRTIO_BLK_S_OK);
    expect(blocksOf(vmm)).toBe(before - 4);
    const bytes = contents(vmm.k, vmm.file);
    const zeroes = [...Array(NR_SECTORS).keys()].filter((sector) => bytes[sector * 512] === 0);
    const wanted = [8, 64, 96].flatMap((from) => Array.from({ length: 16 }, (_, i) => from + i));
    expect(zeroes).toEqual(wanted);
    settled(vmm);
  });

  it('ranges of single sectors zero exactly those', () => {
    const vmm = vmmOf({ fill: 3 });
    vmm.run({ op: 'flush' });
    expect(vmm.run({ op: 'write-zeroes', ranges: [range(3, 2), range(21, 1)] })).toBe(
      VIRTIO_BLK_S_OK,
    );
    expect(vmm.run({ op: 'read', sector: 0, pieces: [at(GUEST, 24 * 512)] })).toBe(VIRTIO_BLK_S_OK);
    const bytes = vmm.get(GUEST, 24 * 512);
    expect([...Array(24).keys()].filter((s) => bytes[s * 512] === 0)).toEqual([3, 4, 21]);
  });
});

describe('the dirty log', () => {
  it('knows of a read while it is under way, and when it is over', () => {
    const vmm = vmmOf({ fill: 1 });
    vmm.run({ op: 'flush' });
    vmm.post({ op: 'read', pieces: [at(GUEST, 1024)] });
    const work = vmm.disk.workers[0]!.work();
    stepTo(vmm.k, work, YP_BIO_SUBMITTED);
    vmm.dirty.length = 0;
    vmm.disk.markUnderWay();
    expect(vmm.dirty).toEqual([[GUEST, 1024]]);
    drive(work);
    expect(vmm.dirty).toHaveLength(2);
    vmm.disk.markUnderWay();
    expect(vmm.dirty).toHaveLength(2);
  });

  it('has nothing of writes', () => {
    const vmm = vmmOf();
    vmm.run({ op: 'write', pieces: [at(GUEST, 1024)] });
    expect(vmm.dirty).toEqual([]);
  });
});

/** Requests that do not meet on the disk, by several workers in any order, against a plain array. */
const randomRun = (random: Rng): void => {
  const vmm = vmmOf({ nrWorkers: 3 });
  const model = new Uint8Array(NR_SECTORS * 512);
  const zone = NR_SECTORS / 4;
  for (let round = 0; round < 12; round++) {
    const reads: { gpa: number; sector: number; nr: number }[] = [];
    for (let i = 0; i < 4; i++) {
      const nr = 1 + random.below(9);
      const sector = i * zone + random.below(zone - nr);
      const gpa =
        GUEST + i * 0xa000 + (random.chance(0.3) ? random.below(512) : 512 * random.below(8));
      const cut = random.below(nr * 512 + 1);
      const pieces = [at(gpa, cut), at(gpa + cut, nr * 512 - cut)].filter((q) => q.lenBytes > 0);
      if (random.chance(0.5)) {
        const bytes = Uint8Array.from({ length: nr * 512 }, () => random.below(256));
        vmm.put(gpa, bytes);
        model.set(bytes, sector * 512);
        vmm.post({ op: 'write', sector, pieces });
      } else if (random.chance(0.8)) {
        reads.push({ gpa, sector, nr });
        vmm.post({ op: 'read', sector, pieces });
      } else {
        model.fill(0, sector * 512, (sector + nr) * 512);
        vmm.post({ op: 'write-zeroes', ranges: [range(sector, nr, random.chance(0.5))] });
      }
    }
    const running: Path<void>[] = vmm.disk.workers.map((worker) => worker.work());
    interleave(vmm.k, running, random);
    expect(vmm.client.waiting).toEqual([]);
    for (const { status } of vmm.client.done.splice(0)) expect(status).toBe(VIRTIO_BLK_S_OK);
    for (const { gpa, sector, nr } of reads) {
      const wanted = model.subarray(sector * 512, (sector + nr) * 512);
      expect(Buffer.compare(vmm.get(gpa, nr * 512), wanted)).toBe(0);
    }
  }
  expect(Buffer.compare(contents(vmm.k, vmm.file), model)).toBe(0);
  expect(pinsLive(vmm.k)).toBe(0);
  settled(vmm);
};

describe('several requests at once', () => {
  for (const seed of [1, 2, 3])
    it(`three workers in any order leave what a plain array has, seed ${seed}`, () =>
      randomRun(rng(seed)));
});
