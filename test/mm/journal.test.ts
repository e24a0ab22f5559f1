/**
 * The journal of the extent file system: handles and credits, commits, what a crash leaves, recovery.
 * Compare fs/jbd2/, Documentation/filesystems/journalling.rst.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockCrashImage,
  blockDeviceCreate,
  blockPowerFail,
  drive,
  type ExtentFs,
  extentCheck,
  extentCreate,
  extentForget,
  extentMkfs,
  extentMount,
  extentOpen,
  extentSetSize,
  extentUnlink,
  extentUnmount,
  extentWrite,
  filePunchHole,
  type Kernel,
  mappingPut,
  vfsFsync,
  writebackMapping,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { EFAULT, EINVAL, EIO, ENOENT } from '../../mm/errno.ts';
import { journalDirtyInode } from '../../mm/fs/extent/handle.ts';
import { journalStart, journalStop, journalTryStart } from '../../mm/fs/extent/journal.ts';
import { EXTENTS_PER_BLOCK, geometryOf } from '../../mm/fs/extent/layout.ts';
import { YP_BIO_SUBMITTED, YP_BIO_TRANSFERRED, YP_WAIT } from '../../mm/path.ts';
import {
  contents,
  createDiskWorld,
  type DiskWorld,
  fileOf,
  firstBytes,
  fsync,
  inodeOf,
  mounted,
  pageOf,
  storeMapped,
  write,
} from './extent-support.ts';
import { createWorld, stepTo } from './support.ts';

const none = (): boolean => false;
const all = (): boolean => true;

interface After {
  k: Kernel;
  dev: BlockDevice;
  fs: ExtentFs;
}

/** Another machine with what a loss of power would leave of the disk now; the first one goes on. */
const afterCrash = ({ dev }: DiskWorld, keeps: (block: number) => boolean = none): After => {
  const { k } = createWorld(2 ** 22);
  const copy = blockDeviceCreate(k, 'after the crash', dev.nrBlocks);
  copy.media = blockCrashImage(dev, keeps);
  const fs = mounted(k, copy);
  expect(extentCheck(k, fs)).toEqual([]);
  return { k, dev: copy, fs };
};

/** @throws Error where there is no such file */
const opened = ({ k, fs }: After, ino: number): AddressSpace => {
  const mapping = extentOpen(k, fs, ino);
  if (typeof mapping === 'number') throw new Error(`file ${ino}: ${mapping}`);
  return mapping;
};

const inoOf = (file: AddressSpace): number => inodeOf(file).ino;

/** Steps a path until a flush or the record of a commit has been transferred: the `nth` time. */
const stepToTransfer = (w: DiskWorld, path: Generator<number, unknown>, nth: number): void => {
  for (let i = 0; i < nth; i++) stepTo(w.k, path, YP_BIO_TRANSFERRED);
};

