/** Direct I/O of FUSE: pinned since it was converted, requests of max_pages, and an end at the first short answer. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  createPolicy,
  drive,
  EFAULT,
  EIO,
  folioPinCount,
  folioTestDirty,
  ITER_SOURCE,
  iovIterKvec,
  munmap,
  remoteDirectWrite,
  YP_NET_SENT,
} from '#mm';
import { folioClearFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { expectNothingHeld, pattern, peek } from './iov-world.ts';
import {
  badBlock,
  readPath,
  remoteRead,
  remoteWorld,
  remoteWrite,
  served,
  writePath,
} from './remote-world.ts';
import { pageAt, stepTo } from './support.ts';

const SIZE = 10 * PAGE_SIZE + 123;

describe('fuse-dio', () => {
  it('takes references in 6.5, and pins since', () => {
    expect(createPolicy('linux-6.5').apis['fuse-dio']).toBe('get');
    expect(createPolicy('linux-7').apis['fuse-dio']).toBe('pin');
  });

  for (const api of ['get', 'pin'] as const)
    it(`${api}: requests of max_pages pages, one after the other`, () => {
      const r = remoteWorld('fuse', pattern(SIZE), api);
      r.server.maxPages = 4;
      const path = readPath(r, 0, SIZE, 100);
      stepTo(r.w.k, path, YP_NET_SENT);
      expect(r.server.inFlight.map(({ lenBytes }) => lenBytes)).toEqual([4 * PAGE_SIZE - 100]);
      expect(folioPinCount(r.w.k, pageAt(r.p, r.hva))).toBe(api === 'pin' ? 1 : 0);
      expect(drive(path)).toBe(SIZE);
      expect(peek(r.p, r.hva + 100, SIZE)).toEqual(pattern(SIZE));
      expect(r.server.nrReads).toBe(3);
      expectNothingHeld(r.w);
    });

  it('a short answer is the end, whether the file ends there or not', () => {
    const r = remoteWorld('fuse', pattern(SIZE));
    r.server.maxReply = 5000;
    expect(remoteRead(r, 0, SIZE)).toBe(5000);
    expect(r.server.nrReads).toBe(1);
    badBlock(r, 'badReads', PAGE_SIZE);
    expect(remoteRead(r, 0, SIZE)).toBe(PAGE_SIZE);
    expect(remoteRead(r, PAGE_SIZE, SIZE)).toBe(-EIO);
    expectNothingHeld(r.w);
  });

  it('what was read is marked dirty before the pin goes', () => {
    const r = remoteWorld('fuse', pattern(SIZE), 'pin');
    const path = readPath(r, 0, PAGE_SIZE);
    stepTo(r.w.k, path, YP_NET_SENT);
    const page = pageAt(r.p, r.hva);
    folioClearFlags(r.w.k, page, PG_DIRTY);
    drive(path);
    expect(folioTestDirty(r.w.k, page)).toBe(true);
  });

  it("memory of the kernel's own goes by its address, under either API", () => {
    for (const api of ['get', 'pin'] as const) {
      const r = remoteWorld('fuse', pattern(SIZE), api);
      const it = iovIterKvec(ITER_SOURCE, [
        { page: r.w.k.state.zeroPage, offset: 0, lenBytes: 10 },
      ]);
      expect(drive(remoteDirectWrite(r.w.k, null, r.file, 5, it))).toBe(10);
      expect(served(r).subarray(5, 15)).toEqual(new Uint8Array(10));
      expectNothingHeld(r.w);
    }
  });

  it('memory that ends: what came before, or -EFAULT', () => {
    const r = remoteWorld('fuse', pattern(SIZE), 'pin');
    drive(munmap(r.w.k, r.p.mm, r.hva + PAGE_SIZE, PAGE_SIZE));
    expect(remoteWrite(r, 0, 2 * PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(remoteWrite(r, 0, 10, PAGE_SIZE)).toBe(-EFAULT);
    expectNothingHeld(r.w);
  });

  it('one writer at a time has the file, readers share it', () => {
    const r = remoteWorld('fuse', pattern(SIZE), 'pin');
    const reading = readPath(r, 0, PAGE_SIZE);
    stepTo(r.w.k, reading, YP_NET_SENT);
    expect(r.file.lock).toEqual({ readers: 1, writer: false });
    drive(reading);
    const writing = writePath(r, 0, PAGE_SIZE);
    stepTo(r.w.k, writing, YP_NET_SENT);
    expect(r.file.lock).toEqual({ readers: 0, writer: true });
    drive(writing);
    expect(r.file.lock).toEqual({ readers: 0, writer: false });
  });
});
