/** The virtio transport and its rings under attack, with three devices behind them. */
import {
  type VirtioChain,
  VirtioConsole,
  type VirtioDevice,
  VirtioRng,
  type VirtioTransport,
  writeChain,
} from '#devices';
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import type { Rng } from '../rng.ts';
import type { FuzzTarget } from './target.ts';
import { virtioTarget } from './virtio-attack.ts';

/** Keeps buffers for a while and gives them back in any order, written to in part. */
class SlowDevice implements VirtioDevice {
  readonly deviceId = 42;
  readonly features = 0xffn;
  readonly queueSizes = [16, 8];
  readonly config = new Uint8Array(20);
  readonly sharedMemory = [{ gpa: 0x2_0000_0000, lenBytes: 0x1000 }];
  private readonly port: DmaPort;
  private transport: VirtioTransport | undefined;
  private held: { queue: number; chain: VirtioChain }[];

  constructor(port: DmaPort) {
    this.port = port;
    this.transport = undefined;
    this.held = [];
  }

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  notify(queue: number): void {
    for (;;) {
      const chain = this.transport?.queue(queue).take();
      if (chain === undefined || chain === DMA_WAIT) return;
      this.held.push({ queue, chain });
    }
  }

  /** Completes some of what it holds. What was void before goes nowhere, but is not written to either. */
  settle(rng: Rng): void {
    for (let n = rng.below(this.held.length + 1); n > 0; n--) {
      const [done] = this.held.splice(rng.below(this.held.length), 1);
      if (done === undefined) return;
      const wanted = Math.min(done.chain.writableBytes, rng.below(300));
      const bytes = new Uint8Array(wanted).fill(rng.next());
      const result = writeChain(this.port, done.chain, 0, bytes, 0, wanted);
      if (result === DMA_WAIT) this.held.push(done);
      else this.transport?.queue(done.queue).put(done.chain, result === DMA_OK ? wanted : 0);
    }
  }

  reset(): void {
    this.held = [];
  }

  resetQueue(queue: number): void {
    this.held = this.held.filter((request) => request.queue !== queue);
  }
}

export const VIRTIO_TARGETS: readonly FuzzTarget[] = [
  virtioTarget('virtio', 'virtio-mmio registers and rings, a device that answers late', (port) => {
    const device = new SlowDevice(port);
    return { device, settle: (rng) => device.settle(rng) };
  }),
  virtioTarget('virtio-rng', 'the same over a virtio-rng', (port, _clock, rng) => ({
    device: new VirtioRng({ port, fill: (into) => into.fill(rng.next()) }),
  })),
  virtioTarget('virtio-console', 'the same over a virtio-console of two ports', (port, clock) => {
    const device: VirtioConsole = new VirtioConsole({
      port,
      clock,
      name: 'console',
      cols: 80,
      rows: 25,
      ports: ['console', 'echo'],
      onByte: (number, byte) => {
        if (number === 1) device.receive(1, Uint8Array.of(byte));
      },
    });
    return { device, settle: (random) => device.receive(0, new Uint8Array(random.below(40))) };
  }),
];
