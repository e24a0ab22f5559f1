/**
 * Mapping for DMA through the host's IOMMU: what a device reaches, when it does not any more, and what
 * is said of one that tries. Compare drivers/iommu/dma-iommu.c.
 */
import { describe, expect, it } from 'vitest';
import {
  checkIommu,
  DMA_BIDIRECTIONAL,
  DMA_FROM_DEVICE,
  DMA_TO_DEVICE,
  DmaDevicePort,
  dmaMapSg,
  dmaUnmapSg,
  FLUSH_TIMEOUT,
  HostIommu,
  nrMappedPages,
  windowEntries,
} from '#devices/host';
import { DMA_FAULT, DMA_OK, PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import { checkKernel, drive, EINVAL, EIO, munmap, nrFreePages } from '#mm';
import { exit } from '../../mm/support.ts';
import { runTo } from '../support/wires.ts';
import { attach, createIommuWorld, mapFor, pinned, unpin, word } from './world.ts';

const kinds = (device: { violations: readonly { kind: string }[] }): string[] =>
  device.violations.map(({ kind }) => kind);

describe('a scatter list', () => {
  for (const mode of ['strict', 'deferred'] as const)
    it(`is one range of bus addresses in ${mode} mode, wherever its frames are`, () => {
      const world = createIommuWorld();
      const { device, port } = attach(world, mode);
      const { hva, pages } = pinned(world, 5);
      const shuffled = Int32Array.of(pages[3]!, pages[0]!, pages[4]!);
      const sg = mapFor(device, shuffled);
      expect(sg.lenBytes).toEqual([3 * PAGE_SIZE]);
      expect(port.write(sg.address[0]! + PAGE_SIZE, word(77), 0, 4)).toBe(DMA_OK);
      expect([world.p.load32(hva), world.p.load32(hva + 3 * PAGE_SIZE)]).toEqual([77, 4]);
      drive(dmaUnmapSg(device, sg));
      unpin(world.k, pages);
    });

  it('has a segment for each run of frames without an IOMMU, contiguous ones as one', () => {
    const world = createIommuWorld();
    const { device } = attach(world, 'off');
    const runs = [
      { page: 100, nr: 2 },
      { page: 102, nr: 1 },
      { page: 200, nr: 1 },
    ];
    const sg = drive(dmaMapSg(device, runs, DMA_BIDIRECTIONAL, 'nic', 100, 3 * PAGE_SIZE));
    if (typeof sg === 'number') throw new Error(`${sg}`);
    const at = (page: number): number => (RAM_PFN_BASE + page) * PAGE_SIZE;
    expect(sg.address).toEqual([at(100) + 100, at(200)]);
    expect(sg.lenBytes).toEqual([3 * PAGE_SIZE - 100, 100]);
    drive(dmaUnmapSg(device, sg));
    expect(nrMappedPages(device)).toBe(0);
  });

  it("keeps to the device's largest segment and to its boundary", () => {
    const world = createIommuWorld();
    const { device } = attach(world, 'strict');
    device.limits = { maxBytes: 3 * PAGE_SIZE, boundaryMask: 0x3fff };
    const sg = mapFor(device, pinned(world, 8).pages);
    expect(sg.lenBytes).toEqual([3, 1, 3, 1].map((n) => n * PAGE_SIZE));
    expect(sg.address[1]).toBe(sg.address[0]! + 3 * PAGE_SIZE);
  });

  it('of nothing, or of more than there is, is -EINVAL; for a device that is gone -EIO', () => {
    const world = createIommuWorld();
    const { device } = attach(world, 'strict');
    const runs = [{ page: 100, nr: 1 }];
    const map = (offset: number, lenBytes: number) =>
      drive(dmaMapSg(device, runs, DMA_BIDIRECTIONAL, 'nic', offset, lenBytes));
    expect([map(0, 0), map(1, PAGE_SIZE), map(-1, 4)]).toEqual([-EINVAL, -EINVAL, -EINVAL]);
    world.host.detachDevice(device);
    expect(map(0, 4)).toBe(-EIO);
  });

  it('is not unmapped twice', () => {
    const world = createIommuWorld();
    const { device } = attach(world, 'strict');
    const sg = mapFor(device, pinned(world, 1).pages);
    const again = structuredClone(sg);
    drive(dmaUnmapSg(device, sg));
    expect(() => drive(dmaUnmapSg(device, again))).toThrow(/is not mapped/);
  });

  it('that goes to the device is not written by it, and one that comes from it is read as well', () => {
    const world = createIommuWorld();
    const { device, port } = attach(world, 'strict');
    const { pages } = pinned(world, 2);
    const to = mapFor(device, pages.subarray(0, 1), DMA_TO_DEVICE).address[0]!;
    const from = mapFor(device, pages.subarray(1), DMA_FROM_DEVICE).address[0]!;
    const into = new Uint8Array(4);
    expect([port.read(to, into, 0, 4), port.write(to, into, 0, 4)]).toEqual([DMA_OK, DMA_FAULT]);
    expect([port.read(from, into, 0, 4), port.write(from, into, 0, 4)]).toEqual([DMA_OK, DMA_OK]);
    drive(world.host.work());
    expect(device.violations[0]!.text).toMatch(/^nic5: write at iova .*: write page fault \(15\)/);
  });
});

describe('an access after dmaUnmapSg()', () => {
  it('in strict mode is stopped, and the report says whose address it was', () => {
    const world = createIommuWorld();
    const { device, port } = attach(world, 'strict');
    const { hva, pages } = pinned(world, 2);
    const sg = mapFor(device, pages);
    const [at] = sg.address;
    port.write(at!, word(1), 0, 4);
    drive(dmaUnmapSg(device, sg));
    expect(port.write(at!, word(99), 0, 4)).toBe(DMA_FAULT);
    expect(world.p.load32(hva)).toBe(1);
    drive(world.host.work());
    expect(device.violations).toEqual([
      {
        kind: 'blocked',
        text: `nic5: write at iova 0x${at!.toString(16)}: write page fault (15); mapped for nic (2 pages) until it was unmapped`,
      },
    ]);
    expect(checkIommu(world.host)).toEqual([]);
  });

  it('in deferred mode gets through until the queue is flushed: named, with who had freed the frame', () => {
    const world = createIommuWorld();
    const { k, p, host } = world;
    const { device, port } = attach(world, 'deferred');
    const { hva, pages } = pinned(world, 1);
    const sg = mapFor(device, pages);
    const [at] = sg.address;
    port.write(at!, word(1), 0, 4);
    drive(dmaUnmapSg(device, sg));
    unpin(k, pages);
    drive(munmap(k, p.mm, hva, PAGE_SIZE));
    expect(windowEntries(host)).toEqual([
      expect.stringMatching(
        /^IOTLB entry .* mapped for nic .* frame is free, freed by the unmapping of mm \d+$/,
      ),
    ]);
    expect(port.write(at!, word(99), 0, 4)).toBe(DMA_OK);
    expect(k.memory.u8[k.memory.pageOffset(pages[0]!)]).toBe(99);
    expect(kinds(device)).toEqual(['stale']);
    expect(checkIommu(host)).toEqual([
      expect.stringMatching(
        /^DMA nic5: write at iova .* through a stale entry reaches pfn \d+: mapped for nic .* freed by the unmapping of mm \d+$/,
      ),
    ]);
    runTo(world.clock, FLUSH_TIMEOUT);
    expect(port.write(at!, word(98), 0, 4)).toBe(DMA_FAULT);
    expect(windowEntries(host)).toEqual([]);
    expect(device.domain!.queue.counts).toEqual({
      queued: 1,
      queuedPages: 1,
      mostPages: 1,
      byRoom: 0,
      byTime: 1,
    });
  });

  it('without an IOMMU reaches whatever the frame is by then, and is named', () => {
    const world = createIommuWorld();
    const { k, p } = world;
    const { device, port } = attach(world, 'off');
    const { hva, pages } = pinned(world, 1);
    const sg = mapFor(device, pages);
    drive(dmaUnmapSg(device, sg));
    drive(munmap(k, p.mm, hva, PAGE_SIZE));
    unpin(k, pages);
    expect(port.write(sg.address[0]!, word(99), 0, 4)).toBe(DMA_OK);
    expect(checkIommu(world.host)).toEqual([
      expect.stringMatching(
        /which is not mapped for it, .* mapped for nic .*the frame is free, freed by the unpinning by nic$/,
      ),
    ]);
  });
});

describe('the flush queue', () => {
  it('is flushed when it is full, and addresses are not given out before', () => {
    const world = createIommuWorld();
    const { device } = attach(world, 'deferred');
    const { pages } = pinned(world, 1);
    const seen = new Set<number>();
    for (let i = 0; i < 256; i++) {
      const sg = mapFor(device, pages);
      seen.add(sg.address[0]!);
      drive(dmaUnmapSg(device, sg));
    }
    const { queue } = device.domain!;
    expect([seen.size, queue.nrPages, queue.counts.byRoom]).toEqual([256, 256, 0]);
    drive(dmaUnmapSg(device, mapFor(device, pages)));
    expect([queue.nrPages, queue.counts.byRoom]).toEqual([1, 1]);
  });
});

describe('a driver that lets go too early', () => {
  for (const [what, early] of [
    ['unpins', false],
    ['unpins and unmaps the memory', true],
  ] as const)
    it(`${what} while the device still has the address: I10 names both`, () => {
      const world = createIommuWorld();
      const { k, p, host } = world;
      const { device, port } = attach(world, 'strict');
      const { hva, pages } = pinned(world, 1);
      const [at] = mapFor(device, pages).address;
      port.write(at!, word(1), 0, 4);
      expect(checkIommu(host)).toEqual([]);
      unpin(k, pages);
      if (early) drive(munmap(k, p.mm, hva, PAGE_SIZE));
      const [first] = checkIommu(host);
      expect(first).toMatch(
        /^I10 IOTLB entry of domain 1 for iova .*: mapped for nic \(1 pages\); /,
      );
      expect(first).toMatch(early ? /free, freed by the unmapping/ : /the frame is mapped by mm/);
    });
});

it('a device with a cache of its own forgets too, before the frames go', () => {
  const world = createIommuWorld();
  const { device } = attach(world, 'strict', { ats: true });
  const forgotten: number[] = [];
  world.host.model.setAtsDevice(device.id, {
    invalidate: ({ iova, lenBytes }) => {
      forgotten.push(iova, lenBytes);
      return true;
    },
    pageGroupResponse: () => {},
  });
  const sg = mapFor(device, pinned(world, 3).pages);
  const [at] = sg.address;
  drive(dmaUnmapSg(device, sg));
  // Aligned: two pages, then one.
  expect(forgotten).toEqual([at, 2 * PAGE_SIZE, at! + 2 * PAGE_SIZE, PAGE_SIZE]);
});

it('a device that goes in the middle of it reaches nothing any more, whatever is mapped for it', () => {
  const world = createIommuWorld();
  const { k, host } = world;
  const { device, port } = attach(world, 'deferred');
  const { hva, pages } = pinned(world, 2);
  const sg = mapFor(device, pages);
  port.write(sg.address[0]!, word(1), 0, 4);
  host.detachDevice(device);
  expect(port.write(sg.address[0]!, word(99), 0, 4)).toBe(DMA_FAULT);
  expect(world.p.load32(hva)).toBe(1);
  drive(host.work());
  expect(device.violations.at(-1)!.text).toMatch(/no valid device context \(258\)/);
  drive(dmaUnmapSg(device, sg));
  unpin(k, pages);
  host.releaseDevice(device);
  exit(world.p);
  host.shutdown();
  expect(nrFreePages(k)).toBe(world.before + 1); // the tables of the process's root too
  expect(checkKernel(k, { quiescent: true })).toEqual([]);
});

it('goes on where it was after a restore: mappings, the window, its timer', () => {
  const world = createIommuWorld();
  const { k, clock, host } = world;
  const { device, port } = attach(world, 'deferred');
  const live = mapFor(device, pinned(world, 1).pages);
  const gone = mapFor(device, pinned(world, 1).pages);
  for (const sg of [live, gone]) port.write(sg.address[0]!, word(1), 0, 4);
  const [late] = gone.address;
  drive(dmaUnmapSg(device, gone));
  const events = clock.save();
  const restored = new HostIommu({ kernel: k, clock, name: 'iommu' }, structuredClone(host.save()));
  clock.restore(events);
  const again = restored.attachDevice(device.id, { mode: 'deferred', name: 'nic5' });
  if (typeof again === 'number') throw new Error(`${again}`);
  const portAgain = new DmaDevicePort({ device: again, iommu: restored.model });
  expect(portAgain.write(live.address[0]!, word(2), 0, 4)).toBe(DMA_OK);
  expect(portAgain.write(late!, word(2), 0, 4)).toBe(DMA_OK);
  expect(kinds(again)).toEqual(['stale']);
  runTo(clock, FLUSH_TIMEOUT);
  expect(portAgain.write(late!, word(2), 0, 4)).toBe(DMA_FAULT);
  drive(dmaUnmapSg(again, live));
  expect(nrMappedPages(again)).toBe(0);
});
