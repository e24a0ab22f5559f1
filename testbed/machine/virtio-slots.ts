/** The board's virtio-mmio slots: those that nothing is plugged into. */
import { EmptyVirtioSlot } from '#devices';
import { type Bus, VIRTIO_BASE, VIRTIO_SLOTS, VIRTIO_STRIDE } from '#emu';
import type { MmioRegion } from '#kvm';

/** Fills the slots that are free with placeholders; returns where those are. */
export const attachVirtioSlots = (bus: Bus): MmioRegion[] => {
  const free: MmioRegion[] = [];
  for (let i = 0; i < VIRTIO_SLOTS; i++) {
    const region = {
      gpa: VIRTIO_BASE + i * VIRTIO_STRIDE,
      lenBytes: VIRTIO_STRIDE,
      name: `virtio${i}`,
    };
    if (bus.regions.some(({ basePa }) => basePa === region.gpa)) continue;
    bus.attach(region.gpa, region.lenBytes, new EmptyVirtioSlot(), region.name);
    free.push(region);
  }
  return free;
};
