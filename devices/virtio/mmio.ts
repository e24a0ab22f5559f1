/**
 * The virtio-mmio transport, modern interface: registers over a device model. virtio 1.2, 4.2.
 *
 * What the specification leaves to the device, this one does so:
 *   - control registers take aligned words alone; any other access reads 0 and writes nothing;
 *   - status bits that are set stay so until a reset, and features are fixed by FEATURES_OK, which
 *     stays 0 where the driver's choice is not a subset of what is offered or lacks VERSION_1;
 *   - QueueReady stays 0 before FEATURES_OK, and where size or alignment are not allowed;
 *   - a ring that breaks the rules, or is not in memory, sets DEVICE_NEEDS_RESET;
 *   - a reset that has to wait for requests under way shows in Status, QueueReset or QueueReady.
 */
import type { DmaPort, IrqLine, MmioDevice } from '#emu';
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  type VirtioDevice,
  type VirtioTransport,
  virtioFeature,
} from './device.ts';
import {
  VIRTIO_MAGIC,
  VIRTIO_MMIO_DEVICE_ID,
  VIRTIO_MMIO_MAGIC_VALUE,
  VIRTIO_MMIO_VENDOR_ID,
  VIRTIO_MMIO_VERSION,
  VIRTIO_VENDOR_ID,
  VIRTIO_VERSION_MODERN,
} from './empty-slot.ts';
import {
  VIRTIO_INT_CONFIG,
  VIRTIO_INT_USED,
  VIRTIO_MMIO_CONFIG,
  VIRTIO_MMIO_CONFIG_GENERATION,
  VIRTIO_MMIO_DEVICE_FEATURES,
  VIRTIO_MMIO_DEVICE_FEATURES_SEL,
  VIRTIO_MMIO_DRIVER_FEATURES,
  VIRTIO_MMIO_DRIVER_FEATURES_SEL,
  VIRTIO_MMIO_INTERRUPT_ACK,
  VIRTIO_MMIO_INTERRUPT_STATUS,
  VIRTIO_MMIO_QUEUE_NOTIFY,
  VIRTIO_MMIO_QUEUE_NUM_MAX,
  VIRTIO_MMIO_QUEUE_READY,
  VIRTIO_MMIO_QUEUE_RESET,
  VIRTIO_MMIO_QUEUE_SEL,
  VIRTIO_MMIO_SHM_BASE_HIGH,
  VIRTIO_MMIO_SHM_BASE_LOW,
  VIRTIO_MMIO_SHM_LEN_HIGH,
  VIRTIO_MMIO_SHM_LEN_LOW,
  VIRTIO_MMIO_SHM_SEL,
  VIRTIO_MMIO_STATUS,
  VIRTIO_STATUS_DRIVER_OK,
  VIRTIO_STATUS_FAILED,
  VIRTIO_STATUS_FEATURES_OK,
  VIRTIO_STATUS_NEEDS_RESET,
  VIRTIO_STATUS_OF_DRIVER,
  virtioAfterReset,
  type VirtioRegisters,
} from './mmio-registers.ts';
import { Virtqueue, type VirtqueueState } from './queue.ts';
import {
  configureQueue,
  createQueueRegisters,
  type QueueRegisters,
  ringPlaceOf,
} from './queue-registers.ts';

const NO_REGION = 0xffff_ffff;

/** What the rings and this transport can do, whatever the device. */
const TRANSPORT_FEATURES =
  virtioFeature(VIRTIO_F_INDIRECT_DESC) |
  virtioFeature(VIRTIO_F_EVENT_IDX) |
  virtioFeature(VIRTIO_F_VERSION_1) |
  virtioFeature(VIRTIO_F_RING_PACKED) |
  virtioFeature(VIRTIO_F_NOTIFICATION_DATA) |
  virtioFeature(VIRTIO_F_RING_RESET);

export interface VirtioMmioConfig {
  device: VirtioDevice;
  /** Memory with rings and indirect tables, by the driver's addresses. */
  port: DmaPort;
  irq: IrqLine;
  /** The addresses are an IOMMU's: a driver must accept VIRTIO_F_ACCESS_PLATFORM. Default false. */
  accessPlatform?: boolean;
  /** Features that are not offered, though they could be. Default none. */
  withhold?: bigint;
}

