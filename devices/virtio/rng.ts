/**
 * virtio-rng: fills buffers with random bytes. virtio 1.2, 5.4.
 *
 * A buffer is filled to its end, or to MAX_FILL_BYTES where it is longer, which a device may do.
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { writeChain } from './chain.ts';
import { VIRTIO_ID_ENTROPY, type VirtioDevice, type VirtioTransport } from './device.ts';

const REQUESTQ = 0;
const QUEUE_SIZE = 64;
/** The most that one buffer gets. */
const MAX_FILL_BYTES = 4096;

export interface VirtioRngConfig {
  /** Memory that buffers are in, by the driver's addresses. */
  port: DmaPort;
  /** Where randomness comes from: fills all of `into`. */
  fill(into: Uint8Array): void;
}

export class VirtioRng implements VirtioDevice {
  readonly deviceId = VIRTIO_ID_ENTROPY;
  readonly features = 0n;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config = new Uint8Array(0);
  private readonly wires: VirtioRngConfig;
  private transport: VirtioTransport | undefined;
  private readonly bytes: Uint8Array;
  /** Random bytes that reached the driver, and requests. */
  bytesGiven: number;
  requests: number;

  constructor(wires: VirtioRngConfig) {
    this.wires = wires;
    this.transport = undefined;
    this.bytes = new Uint8Array(MAX_FILL_BYTES);
    this.bytesGiven = 0;
    this.requests = 0;
  }

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  notify(_queue: number): void {
    const queue = this.transport?.queue(REQUESTQ);
    if (queue === undefined) return;
    for (let chain = queue.take(); chain !== undefined; chain = queue.take()) {
      if (chain === DMA_WAIT) return;
      const wanted = Math.min(chain.writableBytes, MAX_FILL_BYTES);
      // A buffer without room breaks a MUST of the driver (5.4.6.1): it goes back as it is.
      const bytes = this.bytes.subarray(0, wanted);
      this.wires.fill(bytes);
      const result = writeChain(this.wires.port, chain, 0, bytes, 0, wanted);
      if (result === DMA_WAIT) {
        queue.untake(chain);
        return;
      }
      this.requests++;
      if (result === DMA_OK) this.bytesGiven += wanted;
      queue.put(chain, result === DMA_OK ? wanted : 0);
    }
  }

  /** Nothing is under way between two calls. */
  reset(): void {}
}
