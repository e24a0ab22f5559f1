/** VFIO, type 1, over the host's IOMMU: what is shown is pinned first, and taken back before it is unpinned. */
import { describe, expect, it } from 'vitest';
import { checkIommu, VfioDevice } from '#devices/host';
import { DMA_FAULT, DMA_OK, PAGE_SIZE } from '#emu';
import { checkKernel, drive, EEXIST, migrateFolio, EBUSY, ENOMEM } from '#mm';
import { mapAnon, pageAt, pinsLive } from '../../mm/support.ts';
import { attach, createIommuWorld, word } from './world.ts';

const GPA = 0x8000_0000;

const open = () => {
  const world = createIommuWorld();
  const { device, port } = attach(world, 'strict');
  const vfio = VfioDevice.open(world.host, device, world.p.mm);
  if (typeof vfio === 'number') throw new Error(`open: ${vfio}`);
  return { ...world, device, port, vfio };
};

describe('VFIO_IOMMU_MAP_DMA', () => {
  it("shows a process's memory at addresses of its own choice, by a second stage", () => {
    const { k, p, port, vfio, device, host } = open();
    const hva = mapAnon(p, 4);
    expect(drive(vfio.map(hva, GPA, 4 * PAGE_SIZE, true))).toMatchObject({ pinned: true });
    expect(device.domain!.stage).toBe(2);
    expect(port.write(GPA + PAGE_SIZE, word(9), 0, 4)).toBe(DMA_OK);
    expect([p.load32(hva + PAGE_SIZE), pinsLive(k)]).toEqual([9, 4]);
    expect(port.write(GPA + 4 * PAGE_SIZE, word(9), 0, 4)).toBe(DMA_FAULT);
    expect(checkIommu(host)).toEqual([]);
    expect(drive(migrateFolio(k, pageAt(p, hva)))).toBe(-EBUSY);
  });

  it('refuses what is shown already, and leaves nothing behind over RLIMIT_MEMLOCK', () => {
    const { k, p, port, vfio, device } = open();
    const hva = mapAnon(p, 8);
    drive(vfio.map(hva, GPA, PAGE_SIZE, true));
    expect(drive(vfio.map(hva, GPA, PAGE_SIZE, true))).toBe(-EEXIST);
    p.mm.rlimitMemlock = 3 * PAGE_SIZE;
    expect(drive(vfio.map(hva, GPA + PAGE_SIZE, 8 * PAGE_SIZE, true))).toBe(-ENOMEM);
    expect([pinsLive(k), device.domain!.tables.nrMapped]).toEqual([1, 1]);
    expect(port.write(GPA + PAGE_SIZE, word(9), 0, 4)).toBe(DMA_FAULT);
  });
});

describe('VFIO_IOMMU_UNMAP_DMA', () => {
  it('has taken everything back when it returns; then nothing is pinned', () => {
    const { k, p, port, vfio, host, device } = open();
    const hva = mapAnon(p, 4);
    p.store32(hva, 1);
    drive(vfio.map(hva, GPA, 4 * PAGE_SIZE, true));
    port.write(GPA, word(2), 0, 4);
    expect(drive(vfio.unmap(GPA, 4 * PAGE_SIZE))).toBe(4 * PAGE_SIZE);
    expect(port.write(GPA, word(3), 0, 4)).toBe(DMA_FAULT);
    expect([p.load32(hva), pinsLive(k), device.domain!.tables.nrMapped]).toEqual([2, 0, 0]);
    expect(checkIommu(host)).toEqual([]);
    expect(checkKernel(k, { quiescent: true })).toEqual([]);
  });

  it('takes a range of 2 MiB back that was one leaf', () => {
    const world = createIommuWorld();
    world.k.state.thp.always = 1 << 9;
    const { device, port } = attach(world, 'strict');
    const vfio = VfioDevice.open(world.host, device, world.p.mm);
    if (typeof vfio === 'number') throw new Error(`open: ${vfio}`);
    world.p.mm.rlimitMemlock = 16 << 20;
    const hva = mapAnon(world.p, 512, undefined, 0x4000_0000);
    drive(vfio.map(hva, GPA, 512 * PAGE_SIZE, true));
    expect(port.write(GPA + 0x12_3000, word(5), 0, 4)).toBe(DMA_OK);
    expect(world.p.load32(hva + 0x12_3000)).toBe(5);
    drive(vfio.unmap(GPA, 512 * PAGE_SIZE));
    expect(port.write(GPA + 0x12_3000, word(6), 0, 4)).toBe(DMA_FAULT);
  });
});
