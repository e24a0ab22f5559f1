/**
 * What a virtio device and its transport see of each other. virtio 1.2, chapters 2, 3 and 6.
 *
 *   driver -> registers -> VirtioMmio ── notify, reset, configWritten ──> device model
 *                             │  <── queue().take/put, configChanged, needsReset ──┘
 *                          Virtqueue -> rings in memory, by the transport's DMA port
 *
 * A device model has the queues and, for what the buffers hold, a DmaPort or a backend of its own.
 */
import type { Virtqueue } from './queue.ts';

/* ---- device types (virtio 1.2, chapter 5) ---- */
export const VIRTIO_ID_BLOCK = 2;
export const VIRTIO_ID_CONSOLE = 3;
export const VIRTIO_ID_ENTROPY = 4;
export const VIRTIO_ID_BALLOON = 5;
export const VIRTIO_ID_PMEM = 27;

/* ---- features of rings and transport, as bit numbers (chapter 6) ---- */
export const VIRTIO_F_INDIRECT_DESC = 28;
export const VIRTIO_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_NOTIFICATION_DATA = 38;
export const VIRTIO_F_RING_RESET = 40;

/** A feature mask of one bit. */
export const virtioFeature = (bit: number): bigint => 1n << BigInt(bit);

/** Memory that a device shares with its driver, by the driver's physical addresses (2.10). */
export interface VirtioSharedMemory {
  gpa: number;
  lenBytes: number;
}

/** A device model, as its transport sees it. Everything is synchronous. */
export interface VirtioDevice {
  readonly deviceId: number;
  /** Features of the device type, bits 0 to 23. Those of rings and transport are the transport's. */
  readonly features: bigint;
  /** Largest size of each queue, as powers of two up to 32,768; the length is their number. */
  readonly queueSizes: readonly number[];
  /** The configuration space. The model stores to it and calls configChanged(). */
  readonly config: Uint8Array;
  /** By shmid. */
  readonly sharedMemory?: readonly VirtioSharedMemory[];
  /** Called once, when the transport is put over the device. */
  connect(transport: VirtioTransport): void;
  /**
   * There may be buffers in this queue: the driver says so, or memory that was waited for has come.
   * Called only while the driver has set DRIVER_OK and the queue is ready. Takes what it can.
   */
  notify(queue: number): void;
  /** Back to the state before any driver. Chains that are still out are void: put() ignores them. */
  reset(): void;
  /** The same for one queue: it was stopped or reset. */
  resetQueue?(queue: number): void;
  /** Is a request of this queue still touching memory? A reset is complete when none is. */
  queueBusy?(queue: number): boolean;
  /** The driver has chosen: the features are fixed from now on. False = not a valid choice. */
  featuresChosen?(features: bigint): boolean;
  /** The driver writes to the configuration space, which the transport leaves as it is. */
  configWritten?(offset: number, sizeBytes: number, value: number): void;
}

/** The transport, as a device model sees it. */
export interface VirtioTransport {
  queue(index: number): Virtqueue;
  /** Has this feature been negotiated? False before FEATURES_OK. */
  hasFeature(bit: number): boolean;
  /** Is the driver up: DRIVER_OK, and no error? */
  readonly live: boolean;
  /** `config` has changed: a new generation, and an interrupt for a driver that is up. */
  configChanged(): void;
  /** An error that only a reset mends: DEVICE_NEEDS_RESET; all queues stand still. */
  needsReset(): void;
}
