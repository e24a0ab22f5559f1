/** Bytes of files in memory, by read() and write(). Compare mm/shmem.c, fs/hugetlbfs/inode.c. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  drive,
  EFAULT,
  EINVAL,
  type HostProcess,
  MAP_SHARED,
  mmap,
  shmemCreate,
  shmemRead,
  shmemWrite,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { createHugeWorld, HUGE, HUGE_NR, hugeFile, mapHugeFile } from './hugetlb-world.ts';
import { createProcess, createWorld, RW } from './support.ts';

const map = (p: HostProcess, mapping: AddressSpace, nr = mapping.nrPages): number =>
  drive(mmap(p.k, p.mm, { lenBytes: nr * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }));

describe('bytes of a file — shmemRead(), shmemWrite()', () => {
  it('are what mappings have written, zero in holes, and end with the file', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 3);
    const hva = map(p, mapping);
    p.store32(hva + 2 * PAGE_SIZE - 4, 0x0403_0201);
    const bytes = new Uint8Array(8).fill(9);
    expect(shmemRead(w.k, mapping, 2 * PAGE_SIZE - 4, bytes)).toBe(8);
    expect([...bytes]).toEqual([1, 2, 3, 4, 0, 0, 0, 0]);
    expect(mapping.pages.size).toBe(1);
    expect(shmemRead(w.k, mapping, 3 * PAGE_SIZE - 2, bytes)).toBe(2);
    expect(shmemRead(w.k, mapping, 5 * PAGE_SIZE, bytes)).toBe(0);
  });

  it('that are written are seen by mappings; the file grows', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = map(p, mapping, 2);
    expect(p.load32(hva + PAGE_SIZE)).toBe(-EFAULT);
    const bytes = Uint8Array.from({ length: 300 }, (_, i) => i);
    expect(drive(shmemWrite(w.k, mapping, PAGE_SIZE - 100, bytes))).toBe(300);
    expect(mapping.nrPages).toBe(2);
    expect(p.load8(hva + PAGE_SIZE - 1)).toBe(99);
    expect(p.load8(hva + PAGE_SIZE)).toBe(100);
    assertKernel(w.k, { quiescent: true });
  });

  it('of a huge folio are reached through its pages', () => {
    const w = createWorld();
    w.k.state.thp.shmem = true;
    const mapping = shmemCreate(w.k, HUGE_NR);
    const bytes = new Uint8Array(2 * PAGE_SIZE).fill(7);
    expect(drive(shmemWrite(w.k, mapping, 10 * PAGE_SIZE + 1, bytes))).toBe(2 * PAGE_SIZE);
    expect(mapping.pages.size).toBe(HUGE_NR);
    const back = new Uint8Array(2 * PAGE_SIZE + 2);
    shmemRead(w.k, mapping, 10 * PAGE_SIZE, back);
    expect([back[0], back[1], back[2 * PAGE_SIZE], back[2 * PAGE_SIZE + 1]]).toEqual([0, 7, 7, 0]);
    assertKernel(w.k, { quiescent: true });
  });

  it('of hugetlbfs are read, holes too, and not written', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const file = hugeFile(w, 1);
    const bytes = new Uint8Array(8).fill(9);
    expect(shmemRead(w.k, file, 0, bytes)).toBe(8);
    expect([...bytes]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    p.store8(mapHugeFile(p, file) + 5 * PAGE_SIZE, 7);
    expect(shmemRead(w.k, file, 5 * PAGE_SIZE - 1, bytes)).toBe(8);
    expect([bytes[0], bytes[1], bytes[2]]).toEqual([0, 7, 0]);
    expect(shmemRead(w.k, file, HUGE - 3, bytes)).toBe(3);
    expect(drive(shmemWrite(w.k, file, 0, bytes))).toBe(-EINVAL);
    assertKernel(w.k, { quiescent: true });
  });
});
