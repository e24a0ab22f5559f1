/**
 * virtio-console: ports of bytes in and out, and one character at a time before the rings are up.
 * virtio 1.2, 5.3, with VIRTIO_CONSOLE_F_SIZE, F_EMERG_WRITE and, where there is more than one port,
 * F_MULTIPORT (console-control.ts).
 *
 *   queue 0, 1    receive, transmit of port 0        queue 4, 5    of port 1, and so on
 *   queue 2, 3    control receive, control transmit  (only with F_MULTIPORT)
 *
 * Output goes on in turns of at most TURN_BYTES, with the clock between them: a buffer may be as long
 * as a guest likes. Bytes are handed on once each, also when memory has to be waited for.
 */
import { type Clock, DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { readChain, type VirtioChain, writeChain } from './chain.ts';
import { ConsoleControl, type ConsoleControlState, CONTROL_BYTES } from './console-control.ts';
import {
  VIRTIO_ID_CONSOLE,
  type VirtioDevice,
  type VirtioTransport,
  virtioFeature,
} from './device.ts';
import type { Virtqueue } from './queue.ts';
import { putWord16, putWord32 } from './ring.ts';

export const VIRTIO_CONSOLE_F_SIZE = 0;
export const VIRTIO_CONSOLE_F_MULTIPORT = 1;
export const VIRTIO_CONSOLE_F_EMERG_WRITE = 2;

/* struct virtio_console_config. */
const CONFIG_COLS = 0;
const CONFIG_ROWS = 2;
const CONFIG_MAX_NR_PORTS = 4;
const CONFIG_EMERG_WR = 8;
const CONFIG_BYTES = 12;

const CONTROL_RECEIVEQ = 2;
const CONTROL_TRANSMITQ = 3;
const QUEUE_SIZE = 64;

/** Bytes of output in one go, and how long until the next one where there is more. */
const TURN_BYTES = 1 << 16;
const TURN_INSTRUCTIONS = 10_000;
/** Bytes of input that wait for a driver. */
const INPUT_MAX = 1 << 16;
/** Bytes that are looked at together. */
const PIECE_BYTES = 4096;
/** Event: output goes on in the transmit queue that is the argument. */
const EVENT_GO_ON = 0;

export interface VirtioConsoleConfig {
  /** Memory that buffers are in, by the driver's addresses. */
  port: DmaPort;
  clock: Clock;
  /** Unique on the machine: names the clock's events. */
  name: string;
  /** The console's size in characters. */
  cols: number;
  rows: number;
  /** Names of the ports, one or more. The first is the console. */
  ports: readonly string[];
  /** A byte of output. */
  onByte(port: number, byte: number): void;
}

/** One port. Plain data. */
interface Port {
  /** Input that no buffer has taken yet. */
  input: number[];
  /** How much of the buffer in hand has been handed on. */
  sent: number;
  /** Bytes out and in. */
  bytesOut: number;
  bytesIn: number;
}

/** What a saved machine keeps of the console; its events are the clock's. */
export interface VirtioConsoleState {
  config: Uint8Array;
  ports: Port[];
  control: ConsoleControlState;
}

const receiveQueueOf = (port: number): number => (port === 0 ? 0 : 2 + 2 * port);

/** The port that a queue belongs to. Not for the control queues. */
const portOfQueue = (queue: number): number => (queue < 2 ? 0 : (queue >> 1) - 1);

export class VirtioConsole implements VirtioDevice {
  readonly deviceId = VIRTIO_ID_CONSOLE;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
  private readonly wires: VirtioConsoleConfig;
  private readonly control: ConsoleControl;
  private ports: Port[];
  private transport: VirtioTransport | undefined;
  private readonly piece: Uint8Array;

  constructor(wires: VirtioConsoleConfig) {
    const nrPorts = wires.ports.length;
    this.wires = wires;
    this.features =
      virtioFeature(VIRTIO_CONSOLE_F_SIZE) |
      virtioFeature(VIRTIO_CONSOLE_F_EMERG_WRITE) |
      (nrPorts > 1 ? virtioFeature(VIRTIO_CONSOLE_F_MULTIPORT) : 0n);
    this.queueSizes = Array.from({ length: nrPorts > 1 ? 2 + 2 * nrPorts : 2 }, () => QUEUE_SIZE);
    this.config = new Uint8Array(CONFIG_BYTES);
    this.control = new ConsoleControl(wires.ports);
    this.ports = wires.ports.map(() => ({ input: [], sent: 0, bytesOut: 0, bytesIn: 0 }));
    this.transport = undefined;
    this.piece = new Uint8Array(PIECE_BYTES);
    putWord16(this.config, CONFIG_COLS, wires.cols);
    putWord16(this.config, CONFIG_ROWS, wires.rows);
    putWord32(this.config, CONFIG_MAX_NR_PORTS, nrPorts);
    wires.clock.receive(wires.name, (_kind, queue) => this.goOn(queue));
  }

  /* ---- for the backend ---- */

  /**
   * Input for a port; it waits until the driver has a buffer for it, INPUT_MAX bytes at most.
   * @returns how many bytes were taken
   */
  receive(port: number, bytes: Uint8Array): number {
    const { input } = this.portAt(port);
    const taken = Math.min(bytes.length, INPUT_MAX - input.length);
    for (let i = 0; i < taken; i++) input.push(bytes[i]!);
    this.goOn(receiveQueueOf(port));
    return taken;
  }

  /** The console has another size. */
  resize(cols: number, rows: number): void {
    putWord16(this.config, CONFIG_COLS, cols);
    putWord16(this.config, CONFIG_ROWS, rows);
    this.transport?.configChanged();
  }

  /** Bytes that went out through all ports, and that came in. */
  get bytesOut(): number {
    return this.ports.reduce((sum, port) => sum + port.bytesOut, 0);
  }

  get bytesIn(): number {
    return this.ports.reduce((sum, port) => sum + port.bytesIn, 0);
  }

  /* ---- for the transport ---- */

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  notify(index: number): void {
    const queue = this.transport?.queue(index);
    if (queue === undefined) return;
    const multiport = this.transport?.hasFeature(VIRTIO_CONSOLE_F_MULTIPORT) ?? false;
    if (index > 1 && !multiport) return; // such queues do not exist then (5.3.2)
    if (index === CONTROL_RECEIVEQ) this.sendControl(queue);
    else if (index === CONTROL_TRANSMITQ) this.takeControl(queue);
    else if ((index & 1) === 0) this.deliver(queue, portOfQueue(index), multiport);
    else this.transmit(queue, index);
  }

  reset(): void {
    for (let i = 0; i < this.queueSizes.length; i++) this.resetQueue(i);
    this.control.reset();
  }

  resetQueue(index: number): void {
    if (index === CONTROL_RECEIVEQ || index === CONTROL_TRANSMITQ || (index & 1) === 0) return;
    this.portAt(portOfQueue(index)).sent = 0;
    this.wires.clock.cancel(this.wires.name, EVENT_GO_ON, index);
  }

  configWritten(offset: number, _sizeBytes: number, value: number): void {
    // At any time, also before the driver has said anything (5.3.5.1).
    if (offset === CONFIG_EMERG_WR) this.put(0, value & 0xff);
  }

  save(): VirtioConsoleState {
    return {
      config: this.config.slice(),
      ports: this.ports.map((port) => ({ ...port, input: [...port.input] })),
      control: this.control.save(),
    };
  }

  restore(state: VirtioConsoleState): void {
    this.config.set(state.config);
    this.ports = state.ports.map((port) => ({ ...port, input: [...port.input] }));
    this.control.restore(state.control);
  }

  private portAt(index: number): Port {
    const port = this.ports[index];
    if (port === undefined) throw new RangeError(`virtio console has no port ${index}`);
    return port;
  }

  private put(port: number, byte: number): void {
    this.portAt(port).bytesOut++;
    this.wires.onByte(port, byte);
  }

  /** Something of our own happened that a queue may be waiting for. */
  private goOn(index: number): void {
    if (this.transport?.live && this.transport.queue(index).running) this.notify(index);
  }

  /** Input into receive buffers, as much as each has room for; where there are several ports, into those that are open. */
  private deliver(queue: Virtqueue, number: number, multiport: boolean): void {
    if (multiport && !this.control.isOpen(number)) return;
    const port = this.portAt(number);
    while (port.input.length > 0) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) return;
      const count = Math.min(port.input.length, chain.writableBytes, PIECE_BYTES);
      for (let i = 0; i < count; i++) this.piece[i] = port.input[i] ?? 0;
      const result = writeChain(this.wires.port, chain, 0, this.piece, 0, count);
      if (result === DMA_WAIT) {
        queue.untake(chain);
        return;
      }
      const written = result === DMA_OK ? count : 0;
      port.input.splice(0, written);
      port.bytesIn += written;
      queue.put(chain, written);
    }
  }

  /** Output out of transmit buffers, for one turn. */
  private transmit(queue: Virtqueue, index: number): void {
    const number = portOfQueue(index);
    const port = this.portAt(number);
    this.wires.clock.cancel(this.wires.name, EVENT_GO_ON, index);
    for (let left = TURN_BYTES; ; ) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) return;
      const count = Math.min(chain.readableBytes - port.sent, left, PIECE_BYTES);
      const result =
        count > 0 ? readChain(this.wires.port, chain, port.sent, this.piece, 0, count) : DMA_OK;
      if (result === DMA_WAIT) {
        queue.untake(chain);
        return;
      }
      if (result === DMA_OK && count > 0) {
        for (let i = 0; i < count; i++) this.put(number, this.piece[i]!);
        port.sent += count;
        left -= count;
      }
      if (result === DMA_OK && port.sent < chain.readableBytes) {
        queue.untake(chain);
        if (left > 0) continue;
        this.wires.clock.at(
          this.wires.clock.now + TURN_INSTRUCTIONS,
          this.wires.name,
          EVENT_GO_ON,
          index,
        );
        return;
      }
      // All of it has gone, or the rest cannot be read: nothing is written to such a buffer.
      port.sent = 0;
      queue.put(chain, 0);
    }
  }

  /** Messages to the driver, one per buffer. */
  private sendControl(queue: Virtqueue): void {
    for (let next = this.control.first(); next !== undefined; next = this.control.first()) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) return;
      const count = Math.min(next.length, chain.writableBytes);
      const result = writeChain(this.wires.port, chain, 0, next, 0, count);
      if (result === DMA_WAIT) {
        queue.untake(chain);
        return;
      }
      // Where it does not fit, or memory is not there, it is lost: the driver's own doing.
      this.control.sent();
      queue.put(chain, result === DMA_OK ? count : 0);
    }
  }

  /** Messages of the driver, one per buffer. */
  private takeControl(queue: Virtqueue): void {
    for (let chain = queue.take(); chain !== undefined; chain = queue.take()) {
      if (chain === DMA_WAIT) return;
      const result = this.readControl(chain);
      if (result === DMA_WAIT) {
        queue.untake(chain);
        return;
      }
      if (result === DMA_OK) this.control.take(this.piece);
      queue.put(chain, 0);
    }
    this.goOn(CONTROL_RECEIVEQ);
    for (let i = 0; i < this.ports.length; i++) this.goOn(receiveQueueOf(i)); // one may be open now
  }

  private readControl(chain: VirtioChain): number {
    if (chain.readableBytes < CONTROL_BYTES) {
      this.piece.fill(0xff, 0, CONTROL_BYTES); // no port and no event have such numbers
      return DMA_OK;
    }
    return readChain(this.wires.port, chain, 0, this.piece, 0, CONTROL_BYTES);
  }
}
