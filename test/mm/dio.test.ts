/** Direct I/O of block devices and of files on them: what moves, what is held meanwhile, what the page cache knows. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  blockDirectRead,
  blockDirectWrite,
  blockPowerFail,
  createPipe,
  drive,
  EINVAL,
  EIO,
  ENOSPC,
  EFAULT,
  EINTR,
  extentCheck,
  extentCreate,
  extentFallocate,
  extentForget,
  extentMkfs,
  extentMount,
  extentOpen,
  fileDirectRead,
  fileDirectWrite,
  fileTruncate,
  fileWrite,
  folioTestDirty,
  ITER_DEST,
  ITER_SOURCE,
  iovIterBvec,
  iovIterIovec,
  iovIterUbuf,
  mappingPut,
  munmap,
  pipeRead,
  pmemDeviceCreate,
  pteDirty,
  SIGNAL_FATAL,
  sendSignal,
  shmemCreate,
  spliceFileToPipe,
  YP_BIO_SUBMITTED,
  YP_BIO_TRANSFERRED,
  vfsFsync,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import {
  contents,
  type DioWorld,
  dioWorld,
  directRead,
  directWrite,
  mapShared,
} from './dio-world.ts';
import { folioClearFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { expectNothingHeld, pattern, peek } from './iov-world.ts';
import { entryAt, mapAnon, pageAt, stepTo, pinsLive } from './support.ts';

/** Everything is in order, and nobody holds anything. */
const expectSound = (d: DioWorld): void => {
  expectNothingHeld(d.w);
  expect(extentCheck(d.w.k, d.fs)).toEqual([]);
};

