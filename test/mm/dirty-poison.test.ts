/** Memory that breaks under a page of a file on a device (mm/memory-failure.c: me_pagecache_clean(), me_pagecache_dirty()). */
import { describe, expect, it } from 'vitest';
import { drive, EHWPOISON, EIO, MAP_PRIVATE, memoryFailure, vfsFsync } from '#mm';
import { cached, onDevice, quiet, sync, withFile } from './file-world.ts';
import { mapOf } from './support.ts';

describe('memory_failure() of a cached page', () => {
  it('a clean one is read again: nobody notices', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    const own = mapOf(p, file, { flags: MAP_PRIVATE });
    expect([p.load32(hva), p.load32(own)]).toEqual([1, 1]);
    const page = cached(fw, 0);
    expect(drive(memoryFailure(w.k, page))).toBe(0);
    expect(cached(fw, 0)).toBe(-1);
    expect([p.load32(hva), p.load32(own)]).toEqual([1, 1]);
    expect(cached(fw, 0)).not.toBe(page);
    sync(fw);
    quiet(fw);
  });

  it('of a dirty one the bytes are lost: SIGBUS for who maps it, -EIO from fsync(), once', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    expect(drive(memoryFailure(w.k, cached(fw, 0)))).toBe(0);
    expect(p.load32(hva)).toBe(-EHWPOISON);
    expect(fw.inode.reserved.size).toBe(0);
    expect([1, 2].map(() => drive(vfsFsync(w.k, file)))).toEqual([-EIO, 0]);
    expect(onDevice(fw, 0)).toBe(1);
    // Whoever maps the file anew reads what the device has.
    expect(p.load32(mapOf(p, file))).toBe(1);
    quiet(fw);
  });
});
