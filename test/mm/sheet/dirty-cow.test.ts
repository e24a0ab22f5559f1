/**
 * Recipe 2.1: Dirty COW (CVE-2016-5195) and Huge Dirty COW (CVE-2017-1000405). One thread writes with
 * FOLL_FORCE to a private read-only mapping, another drops the page in between. As it is, and with the
 * rule that was missing then taken away. Variants of the rule as it is: ../remote.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVm,
  type AddressSpace,
  drive,
  HPAGE_PMD_NR,
  HPAGE_PMD_SIZE,
  type HostProcess,
  MADV_DONTNEED,
  MAP_PRIVATE,
  madvise,
  type Path,
  PROT_READ,
  ptePage,
  shmemCreate,
  YP_FAULT_DONE,
} from '#mm';
import { createProcess, createWorld, stepTo, type World, mapOf } from '../support.ts';
import { AT, mapAt, pmdAt, thpWorld } from '../thp-world.ts';

/** The write of one byte, by /proc/PID/mem. */
const forced = ({ k, mm }: HostProcess, hva: number): Path<number> =>
  accessRemoteVm(k, mm, hva, Uint8Array.of(99), true);

/** The other thread: it drops the copy and reads again. */
const dropAndRead = (p: HostProcess, hva: number, lenBytes: number): void => {
  expect(drive(madvise(p.k, p.mm, hva, lenBytes, MADV_DONTNEED))).toBe(0);
  p.load8(hva);
};

/** The whole race: at each fault of the writer the other one comes between, `times` times. */
const race = (p: HostProcess, hva: number, lenBytes: number, times: number): number => {
  const writing = forced(p, hva);
  for (let i = 0; i < times; i++) {
    stepTo(p.k, writing, YP_FAULT_DONE);
    dropAndRead(p, hva, lenBytes);
  }
  return drive(writing);
};

describe('Dirty COW — 2.1', () => {
  /** A file of one page that says 11, and a process that may only read its private mapping. */
  const setUp = (weak: boolean): { w: World; p: HostProcess; file: AddressSpace; hva: number } => {
    const w = createWorld();
    w.k.sabotage.forceDropsWrite = weak;
    const file = shmemCreate(w.k, 1);
    const owner = createProcess(w);
    owner.store8(mapOf(owner, file), 11);
    const p = createProcess(w);
    return { w, p, file, hva: mapOf(p, file, { flags: MAP_PRIVATE, prot: PROT_READ }) };
  };

  const fileByte = ({ k }: World, file: AddressSpace): number =>
    k.memory.u8[k.memory.pageOffset(file.pages.get(0) ?? 0)]!;

  it('the write goes to a copy, as often as it is dropped in between', () => {
    const { w, p, file, hva } = setUp(false);
    expect(race(p, hva, PAGE_SIZE, 5)).toBe(1);
    expect([fileByte(w, file), p.load8(hva)]).toEqual([11, 99]);
  });

  it('with forceDropsWrite, as until 2016: the file itself is written to', () => {
    const { w, p, file, hva } = setUp(true);
    expect(race(p, hva, PAGE_SIZE, 1)).toBe(1);
    expect(fileByte(w, file)).toBe(99);
  });

  it('with forceDropsWrite and nobody in between nothing is seen of it', () => {
    const { w, p, file, hva } = setUp(true);
    expect(race(p, hva, PAGE_SIZE, 0)).toBe(1);
    expect([fileByte(w, file), p.load8(hva)]).toEqual([11, 99]);
  });
});

describe('Huge Dirty COW — 2.1', () => {
  /** 2 MiB that a process may only read, and that show the huge zero folio. */
  const setUp = (weak: boolean): { w: World; p: HostProcess } => {
    const w = thpWorld(undefined, 64);
    w.k.sabotage.forceDropsWrite = weak;
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR, AT, PROT_READ);
    p.load8(AT);
    expect(ptePage(pmdAt(p, AT))).toBe(w.k.state.hugeZeroFolio);
    return { w, p };
  };

  /** What anybody else reads who has never written. */
  const othersRead = (w: World): number => {
    const q = createProcess(w);
    mapAt(q, HPAGE_PMD_NR);
    return q.load8(AT);
  };

  it('the write goes to a huge page of its own, as often as that is dropped in between', () => {
    const { w, p } = setUp(false);
    expect(race(p, AT, HPAGE_PMD_SIZE, 3)).toBe(1);
    expect(p.load8(AT)).toBe(99);
    expect(othersRead(w)).toBe(0);
  });

  it('with forceDropsWrite the zeroes of everybody are written to', () => {
    const { w, p } = setUp(true);
    expect(race(p, AT, HPAGE_PMD_SIZE, 1)).toBe(1);
    expect(othersRead(w)).toBe(99);
  });
});
