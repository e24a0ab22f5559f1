/** Direct I/O of NFS: plain references today, requests of rsize and wsize, all under way at once. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EFAULT,
  EINVAL,
  EIO,
  ENOSPC,
  folioPinCount,
  folioRefCount,
  folioTestDirty,
  ITER_DEST,
  ITER_SOURCE,
  iovIterBvec,
  iovIterKvec,
  iovIterUbuf,
  munmap,
  remoteDirectRead,
  remoteDirectWrite,
  remoteFileCreate,
  remoteFileWrite,
  remoteServerCreate,
  remoteServerRemove,
  YP_NET_ANSWERED,
  YP_NET_SENT,
} from '#mm';
import { folioClearFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { createHugeWorld, folioAt, mapHuge } from './hugetlb-world.ts';
import { expectNothingHeld, pattern, peek } from './iov-world.ts';
import {
  badBlock,
  readPath,
  remoteRead,
  remoteWorld,
  remoteWrite,
  served,
} from './remote-world.ts';
import { createProcess, pageAt, stepTo } from './support.ts';

const SIZE = 10 * PAGE_SIZE + 123;

describe('nfs-dio', () => {
  for (const api of ['get', 'pin'] as const)
    it(`${api}: reads and writes any bytes, at any offset`, () => {
      const r = remoteWorld('nfs', pattern(SIZE), api);
      expect(remoteRead(r, 77, 3 * PAGE_SIZE, 5)).toBe(3 * PAGE_SIZE);
      expect(peek(r.p, r.hva + 5, 3 * PAGE_SIZE)).toEqual(
        pattern(SIZE).subarray(77, 77 + 3 * PAGE_SIZE),
      );
      r.p.copyIn(r.hva, pattern(PAGE_SIZE, 2));
      expect(remoteWrite(r, SIZE - 10, 100, 3)).toBe(100);
      expect(r.file.sizeBytes).toBe(SIZE + 90);
      expect(served(r).subarray(SIZE - 10)).toEqual(pattern(PAGE_SIZE, 2).subarray(3, 103));
      expect(remoteRead(r, SIZE + 90, 10)).toBe(0);
      expect(remoteRead(r, SIZE, 1000)).toBe(90);
      expectNothingHeld(r.w);
    });

  it('splits by rsize; all requests are under way before the first answer', () => {
    const r = remoteWorld('nfs', pattern(SIZE));
    r.server.rsize = 2 * PAGE_SIZE;
    const path = readPath(r, 0, SIZE, 100);
    stepTo(r.w.k, path, YP_NET_SENT);
    expect(r.server.inFlight.map(({ lenBytes }) => lenBytes)).toEqual([
      ...new Array(5).fill(2 * PAGE_SIZE),
      123,
    ]);
    const page = pageAt(r.p, r.hva);
    expect([folioRefCount(r.w.k, page), folioPinCount(r.w.k, page)]).toEqual([2, 0]);
    expect(drive(path)).toBe(SIZE);
    expect(peek(r.p, r.hva + 100, SIZE)).toEqual(pattern(SIZE));
    expect(r.server.nrReads).toBe(6);
    expectNothingHeld(r.w);
  });

  it('what was read is dirty after the answer, not before', () => {
    const r = remoteWorld('nfs', pattern(SIZE));
    r.p.store8(r.hva, 1);
    const page = pageAt(r.p, r.hva);
    const path = readPath(r, 0, PAGE_SIZE);
    stepTo(r.w.k, path, YP_NET_SENT);
    folioClearFlags(r.w.k, page, PG_DIRTY);
    stepTo(r.w.k, path, YP_NET_ANSWERED);
    expect(folioTestDirty(r.w.k, page)).toBe(false);
    expect(r.p.load8(r.hva)).toBe(pattern(1)[0]);
    drive(path);
    expect(folioTestDirty(r.w.k, page)).toBe(true);
    expectNothingHeld(r.w);
  });

  it('large folios it leaves as they are', () => {
    const w = createHugeWorld(1);
    const file = remoteFileCreate(remoteServerCreate(w.k, 'nfs'), PAGE_SIZE);
    remoteFileWrite(file, 0, pattern(PAGE_SIZE));
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store8(hva, 0);
    const path = remoteDirectRead(w.k, p.mm, file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_NET_SENT);
    const folio = folioAt(p, hva);
    folioClearFlags(w.k, folio, PG_DIRTY);
    expect(drive(path)).toBe(PAGE_SIZE);
    expect(folioTestDirty(w.k, folio)).toBe(false);
  });

  it('a short answer that is not the end of the file is asked for again', () => {
    const r = remoteWorld('nfs', pattern(SIZE));
    r.server.maxReply = 5000;
    expect(remoteRead(r, 10, SIZE)).toBe(SIZE - 10);
    expect(peek(r.p, r.hva, SIZE - 10)).toEqual(pattern(SIZE).subarray(10));
    expect(r.server.nrReads).toBeGreaterThan(5);
    expectNothingHeld(r.w);
  });

  it('an error ends the result at the first byte that is not there: -EIO only where there is none before', () => {
    const r = remoteWorld('nfs', pattern(SIZE));
    r.server.rsize = 2 * PAGE_SIZE;
    badBlock(r, 'badReads', 5 * PAGE_SIZE);
    expect(remoteRead(r, 0, SIZE)).toBe(5 * PAGE_SIZE);
    expect(peek(r.p, r.hva, 5 * PAGE_SIZE)).toEqual(pattern(SIZE).subarray(0, 5 * PAGE_SIZE));
    expect(remoteRead(r, 5 * PAGE_SIZE, 10)).toBe(-EIO);
    badBlock(r, 'badWrites', 0);
    expect(remoteWrite(r, 0, 10)).toBe(-EIO);
    expectNothingHeld(r.w);
  });

  it('no room at the server: what fits, then -ENOSPC', () => {
    const r = remoteWorld('nfs', pattern(100));
    r.server.quotaBytes = 1000;
    r.p.copyIn(r.hva, pattern(2000, 3));
    expect(remoteWrite(r, 100, 2000)).toBe(900);
    expect(served(r)).toEqual(Uint8Array.of(...pattern(100), ...pattern(2000, 3).subarray(0, 900)));
    expect(remoteWrite(r, 1000, 1)).toBe(-ENOSPC);
    expectNothingHeld(r.w);
  });

  it('memory that ends: what was sent before counts; with nothing before it -EFAULT', () => {
    const r = remoteWorld('nfs', pattern(SIZE));
    drive(munmap(r.w.k, r.p.mm, r.hva + 2 * PAGE_SIZE, PAGE_SIZE));
    expect(remoteRead(r, 0, 5 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    expect(remoteRead(r, 0, 10, 2 * PAGE_SIZE)).toBe(-EFAULT);
    expectNothingHeld(r.w);
  });

  it("the kernel's own memory: bvecs by reference or without; of a kvec no references can be had", () => {
    for (const api of ['get', 'pin'] as const) {
      const r = remoteWorld('nfs', pattern(100), api);
      const page = r.w.k.state.zeroPage;
      const from = iovIterBvec(ITER_SOURCE, [{ page, offset: 3, lenBytes: 50 }]);
      expect(drive(remoteDirectWrite(r.w.k, null, r.file, 0, from))).toBe(50);
      const kvec = iovIterKvec(ITER_SOURCE, [{ page, offset: 0, lenBytes: 10 }]);
      const n = drive(remoteDirectWrite(r.w.k, null, r.file, 0, kvec));
      expect(n).toBe(api === 'get' ? -EFAULT : 10);
      expectNothingHeld(r.w);
    }
  });

  it('the wrong way, or before the beginning, is -EINVAL; a server with requests under way stays', () => {
    const r = remoteWorld('nfs', pattern(100));
    const { k } = r.w;
    const it = iovIterUbuf(ITER_DEST, r.hva, 10);
    expect(drive(remoteDirectWrite(k, r.p.mm, r.file, 0, it))).toBe(-EINVAL);
    expect(remoteRead(r, -1, 10)).toBe(-EINVAL);
    const path = readPath(r, 0, 10);
    stepTo(k, path, YP_NET_SENT);
    expect(() => remoteServerRemove(k, r.server)).toThrow(/in flight/);
    drive(path);
    remoteServerRemove(k, r.server);
    expect(k.state.remoteServers.size).toBe(0);
  });
});
