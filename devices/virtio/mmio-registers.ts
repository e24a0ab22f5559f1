/**
 * Registers of the virtio-mmio transport: where they are, their bits, and what a device keeps of them.
 * virtio 1.2, 2.1 and 4.2.2.
 */
export const VIRTIO_MMIO_DEVICE_FEATURES = 0x010;
export const VIRTIO_MMIO_DEVICE_FEATURES_SEL = 0x014;
export const VIRTIO_MMIO_DRIVER_FEATURES = 0x020;
export const VIRTIO_MMIO_DRIVER_FEATURES_SEL = 0x024;
export const VIRTIO_MMIO_QUEUE_SEL = 0x030;
export const VIRTIO_MMIO_QUEUE_NUM_MAX = 0x034;
export const VIRTIO_MMIO_QUEUE_READY = 0x044;
export const VIRTIO_MMIO_QUEUE_NOTIFY = 0x050;
export const VIRTIO_MMIO_INTERRUPT_STATUS = 0x060;
export const VIRTIO_MMIO_INTERRUPT_ACK = 0x064;
export const VIRTIO_MMIO_STATUS = 0x070;
export const VIRTIO_MMIO_SHM_SEL = 0x0ac;
export const VIRTIO_MMIO_SHM_LEN_LOW = 0x0b0;
export const VIRTIO_MMIO_SHM_LEN_HIGH = 0x0b4;
export const VIRTIO_MMIO_SHM_BASE_LOW = 0x0b8;
export const VIRTIO_MMIO_SHM_BASE_HIGH = 0x0bc;
export const VIRTIO_MMIO_QUEUE_RESET = 0x0c0;
export const VIRTIO_MMIO_CONFIG_GENERATION = 0x0fc;
export const VIRTIO_MMIO_CONFIG = 0x100;

/* Device status (2.1). */
const VIRTIO_STATUS_ACKNOWLEDGE = 1;
const VIRTIO_STATUS_DRIVER = 2;
export const VIRTIO_STATUS_DRIVER_OK = 4;
export const VIRTIO_STATUS_FEATURES_OK = 8;
export const VIRTIO_STATUS_NEEDS_RESET = 64;
export const VIRTIO_STATUS_FAILED = 128;
/** What a driver may set. */
export const VIRTIO_STATUS_OF_DRIVER =
  VIRTIO_STATUS_ACKNOWLEDGE |
  VIRTIO_STATUS_DRIVER |
  VIRTIO_STATUS_DRIVER_OK |
  VIRTIO_STATUS_FEATURES_OK |
  VIRTIO_STATUS_FAILED;

/* Interrupt status. */
export const VIRTIO_INT_USED = 1;
export const VIRTIO_INT_CONFIG = 2;

/** Registers of the device as a whole. Plain data. */
export interface VirtioRegisters {
  status: number;
  /** Status before a reset that is not complete yet: what the driver reads until then. */
  statusBefore: number;
  deviceFeaturesSel: number;
  driverFeaturesSel: number;
  /** Bits 0 to 31, 32 to 63, and whether the driver set one above, where there are none. */
  driverFeaturesLo: number;
  driverFeaturesHi: number;
  driverFeaturesBeyond: boolean;
  queueSel: number;
  interruptStatus: number;
  shmSel: number;
  configGeneration: number;
}

/** Those after power-on or a reset, which neither the generation nor requests under way end with. */
export const virtioAfterReset = (
  configGeneration: number,
  statusBefore: number,
): VirtioRegisters => ({
  status: 0,
  statusBefore,
  deviceFeaturesSel: 0,
  driverFeaturesSel: 0,
  driverFeaturesLo: 0,
  driverFeaturesHi: 0,
  driverFeaturesBeyond: false,
  queueSel: 0,
  interruptStatus: 0,
  shmSel: 0,
  configGeneration,
});