describe('commit', () => {
  it('images, a flush, and then the record of the commit, which is durable when it is written (FUA)', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1);
    const sync = vfsFsync(w.k, file);
    const seen: string[] = [];
    w.k.watched = true;
    for (let step = sync.next(); step.done !== true; step = sync.next()) {
      const bio = w.dev.inFlight[0];
      if (step.value !== YP_BIO_TRANSFERRED || bio === undefined) continue;
      const inJournal = bio.offset / PAGE_SIZE <= w.fs.journal.nrBlocks;
      const where = bio.op === 'flush' ? '' : inJournal ? ' journal' : ' data';
      seen.push(`${bio.op}${where}${bio.fua ? ' fua' : ''}`);
    }
    w.k.watched = false;
    expect(seen).toEqual(['write data', 'write journal', 'flush', 'write journal fua']);
  });

  it('before the record is on the device a crash leaves nothing of the transaction, after it all', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1);
    const sync = vfsFsync(w.k, file);
    // The data, the images, the flush.
    stepToTransfer(w, sync, 3);
    const before = afterCrash(w, all);
    expect(extentOpen(before.k, before.fs, inoOf(file))).toBe(-ENOENT);
    expect(drive(sync)).toBe(0);
    const after = afterCrash(w, none);
    expect(firstBytes(after.k, opened(after, inoOf(file)))).toEqual([1]);
  });

  it('a transaction of which one block is missing is none', () => {
    const w = createDiskWorld();
    const { journal } = w.fs;
    const file = fileOf(w.k, w.fs, 1);
    expect(fsync(w.k, file)).toBe(0);
    for (let i = 0; i < journal.nrUsed; i++) {
      const { k } = createWorld(2 ** 21);
      const copy = blockDeviceCreate(k, 'torn', w.dev.nrBlocks);
      copy.media = blockCrashImage(w.dev, none);
      copy.media.delete(journal.firstBlock + i);
      expect(extentOpen(k, mounted(k, copy), inoOf(file))).toBe(-ENOENT);
    }
  });

  it('ordered: it refers to no block whose data is still on its way', () => {
    const w = createDiskWorld();
    const slow = fileOf(w.k, w.fs, 1);
    const other = fileOf(w.k, w.fs, 2);
    const wb = writebackMapping(w.k, slow);
    stepTo(w.k, wb, YP_BIO_SUBMITTED);
    expect(fsync(w.k, other)).toBe(0);
    const early = afterCrash(w, all);
    expect(extentOpen(early.k, early.fs, inoOf(slow))).toBe(-ENOENT);
    expect(drive(wb)).toBe(0);
    expect(fsync(w.k, slow)).toBe(0);
    const late = afterCrash(w, none);
    expect(firstBytes(late.k, opened(late, inoOf(slow)))).toEqual([1]);
  });

  it('nobody gets blocks that were freed before that is committed: a crash may bring their file back', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1);
    expect(fsync(w.k, file)).toBe(0);
    const [extent] = inodeOf(file).extents;
    expect(drive(filePunchHole(w.k, file, 0, PAGE_SIZE))).toBe(0);
    const other = extentCreate(w.k, w.fs);
    write(w.k, other, 0, pageOf(2));
    expect(drive(writebackMapping(w.k, other))).toBe(0);
    expect(inodeOf(other).extents[0]?.block).not.toBe(extent?.block);
    const after = afterCrash(w, all);
    expect(firstBytes(after.k, opened(after, inoOf(file)))).toEqual([1]);
  });

  it('changes that come while it is on its way belong to the next one', () => {
    const w = createDiskWorld();
    const first = fileOf(w.k, w.fs, 1);
    const second = fileOf(w.k, w.fs, 2);
    const sync = vfsFsync(w.k, first);
    // Data, images: what is committed is what was then.
    stepToTransfer(w, sync, 2);
    expect(drive(writebackMapping(w.k, second))).toBe(0);
    expect(inodeOf(second).transaction).toBe(inodeOf(first).transaction + 1);
    expect(drive(sync)).toBe(0);
    const after = afterCrash(w, all);
    expect(firstBytes(after.k, opened(after, inoOf(first)))).toEqual([1]);
    expect(extentOpen(after.k, after.fs, inoOf(second))).toBe(-ENOENT);
  });

  it('one who finds his change in a commit that is on its way waits for it, and commits nothing himself', () => {
    const w = createDiskWorld();
    const first = fileOf(w.k, w.fs, 1);
    const second = fileOf(w.k, w.fs, 2);
    expect(drive(writebackMapping(w.k, second))).toBe(0);
    // New files are in no transaction before somebody asks for it.
    expect(fsync(w.k, second)).toBe(0);
    write(w.k, second, PAGE_SIZE, pageOf(3));
    expect(drive(writebackMapping(w.k, second))).toBe(0);
    const sync = vfsFsync(w.k, first);
    stepToTransfer(w, sync, 2);
    const other = vfsFsync(w.k, second);
    w.k.watched = true;
    expect(other.next()).toEqual({ done: false, value: YP_WAIT });
    w.k.watched = false;
    expect(drive(sync)).toBe(0);
    const { committedSeq } = w.fs.journal;
    expect(drive(other)).toBe(0);
    expect(w.fs.journal.committedSeq).toBe(committedSeq);
    const after = afterCrash(w, none);
    expect(firstBytes(after.k, opened(after, inoOf(second)))).toEqual([2, 3]);
  });

  it('where no metadata has changed fsync() flushes, and commits nothing', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1);
    expect(fsync(w.k, file)).toBe(0);
    const { nrWrites, nrFlushes } = w.dev;
    write(w.k, file, 0, pageOf(2));
    expect(fsync(w.k, file)).toBe(0);
    expect([w.dev.nrWrites, w.dev.nrFlushes]).toEqual([nrWrites + 1, nrFlushes + 1]);
    const after = afterCrash(w, none);
    expect(firstBytes(after.k, opened(after, inoOf(file)))).toEqual([2]);
  });
});