/** What a saved machine keeps of the transport; the device model saves itself. */
export interface VirtioMmioState {
  registers: VirtioRegisters;
  queues: { registers: QueueRegisters; queue: VirtqueueState }[];
}

interface Queue {
  sizeMax: number;
  registers: QueueRegisters;
  queue: Virtqueue;
}

export class VirtioMmio implements MmioDevice, VirtioTransport {
  private readonly device: VirtioDevice;
  private readonly irq: IrqLine;
  private readonly offered: bigint;
  private readonly accessPlatform: boolean;
  private readonly queues: readonly Queue[];
  private r: VirtioRegisters;

  constructor(config: VirtioMmioConfig) {
    const { device, port } = config;
    this.device = device;
    this.irq = config.irq;
    this.accessPlatform = config.accessPlatform ?? false;
    this.offered =
      (device.features |
        TRANSPORT_FEATURES |
        (this.accessPlatform ? virtioFeature(VIRTIO_F_ACCESS_PLATFORM) : 0n)) &
      ~(config.withhold ?? 0n);
    this.r = virtioAfterReset(0, 0);
    this.queues = device.queueSizes.map((sizeMax) => ({
      sizeMax,
      registers: createQueueRegisters(),
      queue: new Virtqueue({
        port,
        onUsed: () => this.raise(VIRTIO_INT_USED),
        onBroken: () => this.needsReset(),
      }),
    }));
    device.connect(this);
    port.onReady?.(() => this.retry());
  }

  /* ---- for the device model ---- */

  get live(): boolean {
    const up = VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK;
    const down = VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED;
    return (this.r.status & (up | down)) === up;
  }

  queue(index: number): Virtqueue {
    const found = this.queues[index];
    if (found === undefined) throw new RangeError(`virtio device has no queue ${index}`);
    return found.queue;
  }

  hasFeature(bit: number): boolean {
    const { driverFeaturesLo, driverFeaturesHi } = this.r;
    const word = bit < 32 ? driverFeaturesLo : driverFeaturesHi;
    return this.negotiated && ((word >>> (bit & 31)) & 1) !== 0;
  }

