/**
 * Writeback of the extent file system: pages dirtied behind its back, pins, stable pages, checksums,
 * errors. Sections are those of the facts: 1.9 pins, 2.6 pages dirtied behind the file system, S9.
 */
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVmFlags,
  drive,
  extentBlockAt,
  extentCreate,
  fileDirectRead,
  extentCheck,
  extentFreeBlocks,
  extentRead,
  extentWrite,
  setPolicyApi,
  vfsFsync,
  writebackMapping,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { EAGAIN, EIO, ENOSPC } from '../../mm/errno.ts';
import { folioAlloc, folioMarkDirty, folioTestDirty, folioUnlock } from '../../mm/folio/folio.ts';
import { GFP_ZERO } from '../../mm/frames/buddy.ts';
import { ITER_DEST, iovIterBvec } from '../../mm/iov/iter.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { provenanceStart } from '../../mm/provenance/provenance.ts';
import { operationsOf } from '../../mm/fs/operations.ts';
import {
  YP_BIO_SUBMITTED,
  YP_BIO_TRANSFERRED,
  YP_GUP_LOOKED_UP,
  YP_WAIT,
  YP_WRITEBACK_CLEANED,
  YP_WRITEBACK_STARTED,
} from '../../mm/path.ts';
import {
  cachedPage,
  createDiskWorld,
  fileOf,
  firstBytes,
  fsync,
  inodeOf,
  pageOf,
  storeMapped,
  write,
  writeback,
  onDisk,
  dropCache,
  fillUp,
  dirtyBehind,
  pinned,
} from './extent-support.ts';
import { createProcess, stepTo, mapOf } from './support.ts';

