/**
 * Control messages of a virtio-console with several ports. virtio 1.2, 5.3.6.2.
 *
 *   driver: DEVICE_READY  ->  device: DEVICE_ADD of every port
 *   driver: PORT_READY    ->  device: CONSOLE_PORT for port 0, PORT_NAME for the others; PORT_OPEN
 *   driver: PORT_OPEN     the driver's own end of it is open, or closed
 *
 * What a driver sends of no port, or out of turn, changes nothing. Messages to it wait for buffers,
 * MAX_WAITING of them at most: a driver that asks for more than it takes loses the rest.
 */
import { putWord16, putWord32, word16, word32 } from './ring.ts';

export const CONTROL_BYTES = 8;

export const VIRTIO_CONSOLE_DEVICE_READY = 0;
export const VIRTIO_CONSOLE_DEVICE_ADD = 1;
export const VIRTIO_CONSOLE_PORT_READY = 3;
export const VIRTIO_CONSOLE_CONSOLE_PORT = 4;
export const VIRTIO_CONSOLE_PORT_OPEN = 6;
export const VIRTIO_CONSOLE_PORT_NAME = 7;

const MAX_WAITING = 256;

/** Plain data. */
export interface ConsoleControlState {
  /** Messages that wait for a buffer. */
  waiting: Uint8Array[];
  /** The driver's end of each port is open. */
  open: boolean[];
}

export class ConsoleControl {
  private readonly names: readonly string[];
  private state: ConsoleControlState;

  /** @param names of the ports */
  constructor(names: readonly string[]) {
    this.names = names;
    this.state = { waiting: [], open: names.map(() => false) };
  }

  /** The next message to the driver. */
  first(): Uint8Array | undefined {
    return this.state.waiting[0];
  }

  /** It has got that one. */
  sent(): void {
    this.state.waiting.shift();
  }

  /** Has the driver opened its end of a port? */
  isOpen(port: number): boolean {
    return this.state.open[port] ?? false;
  }

  /** A message of the driver: struct virtio_console_control at the start of `message`. */
  take(message: Uint8Array): void {
    const port = word32(message, 0);
    const event = word16(message, 4);
    const value = word16(message, 6);
    if (event === VIRTIO_CONSOLE_DEVICE_READY) {
      for (let i = 0; i < this.names.length && value === 1; i++)
        this.send(i, VIRTIO_CONSOLE_DEVICE_ADD, 0);
      return;
    }
    const name = this.names[port];
    if (name === undefined) return;
    if (event === VIRTIO_CONSOLE_PORT_OPEN) this.state.open[port] = value === 1;
    if (event !== VIRTIO_CONSOLE_PORT_READY || value !== 1) return;
    if (port === 0) this.send(port, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
    else this.send(port, VIRTIO_CONSOLE_PORT_NAME, 1, name);
    this.send(port, VIRTIO_CONSOLE_PORT_OPEN, 1);
  }

  reset(): void {
    this.state = { waiting: [], open: this.names.map(() => false) };
  }

  save(): ConsoleControlState {
    return {
      waiting: this.state.waiting.map((message) => message.slice()),
      open: [...this.state.open],
    };
  }

  restore(state: ConsoleControlState): void {
    this.state = {
      waiting: state.waiting.map((message) => message.slice()),
      open: [...state.open],
    };
  }

  private send(port: number, event: number, value: number, text = ''): void {
    if (this.state.waiting.length === MAX_WAITING) return;
    const tail = new TextEncoder().encode(text);
    const message = new Uint8Array(CONTROL_BYTES + tail.length);
    putWord32(message, 0, port);
    putWord16(message, 4, event);
    putWord16(message, 6, value);
    message.set(tail, CONTROL_BYTES);
    this.state.waiting.push(message);
  }
}
