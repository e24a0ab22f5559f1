/** /proc/buddyinfo, pagetypeinfo and zoneinfo: what is free, where, and for what. Compare mm/vmstat.c. */
import { describe, expect, it } from 'vitest';
import {
  allocPages,
  cmaAlloc,
  drive,
  GFP_KERNEL,
  MEMORY_BLOCK_PAGES,
  offlinePages,
  procBuddyinfo,
  procPagetypeinfo,
  procZoneinfo,
} from '#mm';
import { createZonedWorld, MIB } from './zone-world.ts';

const create = () => createZonedWorld(32 * MIB, { movableBytes: 8 * MIB, cmaBytes: 8 * MIB });

describe('what /proc says of free memory', () => {
  it('buddyinfo: free blocks by zone and order', () => {
    const { k } = create();
    expect(procBuddyinfo(k)).toBe(
      'Node 0, zone    DMA32      1      1      1      1      1      1      1      1      1      1      5 \n' +
        'Node 0, zone  Movable      0      0      0      0      0      0      0      0      0      0      2 \n',
    );
  });

  it('pagetypeinfo: the same by migratetype, and how many pageblocks are of each', () => {
    const { k } = create();
    allocPages(k, 9, GFP_KERNEL);
    const lines = procPagetypeinfo(k).split('\n');
    expect(lines.slice(0, 2)).toEqual(['Page block order: 9', 'Pages per block:  512']);
    expect(lines[4]).toMatch(/^Node {4}0, zone {4}DMA32, type {4}Unmovable( +1){9} +0 +0 $/);
    expect(lines[5]).toMatch(/type {6}Movable( +0){10} +3 $/);
    expect(lines[7]).toMatch(/type {10}CMA( +0){10} +2 $/);
    expect(lines.slice(-4)).toEqual([
      'Number of blocks type     Unmovable      Movable  Reclaimable          CMA      Isolate ',
      'Node 0, zone    DMA32            2            6            0            4            0 ',
      'Node 0, zone  Movable            0            4            0            0            0 ',
      '',
    ]);
  });

  it('zoneinfo: what a zone spans, what it has, and what of it is CMA', () => {
    const { k } = create();
    drive(cmaAlloc(k, 48));
    const [dma32 = '', normal = '', movable = ''] = procZoneinfo(k).split(/^(?=Node)/m);
    expect(dma32).toContain('spanned  6144\n');
    expect(dma32).toContain('cma      2048\n');
    expect(dma32).toContain('nr_free_cma  2000\n');
    expect(normal).toContain('spanned  0\n');
    expect(movable).toContain('start_pfn:           530432\n');
  });

  it('memory that is offline is spanned, and not there', () => {
    const { k } = createZonedWorld(384 * MIB);
    drive(offlinePages(k, MEMORY_BLOCK_PAGES, MEMORY_BLOCK_PAGES));
    const [dma32 = ''] = procZoneinfo(k).split(/^(?=Node)/m);
    expect(dma32).toContain('spanned  98304\n');
    expect(dma32).toContain('present  65536\n');
    expect(dma32).toContain('managed  65536\n');
  });
});
