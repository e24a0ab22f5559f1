/** A virtio disk under attack: requests of every kind, nearly right, and a backend that is late. */
import {
  BLK_SECTOR_BYTES,
  type BlkBackend,
  type BlkClient,
  type BlkRequest,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VirtioBlk,
} from '#devices';
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import type { Rng } from '../rng.ts';
import type { FuzzTarget } from './target.ts';
import { type BufferShape, virtioTarget } from './virtio-attack.ts';

const NR_SECTORS = 64;
const TYPES = [0, 1, 4, 8, 11, 13, 2, 14];

/** A disk of bytes. What it is asked to do must be possible: the model has checked it. */
class LateDisk implements BlkBackend {
  readonly nrSectors = NR_SECTORS;
  readonly readOnly: boolean;
  readonly serial = 'fuzzed';
  private readonly port: DmaPort;
  private readonly bytes: Uint8Array;
  private client: BlkClient | undefined;
  private running: BlkRequest[];

  constructor(port: DmaPort, readOnly: boolean) {
    this.port = port;
    this.readOnly = readOnly;
    this.bytes = new Uint8Array(NR_SECTORS * BLK_SECTOR_BYTES);
    this.client = undefined;
    this.running = [];
  }

  post(client: BlkClient): void {
    this.client = client;
  }

  /** Begins some requests, and ends some in any order. */
  settle(rng: Rng): void {
    const { client } = this;
    if (client === undefined) return;
    for (let n = rng.below(client.nrWaiting + 1); n > 0; n--) {
      const request = client.nextRequest();
      if (request === undefined) throw new Error('a request that waits is none');
      this.mustBePossible(request);
      this.running.push(request);
    }
    for (let n = rng.below(this.running.length + 1); n > 0; n--) {
      const [request] = this.running.splice(rng.below(this.running.length), 1);
      if (request === undefined) return;
      const result = request.void ? DMA_OK : this.move(request);
      if (result === DMA_WAIT) this.running.push(request);
      else client.complete(request, result === DMA_OK ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    }
  }

  private mustBePossible({ op, sector, lenBytes, pieces, ranges }: BlkRequest): void {
    const writes = op === 'write' || op === 'discard' || op === 'write-zeroes';
    if (this.readOnly && writes) throw new Error(`a ${op} of a disk that may only be read`);
    const ends = ranges.map((range) => range.sector + range.nrSectors);
    if (op === 'read' || op === 'write') ends.push(sector + lenBytes / BLK_SECTOR_BYTES);
    if (ends.some((end) => end > NR_SECTORS || !Number.isInteger(end)))
      throw new Error(`a ${op} up to sector ${Math.max(...ends)} of ${NR_SECTORS}`);
    if (pieces.reduce((sum, piece) => sum + piece.lenBytes, 0) !== lenBytes)
      throw new Error(`a ${op} whose pieces are not its ${lenBytes} bytes`);
  }

  private move({ op, sector, pieces }: BlkRequest): number {
    let at = sector * BLK_SECTOR_BYTES;
    for (const { address, lenBytes } of pieces) {
      const result =
        op === 'read'
          ? this.port.write(address, this.bytes, at, lenBytes)
          : this.port.read(address, this.bytes, at, lenBytes);
      if (result !== DMA_OK) return result;
      at += lenBytes;
    }
    return DMA_OK;
  }
}

/** Header, data, status; or a header with data in one piece, or data with the status. */
const shapeOf = (rng: Rng): BufferShape => {
  const data = rng.chance(90) ? BLK_SECTOR_BYTES * rng.below(4) : rng.below(600);
  const ranges = rng.chance(90) ? 16 * (1 + rng.below(3)) : rng.below(64);
  switch (rng.below(6)) {
    case 0:
      return { reads: [16], writes: [data, 1] };
    case 1:
      return { reads: [16], writes: [data + 1] };
    case 2:
      return { reads: [16, data], writes: [1] };
    case 3:
      return { reads: [16 + data], writes: [1] };
    case 4:
      return { reads: [16, ranges], writes: [1] };
    default:
      return { reads: [16], writes: [1] };
  }
};

/** A header, with segments of a discard behind it. */
const putHeader = (memory: DataView, at: number, rng: Rng): void => {
  const sector = (): number => (rng.chance(90) ? rng.below(NR_SECTORS + 2) : rng.next());
  memory.setUint32(at, rng.chance(95) ? (TYPES[rng.below(TYPES.length)] ?? 0) : rng.next(), true);
  memory.setUint32(at + 8, sector(), true);
  memory.setUint32(at + 12, rng.chance(95) ? 0 : rng.next(), true);
  for (let range = at + 16; range < at + 64; range += 16) {
    memory.setUint32(range, sector(), true);
    memory.setUint32(range + 4, rng.chance(95) ? 0 : rng.next(), true);
    memory.setUint32(range + 8, rng.chance(90) ? rng.below(9) : rng.next(), true);
    memory.setUint32(range + 12, rng.chance(90) ? rng.below(2) : rng.next(), true);
  }
};

export const BLK_TARGETS: readonly FuzzTarget[] = [
  virtioTarget(
    'virtio-blk',
    'a virtio disk: requests, and answers that come late',
    (port, _c, rng) => {
      const backend = new LateDisk(port, rng.chance(15));
      return {
        device: new VirtioBlk({ port, backend, nrQueues: 1 + rng.below(2) }),
        shape: shapeOf,
        fill: putHeader,
        settle: (random) => backend.settle(random),
      };
    },
  ),
];