describe('direct I/O of a block device: blkdev_direct_IO()', () => {
  it('reads back what it wrote, in pieces of 512 bytes, anywhere in memory', () => {
    const { w, dev, p, hva } = dioWorld();
    const bytes = pattern(3 * PAGE_SIZE);
    p.copyIn(hva + 512, bytes);
    const from = iovIterIovec(ITER_SOURCE, [
      { hva: hva + 512, lenBytes: 1024 },
      { hva: hva + 1536, lenBytes: bytes.length - 1024 },
    ]);
    expect(drive(blockDirectWrite(w.k, p.mm, dev, 512 * 9, from))).toBe(bytes.length);
    expect(from.count).toBe(0);
    const to = iovIterUbuf(ITER_DEST, hva + 32 * PAGE_SIZE, bytes.length);
    expect(drive(blockDirectRead(w.k, p.mm, dev, 512 * 9, to))).toBe(bytes.length);
    expect(peek(p, hva + 32 * PAGE_SIZE, bytes.length)).toEqual(bytes);
    expectNothingHeld(w);
  });

  it('what is not of whole sectors is -EINVAL: offset, length, memory', () => {
    const { w, dev, p, hva } = dioWorld();
    for (const [offset, at, n] of [
      [100, 0, 512],
      [0, 4, 512],
      [0, 0, 100],
    ] as const) {
      const it = iovIterUbuf(ITER_DEST, hva + at, n);
      expect(drive(blockDirectRead(w.k, p.mm, dev, offset, it))).toBe(-EINVAL);
      expect(it.count).toBe(n);
    }
  });

  it('ends with the device: a read is short, then 0; a write behind it -ENOSPC', () => {
    const { w, dev, p, hva } = dioWorld();
    const end = dev.nrBlocks * PAGE_SIZE;
    const read = (at: number): number =>
      drive(blockDirectRead(w.k, p.mm, dev, at, iovIterUbuf(ITER_DEST, hva, 8 * PAGE_SIZE)));
    expect(read(end - 1024)).toBe(1024);
    expect(read(end)).toBe(0);
    const from = iovIterUbuf(ITER_SOURCE, hva, 2048);
    expect(drive(blockDirectWrite(w.k, p.mm, dev, end - 512, from))).toBe(512);
    expect(from.count).toBe(1536);
    expect(drive(blockDirectWrite(w.k, p.mm, dev, end, from))).toBe(-ENOSPC);
  });

  it('memory that ends in the middle: short in one bio, -EFAULT in several', () => {
    const { w, dev, p } = dioWorld();
    const hva = mapAnon(p, 400);
    drive(munmap(w.k, p.mm, hva + 10 * PAGE_SIZE, PAGE_SIZE));
    drive(munmap(w.k, p.mm, hva + 390 * PAGE_SIZE, PAGE_SIZE));
    const read = (at: number, nr: number): number =>
      drive(
        blockDirectRead(
          w.k,
          p.mm,
          dev,
          0,
          iovIterUbuf(ITER_DEST, hva + at * PAGE_SIZE, nr * PAGE_SIZE),
        ),
      );
    expect(read(0, 20)).toBe(10 * PAGE_SIZE);
    expect(read(10, 20)).toBe(-EFAULT);
    expect(read(11, 389)).toBe(-EFAULT);
    expectNothingHeld(w);
  });

  it('of frames that follow each other a bio has one vector', () => {
    const { w, dev, p, hva } = dioWorld();
    const path = blockDirectRead(w.k, p.mm, dev, 0, iovIterUbuf(ITER_DEST, hva, 8 * PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    const [bio] = dev.inFlight;
    expect(bio?.vec.reduce((sum, { lenBytes }) => sum + lenBytes, 0)).toBe(8 * PAGE_SIZE);
    expect(bio?.vec.length).toBeLessThan(8);
    drive(path);
  });
});

describe('pages under way', () => {
  it('are pinned from before the bio is sent until it is done, and of a read dirty', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { w, p, hva } = d;
    const path = fileDirectRead(w.k, p.mm, d.file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    expect(pinsLive(w.k)).toBe(1);
    const page = pageAt(p, hva);
    expect(w.k.state.provenance?.holds.get(page)?.[0]).toMatchObject({
      user: 'block-dio',
      kind: 'pin',
    });
    expect(folioTestDirty(w.k, page)).toBe(true);
    expect(p.load8(hva)).toBe(0);
    stepTo(w.k, path, YP_BIO_TRANSFERRED);
    expect(p.load8(hva)).toBe(pattern(1)[0]);
    expect(drive(path)).toBe(PAGE_SIZE);
    expectSound(d);
  });

  it('that were cleaned while they were under way are dirty again when the bio is done', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const path = fileDirectRead(d.w.k, d.p.mm, d.file, 0, iovIterUbuf(ITER_DEST, d.hva, PAGE_SIZE));
    stepTo(d.w.k, path, YP_BIO_SUBMITTED);
    const page = pageAt(d.p, d.hva);
    folioClearFlags(d.w.k, page, PG_DIRTY);
    drive(path);
    expect(folioTestDirty(d.w.k, page)).toBe(true);
  });

  it('that are written from are pinned for reading only, and stay clean', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { w, p } = d;
    const other = shmemCreate(w.k, 1);
    const hva = mapShared(p, other, 1);
    expect(p.load8(hva)).toBe(0);
    const page = pageAt(p, hva);
    const it = iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE);
    expect(drive(fileDirectWrite(w.k, p.mm, d.file, 0, it))).toBe(PAGE_SIZE);
    expect([folioTestDirty(w.k, page), pteDirty(entryAt(p, hva))]).toEqual([false, false]);
    expectSound(d);
  });

  it('with block-dio=get are referenced instead', () => {
    const d = dioWorld(pattern(PAGE_SIZE), {}, 'get');
    const path = fileDirectRead(d.w.k, d.p.mm, d.file, 0, iovIterUbuf(ITER_DEST, d.hva, PAGE_SIZE));
    stepTo(d.w.k, path, YP_BIO_SUBMITTED);
    expect(pinsLive(d.w.k)).toBe(0);
    expect(d.w.k.state.provenance?.holds.get(pageAt(d.p, d.hva))?.[0]?.kind).toBe('get');
    expect(drive(path)).toBe(PAGE_SIZE);
    expectSound(d);
  });

  it("of the kernel's own nobody takes anything: a bvec", () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const [page] = [d.w.k.state.zeroPage];
    const it = iovIterBvec(ITER_SOURCE, [{ page: page ?? -1, offset: 0, lenBytes: 512 }]);
    expect(drive(fileDirectWrite(d.w.k, null, d.file, 1024, it))).toBe(512);
    expect(contents(d).subarray(1024, 1536)).toEqual(new Uint8Array(512));
    expectSound(d);
  });
});

