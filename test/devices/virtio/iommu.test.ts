/**
 * virtio devices behind an IOMMU: rings, tables and buffers are named by IOVAs, and what the driver has
 * not mapped cannot be reached. virtio 1.2, 6.1 (VIRTIO_F_ACCESS_PLATFORM); RISC-V IOMMU 1.0, 2.3.
 */
import { describe, expect, it } from 'vitest';
import { BusPort, IommuPort, VirtioMmio, VirtioRng } from '#devices';
import { IOMMU_DEVICE_VIRTIO, RAM_BASE } from '#emu';
import * as io from '../iommu/support.ts';
import { probedLine } from '../support/wires.ts';
import {
  ACCESS_PLATFORM,
  DRIVER_OK,
  FEATURES_OK,
  NEEDS_RESET,
  RING_PACKED,
} from './support/board.ts';
import { type DriverQueue, PackedDriver, SplitDriver } from './support/driver.ts';

/** RAM from here on is mapped there, by one leaf of 2 MiB. */
const MAPPED_PA = RAM_BASE + 0x20_0000;
const MAPPED_IOVA = 0x12_4060_0000;
const SV39 = 8;
const STORE_PAGE_FAULT = 15;
const LOAD_PAGE_FAULT = 13;
const SIZE = 8;

const up = (features: bigint) => {
  const host = io.boardOf({ ramBytes: 8 << 20 });
  const root = io.FREE;
  const middle = io.FREE + 0x1000;
  host.put(root + 8 * Math.floor(MAPPED_IOVA / 2 ** 30), io.pte(middle, io.V));
  host.put(middle + 8 * (Math.floor(MAPPED_IOVA / 2 ** 21) % 512), io.pte(MAPPED_PA, io.WRITE));
  host.device(IOMMU_DEVICE_VIRTIO, { fsc: io.atp(SV39, root), ta: io.pscid(1) });

  const { iommu, memory } = host;
  const port = new IommuPort({
    iommu,
    deviceId: IOMMU_DEVICE_VIRTIO,
    memory: new BusPort(memory),
  });
  const device = new VirtioRng({ port, fill: (into) => into.fill(0x5a) });
  const mmio = new VirtioMmio({ device, port, irq: probedLine(), accessPlatform: true });
  const set = (offset: number, value: number): void => mmio.write(offset, 4, value);
  const chosen = features | (1n << 32n) | ACCESS_PLATFORM;
  set(0x070, 3);
  for (const half of [0, 1]) {
    set(0x024, half);
    set(0x020, Number((chosen >> BigInt(32 * half)) & 0xffff_ffffn));
  }
  set(0x070, FEATURES_OK);
  const view = new DataView(memory.wasm.buffer, memory.offsetOf(MAPPED_PA), 0x20_0000);
  const place = {
    view,
    base: MAPPED_IOVA,
    room: MAPPED_IOVA + 0x1000,
    size: SIZE,
    eventIdx: false,
  };
  const queue = features === 0n ? new SplitDriver(place) : new PackedDriver(place);
  const ready = (areas: Pick<DriverQueue, 'descArea' | 'driverArea' | 'deviceArea'>): void => {
    set(0x038, SIZE);
    for (const [offset, iova] of [
      [0x080, areas.descArea],
      [0x090, areas.driverArea],
      [0x0a0, areas.deviceArea],
    ] as const) {
      set(offset, iova % 2 ** 32);
      set(offset + 4, Math.floor(iova / 2 ** 32));
    }
    set(0x044, 1);
    set(0x070, DRIVER_OK);
  };
  return { host, mmio, queue, ready, kick: () => set(0x050, 0), view };
};

for (const features of [0n, RING_PACKED])
  describe(`virtio-rng behind an IOMMU, ${features === 0n ? 'split' : 'packed'} ring`, () => {
    it('finds rings and buffers by IOVA', () => {
      const { host, queue, ready, kick, view } = up(features);
      ready(queue);
      const key = queue.offer([{ at: MAPPED_IOVA + 0x8000, len: 5, write: true }], 'direct', 0);
      kick();
      expect(queue.collect()).toEqual({ key, len: 5 });
      expect([0, 4, 5].map((i) => view.getUint8(0x8000 + i))).toEqual([0x5a, 0x5a, 0]);
      expect(host.faults()).toEqual([]);
    });

    it('a buffer that is not mapped is not written, and the fault says whose and where', () => {
      const { host, queue, ready, kick, mmio } = up(features);
      ready(queue);
      const outside = MAPPED_IOVA + 0x20_0000;
      // It begins on the last mapped page.
      queue.offer([{ at: outside - 4, len: 8, write: true }], 'direct', 0);
      queue.offer([{ at: RAM_BASE, len: 8, write: true }], 'direct', 0);
      kick();
      expect([queue.collect()?.len, queue.collect()?.len]).toEqual([0, 0]);
      expect(host.faults().map(({ cause, did, iotval }) => ({ cause, did, iotval }))).toEqual([
        { cause: STORE_PAGE_FAULT, did: IOMMU_DEVICE_VIRTIO, iotval: BigInt(outside) },
        { cause: STORE_PAGE_FAULT, did: IOMMU_DEVICE_VIRTIO, iotval: BigInt(RAM_BASE) },
      ]);
      expect(mmio.read(0x070, 4) & NEEDS_RESET).toBe(0);
    });

    it('a ring that is not mapped is a broken one', () => {
      const { host, mmio, ready, kick } = up(features);
      ready({ descArea: RAM_BASE, driverArea: RAM_BASE + 0x100, deviceArea: RAM_BASE + 0x200 });
      kick();
      expect(mmio.read(0x070, 4) & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(host.faults()[0]).toMatchObject({ cause: LOAD_PAGE_FAULT, did: IOMMU_DEVICE_VIRTIO });
    });

    it('taken away and invalidated while a buffer is out, it stops there', () => {
      const { host, queue, ready, kick, mmio } = up(features);
      ready(queue);
      queue.offer([{ at: MAPPED_IOVA + 0x8000, len: 4, write: true }], 'direct', 0);
      host.put(io.FREE + 8 * Math.floor(MAPPED_IOVA / 2 ** 30), 0n);
      host.command(io.iotinvalVma({ pscid: 1 }));
      kick();
      expect(mmio.read(0x070, 4) & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(queue.collect()).toBeUndefined();
    });
  });
