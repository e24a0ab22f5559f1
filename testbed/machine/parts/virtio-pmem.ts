/** Persistent memory by virtio in a guest: a shared mapping of a file of the host, as a memory slot. */
import { VirtioPmem, type VirtioPmemState } from '#devices';
import { PmemFile } from '#devices/host';
import { NVDIMM_GPA, VIRTIO_PMEM_GPA } from '#emu';
import { setMemSlot, type Vm } from '#kvm';
import { type AddressSpace, drive, MAP_FIXED, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '#mm';
import { Pump } from '../../actors/pump.ts';
import { type DiskFile, IMAGE_HOST_RAM_BYTES, type ImageConfig } from '../disk-file.ts';
import type { GuestPart, PartKind, PartWiring } from '../part.ts';
import { PartImage } from './image.ts';
import { plugVirtio, type VirtioPlugState } from './virtio.ts';

export interface VirtioPmemPartConfig {
  kind: 'virtio-pmem';
  /** Whole pages. */
  image: ImageConfig;
}

/** Where the VMM maps it: of the nth slot the nth stretch. */
const PMEM_HVA = 0x20_0000_0000;
const PMEM_STRIDE = 2 ** 30;
/** Memory slots from here on are those of virtio-pmem. */
const FIRST_SLOT = 64;

interface State {
  disk: DiskFile;
  gpa: number;
  plug: VirtioPlugState;
  pmem: VirtioPmemState;
  syncs: number;
  failures: number;
}

/** Behind the one that was plugged in before. */
const nextGpa = ({ slots }: Vm): number => {
  const ends = slots
    .filter(({ gpa }) => gpa >= VIRTIO_PMEM_GPA && gpa < NVDIMM_GPA)
    .map(({ gpa, lenBytes }) => gpa + lenBytes);
  return Math.max(VIRTIO_PMEM_GPA, ...ends);
};

/** Maps the file into the VMM, and the VMM's mapping into the guest. */
const mapIntoGuest = (
  { k, mm, vm, virtioSlot }: PartWiring,
  file: AddressSpace,
  gpa: number,
  lenBytes: number,
): void => {
  const hva = PMEM_HVA + virtioSlot * PMEM_STRIDE;
  const request = {
    hva,
    lenBytes,
    prot: PROT_READ | PROT_WRITE,
    flags: MAP_SHARED | MAP_FIXED,
    mapping: file,
    pgoff: 0,
  };
  const at = drive(mmap(k, mm, request));
  if (at < 0) throw new Error(`mmap of persistent memory: errno ${-at}`);
  setMemSlot(vm, { id: FIRST_SLOT + virtioSlot, gpa, lenBytes, hva, flags: 0 });
};

export const VIRTIO_PMEM_PART: PartKind<VirtioPmemPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const image = new PartImage(wiring, config.image, true, state?.disk);
    const gpa = state?.gpa ?? nextGpa(wiring.vm);
    const lenBytes = config.image.sizeBytes;
    if (wiring.fresh) mapIntoGuest(wiring, image.file, gpa, lenBytes);
    const backend = new PmemFile({ kernel: wiring.k, file: image.file });
    const plug = plugVirtio(
      wiring,
      (port) => new VirtioPmem({ port, backend, region: { gpa, lenBytes } }),
      state?.plug,
    );
    const { device } = plug;
    if (state !== undefined) {
      device.restore(state.pmem);
      backend.syncs = state.syncs;
      backend.failures = state.failures;
    }
    return {
      regions: plug.regions,
      nodes: plug.nodes,
      actors: [...plug.actors, new Pump(`${wiring.name} flush`, backend)],
      save: (): State => ({
        disk: image.disk,
        gpa,
        plug: plug.save(),
        pmem: device.save(),
        syncs: backend.syncs,
        failures: backend.failures,
      }),
      ended: () => plug.ended(),
      powerFail: (keeps) => image.powerFail(keeps),
      release: () => image.release(),
      writeBack: () => image.writeBack(),
      report: () => ({
        flushes: device.flushes,
        fsyncs: backend.syncs,
        'fsyncs that failed': backend.failures,
      }),
    };
  },
  // All of it may be in the page cache.
  hostRamBytes: (config) => config.image.sizeBytes + IMAGE_HOST_RAM_BYTES,
  virtio: true,
};
