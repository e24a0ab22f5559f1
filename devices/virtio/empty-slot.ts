/**
 * A virtio-mmio slot with no device behind it: what a board has at each of its slots until something
 * is plugged in, and what a driver looks for first.
 *
 * virtio 1.2, 4.2.2: a DeviceID of 0 marks a placeholder that drivers pass over. Every other register
 * reads 0, and nothing can be written.
 */
import type { MmioDevice } from '#emu';

export const VIRTIO_MMIO_MAGIC_VALUE = 0x000;
export const VIRTIO_MMIO_VERSION = 0x004;
export const VIRTIO_MMIO_DEVICE_ID = 0x008;
export const VIRTIO_MMIO_VENDOR_ID = 0x00c;

/** "virt", little-endian. */
export const VIRTIO_MAGIC = 0x7472_6976;
/** The modern interface. */
export const VIRTIO_VERSION_MODERN = 2;
/** No device. */
export const VIRTIO_ID_NONE = 0;
/** "gupb", little-endian. */
export const VIRTIO_VENDOR_ID = 0x6270_7567;

export class EmptyVirtioSlot implements MmioDevice {
  read(offset: number, sizeBytes: number): number {
    // Registers are words (4.2.2.2).
    if (sizeBytes !== 4) return 0;
    switch (offset) {
      case VIRTIO_MMIO_MAGIC_VALUE:
        return VIRTIO_MAGIC;
      case VIRTIO_MMIO_VERSION:
        return VIRTIO_VERSION_MODERN;
      case VIRTIO_MMIO_DEVICE_ID:
        return VIRTIO_ID_NONE;
      case VIRTIO_MMIO_VENDOR_ID:
        return VIRTIO_VENDOR_ID;
      default:
        return 0;
    }
  }

  write(_offset: number, _sizeBytes: number, _value: number): void {}
}
