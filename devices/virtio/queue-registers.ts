/** The registers with which a driver sets up one queue. virtio 1.2, 4.2.2 and 4.2.3.2. */
import type { RingPlace } from './ring.ts';

export const VIRTIO_MMIO_QUEUE_NUM = 0x038;
export const VIRTIO_MMIO_QUEUE_DESC_LOW = 0x080;
export const VIRTIO_MMIO_QUEUE_DESC_HIGH = 0x084;
export const VIRTIO_MMIO_QUEUE_DRIVER_LOW = 0x090;
export const VIRTIO_MMIO_QUEUE_DRIVER_HIGH = 0x094;
export const VIRTIO_MMIO_QUEUE_DEVICE_LOW = 0x0a0;
export const VIRTIO_MMIO_QUEUE_DEVICE_HIGH = 0x0a4;

/** The rings' most: 2^15 entries, both formats. */
const RING_MAX_SIZE = 1 << 15;

/* Alignments (2.7 and 2.8.10.1). */
const DESC_ALIGN = 16;
const SPLIT_DRIVER_ALIGN = 2;
const SPLIT_DEVICE_ALIGN = 4;
const EVENT_ALIGN = 4;

/** One queue's. Plain data. */
export interface QueueRegisters {
  num: number;
  ready: boolean;
  /** QueueReset was written, and the queue not made ready since. */
  resetting: boolean;
  descLo: number;
  descHi: number;
  driverLo: number;
  driverHi: number;
  deviceLo: number;
  deviceHi: number;
}

export const createQueueRegisters = (): QueueRegisters => ({
  num: 0,
  ready: false,
  resetting: false,
  descLo: 0,
  descHi: 0,
  driverLo: 0,
  driverHi: 0,
  deviceLo: 0,
  deviceHi: 0,
});

/** A write to one of them. A driver MUST NOT while the queue is ready: then it changes nothing. */
export const configureQueue = (r: QueueRegisters, offset: number, value: number): void => {
  if (r.ready) return;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      r.num = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      r.descLo = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      r.descHi = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DRIVER_LOW:
      r.driverLo = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DRIVER_HIGH:
      r.driverHi = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DEVICE_LOW:
      r.deviceLo = value >>> 0;
      break;
    case VIRTIO_MMIO_QUEUE_DEVICE_HIGH:
      r.deviceHi = value >>> 0;
      break;
  }
};

/**
 * The ring that they describe, without what features decide; undefined where a driver may not
 * describe one so: a size of 0 or above the queue's most, in a split ring not a power of two, an area
 * that is not aligned, an address that no bus has.
 */
export const ringPlaceOf = (
  r: QueueRegisters,
  packed: boolean,
  sizeMax: number,
): RingPlace | undefined => {
  const size = r.num;
  if (size === 0 || size > Math.min(sizeMax, RING_MAX_SIZE)) return undefined;
  if (!packed && (size & (size - 1)) !== 0) return undefined;
  if (r.descLo % DESC_ALIGN !== 0) return undefined;
  if (r.driverLo % (packed ? EVENT_ALIGN : SPLIT_DRIVER_ALIGN) !== 0) return undefined;
  if (r.deviceLo % (packed ? EVENT_ALIGN : SPLIT_DEVICE_ALIGN) !== 0) return undefined;
  // Numbers are exact below 2^53.
  if (Math.max(r.descHi, r.driverHi, r.deviceHi) >= 2 ** 20) return undefined;
  return {
    size,
    indirectMax: sizeMax,
    descArea: r.descHi * 2 ** 32 + r.descLo,
    driverArea: r.driverHi * 2 ** 32 + r.driverLo,
    deviceArea: r.deviceHi * 2 ** 32 + r.deviceLo,
    indirect: false,
    eventIdx: false,
  };
};
