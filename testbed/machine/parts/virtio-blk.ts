/** A virtio disk in a guest: an image on the host's own disk, by direct I/O. */
import { VirtioBlk, type VirtioBlkState } from '#devices';
import { BLK_BOUNCE_BYTES, FileDisk } from '#devices/host';
import { drive, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap, PROT_READ, PROT_WRITE } from '#mm';
import { Pump } from '../../actors/pump.ts';
import { type DiskFile, IMAGE_HOST_RAM_BYTES, type ImageConfig } from '../disk-file.ts';
import type { GuestPart, PartKind, PartWiring } from '../part.ts';
import { PartImage } from './image.ts';
import { plugVirtio, type VirtioPlugState } from './virtio.ts';

export interface VirtioBlkPartConfig {
  kind: 'virtio-blk';
  /** A multiple of 512 bytes. */
  image: ImageConfig;
  /** Default false. */
  readOnly?: boolean;
  /** Queues. Default 1. */
  queues?: number;
  /** What VIRTIO_BLK_T_GET_ID tells. Default "gupbed". */
  serial?: string;
}

/** Requests that may be under way at once. */
const NR_WORKERS = 2;
/** The VMM's own buffers: of the nth slot the nth stretch. */
const BOUNCE_HVA = 0x18_0000_0000;
const BOUNCE_STRIDE = 2 ** 20;
const SECTOR_BYTES = 512;

interface State {
  disk: DiskFile;
  plug: VirtioPlugState;
  blk: VirtioBlkState;
}

const mapBounce = ({ k, mm }: PartWiring, hva: number): void => {
  const lenBytes = NR_WORKERS * BLK_BOUNCE_BYTES;
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const at = drive(mmap(k, mm, { hva, lenBytes, prot: PROT_READ | PROT_WRITE, flags }));
  if (at < 0) throw new Error(`buffers of a disk: errno ${-at}`);
};

export const VIRTIO_BLK_PART: PartKind<VirtioBlkPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const { k, mm, name } = wiring;
    const readOnly = config.readOnly ?? false;
    const image = new PartImage(wiring, config.image, !readOnly, state?.disk);
    const bounceHva = BOUNCE_HVA + wiring.virtioSlot * BOUNCE_STRIDE;
    if (wiring.fresh) mapBounce(wiring, bounceHva);
    const backend = new FileDisk({
      kernel: k,
      mm,
      file: image.file,
      nrSectors: Math.floor(config.image.sizeBytes / SECTOR_BYTES),
      readOnly,
      serial: config.serial ?? 'gupbed',
      nrWorkers: NR_WORKERS,
      bounceHva,
      hvaOf: wiring.hvaOf,
      onWritten: wiring.onWritten,
    });
    const nrQueues = config.queues ?? 1;
    const plug = plugVirtio(
      wiring,
      (port) => new VirtioBlk({ port, backend, nrQueues }),
      state?.plug,
    );
    const { device } = plug;
    if (state !== undefined) device.restore(state.blk);
    const pumps = backend.workers.map((worker, i) => new Pump(`${name} io${i}`, worker));
    return {
      regions: plug.regions,
      nodes: plug.nodes,
      actors: [...plug.actors, ...pumps],
      save: (): State => ({ disk: image.disk, plug: plug.save(), blk: device.save() }),
      ended: () => plug.ended(),
      markUnderWay: () => backend.markUnderWay(),
      powerFail: (keeps) => image.powerFail(keeps),
      release: () => image.release(),
      writeBack: () => image.writeBack(),
      report: () => ({ requests: device.requests, errors: device.errors }),
    };
  },
  hostRamBytes: () => IMAGE_HOST_RAM_BYTES,
  virtio: true,
};