  configChanged(): void {
    this.r.configGeneration = (this.r.configGeneration + 1) >>> 0;
    if ((this.r.status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.raise(VIRTIO_INT_CONFIG);
  }

  needsReset(): void {
    const r = this.r;
    if ((r.status & VIRTIO_STATUS_NEEDS_RESET) !== 0) return;
    r.status |= VIRTIO_STATUS_NEEDS_RESET;
    for (const { queue } of this.queues) queue.stop();
    // 2.1.2: a driver that is up MUST be told.
    if ((r.status & VIRTIO_STATUS_DRIVER_OK) !== 0) this.raise(VIRTIO_INT_CONFIG);
  }

  /** Memory that was waited for may have come: used buffers first, then new ones. */
  retry(): void {
    for (let i = 0; i < this.queues.length && this.live; i++)
      if (this.queue(i).flush()) this.notify(i);
  }

  /* ---- registers ---- */

  read(offset: number, sizeBytes: number): number {
    if (offset >= VIRTIO_MMIO_CONFIG)
      return this.readConfig(offset - VIRTIO_MMIO_CONFIG, sizeBytes);
    if (sizeBytes !== 4) return 0;
    const r = this.r;
    const selected = this.queues[r.queueSel];
    switch (offset) {
      case VIRTIO_MMIO_MAGIC_VALUE:
        return VIRTIO_MAGIC;
      case VIRTIO_MMIO_VERSION:
        return VIRTIO_VERSION_MODERN;
      case VIRTIO_MMIO_DEVICE_ID:
        return this.device.deviceId;
      case VIRTIO_MMIO_VENDOR_ID:
        return VIRTIO_VENDOR_ID;
      case VIRTIO_MMIO_DEVICE_FEATURES:
        return r.deviceFeaturesSel > 1
          ? 0
          : Number((this.offered >> BigInt(32 * r.deviceFeaturesSel)) & 0xffff_ffffn);
      case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return selected?.sizeMax ?? 0;
      case VIRTIO_MMIO_QUEUE_READY:
        return selected !== undefined && (selected.registers.ready || this.isBusy(r.queueSel))
          ? 1
          : 0;
      case VIRTIO_MMIO_INTERRUPT_STATUS:
        return r.interruptStatus;
      case VIRTIO_MMIO_STATUS:
        return this.readStatus();
      case VIRTIO_MMIO_QUEUE_RESET:
        return selected?.registers.resetting && this.isBusy(r.queueSel) ? 1 : 0;
      case VIRTIO_MMIO_CONFIG_GENERATION:
        return r.configGeneration;
      case VIRTIO_MMIO_SHM_LEN_LOW:
      case VIRTIO_MMIO_SHM_LEN_HIGH:
      case VIRTIO_MMIO_SHM_BASE_LOW:
      case VIRTIO_MMIO_SHM_BASE_HIGH:
        return this.readSharedMemory(offset);
      default:
        return 0;
    }
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (offset >= VIRTIO_MMIO_CONFIG) {
      this.device.configWritten?.(offset - VIRTIO_MMIO_CONFIG, sizeBytes, value);
      return;
    }
    if (sizeBytes !== 4) return;
    const r = this.r;
    switch (offset) {
      case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        r.deviceFeaturesSel = value >>> 0;
        break;
      case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        r.driverFeaturesSel = value >>> 0;
        break;
      case VIRTIO_MMIO_DRIVER_FEATURES:
        this.writeDriverFeatures(value);
        break;
      case VIRTIO_MMIO_QUEUE_SEL:
        r.queueSel = value >>> 0;
        break;
      case VIRTIO_MMIO_QUEUE_READY:
        this.writeQueueReady(value);
        break;
      case VIRTIO_MMIO_QUEUE_RESET:
        if (value === 1 && this.hasFeature(VIRTIO_F_RING_RESET)) this.stopQueue(r.queueSel, true);
        break;
      case VIRTIO_MMIO_QUEUE_NOTIFY:
        // The upper half is the driver's next index, where NOTIFICATION_DATA was negotiated.
        this.notify(this.hasFeature(VIRTIO_F_NOTIFICATION_DATA) ? value & 0xffff : value >>> 0);
        break;
      case VIRTIO_MMIO_INTERRUPT_ACK:
        r.interruptStatus &= ~value;
        this.irq.set(r.interruptStatus !== 0);
        break;
      case VIRTIO_MMIO_STATUS:
        this.writeStatus(value);
        break;
      case VIRTIO_MMIO_SHM_SEL:
        r.shmSel = value >>> 0;
        break;
      default: {
        const selected = this.queues[r.queueSel];
        if (selected !== undefined) configureQueue(selected.registers, offset, value);
      }
    }
  }

  /** Back to the state after power-on. What requests under way still do is the device's to say. */
  reset(): void {
    const before = this.readStatus();
    for (const { queue, registers } of this.queues) {
      queue.stop();
      Object.assign(registers, createQueueRegisters());
    }
    this.r = virtioAfterReset(this.r.configGeneration, before);
    this.device.reset();
    this.irq.set(false);
  }

  save(): VirtioMmioState {
    return {
      registers: { ...this.r },
      queues: this.queues.map(({ registers, queue }) => ({
        registers: { ...registers },
        queue: queue.save(),
      })),
    };
  }

  /** Drives no line and calls nobody: the other ends are restored too. */
  restore(state: VirtioMmioState): void {
    this.r = { ...state.registers };
    state.queues.forEach((saved, i) => {
      const { registers, queue } = this.queues[i] ?? {};
      if (registers === undefined || queue === undefined)
        throw new RangeError(`virtio device ${this.device.deviceId} has no queue ${i} to restore`);
      Object.assign(registers, saved.registers);
      queue.restore(saved.queue);
    });
  }

  private get negotiated(): boolean {
    return (this.r.status & VIRTIO_STATUS_FEATURES_OK) !== 0;
  }

  private raise(cause: number): void {
    this.r.interruptStatus |= cause;
    this.irq.set(true);
  }

  private notify(index: number): void {
    if (this.live && this.queues[index]?.queue.running) this.device.notify(index);
  }

  private isBusy(index: number): boolean {
    return this.device.queueBusy?.(index) ?? false;
  }

  /** The status, or what it was before a reset as long as a request is still under way. */
  private readStatus(): number {
    const r = this.r;
    if (r.statusBefore !== 0 && !this.queues.some((_, i) => this.isBusy(i))) r.statusBefore = 0;
    return r.status | r.statusBefore;
  }

  private writeStatus(value: number): void {
    const r = this.r;
    if (value === 0) {
      this.reset();
      return;
    }
    let set = value & VIRTIO_STATUS_OF_DRIVER & ~r.status;
    if ((set & VIRTIO_STATUS_FEATURES_OK) !== 0 && !this.choiceIsValid())
      set &= ~VIRTIO_STATUS_FEATURES_OK;
    r.status |= set;
    // A driver may have filled its queues before it was up.
    if ((set & VIRTIO_STATUS_DRIVER_OK) !== 0) this.retry();
  }

  private choiceIsValid(): boolean {
    const { driverFeaturesLo, driverFeaturesHi, driverFeaturesBeyond } = this.r;
    const chosen = (BigInt(driverFeaturesHi) << 32n) | BigInt(driverFeaturesLo);
    if (driverFeaturesBeyond || (chosen & ~this.offered) !== 0n) return false;
    const needed =
      virtioFeature(VIRTIO_F_VERSION_1) |
      (this.accessPlatform ? virtioFeature(VIRTIO_F_ACCESS_PLATFORM) : 0n);
    if ((chosen & needed) !== needed) return false;
    return this.device.featuresChosen?.(chosen) ?? true;
  }

  private writeDriverFeatures(value: number): void {
    const r = this.r;
    if (this.negotiated) return;
    if (r.driverFeaturesSel === 0) r.driverFeaturesLo = value >>> 0;
    else if (r.driverFeaturesSel === 1) r.driverFeaturesHi = value >>> 0;
    else if (value !== 0) r.driverFeaturesBeyond = true;
  }

  private writeQueueReady(value: number): void {
    const index = this.r.queueSel;
    const selected = this.queues[index];
    if (selected === undefined) return;
    const { registers, queue, sizeMax } = selected;
    if (value !== 1) {
      this.stopQueue(index, false);
      return;
    }
    if (registers.ready || !this.negotiated) return;
    const packed = this.hasFeature(VIRTIO_F_RING_PACKED);
    const place = ringPlaceOf(registers, packed, sizeMax);
    if (place === undefined) return;
    place.indirect = this.hasFeature(VIRTIO_F_INDIRECT_DESC);
    place.eventIdx = this.hasFeature(VIRTIO_F_EVENT_IDX);
    registers.ready = true;
    registers.resetting = false;
    queue.start(place, packed);
  }

  private stopQueue(index: number, reset: boolean): void {
    const selected = this.queues[index];
    if (selected === undefined) return;
    selected.queue.stop();
    selected.registers.ready = false;
    selected.registers.resetting = reset;
    this.device.resetQueue?.(index);
  }

  private readConfig(offset: number, sizeBytes: number): number {
    const { config } = this.device;
    let value = 0;
    for (let i = sizeBytes - 1; i >= 0; i--) value = (value << 8) | (config[offset + i] ?? 0);
    return value >>> 0;
  }

  private readSharedMemory(offset: number): number {
    const region = this.device.sharedMemory?.[this.r.shmSel];
    if (region === undefined) return NO_REGION;
    const isLength = offset === VIRTIO_MMIO_SHM_LEN_LOW || offset === VIRTIO_MMIO_SHM_LEN_HIGH;
    const value = isLength ? region.lenBytes : region.gpa;
    const isLow = offset === VIRTIO_MMIO_SHM_LEN_LOW || offset === VIRTIO_MMIO_SHM_BASE_LOW;
    return isLow ? value >>> 0 : Math.floor(value / 2 ** 32) >>> 0;
  }
}
