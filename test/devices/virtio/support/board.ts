/** A virtio device on a bus with some RAM, and the registers' side of a driver for it. */
import {
  BusPort,
  type VirtioChain,
  type VirtioDevice,
  VirtioMmio,
  type VirtioMmioConfig,
  type VirtioTransport,
} from '#devices';
import { DMA_WAIT, type DmaPort, PhysMemory, RAM_BASE } from '#emu';
import { probedLine } from '../../support/wires.ts';
import { type DriverQueue, PackedDriver, SplitDriver } from './driver.ts';

export const INDIRECT_DESC = 1n << 28n;
export const EVENT_IDX = 1n << 29n;
export const VERSION_1 = 1n << 32n;
export const ACCESS_PLATFORM = 1n << 33n;
export const RING_PACKED = 1n << 34n;
export const NOTIFICATION_DATA = 1n << 38n;
export const RING_RESET = 1n << 40n;

export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const NEEDS_RESET = 64;
export const FAILED = 128;

const RAM_BYTES = 4 << 20;
/** Where queue i has its ring; buffers are from here on. */
const queueRoom = (index: number): number => RAM_BASE + 0x1000 + index * 0x4000;
export const BUFFERS = RAM_BASE + 0x10_0000;

/** A device that keeps what it takes until the test says what becomes of it. */
export class HoldingDevice implements VirtioDevice {
  readonly deviceId = 42;
  readonly features: bigint = 0b1011n;
  readonly queueSizes: readonly number[] = [64, 64];
  readonly config = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  readonly sharedMemory = [{ gpa: 0x2_0000_1000, lenBytes: 0x1_2345_6000 }];
  /** Takes no more than this many at a time. */
  most = Number.POSITIVE_INFINITY;
  busy = false;
  readonly held: VirtioChain[] = [];
  readonly calls: string[] = [];
  transport!: VirtioTransport;

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  notify(index: number): void {
    this.calls.push(`notify ${index}`);
    this.takeAll(index);
  }

  takeAll(index: number): void {
    const queue = this.transport.queue(index);
    while (this.held.length < this.most) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) return;
      this.held.push(chain);
    }
  }

  reset(): void {
    this.calls.push('reset');
    this.held.length = 0;
  }

  resetQueue(index: number): void {
    this.calls.push(`reset queue ${index}`);
  }

  queueBusy(): boolean {
    return this.busy;
  }

  configWritten(offset: number, sizeBytes: number, value: number): void {
    this.calls.push(`config ${offset} ${sizeBytes} ${value}`);
  }
}

export interface BoardOptions extends Partial<Omit<VirtioMmioConfig, 'device'>> {
  /** Wraps the port to RAM. */
  through?: (port: DmaPort) => DmaPort;
}

/** A device behind its registers. */
export const boardOf = <Device extends VirtioDevice>(
  create: (port: DmaPort) => Device,
  options: BoardOptions = {},
) => {
  const { through, ...config } = options;
  const memory = new PhysMemory(RAM_BYTES);
  const bus = new BusPort(memory);
  const port = through?.(bus) ?? bus;
  const irq = probedLine();
  const device = create(port);
  const mmio = new VirtioMmio({ device, port, irq, ...config });
  const view = new DataView(memory.wasm.buffer, memory.offsetOf(RAM_BASE), RAM_BYTES);
  const read = (offset: number): number => mmio.read(offset, 4) >>> 0;
  const write = (offset: number, value: number): void => mmio.write(offset, 4, value);
  const bytes = (pa: number, len: number): Uint8Array =>
    new Uint8Array(view.buffer, view.byteOffset + pa - RAM_BASE, len);

  const offered = (): bigint => {
    write(0x014, 0);
    const low = BigInt(read(0x010));
    write(0x014, 1);
    return (BigInt(read(0x010)) << 32n) | low;
  };
  const choose = (features: bigint): boolean => {
    write(0x070, 1);
    write(0x070, 3);
    write(0x024, 0);
    write(0x020, Number(features & 0xffff_ffffn));
    write(0x024, 1);
    write(0x020, Number(features >> 32n));
    write(0x070, 3 | FEATURES_OK);
    return (read(0x070) & FEATURES_OK) !== 0;
  };
  const place = (
    index: number,
    queue: Pick<DriverQueue, 'size' | 'descArea' | 'driverArea' | 'deviceArea'>,
  ): boolean => {
    write(0x030, index);
    write(0x038, queue.size);
    for (const [offset, pa] of [
      [0x080, queue.descArea],
      [0x090, queue.driverArea],
      [0x0a0, queue.deviceArea],
    ] as const) {
      write(offset, pa % 2 ** 32);
      write(offset + 4, Math.floor(pa / 2 ** 32));
    }
    write(0x044, 1);
    return read(0x044) === 1;
  };
  const queueOf = (index: number, size: number, features: bigint): DriverQueue => {
    const at = {
      view,
      base: RAM_BASE,
      room: queueRoom(index),
      size,
      eventIdx: (features & EVENT_IDX) !== 0n,
    };
    return (features & RING_PACKED) === 0n ? new SplitDriver(at) : new PackedDriver(at);
  };
  /** Everything up to DRIVER_OK, with the first `sizes.length` queues. */
  const start = (features: bigint, ...sizes: number[]): DriverQueue[] => {
    if (!choose(features | VERSION_1)) throw new Error('features not accepted');
    const queues = sizes.map((size, i) => queueOf(i, size, features));
    queues.forEach((queue, i) => {
      if (!place(i, queue)) throw new Error(`queue ${i} not ready`);
    });
    write(0x070, 3 | FEATURES_OK | DRIVER_OK);
    return queues;
  };
  const kick = (index: number): void => write(0x050, index);
  return {
    memory,
    port,
    irq,
    device,
    mmio,
    view,
    read,
    write,
    bytes,
    offered,
    choose,
    place,
    queueOf,
    start,
    kick,
  };
};