describe('a page that was dirtied behind the back of the file system (2.6, S9)', () => {
  it('is counted and named, and gets a block if there is one', () => {
    const { k, fs, file } = onDisk({}, 1, 2);
    expect(drive(extentFreeBlocks(k, file, 1, 1))).toBe(0);
    dirtyBehind(k, file, 0, 5);
    dirtyBehind(k, file, 1, 6);
    expect(fsync(k, file)).toBe(0);
    expect([fs.dirtiedBehind, fs.lostPages]).toEqual([2, 0]);
    expect(fs.behind).toMatchObject([
      { ino: 1, pgoff: 0, status: 0 },
      { ino: 1, pgoff: 1, status: 0 },
    ]);
    expect(firstBytes(k, file)).toEqual([5, 6]);
  });

  it('without a free block its data is lost: -ENOSPC from writeback, kept for fsync() once', () => {
    const w = onDisk({}, 1);
    const { k, fs, file } = w;
    expect(drive(extentFreeBlocks(k, file, 0, 1))).toBe(0);
    expect(fsync(k, file)).toBe(0);
    fillUp(w, 0);
    dirtyBehind(k, file, 0, 5);
    expect(writeback(k, file)).toBe(-ENOSPC);
    expect([fs.dirtiedBehind, fs.lostPages]).toEqual([1, 1]);
    expect(fs.behind).toMatchObject([{ ino: 1, pgoff: 0, status: -ENOSPC }]);
    expect(folioTestDirty(k, cachedPage(file, 0))).toBe(false);
    expect(fsync(k, file)).toBe(-ENOSPC);
    expect(fsync(k, file)).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('has the name of whoever wrote it by GUP, where provenance is on', () => {
    const w = onDisk({}, 1);
    const { k, fs, file } = w;
    provenanceStart(k);
    const p = createProcess(w);
    const hva = mapOf(p, file);
    p.store32(hva, 7);
    // access_remote_vm() takes FOLL_GET here: it has found the page, and then writeback cleans it.
    const ptrace = accessRemoteVmFlags(k, p.mm, hva, Uint8Array.of(9), FOLL_WRITE);
    stepTo(k, ptrace, YP_GUP_LOOKED_UP);
    expect(writeback(k, file)).toBe(0);
    expect(drive(ptrace)).toBe(1);
    expect(writeback(k, file)).toBe(0);
    expect(fs.behind).toMatchObject([{ pgoff: 0, writer: 'access-remote-vm', status: 0 }]);
  });

  it('is dropped where the file system does as ext4 does', () => {
    const { k, dev, fs, file } = onDisk({ dropsBehind: true }, 1);
    dirtyBehind(k, file, 0, 5);
    expect(writeback(k, file)).toBe(-EIO);
    expect([fs.dirtiedBehind, fs.lostPages]).toEqual([1, 1]);
    expect(dev.media.get(extentBlockAt(inodeOf(file), 0))?.[0]).toBe(1);
  });
});

describe('pages that may be pinned (1.9)', () => {
  it('releaseFolio() refuses them, as it does dirty ones and such as are being written', () => {
    const { k, file } = onDisk({}, 1);
    const page = cachedPage(file, 0);
    const release = (): boolean => operationsOf(file).releaseFolio?.(k, file, page) ?? true;
    pinned(k, page, () => expect(release()).toBe(false));
    folioMarkDirty(k, page);
    expect(release()).toBe(false);
    const wb = writebackMapping(k, file);
    stepTo(k, wb, YP_BIO_SUBMITTED);
    expect(release()).toBe(false);
    drive(wb);
    expect(release()).toBe(true);
  });

  for (const checksums of [false, true])
    it(`bounce: a copy is written, the page stays dirty with its promise${checksums ? ', with checksums' : ''}`, () => {
      const w = createDiskWorld({ checksums });
      const { k, dev, fs } = w;
      expect(setPolicyApi(k.policy, 'pinned-writeback', 'bounce')).toBe(null);
      const file = fileOf(k, fs, 1);
      const page = cachedPage(file, 0);
      const inode = inodeOf(file);
      pinned(k, page, () => {
        const wb = vfsFsync(k, file);
        stepTo(k, wb, YP_BIO_SUBMITTED);
        // The device of whoever has the pin writes, while the copy is on its way.
        k.memory.setBytes(k.memory.pageOffset(page), pageOf(2));
        expect(drive(wb)).toBe(0);
        expect(dev.media.get(extentBlockAt(inode, 0))?.[0]).toBe(1);
        expect(folioTestDirty(k, page)).toBe(true);
        expect(inode.reserved.get(0)).toBe(checksums ? 'delalloc' : 'mapped');
        expect(extentCheck(k, fs)).toEqual([]);
      });
      expect(fsync(k, file)).toBe(0);
      expect(dev.media.get(extentBlockAt(inode, 0))?.[0]).toBe(2);
      expect([inode.reserved.size, fs.nrReserved, fs.dirtiedBehind]).toEqual([0, 0, 0]);
      dropCache(k, file);
      expect(firstBytes(k, file)).toEqual([2]);
    });

  it('bounce with checksums and no block to spare: -ENOSPC, and nothing is lost', () => {
    const w = createDiskWorld({ checksums: true });
    const { k, fs } = w;
    expect(setPolicyApi(k.policy, 'pinned-writeback', 'bounce')).toBe(null);
    fillUp(w, 1);
    const file = fileOf(k, fs, 1);
    pinned(k, cachedPage(file, 0), () => expect(writeback(k, file)).toBe(-ENOSPC));
    expect(fs.lostPages).toBe(0);
    expect(fsync(k, file)).toBe(-ENOSPC);
    expect(firstBytes(k, file)).toEqual([1]);
    expect(fsync(k, file)).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('bounce, and the device refuses the block: the promise is again one of a block', () => {
    const w = createDiskWorld();
    const { k, dev, fs } = w;
    expect(setPolicyApi(k.policy, 'pinned-writeback', 'bounce')).toBe(null);
    const file = fileOf(k, fs, 1);
    for (let block = fs.firstBlock; block < fs.nrBlocks; block++) dev.badWrites.add(block);
    pinned(k, cachedPage(file, 0), () => expect(writeback(k, file)).toBe(-EIO));
    expect([...inodeOf(file).reserved]).toEqual([[0, 'delalloc']]);
    expect(extentCheck(k, fs)).toEqual([]);
    dev.badWrites.clear();
    expect(fsync(k, file)).toBe(-EIO);
    expect(fsync(k, file)).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('ignore, as Linux: the page is clean afterwards, and its promise is gone', () => {
    const { k, fs } = createDiskWorld();
    const file = fileOf(k, fs, 1);
    const page = cachedPage(file, 0);
    pinned(k, page, () => {
      expect(writeback(k, file)).toBe(0);
      expect(folioTestDirty(k, page)).toBe(false);
      expect(inodeOf(file).reserved.size).toBe(0);
      // The pin ends with bytes in the page that nobody was promised to write.
      dirtyBehind(k, file, 0, 9);
    });
    expect(writeback(k, file)).toBe(0);
    expect(fs.dirtiedBehind).toBe(1);
  });
});

describe('stable pages (2.6): what is on its way to the device does not change', () => {
  for (const stablePages of [true, false])
    it(`page_mkwrite and write() ${stablePages ? 'wait' : 'do not wait'} ${stablePages ? 'with' : 'without'} them`, () => {
      for (const store of [storeMapped, extentWrite]) {
        const { k, fs } = createDiskWorld({ stablePages });
        const file = fileOf(k, fs, 1);
        const wb = writebackMapping(k, file);
        stepTo(k, wb, YP_BIO_SUBMITTED);
        const step = store(k, file, 0, Uint8Array.of(7)).next();
        expect(step.done === true ? 'stored' : step.value).toBe(stablePages ? YP_WAIT : 'stored');
        expect(drive(wb)).toBe(0);
      }
    });

  it('without them, and with checksums, a store on the way makes the block unreadable: -EIO, counted', () => {
    const { k, fs } = createDiskWorld({ checksums: true });
    const file = fileOf(k, fs, 1);
    const wb = writebackMapping(k, file);
    stepTo(k, wb, YP_BIO_SUBMITTED);
    expect(drive(storeMapped(k, file, 0, Uint8Array.of(7)))).toBe(0);
    stepTo(k, wb, YP_BIO_TRANSFERRED);
    expect(drive(wb)).toBe(0);
    dropCache(k, file);
    expect(drive(extentRead(k, file, 0, new Uint8Array(1)))).toBe(-EIO);
    expect(fs.checksumErrors).toBe(1);
    // Nothing of it stays in the cache.
    expect(file.pages.size).toBe(0);
  });

  it('a second writeback of a page waits for the first, and the device ends with the newer bytes', () => {
    const { k, dev, fs } = createDiskWorld();
    const file = fileOf(k, fs, 1);
    const first = writebackMapping(k, file);
    stepTo(k, first, YP_WRITEBACK_STARTED);
    expect(drive(storeMapped(k, file, 0, pageOf(2)))).toBe(0);
    const second = vfsFsync(k, file);
    expect(second.next()).toEqual({ done: false, value: YP_WAIT });
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
    expect(dev.media.get(extentBlockAt(inodeOf(file), 0))?.[0]).toBe(2);
  });
});

describe('fsync() and another writeback', () => {
  it('it waits also for a folio that has been cleaned, and whose writing has not begun', () => {
    const { k, fs } = createDiskWorld();
    const file = fileOf(k, fs, 1);
    const wb = writebackMapping(k, file, 0, PAGE_SIZE, false);
    stepTo(k, wb, YP_WRITEBACK_CLEANED);
    const sync = vfsFsync(k, file);
    expect(sync.next()).toEqual({ done: false, value: YP_WAIT });
    expect(drive(wb)).toBe(0);
    expect(drive(sync)).toBe(0);
  });
});

describe('errors of the device', () => {
  it('EIO of a read: -EIO, SIGBUS for a fault, and the next try reads again', () => {
    const { k, dev, file } = onDisk({}, 1);
    dropCache(k, file);
    dev.badReads.add(extentBlockAt(inodeOf(file), 0));
    expect(drive(extentRead(k, file, 0, new Uint8Array(1)))).toBe(-EIO);
    expect(drive(storeMapped(k, file, 0, Uint8Array.of(1)))).toBe(-EIO);
    expect(file.pages.size).toBe(0);
    dev.badReads.clear();
    expect(firstBytes(k, file)).toEqual([1]);
  });

  it('EIO of writeback: the block is free again, the error is kept until fsync(), the page is clean', () => {
    const { k, dev, fs } = createDiskWorld();
    const free = fs.nrFree;
    const file = fileOf(k, fs, 1, 2);
    dev.badWrites.add(fs.firstBlock);
    expect(drive(writebackMapping(k, file, 0, PAGE_SIZE))).toBe(-EIO);
    dev.badWrites.clear();
    expect(writeback(k, file)).toBe(0);
    expect(file.wbErr).toBe(-EIO);
    expect(inodeOf(file).extents).toMatchObject([{ pgoff: 1, nr: 1 }]);
    expect([fs.nrFree, fs.nrReserved]).toEqual([free - 1, 0]);
    expect(folioTestDirty(k, cachedPage(file, 0))).toBe(false);
    expect(fsync(k, file)).toBe(-EIO);
    expect(fsync(k, file)).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it("a page that is no more the file's, or lies beyond its end, is not asked for: -EAGAIN", () => {
    const { k, file } = onDisk({}, 1, 2);
    const page = cachedPage(file, 1);
    const ask = (): number =>
      drive(operationsOf(file).pageMkwrite?.(k, file, page) ?? storeMapped(k, file, 0, pageOf(0)));
    inodeOf(file).sizeBytes = PAGE_SIZE;
    expect(ask()).toBe(-EAGAIN);
    inodeOf(file).sizeBytes = 2 * PAGE_SIZE;
    expect(ask()).toBe(0);
    folioUnlock(k, page);
    k.state.frames.refcount.fill(2, page, page + 1);
    dropCache(k, file);
    expect(ask()).toBe(-EAGAIN);
  });
});

describe('direct reads where nothing is written over', () => {
  it('a block that has been given to another file while it was read is not what is read', () => {
    const w = onDisk({ checksums: true }, 1);
    const { k, fs, file } = w;
    const other = extentCreate(k, fs);
    const block = extentBlockAt(inodeOf(file), 0);
    const page = folioAlloc(k, GFP_ZERO);
    const into = iovIterBvec(ITER_DEST, [{ page, offset: 0, lenBytes: PAGE_SIZE }]);
    const read = fileDirectRead(k, null, file, 0, into);
    stepTo(k, read, YP_BIO_SUBMITTED);
    // Dirtied through a mapping, written to another block, committed: the old one is free.
    expect(drive(storeMapped(k, file, 0, pageOf(2)))).toBe(0);
    expect(fsync(k, file)).toBe(0);
    write(k, other, 0, pageOf(9));
    expect(fsync(k, other)).toBe(0);
    expect(extentBlockAt(inodeOf(other), 0)).toBe(block);
    expect(drive(read)).toBe(PAGE_SIZE);
    expect(k.memory.u8[k.memory.pageOffset(page)]).toBe(2);
  });
});
