/** What the tests of zones, pageblocks and contiguous memory share. */
import { expect } from 'vitest';
import { ATP_MODE_SV39, PAGE_SIZE } from '#emu';
import {
  allocPages,
  assertKernel,
  createPipe,
  drive,
  freeListOf,
  freePages,
  type HostProcess,
  type Kernel,
  MAX_PAGE_ORDER,
  type Pipe,
  vmspliceToPipe,
} from '#mm';
import { createWorld, type MemoryOptions, type World } from './support.ts';

export const MIB = 1 << 20;
export const MIB_PAGES = MIB / PAGE_SIZE;
/** Pages of a pageblock. */
export const BLOCK = 512;

/** A machine with pageblocks by migratetype. */
export const createZonedWorld = (ramBytes: number, zones: MemoryOptions = {}): World =>
  createWorld(ramBytes, ATP_MODE_SV39, { groupByMobility: true, ...zones });

/** Allocates single pages by these flags until there are none. */
export const takeAll = (k: Kernel, gfp: number): number[] => {
  const pages: number[] = [];
  for (let page = allocPages(k, 0, gfp); page >= 0; page = allocPages(k, 0, gfp)) pages.push(page);
  return pages;
};

export const giveAll = (k: Kernel, pages: readonly number[]): void => {
  for (const page of pages) freePages(k, page, 0);
};

/** First pages of the free blocks of a type and order, in all zones, first on the list first. */
export const freeBlocksOf = (k: Kernel, type: number, order: number): number[] => {
  const blocks: number[] = [];
  for (const zone of k.state.zones)
    for (let page = zone.freeHead[freeListOf(type, order)]!; page >= 0; ) {
      blocks.push(page);
      page = k.state.frames.next[page]!;
    }
  return blocks;
};

/** Free pages of a type, in all zones. */
export const freeOf = (k: Kernel, type: number): number => {
  let free = 0;
  for (let order = 0; order <= MAX_PAGE_ORDER; order++)
    free += freeBlocksOf(k, type, order).length << order;
  return free;
};

/** A pipe that holds one page of a process by vmsplice(), and is never read. */
export const heldByPipe = (p: HostProcess, hva: number): Pipe => {
  const pipe = createPipe(p.k);
  expect(drive(vmspliceToPipe(p.k, p.mm, pipe, hva, PAGE_SIZE, 0))).toBe(PAGE_SIZE);
  return pipe;
};

/** A page of a process says a number in its first word. */
export const stamp = (p: HostProcess, hva: number, nrPages: number, salt = 0): void => {
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, (salt + i * 7) | 1);
};

/** Every page still says it. */
export const checkStamps = (p: HostProcess, hva: number, nrPages: number, salt = 0): void => {
  for (let i = 0; i < nrPages; i++) {
    const got = p.load32(hva + i * PAGE_SIZE);
    if (got !== ((salt + i * 7) | 1)) throw new Error(`page ${i} says ${got}`);
  }
};

export const assertAtRest = (k: Kernel): void => assertKernel(k, { quiescent: true });

/** Seconds of this process since `before`, whatever else the host has to do. */
export const cpuSeconds = (before: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
};