describe('handles and credits', () => {
  it('metadata cannot change outside a handle, nor by more blocks than it has credits', () => {
    const { k, fs } = createDiskWorld();
    const inode = inodeOf(extentCreate(k, fs));
    expect(() => journalDirtyInode(fs, inode)).toThrow('outside a handle');
    expect(journalTryStart(fs, 0)).toBe(true);
    expect(() => journalDirtyInode(fs, inode)).toThrow('needs 1 blocks and has 0 credits');
    journalStop(fs);
    expect(() => journalStop(fs)).toThrow('no handle');
  });

  it('a block of metadata costs one credit in each transaction, however often it changes', () => {
    const { k, fs } = createDiskWorld();
    const inode = inodeOf(extentCreate(k, fs));
    expect(journalTryStart(fs, 1)).toBe(true);
    for (let i = 0; i < 3; i++) journalDirtyInode(fs, inode);
    journalStop(fs);
    expect(fs.journal.running.nrBlocks).toBe(1);
  });

  it('where the transaction has no room for the credits it is committed first', () => {
    const { k, fs } = createDiskWorld();
    const inode = inodeOf(extentCreate(k, fs));
    expect(drive(journalStart(k, fs, () => 1))).toBe(0);
    journalDirtyInode(fs, inode);
    journalStop(fs);
    const room = fs.journal.nrBlocks - 2;
    expect(journalTryStart(fs, room)).toBe(false);
    expect(drive(journalStart(k, fs, () => room))).toBe(0);
    journalStop(fs);
    expect(fs.journal.committedSeq).toBe(1);
    expect(() => drive(journalStart(k, fs, () => room + 1))).toThrow('do not fit');
  });
});

describe('the ring', () => {
  it('goes round for ever: what is committed goes home when there is no room, and is found there', () => {
    const w = createDiskWorld();
    const file = extentCreate(w.k, w.fs);
    for (let i = 0; i < 25; i++) {
      write(w.k, file, i * PAGE_SIZE, pageOf(i + 1));
      expect(fsync(w.k, file)).toBe(0);
      const after = afterCrash(w, none);
      expect(firstBytes(after.k, opened(after, inoOf(file)))).toEqual(
        Array.from({ length: i + 1 }, (_, j) => j + 1),
      );
    }
    expect(w.fs.journal.tailSeq).toBeGreaterThan(5);
  });

  it('transactions are replayed in order: the newest of a block is what stays', () => {
    const w = createDiskWorld();
    const file = extentCreate(w.k, w.fs);
    for (const size of [5000, 100, 9000]) {
      expect(drive(extentSetSize(w.k, file, size))).toBe(0);
      expect(fsync(w.k, file)).toBe(0);
    }
    expect(w.fs.journal.tailSeq).toBe(1);
    const after = afterCrash(w, none);
    expect(inodeOf(opened(after, inoOf(file))).sizeBytes).toBe(9000);
    // Mounted once more: it has gone home, and the journal begins behind it.
    drive(mappingPut(after.k, opened(after, inoOf(file))));
    expect(after.fs.journal).toMatchObject({ tailSeq: 4, committedSeq: 3, nrUsed: 0 });
  });
});

