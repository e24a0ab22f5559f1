/** The buddy allocator against a plain map of owners. Compare mm/page_alloc.c. */
import { PAGE_SIZE, PhysMemory, RAM_PFN_BASE } from '#emu';
import {
  allocPages,
  createKernel,
  createPolicy,
  ENOMEM,
  freePages,
  GFP_DMA32,
  GFP_KERNEL,
  GFP_ZERO,
  type Kernel,
  MAX_PAGE_ORDER,
  nrFreeBlocks,
  nrFreePages,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { rng } from '../support/rng.ts';
import { createWorld } from './support.ts';

/** Blocks by order, from the free lists. */
const freeBlocks = (k: Kernel): number[] =>
  Array.from({ length: MAX_PAGE_ORDER + 1 }, (_, order) =>
    k.state.zones.reduce((sum, zone) => sum + nrFreeBlocks(zone, order), 0),
  );

/** Every page of every free block, by walking the lists. */
const freeSet = (k: Kernel): Set<number> => {
  const pages = new Set<number>();
  for (const zone of k.state.zones)
    for (const [list, head] of zone.freeHead.entries())
      for (let page = head; page >= 0; page = k.state.frames.next[page]!)
        for (let i = 0; i < 1 << (list % (MAX_PAGE_ORDER + 1)); i++) {
          expect(pages.has(page + i)).toBe(false);
          pages.add(page + i);
        }
  return pages;
};

describe('the buddy allocator', () => {
  it('hands out aligned blocks that never overlap, and merges everything back', () => {
    const { k } = createWorld(32 << 20);
    const before = freeBlocks(k);
    const owner = new Int32Array(k.memory.nrPages);
    const held: { page: number; order: number }[] = [];
    const random = rng(1);
    for (let round = 0; round < 20_000; round++) {
      if (held.length > 0 && random.chance(0.48)) {
        const [block] = held.splice(random.below(held.length), 1);
        if (block === undefined) continue;
        owner.fill(0, block.page, block.page + (1 << block.order));
        freePages(k, block.page, block.order);
        continue;
      }
      const order = random.chance(0.7) ? 0 : random.below(MAX_PAGE_ORDER + 1);
      const page = allocPages(k, order, GFP_KERNEL);
      if (page === -ENOMEM) continue;
      expect(page % (1 << order)).toBe(0);
      for (let i = 0; i < 1 << order; i++) {
        if (owner[page + i] !== 0) throw new Error(`page ${page + i} handed out twice`);
        owner[page + i] = 1;
      }
      held.push({ page, order });
    }
    const taken = held.reduce((sum, { order }) => sum + (1 << order), 0);
    const free = freeSet(k);
    expect(free.size).toBe(nrFreePages(k));
    // The zero page is the one frame that is neither.
    expect(free.size + taken + 1).toBe(k.memory.nrPages);
    for (const page of free) expect(owner[page]).toBe(0);
    for (const { page, order } of held) freePages(k, page, order);
    expect(freeBlocks(k)).toEqual(before);
  });

  it('splits from the bottom: the lowest part of a block is handed out first', () => {
    const { k } = createWorld(4 << 20);
    const first = allocPages(k, 0, GFP_KERNEL);
    const second = allocPages(k, 0, GFP_KERNEL);
    expect(second).toBe(first + 1);
  });

  it('returns -ENOMEM without a block that large, and for an order above 10', () => {
    const { k } = createWorld(4 << 20);
    expect(allocPages(k, MAX_PAGE_ORDER, GFP_KERNEL)).toBe(-ENOMEM);
    expect(allocPages(k, MAX_PAGE_ORDER + 1, GFP_KERNEL)).toBe(-ENOMEM);
    expect(allocPages(k, MAX_PAGE_ORDER - 1, GFP_KERNEL)).toBeGreaterThan(0);
  });

  it('zeroes with GFP_ZERO what somebody else has written', () => {
    const { k } = createWorld(1 << 20);
    const page = allocPages(k, 2, GFP_KERNEL);
    k.memory.u8.fill(0xee, k.memory.pageOffset(page), k.memory.pageOffset(page + 4));
    freePages(k, page, 2);
    const again = allocPages(k, 2, GFP_ZERO);
    expect(again).toBe(page);
    const offset = k.memory.pageOffset(again);
    expect(k.memory.u8.subarray(offset, offset + 4 * PAGE_SIZE).every((byte) => byte === 0)).toBe(
      true,
    );
  });

  it('refuses a block that is freed twice, and the zero page', () => {
    const { k } = createWorld(1 << 20);
    const page = allocPages(k, 0, GFP_KERNEL);
    // Its buddy stays taken, so that the block stays one of its own.
    allocPages(k, 0, GFP_KERNEL);
    freePages(k, page, 0);
    expect(() => freePages(k, page, 0)).toThrow(/freed twice/);
    expect(() => freePages(k, k.state.zeroPage, 0)).toThrow(/reserved/);
  });

  it('keeps DMA32 below physical 4 GiB, and starts 3.5 GiB in under a second', () => {
    const memory = new PhysMemory(0xe000_0000);
    const started = performance.now();
    const k = createKernel({
      memory,
      tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
      policy: createPolicy('linux-7'),
    });
    expect(performance.now() - started).toBeLessThan(1000);
    expect(nrFreePages(k)).toBe(memory.nrPages - 1);
    expect(freeBlocks(k)[MAX_PAGE_ORDER]).toBe(895);
    expect(allocPages(k, 0, GFP_KERNEL) + RAM_PFN_BASE).toBeGreaterThanOrEqual(0x10_0000);
    expect(allocPages(k, 0, GFP_DMA32) + RAM_PFN_BASE).toBeLessThan(0x10_0000);
  });
});
