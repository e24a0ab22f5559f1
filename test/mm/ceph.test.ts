/** Direct I/O of Ceph: plain references today, one request after the other, none across an object. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { drive, EFAULT, EIO, ENOSPC, folioTestDirty, munmap, YP_NET_SENT } from '#mm';
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
} from './remote-world.ts';
import { pageAt, stepTo } from './support.ts';

const SIZE = 10 * PAGE_SIZE + 123;

describe('ceph-dio', () => {
  for (const api of ['get', 'pin'] as const)
    it(`${api}: splits where an object ends, one request at a time`, () => {
      const r = remoteWorld('ceph', pattern(SIZE), api);
      r.server.objectBytes = 4 * PAGE_SIZE;
      const path = readPath(r, PAGE_SIZE, SIZE);
      const seen: number[] = [];
      while (seen.reduce((a, b) => a + b, 0) < SIZE - PAGE_SIZE) {
        stepTo(r.w.k, path, YP_NET_SENT);
        expect(r.server.inFlight.length).toBe(1);
        const sent = r.server.inFlight[0]?.lenBytes ?? 0;
        seen.push(Math.min(sent, SIZE - PAGE_SIZE - seen.reduce((a, b) => a + b, 0)));
      }
      expect(seen).toEqual([3 * PAGE_SIZE, 4 * PAGE_SIZE, 2 * PAGE_SIZE + 123]);
      expect(drive(path)).toBe(SIZE - PAGE_SIZE);
      expect(peek(r.p, r.hva, SIZE - PAGE_SIZE)).toEqual(pattern(SIZE).subarray(PAGE_SIZE));
      expectNothingHeld(r.w);
    });

  it('where an object ends before the file does, the rest is zeroes', () => {
    const r = remoteWorld('ceph', pattern(100));
    r.server.objectBytes = 4 * PAGE_SIZE;
    r.p.copyIn(r.hva, new Uint8Array(100).fill(5));
    expect(remoteWrite(r, 9 * PAGE_SIZE, 100)).toBe(100);
    r.p.copyIn(r.hva, new Uint8Array(10 * PAGE_SIZE).fill(0xee));
    expect(remoteRead(r, 0, 10 * PAGE_SIZE)).toBe(9 * PAGE_SIZE + 100);
    const wanted = new Uint8Array(9 * PAGE_SIZE + 100);
    wanted.set(pattern(100));
    wanted.fill(5, 9 * PAGE_SIZE);
    expect(peek(r.p, r.hva, wanted.length)).toEqual(wanted);
    expectNothingHeld(r.w);
  });

  it('all pages of a read are marked dirty after the answer, also where it failed', () => {
    const r = remoteWorld('ceph', pattern(SIZE));
    r.p.copyIn(r.hva, new Uint8Array(2 * PAGE_SIZE));
    badBlock(r, 'badReads', PAGE_SIZE);
    const path = readPath(r, 0, 2 * PAGE_SIZE);
    stepTo(r.w.k, path, YP_NET_SENT);
    const pages = [0, 1].map((i) => pageAt(r.p, r.hva + i * PAGE_SIZE));
    for (const page of pages) folioClearFlags(r.w.k, page, PG_DIRTY);
    expect(drive(path)).toBe(-EIO);
    expect(pages.map((page) => folioTestDirty(r.w.k, page))).toEqual([true, true]);
    expectNothingHeld(r.w);
  });

  it('an error after objects that were done: their bytes count', () => {
    const r = remoteWorld('ceph', pattern(SIZE));
    r.server.objectBytes = 2 * PAGE_SIZE;
    badBlock(r, 'badReads', 5 * PAGE_SIZE);
    expect(remoteRead(r, 0, SIZE)).toBe(4 * PAGE_SIZE);
    badBlock(r, 'badWrites', 3 * PAGE_SIZE);
    r.p.copyIn(r.hva, pattern(SIZE, 2));
    expect(remoteWrite(r, 0, SIZE)).toBe(2 * PAGE_SIZE);
    expect(served(r).subarray(2 * PAGE_SIZE)).toEqual(pattern(SIZE).subarray(2 * PAGE_SIZE));
    expect(served(r).subarray(0, 2 * PAGE_SIZE)).toEqual(
      pattern(SIZE, 2).subarray(0, 2 * PAGE_SIZE),
    );
    expectNothingHeld(r.w);
  });

  it('no room: -ENOSPC; memory that ends: -EFAULT, or what came before', () => {
    const r = remoteWorld('ceph', pattern(SIZE));
    r.server.quotaBytes = SIZE;
    expect(remoteWrite(r, SIZE, 10)).toBe(-ENOSPC);
    drive(munmap(r.w.k, r.p.mm, r.hva + PAGE_SIZE, PAGE_SIZE));
    expect(remoteRead(r, 0, 2 * PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(remoteRead(r, 0, 10, PAGE_SIZE)).toBe(-EFAULT);
    expectNothingHeld(r.w);
  });
});