describe('recovery', () => {
  it('generation after generation: crash, mount, work, crash', () => {
    let w = createDiskWorld({ ramBytes: 2 ** 22 });
    let file = extentCreate(w.k, w.fs);
    const ino = inoOf(file);
    for (let i = 1; i <= 16; i++) {
      write(w.k, file, ((i * 7) % 20) * PAGE_SIZE, pageOf(i));
      if (i % 3 === 0) expect(drive(filePunchHole(w.k, file, 0, (i % 9) * PAGE_SIZE + 1))).toBe(0);
      expect(fsync(w.k, file)).toBe(0);
      const durable = contents(w.k, file);
      // Work that is lost, or some of it, in the middle of its commit.
      write(w.k, file, 25 * PAGE_SIZE, pageOf(255));
      const lost = vfsFsync(w.k, file);
      stepToTransfer(w, lost, 1 + (i % 2));
      const after = afterCrash(w, (block) => (block * i) % 3 === 0);
      w = { ...w, ...after };
      file = opened(after, ino);
      const found = contents(w.k, file);
      expect(durable.findIndex((value, at) => found[at] !== value)).toBe(-1);
    }
  });

  it('a file that was unlinked while somebody had it open is gone, and its blocks are free', () => {
    const w = createDiskWorld();
    const free = w.fs.nrFree;
    const file = fileOf(w.k, w.fs, 1, 2);
    const other = extentCreate(w.k, w.fs);
    expect(fsync(w.k, file)).toBe(0);
    expect(drive(extentUnlink(w.k, w.fs, inoOf(file)))).toBe(0);
    expect(fsync(w.k, other)).toBe(0);
    const after = afterCrash(w, none);
    expect(extentOpen(after.k, after.fs, inoOf(file))).toBe(-ENOENT);
    expect(after.fs.nrFree).toBe(free);
    // And stays so.
    blockPowerFail(after.dev, none);
    drive(extentForget(after.k, after.fs));
    expect(mounted(after.k, after.dev).inodes.size).toBe(1);
  });

  it('a file with more extents than its record holds has the others in the pool, and gives them back', () => {
    const w = createDiskWorld({ nrBlocks: 2048 });
    const file = extentCreate(w.k, w.fs);
    const nr = EXTENTS_PER_BLOCK + 10;
    for (let i = 0; i < nr; i++) write(w.k, file, 2 * i * PAGE_SIZE, Uint8Array.of(1 + (i % 250)));
    expect(fsync(w.k, file)).toBe(0);
    expect(inodeOf(file).extents).toHaveLength(nr);
    expect(inodeOf(file).pool).toHaveLength(1);
    const after = afterCrash(w, none);
    expect(inodeOf(opened(after, inoOf(file))).extents).toEqual(inodeOf(file).extents);
    expect(inodeOf(opened(after, inoOf(file))).pool).toEqual(inodeOf(file).pool);
    expect(drive(filePunchHole(w.k, file, 0, 100 * PAGE_SIZE))).toBe(0);
    expect(fsync(w.k, file)).toBe(0);
    expect(inodeOf(file).pool).toEqual([]);
    expect(w.fs.poolFree).toHaveLength(geometryOf(2048, false).nrPool);
  });

  it('unmounting writes all home: the journal is empty, and mounting finds everything', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1, 2);
    const ino = inoOf(file);
    expect(() => drive(extentUnmount(w.k, w.fs))).toThrow('still in use');
    expect(fsync(w.k, file)).toBe(0);
    drive(mappingPut(w.k, file));
    expect(drive(extentUnmount(w.k, w.fs))).toBe(0);
    blockPowerFail(w.dev, none);
    const fs = mounted(w.k, w.dev);
    expect(fs.journal.nrUsed).toBe(0);
    expect(firstBytes(w.k, opened({ ...w, fs }, ino))).toEqual([1, 2]);
  });

  it('what is no file system does not mount: -EINVAL; metadata that cannot be read: -EIO', () => {
    const { k } = createWorld();
    const dev = blockDeviceCreate(k, 'empty', 64);
    expect(extentMount(k, dev)).toBe(-EINVAL);
    const fs = extentMkfs(k, dev);
    expect(() => extentMount(k, dev)).toThrow('mounted already');
    drive(extentUnmount(k, fs));
    dev.badReads.add(3);
    expect(extentMount(k, dev)).toBe(-EIO);
    expect(() => extentMkfs(k, blockDeviceCreate(k, 'tiny', 8))).toThrow('too few');
  });
});

describe('the journal cannot be written', () => {
  it('fsync() is -EIO, and from then on nothing of the file system can be written', () => {
    const w = createDiskWorld();
    const file = fileOf(w.k, w.fs, 1);
    expect(fsync(w.k, file)).toBe(0);
    write(w.k, file, PAGE_SIZE, pageOf(2));
    for (let i = 0; i < w.fs.journal.nrBlocks; i++)
      w.dev.badWrites.add(w.fs.journal.firstBlock + i);
    expect(fsync(w.k, file)).toBe(-EIO);
    expect(w.fs.journal.aborted).toBe(true);
    w.dev.badWrites.clear();
    expect(drive(extentWrite(w.k, file, 0, pageOf(3)))).toBe(-EIO);
    expect(drive(storeMapped(w.k, file, 0, pageOf(3)))).toBe(-EFAULT);
    expect(drive(extentSetSize(w.k, file, 0))).toBe(-EIO);
    expect(firstBytes(w.k, file)).toEqual([1, 2]);
    const after = afterCrash(w, all);
    expect(firstBytes(after.k, opened(after, inoOf(file)))).toEqual([1]);
  });
});
