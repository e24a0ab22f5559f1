/** The board's virtio-mmio slots, all of them empty. */
import { EmptyVirtioSlot } from '#devices';
import { type Bus, VIRTIO_BASE, VIRTIO_SLOTS, VIRTIO_STRIDE } from '#emu';
import type { MmioRegion } from '#kvm';

/** Puts the slots on a bus; returns where they are. */
export const attachVirtioSlots = (bus: Bus): MmioRegion[] =>
  Array.from({ length: VIRTIO_SLOTS }, (_, i) => {
    const region = {
      gpa: VIRTIO_BASE + i * VIRTIO_STRIDE,
      lenBytes: VIRTIO_STRIDE,
      name: `virtio${i}`,
    };
    bus.attach(region.gpa, region.lenBytes, new EmptyVirtioSlot(), region.name);
    return region;
  });
