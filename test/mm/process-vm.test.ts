/** process_vm_readv(), process_vm_writev(): mm/process_vm_access.c, and the row process-vm of the users table. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL } from '../../mm/errno.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { processVmReadv, processVmWritev } from '../../mm/gup/process-vm.ts';
import { drive, YP_GUP_LOOKED_UP } from '../../mm/path.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { PROT_NONE, PROT_READ } from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  createWorld,
  finish,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let own: MmStruct;
let other: MmStruct;
/** Two pages of each side, whose bytes say where they are. */
let mine: number;
let theirs: number;

type Range = [hva: number, lenBytes: number];
const iov = (ranges: Range[]): { hva: number; lenBytes: number }[] =>
  ranges.map(([hva, lenBytes]) => ({ hva, lenBytes }));
const readv = (local: Range[], remote: Range[], flags = 0): number =>
  drive(processVmReadv(k, own, iov(local), other, iov(remote), flags));
const writev = (local: Range[], remote: Range[], flags = 0): number =>
  drive(processVmWritev(k, own, iov(local), other, iov(remote), flags));
const bytes = (mm: MmStruct, hva: number, n: number): number[] =>
  Array.from({ length: n }, (_, i) => load(k, mm, hva + i));

beforeEach(() => {
  k = createWorld();
  own = mmCreate(k);
  other = mmCreate(k);
  mine = mapAnon(k, own, 2);
  theirs = mapAnon(k, other, 2);
  for (let i = 0; i < 16; i++) {
    store(k, own, mine + PAGE_SIZE - 8 + i, 100 + i);
    store(k, other, theirs + PAGE_SIZE - 8 + i, 200 + i);
  }
});

