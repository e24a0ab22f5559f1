/** msync() and fsync() of mapped files (mm/msync.c, fs/sync.c). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EBUSY,
  EINVAL,
  EIO,
  ENOMEM,
  MAP_PRIVATE,
  MS_ASYNC,
  MS_INVALIDATE,
  MS_SYNC,
  mlock,
  msync,
  munmap,
  shmemCreate,
  vfsFsync,
} from '#mm';
import { blockAt } from '../../mm/fs/extent/extents.ts';
import { YP_WRITEBACK_STARTED } from '../../mm/path.ts';
import { isDirty, onDevice, quiet, withFile } from './file-world.ts';
import { mapAnon, stepTo, mapOf } from './support.ts';

describe('msync()', () => {
  it('MS_SYNC: the range is on the device, and durable; the rest stays dirty', () => {
    const fw = withFile();
    const { w, p, dev, hva } = fw;
    for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, 10 * i);
    const flushes = dev.nrFlushes;
    expect(drive(msync(w.k, p.mm, hva + PAGE_SIZE, 2 * PAGE_SIZE, MS_SYNC))).toBe(0);
    expect([0, 1, 2, 3].map((i) => isDirty(fw, i))).toEqual([true, false, false, true]);
    expect([1, 2].map((i) => onDevice(fw, i))).toEqual([10, 20]);
    expect(dev.nrFlushes).toBeGreaterThan(flushes);
    quiet(fw);
  });

  it('goes by the offset of the mapping, not by its address', () => {
    const fw = withFile();
    const at = mapOf(fw.p, fw.file, { nr: 2, pgoff: 2 });
    fw.p.store32(at, 30);
    fw.p.store32(fw.hva, 10);
    drive(msync(fw.w.k, fw.p.mm, at, PAGE_SIZE, MS_SYNC));
    expect([onDevice(fw, 2), isDirty(fw, 0)]).toEqual([30, true]);
    quiet(fw);
  });

  it('MS_ASYNC writes nothing by itself', () => {
    const fw = withFile();
    fw.p.store32(fw.hva, 10);
    expect(drive(msync(fw.w.k, fw.p.mm, fw.hva, PAGE_SIZE, MS_ASYNC))).toBe(0);
    expect(isDirty(fw, 0)).toBe(true);
    quiet(fw);
  });

  it('MS_INVALIDATE: nothing to do, but of locked memory -EBUSY', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    expect(drive(msync(w.k, p.mm, hva, PAGE_SIZE, MS_INVALIDATE))).toBe(0);
    drive(mlock(w.k, p.mm, hva, PAGE_SIZE));
    expect(drive(msync(w.k, p.mm, hva, PAGE_SIZE, MS_INVALIDATE))).toBe(-EBUSY);
    expect(drive(msync(w.k, p.mm, hva, PAGE_SIZE, MS_SYNC))).toBe(0);
    quiet(fw);
  });

  it('-EINVAL: both ways at once, unknown flags, an address within a page', () => {
    const { w, p, hva } = withFile();
    for (const [at, flags] of [
      [hva, MS_ASYNC | MS_SYNC],
      [hva, 8],
      [hva + 4, MS_SYNC],
    ] as const)
      expect(drive(msync(w.k, p.mm, at, PAGE_SIZE, flags))).toBe(-EINVAL);
  });

  it('-ENOMEM for a hole in the address space, and the rest is done', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, 10 * i);
    drive(munmap(w.k, p.mm, hva + PAGE_SIZE, PAGE_SIZE));
    expect(drive(msync(w.k, p.mm, hva, 4 * PAGE_SIZE, MS_SYNC))).toBe(-ENOMEM);
    expect([0, 1, 2, 3].map((i) => isDirty(fw, i))).toEqual([false, true, false, false]);
    quiet(fw);
  });

  it('of private mappings, anonymous memory and shmem there is nothing to write', () => {
    const fw = withFile();
    const { w, p, file } = fw;
    fw.p.store32(fw.hva, 10);
    const places = [
      mapOf(p, file, { flags: MAP_PRIVATE }),
      mapAnon(p, 4),
      mapOf(p, shmemCreate(w.k, 4)),
    ];
    for (const at of places) {
      p.store32(at, 1);
      expect(drive(msync(w.k, p.mm, at, 4 * PAGE_SIZE, MS_SYNC))).toBe(0);
    }
    expect(isDirty(fw, 0)).toBe(true);
    quiet(fw);
  });

  it('an error of the device is its own, once', () => {
    const fw = withFile();
    const { w, p, dev, hva } = fw;
    p.store32(hva, 10);
    dev.badWrites.add(blockAt(fw.inode, 0));
    expect(drive(msync(w.k, p.mm, hva, PAGE_SIZE, MS_SYNC))).toBe(-EIO);
    expect(drive(msync(w.k, p.mm, hva, PAGE_SIZE, MS_SYNC))).toBe(0);
  });

  it('holds no mmap_lock while it waits for the device: the mapping may go meanwhile', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    p.store32(hva, 10);
    const path = msync(w.k, p.mm, hva, 4 * PAGE_SIZE, MS_SYNC);
    stepTo(w.k, path, YP_WRITEBACK_STARTED);
    expect(drive(munmap(w.k, p.mm, hva, 4 * PAGE_SIZE))).toBe(0);
    expect(drive(path)).toBe(0);
    expect(onDevice(fw, 0)).toBe(10);
    quiet(fw);
  });
});

describe('fsync()', () => {
  it('of a range leaves the other pages dirty', () => {
    const fw = withFile();
    for (let i = 0; i < 4; i++) fw.p.store32(fw.hva + i * PAGE_SIZE, 10 * i);
    expect(drive(vfsFsync(fw.w.k, fw.file, 0, PAGE_SIZE))).toBe(0);
    expect([0, 1, 2, 3].map((i) => isDirty(fw, i))).toEqual([false, true, true, true]);
    quiet(fw);
  });

  it('covers every store before it, by whichever mapping', () => {
    const fw = withFile();
    const other = mapOf(fw.p, fw.file);
    fw.p.store32(other + PAGE_SIZE + 4, 5);
    fw.p.store32(fw.hva + PAGE_SIZE, 6);
    drive(vfsFsync(fw.w.k, fw.file));
    expect([onDevice(fw, 1), onDevice(fw, 1, 1)]).toEqual([6, 5]);
    quiet(fw);
  });

  it('of shmem does nothing', () => {
    const fw = withFile();
    expect(drive(vfsFsync(fw.w.k, shmemCreate(fw.w.k, 1)))).toBe(0);
  });
});