describe('direct reads of a file', () => {
  it('see what was written to the page cache and is not on the device yet', () => {
    const d = dioWorld(pattern(4 * PAGE_SIZE));
    drive(fileWrite(d.w.k, d.file, PAGE_SIZE + 5, Uint8Array.of(200, 201)));
    expect(directRead(d, PAGE_SIZE, 512)).toBe(512);
    expect(peek(d.p, d.hva + 5, 2)).toEqual(Uint8Array.of(200, 201));
    expectSound(d);
  });

  it('put nothing into the page cache', () => {
    const d = dioWorld(pattern(2 * PAGE_SIZE));
    drive(fileTruncate(d.w.k, d.file, 0));
    drive(fileTruncate(d.w.k, d.file, 2 * PAGE_SIZE));
    expect(directRead(d, 0, 2 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    expect(d.file.pages.size).toBe(0);
  });

  it('see what a process stored into a shared mapping', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const at = mapShared(d.p, d.file, 1);
    d.p.store8(at + 9, 77);
    expect(directRead(d, 0, PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(d.p.load8(d.hva + 9)).toBe(77);
    expectSound(d);
  });

  it('end with the file, inside of a sector too', () => {
    const d = dioWorld(pattern(PAGE_SIZE + 100));
    d.p.copyIn(d.hva, new Uint8Array(3 * PAGE_SIZE).fill(9));
    expect(directRead(d, 0, 3 * PAGE_SIZE)).toBe(PAGE_SIZE + 100);
    expect(peek(d.p, d.hva, PAGE_SIZE + 100)).toEqual(pattern(PAGE_SIZE + 100));
    expect(d.p.load8(d.hva + PAGE_SIZE + 512)).toBe(9);
    expect(directRead(d, 2 * PAGE_SIZE, 512)).toBe(0);
    expect(directRead(d, PAGE_SIZE, 512)).toBe(100);
    expectSound(d);
  });

  it('of holes and of blocks that were never written are zeroes', () => {
    const d = dioWorld();
    drive(fileTruncate(d.w.k, d.file, 4 * PAGE_SIZE));
    expect(drive(extentFallocate(d.w.k, d.file, 1, 1))).toBe(0);
    drive(fileWrite(d.w.k, d.file, 2 * PAGE_SIZE, pattern(PAGE_SIZE)));
    d.p.copyIn(d.hva, new Uint8Array(4 * PAGE_SIZE).fill(9));
    expect(directRead(d, 0, 4 * PAGE_SIZE)).toBe(4 * PAGE_SIZE);
    const wanted = new Uint8Array(4 * PAGE_SIZE);
    wanted.set(pattern(PAGE_SIZE), 2 * PAGE_SIZE);
    expect(peek(d.p, d.hva, wanted.length)).toEqual(wanted);
    expectSound(d);
  });

  it('that are not of whole sectors, or of files in memory, are -EINVAL', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    expect([directRead(d, 1, 512), directRead(d, 0, 511), directRead(d, 0, 512, 8)]).toEqual([
      -EINVAL,
      -EINVAL,
      -EINVAL,
    ]);
    expect(directRead({ ...d, file: shmemCreate(d.w.k, 1) }, 0, 512)).toBe(-EINVAL);
    expect(directRead(d, -512, 512)).toBe(-EINVAL);
  });

  it('with checksums: a block that is not what was written is -EIO, and counted', () => {
    const d = dioWorld(pattern(2 * PAGE_SIZE), { checksums: true });
    const block = d.file.inode?.extents[0]?.block ?? -1;
    d.dev.cache.delete(block + 1);
    d.dev.media.set(block + 1, new Uint8Array(PAGE_SIZE).fill(1));
    expect(directRead(d, 0, PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(directRead(d, 0, 2 * PAGE_SIZE)).toBe(-EIO);
    expect(d.fs.checksumErrors).toBe(1);
    expectNothingHeld(d.w);
  });
});

describe('direct writes of a file', () => {
  it('are on the device, and read() sees them: nothing old stays in the page cache', () => {
    const d = dioWorld(pattern(4 * PAGE_SIZE));
    expect(contents(d)).toEqual(pattern(4 * PAGE_SIZE));
    expect(d.file.pages.size).toBe(4);
    d.p.copyIn(d.hva, pattern(2 * PAGE_SIZE, 5));
    expect(directWrite(d, PAGE_SIZE, 2 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    expect([...d.file.pages.keys()]).toEqual([0, 3]);
    const wanted = pattern(4 * PAGE_SIZE);
    wanted.set(pattern(2 * PAGE_SIZE, 5), PAGE_SIZE);
    expect(contents(d)).toEqual(wanted);
    expectSound(d);
  });

  it('a mapping of the range sees them as well', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const at = mapShared(d.p, d.file, 1);
    expect(d.p.load8(at)).toBe(pattern(1)[0]);
    d.p.copyIn(d.hva, new Uint8Array(PAGE_SIZE).fill(3));
    directWrite(d, 0, PAGE_SIZE);
    expect(d.p.load8(at)).toBe(3);
    expectSound(d);
  });

  it('what was read into the page cache while they were under way does not stay there', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { w, p, hva, file } = d;
    p.copyIn(hva, pattern(PAGE_SIZE, 5));
    const path = fileDirectWrite(w.k, p.mm, file, 0, iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    expect(contents(d)).toEqual(pattern(PAGE_SIZE));
    expect(drive(path)).toBe(PAGE_SIZE);
    expect(contents(d)).toEqual(pattern(PAGE_SIZE, 5));
    expectSound(d);
  });

  it('what was dirtied there while they were under way stays, and the file has an error to tell of', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { w, p, hva, file } = d;
    const at = mapShared(p, file, 1);
    p.copyIn(hva, pattern(PAGE_SIZE, 5));
    const path = fileDirectWrite(w.k, p.mm, file, 0, iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    p.store8(at, 99);
    expect(drive(path)).toBe(PAGE_SIZE);
    expect(contents(d)[0]).toBe(99);
    expect(drive(vfsFsync(w.k, file))).toBe(-EIO);
    expectSound(d);
  });

  it('go by way of the page cache where somebody has pinned a page of the range there', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { w, p, hva, file } = d;
    const at = mapShared(p, file, 1);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, at, 1, 0, pages))).toBe(1);
    p.copyIn(hva, pattern(PAGE_SIZE, 5));
    expect(directWrite(d, 0, PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(p.load8(at)).toBe(pattern(1, 5)[0]);
    expect(file.pages.get(0)).toBe(pages[0]);
    unpinUserPages(w.k, pages, 1);
    expectSound(d);
  });

  it('of 512 bytes leave the rest of a block alone', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    d.p.copyIn(d.hva, new Uint8Array(512).fill(3));
    expect(directWrite(d, 1024, 512)).toBe(512);
    const wanted = pattern(PAGE_SIZE);
    wanted.fill(3, 1024, 1536);
    expect(contents(d)).toEqual(wanted);
    expectSound(d);
  });

  it('into a hole, and into blocks that were never written: zeroes around them', () => {
    const d = dioWorld();
    drive(fileTruncate(d.w.k, d.file, 6 * PAGE_SIZE));
    // What a block had before it was the file's must not come back.
    for (let block = d.fs.firstBlock; block < d.dev.nrBlocks; block++)
      d.dev.media.set(block, new Uint8Array(PAGE_SIZE).fill(0xee));
    expect(drive(extentFallocate(d.w.k, d.file, 3, 2))).toBe(0);
    d.p.copyIn(d.hva, new Uint8Array(2 * PAGE_SIZE).fill(3));
    expect(directWrite(d, 1024, 512)).toBe(512);
    expect(directWrite(d, 4 * PAGE_SIZE - 512, 1024)).toBe(1024);
    const wanted = new Uint8Array(6 * PAGE_SIZE);
    wanted.fill(3, 1024, 1536).fill(3, 4 * PAGE_SIZE - 512, 4 * PAGE_SIZE + 512);
    expect(contents(d)).toEqual(wanted);
    expectSound(d);
  });

  it('behind the end make the file longer, with zeroes in between, and after a crash too', () => {
    const d = dioWorld(pattern(100));
    d.p.copyIn(d.hva, pattern(1024, 2));
    expect(directWrite(d, 2 * PAGE_SIZE + 512, 1024)).toBe(1024);
    expect(d.file.inode?.sizeBytes).toBe(2 * PAGE_SIZE + 1536);
    const wanted = new Uint8Array(2 * PAGE_SIZE + 1536);
    wanted.set(pattern(100));
    wanted.set(pattern(1024, 2), 2 * PAGE_SIZE + 512);
    expect(contents(d)).toEqual(wanted);
    expect(drive(vfsFsync(d.w.k, d.file))).toBe(0);
    expectSound(d);
    const ino = d.file.inode?.ino ?? -1;
    drive(mappingPut(d.w.k, d.file));
    drive(extentForget(d.w.k, d.fs));
    blockPowerFail(d.dev, () => false);
    const fs = extentMount(d.w.k, d.dev);
    if (typeof fs === 'number') throw new Error(`mount: ${fs}`);
    const again = extentOpen(d.w.k, fs, ino);
    if (typeof again === 'number') throw new Error(`open: ${again}`);
    expect(contents({ ...d, file: again })).toEqual(wanted);
  });

  it('append sector by sector', () => {
    const d = dioWorld();
    const bytes = pattern(5 * 512);
    d.p.copyIn(d.hva, bytes);
    for (let i = 0; i < 5; i++) expect(directWrite(d, i * 512, 512, i * 512)).toBe(512);
    expect(contents(d)).toEqual(bytes);
    expectSound(d);
  });

  it('of more than a bio has room for go in several', () => {
    const d = dioWorld();
    const hva = mapAnon(d.p, 600);
    const bytes = pattern(600 * PAGE_SIZE);
    d.p.copyIn(hva, bytes);
    const it = iovIterUbuf(ITER_SOURCE, hva, bytes.length);
    const path = fileDirectWrite(d.w.k, d.p.mm, d.file, 0, it);
    stepTo(d.w.k, path, YP_BIO_SUBMITTED);
    expect(d.dev.inFlight.length).toBe(3);
    expect(pinsLive(d.w.k)).toBe(600);
    expect(drive(path)).toBe(bytes.length);
    expect(Buffer.compare(contents(d), bytes)).toBe(0);
    expectSound(d);
  });

  it('with checksums go by way of the page cache (btrfs since 6.15): a buffer that changes does no harm', () => {
    const d = dioWorld(pattern(PAGE_SIZE), { checksums: true });
    d.p.copyIn(d.hva, pattern(PAGE_SIZE, 4));
    const it = iovIterUbuf(ITER_SOURCE, d.hva, PAGE_SIZE);
    const path = fileDirectWrite(d.w.k, d.p.mm, d.file, 0, it);
    stepTo(d.w.k, path, YP_BIO_SUBMITTED);
    expect(pinsLive(d.w.k)).toBe(0);
    d.p.store8(d.hva, 99);
    expect(drive(path)).toBe(PAGE_SIZE);
    expect(d.file.pages.size).toBe(0);
    expect(contents(d)).toEqual(pattern(PAGE_SIZE, 4));
    expect(d.fs.checksumErrors).toBe(0);
    expectSound(d);
  });

  it('from a mapping of the very range they go to', () => {
    const d = dioWorld(pattern(2 * PAGE_SIZE));
    const at = mapShared(d.p, d.file, 2);
    d.p.store8(at, 88);
    const it = iovIterUbuf(ITER_SOURCE, at, PAGE_SIZE);
    expect(drive(fileDirectWrite(d.w.k, d.p.mm, d.file, PAGE_SIZE, it))).toBe(PAGE_SIZE);
    const wanted = pattern(2 * PAGE_SIZE);
    wanted[0] = 88;
    wanted.set(wanted.subarray(0, PAGE_SIZE), PAGE_SIZE);
    expect(contents(d)).toEqual(wanted);
    expectSound(d);
  });
});

describe('files of a DAX file system', () => {
  /** A file of one page and a bit. */
  const daxWorld = (): DioWorld => {
    const d = dioWorld();
    const dev = pmemDeviceCreate(d.w.k, 'pmem', 1024);
    if (typeof dev === 'number') throw new Error(`pmem: ${dev}`);
    const fs = extentMkfs(d.w.k, dev, { dax: true });
    const file = extentCreate(d.w.k, fs);
    drive(fileWrite(d.w.k, file, 0, pattern(PAGE_SIZE + 10)));
    return { ...d, dev, fs, file };
  };

  it('are copied, at any offset: there is no page cache to go past, and nothing is pinned', () => {
    const d = daxWorld();
    expect(directRead(d, 7, 2 * PAGE_SIZE, 3)).toBe(PAGE_SIZE + 3);
    expect(peek(d.p, d.hva + 3, PAGE_SIZE + 3)).toEqual(pattern(PAGE_SIZE + 10).subarray(7));
    d.p.copyIn(d.hva, pattern(100, 2));
    expect(directWrite(d, PAGE_SIZE - 50, 100)).toBe(100);
    expect(contents(d).subarray(PAGE_SIZE - 50)).toEqual(pattern(100, 2));
    expect(directRead(d, 0, PAGE_SIZE, 64 * PAGE_SIZE)).toBe(-EFAULT);
    expect([d.dev.nrReads, d.dev.nrWrites]).toEqual([0, 0]);
    expectSound(d);
  });

  it("in a pipe are copies: the blocks are nobody else's", () => {
    const d = daxWorld();
    const pipe = createPipe(d.w.k);
    expect(drive(spliceFileToPipe(d.w.k, d.file, 5, pipe, 10))).toBe(10);
    expect(pipe.buffers.map(({ hold }) => hold)).toEqual(['own']);
    const into = new Uint8Array(10);
    pipeRead(d.w.k, pipe, into);
    expect(into).toEqual(pattern(15).subarray(5));
    expectSound(d);
  });
});

describe('i_rwsem', () => {
  it('a write that changes the size has the file to itself; one of whole blocks inside does not', () => {
    const d = dioWorld(pattern(2 * PAGE_SIZE));
    const lock = d.file.inode?.lock;
    const path = (offset: number) =>
      fileDirectWrite(d.w.k, d.p.mm, d.file, offset, iovIterUbuf(ITER_SOURCE, d.hva, PAGE_SIZE));
    for (const { offset, held } of [
      { offset: PAGE_SIZE, held: { readers: 1, writer: false } },
      { offset: 512, held: { readers: 0, writer: true } },
      { offset: 2 * PAGE_SIZE, held: { readers: 0, writer: true } },
    ]) {
      const writing = path(offset);
      stepTo(d.w.k, writing, YP_BIO_SUBMITTED);
      expect(lock).toEqual(held);
      drive(writing);
      expect(lock).toEqual({ readers: 0, writer: false });
    }
    expectSound(d);
  });
});

describe('a signal that kills', () => {
  it('while pages are taken: -EINTR, and what was taken is given back', () => {
    const d = dioWorld(pattern(8 * PAGE_SIZE));
    sendSignal(d.w.k, SIGNAL_FATAL);
    expect(directRead(d, 0, 8 * PAGE_SIZE)).toBe(-EINTR);
    expectSound(d);
  });
});