describe('copying between processes', () => {
  it('reads across pages, pieces of any length on either side', () => {
    const n = readv(
      [
        [mine + 10, 3],
        [mine + 20, 0],
        [mine + PAGE_SIZE - 2, 9],
      ],
      [
        [theirs + PAGE_SIZE - 4, 6],
        [theirs + PAGE_SIZE + 4, 6],
      ],
    );
    expect(n).toBe(12);
    expect(bytes(own, mine + 10, 3)).toEqual([204, 205, 206]);
    expect(bytes(own, mine + PAGE_SIZE - 2, 9)).toEqual([207, 208, 209, 212, 213, 214, 215, 0, 0]);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('writes, and marks what it wrote dirty at unpin', () => {
    const hva = mapFile(k, other, shmemCreate(k, 1));
    load(k, other, hva);
    const page = pageAt(k, other, hva);
    const writing = processVmWritev(
      k,
      own,
      iov([[mine + PAGE_SIZE - 8, 16]]),
      other,
      iov([[hva + 50, 16]]),
    );
    stepTo(k, writing, YP_GUP_LOOKED_UP);
    // Writeback in between: what marked it dirty at the pin is forgotten.
    k.state.frames.flags[page]! &= ~PG_DIRTY;
    expect(finish(writing)).toBe(16);
    expect(bytes(other, hva + 50, 16)).toEqual(Array.from({ length: 16 }, (_, i) => 100 + i));
    expect(k.state.frames.flags[page]! & PG_DIRTY).not.toBe(0);
    expect(pinsLive(k)).toBe(0);
  });

  it('takes the other side by pins, in batches of what one call of GUP gives', () => {
    const nr = 1100;
    const big = mapAnon(k, other, nr, PROT_READ);
    const to = mapAnon(k, own, nr);
    expect(readv([[to, nr * PAGE_SIZE]], [[big, nr * PAGE_SIZE]])).toBe(nr * PAGE_SIZE);
    // Of zeros only: nothing was counted, because the zero page needs no pin.
    expect(k.state.stat.nr_foll_pin_acquired).toBe(0);
    expect(readv([[to, 16]], [[theirs + PAGE_SIZE - 8, 16]])).toBe(16);
    expect(k.state.stat.nr_foll_pin_acquired).toBe(2);
    expect(k.state.stat.nr_foll_pin_released).toBe(2);
  });

  it('a write breaks COW of the other process, not of its relatives', () => {
    const child = drive(fork(k, other));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(writev([[mine + PAGE_SIZE - 8, 4]], [[theirs + PAGE_SIZE - 8, 4]])).toBe(4);
    expect(bytes(other, theirs + PAGE_SIZE - 8, 4)).toEqual([100, 101, 102, 103]);
    expect(bytes(child, theirs + PAGE_SIZE - 8, 4)).toEqual([200, 201, 202, 203]);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('between two processes that are one', () => {
    const n = drive(
      processVmReadv(k, own, iov([[mine, 4]]), own, iov([[mine + PAGE_SIZE - 8, 4]])),
    );
    expect(n).toBe(4);
    expect(bytes(own, mine, 4)).toEqual([100, 101, 102, 103]);
  });

  it('the other process may unmap while it is read: what was pinned is read', () => {
    const reading = processVmReadv(k, own, iov([[mine, 4]]), other, iov([[theirs + PAGE_SIZE, 4]]));
    stepTo(k, reading, YP_GUP_LOOKED_UP);
    expect(pinsLive(k)).toBe(1);
    const unmapping = munmap(k, other, theirs, 2 * PAGE_SIZE);
    k.watched = true;
    unmapping.next();
    k.watched = false;
    expect(finish(reading)).toBe(4);
    finish(unmapping);
    expect(bytes(own, mine, 4)).toEqual([208, 209, 210, 211]);
    expect(violations(k)).toEqual([]);
  });
});

describe('partial results', () => {
  it('the other side ends: bytes so far; with none -EFAULT', () => {
    drive(munmap(k, other, theirs + PAGE_SIZE, PAGE_SIZE));
    expect(readv([[mine, 16]], [[theirs + PAGE_SIZE - 8, 16]])).toBe(8);
    expect(bytes(own, mine, 9)).toEqual([200, 201, 202, 203, 204, 205, 206, 207, 0]);
    expect(readv([[mine, 16]], [[theirs + PAGE_SIZE, 16]])).toBe(-EFAULT);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('a later piece fails: the earlier ones count', () => {
    const pieces: Range[] = [
      [theirs + PAGE_SIZE, 4],
      [0x1_0000, 4],
      [theirs + PAGE_SIZE, 4],
    ];
    expect(readv([[mine, 12]], pieces)).toBe(4);
  });

  it('one’s own side ends: no error', () => {
    expect(readv([[mine, 5]], [[theirs + PAGE_SIZE - 8, 16]])).toBe(5);
    expect(readv([], [[theirs, 16]])).toBe(0);
    expect(pinsLive(k)).toBe(0);
  });

  it('one’s own side faults: bytes so far, or -EFAULT', () => {
    drive(munmap(k, own, mine + PAGE_SIZE, PAGE_SIZE));
    expect(readv([[mine + PAGE_SIZE - 3, 9]], [[theirs + PAGE_SIZE - 8, 9]])).toBe(3);
    expect(readv([[mine + PAGE_SIZE, 9]], [[theirs + PAGE_SIZE - 8, 9]])).toBe(-EFAULT);
    expect(writev([[mine + PAGE_SIZE, 9]], [[theirs, 9]])).toBe(-EFAULT);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('permissions are not overridden', () => {
    const hidden = mapAnon(k, other, 1, PROT_NONE);
    const readOnly = mapAnon(k, other, 1, PROT_READ);
    expect(readv([[mine, 1]], [[hidden, 1]])).toBe(-EFAULT);
    expect(writev([[mine, 1]], [[readOnly, 1]])).toBe(-EFAULT);
    expect(readv([[mine, 1]], [[readOnly, 1]])).toBe(1);
  });
});

describe('arguments — -EINVAL before anything is touched', () => {
  for (const { fact, local, remote, flags } of [
    { fact: 'flags', local: 1, remote: 1, flags: 1 },
    { fact: 'more than 1024 pieces here', local: 1025, remote: 1, flags: 0 },
    { fact: 'more than 1024 pieces there', local: 1, remote: 1025, flags: 0 },
  ])
    it(fact, () => {
      const pieces = (n: number, hva: number): Range[] => Array.from({ length: n }, () => [hva, 1]);
      expect(readv(pieces(local, mine), pieces(remote, theirs), flags)).toBe(-EINVAL);
      expect(k.state.stat.nr_foll_pin_acquired).toBe(0);
    });

  it('a negative length', () => {
    expect(readv([[mine, -1]], [[theirs, 1]])).toBe(-EINVAL);
    expect(writev([[mine, 1]], [[theirs, -1]])).toBe(-EINVAL);
  });
});
