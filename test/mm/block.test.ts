/** Block devices: bios in flight, the volatile cache, flush and FUA, a loss of power. Compare Documentation/block/writeback_cache_control.rst. */
import { PAGE_SIZE } from '#emu';
import {
  type Bio,
  bioAlloc,
  bioSubmit,
  bioWait,
  type BlockDevice,
  blockBytes,
  blockCrashImage,
  blockDeviceCreate,
  blockDeviceFlush,
  blockDeviceRemove,
  blockPowerFail,
  drive,
  type Kernel,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { EINVAL, EIO, ENOSPC } from '../../mm/errno.ts';
import { folioAlloc } from '../../mm/folio/folio.ts';
import { GFP_ZERO } from '../../mm/frames/buddy.ts';
import { YP_BIO_SUBMITTED, YP_BIO_TRANSFERRED, YP_WAIT } from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import { createWorld, interleave, stepTo } from './support.ts';

interface Disk {
  k: Kernel;
  dev: BlockDevice;
  page: number;
}

/** A kernel with a disk of 16 blocks, and a page that is filled with a value. */
const withDisk = (value = 1): Disk => {
  const { k } = createWorld();
  const page = folioAlloc(k, GFP_ZERO);
  fill(k, page, value);
  return { k, dev: blockDeviceCreate(k, 'disk', 16), page };
};

const fill = (k: Kernel, page: number, value: number): void =>
  k.memory.setBytes(k.memory.pageOffset(page), new Uint8Array(PAGE_SIZE).fill(value));

const firstByte = (k: Kernel, page: number): number => k.memory.u8[k.memory.pageOffset(page)] ?? -1;

const bioOf = (op: Bio['op'], page: number, block: number, fua = false): Bio =>
  bioAlloc(op, block * PAGE_SIZE, [{ page, offset: 0, lenBytes: PAGE_SIZE }], fua);

/** Submits and waits. @returns the status */
const io = ({ k, dev }: Disk, bio: Bio): number => {
  bioSubmit(k, dev, bio);
  return drive(bioWait(k, dev, bio));
};

/** The first byte of a block, as a read sees it. */
const onDevice = ({ k, dev }: Disk, block: number): number => blockBytes(k, dev, block)?.[0] ?? 0;

describe('bios', () => {
  it('a write moves bytes from memory to the device, a read the other way; what nobody wrote is zeroes', () => {
    const d = withDisk(7);
    expect(io(d, bioOf('write', d.page, 3))).toBe(0);
    fill(d.k, d.page, 0);
    expect(io(d, bioOf('read', d.page, 3))).toBe(0);
    expect(firstByte(d.k, d.page)).toBe(7);
    expect(io(d, bioOf('read', d.page, 4))).toBe(0);
    expect(firstByte(d.k, d.page)).toBe(0);
  });

  it('a write is of memory as it is when the bytes move, not as it was when it was submitted', () => {
    const d = withDisk(1);
    const bio = bioOf('write', d.page, 0);
    bioSubmit(d.k, d.dev, bio);
    const wait = bioWait(d.k, d.dev, bio);
    stepTo(d.k, wait, YP_BIO_SUBMITTED);
    fill(d.k, d.page, 2);
    stepTo(d.k, wait, YP_BIO_TRANSFERRED);
    fill(d.k, d.page, 3);
    expect(drive(wait)).toBe(0);
    expect(onDevice(d, 0)).toBe(2);
  });

  it('a bio is in flight until it completes, for dev.delay yields before its bytes move', () => {
    const d = withDisk();
    d.dev.delay = 5;
    const bio = bioOf('write', d.page, 0);
    bioSubmit(d.k, d.dev, bio);
    const wait = bioWait(d.k, d.dev, bio);
    d.k.watched = true;
    const yields: number[] = [];
    for (let step = wait.next(); step.done !== true; step = wait.next()) {
      yields.push(step.value);
      expect(d.dev.inFlight).toEqual([bio]);
    }
    expect(yields).toEqual([...Array(5).fill(YP_BIO_SUBMITTED), YP_BIO_TRANSFERRED]);
    expect(bio).toMatchObject({ done: true, transferred: true, status: 0 });
    expect(d.dev.inFlight).toEqual([]);
  });

  it('two who wait for one bio both learn its status, and it is done once', () => {
    const d = withDisk();
    const bio = bioOf('write', d.page, 0);
    bioSubmit(d.k, d.dev, bio);
    const first = bioWait(d.k, d.dev, bio);
    const second = bioWait(d.k, d.dev, bio);
    stepTo(d.k, first, YP_BIO_TRANSFERRED);
    expect(second.next()).toEqual({ done: false, value: YP_WAIT });
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
    expect(d.dev.nrWrites).toBe(1);
  });

  it('vectors follow each other on the device, across blocks, in units of 512 bytes', () => {
    const d = withDisk(9);
    const bio = bioAlloc('write', PAGE_SIZE - 512, [
      { page: d.page, offset: 0, lenBytes: 512 },
      { page: d.page, offset: 1024, lenBytes: 1024 },
    ]);
    expect(io(d, bio)).toBe(0);
    expect([...(blockBytes(d.k, d.dev, 0) ?? [])].filter((byte) => byte === 9)).toHaveLength(512);
    expect([...(blockBytes(d.k, d.dev, 1) ?? [])].filter((byte) => byte === 9)).toHaveLength(1024);
  });

  for (const { fact, bio, status } of [
    { fact: 'a read beyond the end is -EIO', bio: bioAt('read', 16), status: -EIO },
    { fact: 'a write beyond the end is -ENOSPC', bio: bioAt('write', 16), status: -ENOSPC },
    { fact: 'a part of a sector is -EINVAL', bio: bioAt('write', 1, 100), status: -EINVAL },
  ])
    it(`${fact}, and nothing is in flight`, () => {
      const d = withDisk();
      expect(io(d, bio)).toBe(status);
      expect(d.dev.inFlight).toEqual([]);
    });

  it('of a bio with a bad block nothing moves, and it is -EIO', () => {
    const d = withDisk(5);
    d.dev.badWrites.add(3);
    const bio = bioAlloc('write', 2 * PAGE_SIZE, [
      { page: d.page, offset: 0, lenBytes: PAGE_SIZE },
      { page: d.page, offset: 0, lenBytes: PAGE_SIZE },
    ]);
    expect(io(d, bio)).toBe(-EIO);
    expect([onDevice(d, 2), onDevice(d, 3)]).toEqual([0, 0]);
    d.dev.badReads.add(3);
    expect(io(d, bioOf('read', d.page, 3))).toBe(-EIO);
    expect(firstByte(d.k, d.page)).toBe(5);
  });

  it('a device with bios in flight cannot be removed', () => {
    const d = withDisk();
    bioSubmit(d.k, d.dev, bioOf('write', d.page, 0));
    expect(() => blockDeviceRemove(d.k, d.dev)).toThrow('1 bios in flight');
  });
});

function bioAt(op: Bio['op'], block: number, lenBytes = PAGE_SIZE): Bio {
  return bioAlloc(op, block * PAGE_SIZE, [{ page: 0, offset: 0, lenBytes }]);
}

describe('a loss of power', () => {
  it('takes what was not flushed; what was is there', () => {
    const d = withDisk(1);
    io(d, bioOf('write', d.page, 0));
    expect(drive(blockDeviceFlush(d.k, d.dev))).toBe(0);
    io(d, bioOf('write', d.page, 1));
    fill(d.k, d.page, 2);
    io(d, bioOf('write', d.page, 0));
    blockPowerFail(d.dev, () => false);
    expect([onDevice(d, 0), onDevice(d, 1)]).toEqual([1, 0]);
  });

  it('leaves any part of the volatile cache: a later write may be there and an earlier one not', () => {
    const d = withDisk(1);
    for (const block of [0, 1, 2]) io(d, bioOf('write', d.page, block));
    blockPowerFail(d.dev, (block) => block === 2);
    expect([0, 1, 2].map((block) => onDevice(d, block))).toEqual([0, 0, 1]);
  });

  it('does not take a write with FUA that has completed, though others before it are not durable', () => {
    const d = withDisk(1);
    io(d, bioOf('write', d.page, 0));
    io(d, bioOf('write', d.page, 1, true));
    blockPowerFail(d.dev, () => false);
    expect([onDevice(d, 0), onDevice(d, 1)]).toEqual([0, 1]);
  });

  it('ends what is in flight: whoever waits gets -EIO, and no byte moves any more', () => {
    const d = withDisk(1);
    const bio = bioOf('write', d.page, 0);
    bioSubmit(d.k, d.dev, bio);
    const wait = bioWait(d.k, d.dev, bio);
    stepTo(d.k, wait, YP_BIO_SUBMITTED);
    blockPowerFail(d.dev, () => true);
    expect(drive(wait)).toBe(-EIO);
    expect(onDevice(d, 0)).toBe(0);
  });

  it('an image of what it would leave is a copy, and the device goes on', () => {
    const d = withDisk(1);
    io(d, bioOf('write', d.page, 0));
    const image = blockCrashImage(d.dev, () => true);
    fill(d.k, d.page, 2);
    io(d, bioOf('write', d.page, 0));
    drive(blockDeviceFlush(d.k, d.dev));
    io(d, bioOf('write', d.page, 0));
    expect(image.get(0)?.[0]).toBe(1);
    expect(onDevice(d, 0)).toBe(2);
  });

  it('a flush makes durable what had completed before it, whatever the order of the others', () => {
    let looked = 0;
    for (let seed = 0; seed < 30; seed++) {
      const r = rng(seed);
      const d = withDisk(1);
      const done = new Set<number>();
      let durable: number[] = [];
      const writer = function* (block: number) {
        const bio = bioOf('write', d.page, block);
        bioSubmit(d.k, d.dev, bio);
        yield* bioWait(d.k, d.dev, bio);
        done.add(block);
      };
      const flusher = function* () {
        const before = [...done];
        yield* blockDeviceFlush(d.k, d.dev);
        durable = before;
      };
      interleave(d.k, [writer(0), writer(1), writer(2), flusher()], r);
      const left = blockCrashImage(d.dev, () => false);
      for (const block of durable) expect(left.get(block)?.[0]).toBe(1);
      looked += durable.length;
    }
    expect(looked).toBeGreaterThan(10);
  });
});
