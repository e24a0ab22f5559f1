/**
 * An NVDIMM in a guest: memory of the host that loses what hardware would lose (a persistence domain),
 * as a memory slot, and control registers.
 *
 * Linux finds the memory as a `pmem-region` of the device tree; guests/lib/pmem.c by the registers.
 */
import { Nvdimm, type NvdimmMemory, type NvdimmState } from '#devices';
import {
  NVDIMM_CONTROL_BASE,
  NVDIMM_CONTROL_BYTES,
  NVDIMM_GPA,
  PersistDomain,
  type PersistMode,
  type PersistState,
  type PickPrefix,
} from '#emu';
import { setMemSlot } from '#kvm';
import { drive, MAP_FIXED, MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '#mm';
import { type ImageConfig, writeImage } from '../disk-file.ts';
import {
  makeNvdimmFrames,
  type NvdimmBacking,
  nvdimmFile,
  type NvdimmFrames,
  nvdimmHostRamBytes,
  releaseNvdimmFrames,
} from '../nvdimm-frames.ts';
import {
  encodeNvdimm,
  loadNvdimm,
  NVDIMM_LABEL_BYTES,
  type NvdimmImage,
  nvdimmMemoryBytes,
} from '../nvdimm-image.ts';
import { type GuestPart, type PartKind, partNode, type PartWiring } from '../part.ts';

export interface NvdimmPartConfig {
  kind: 'nvdimm';
  /** Memory, label area and controller (nvdimm-image.ts): whole pages, 132 KiB more than the memory. */
  image: ImageConfig;
  /** What a loss of power leaves. Default adr. */
  mode?: PersistMode;
  /** Default devdax. */
  backing?: NvdimmBacking;
  /** Power fails with this event of the memory: a store, a write-back, a fence, a hint. Default never. */
  failAtEvent?: number;
}

/** Where the VMM maps it, and its memory slot. */
const NVDIMM_HVA = 0x30_0000_0000;
const NVDIMM_SLOT = 128;

interface State {
  frames: NvdimmFrames;
  domain: PersistState;
  device: NvdimmState;
}

export const isPersistMode = (word: string): word is PersistMode =>
  word === 'adr' || word === 'eadr' || word === 'none';

/** Maps the memory into the VMM, and the VMM's mapping into the guest. */
const mapIntoGuest = ({ k, mm, vm }: PartWiring, frames: NvdimmFrames, lenBytes: number): void => {
  const at = drive(
    mmap(k, mm, {
      hva: NVDIMM_HVA,
      lenBytes,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_SHARED | MAP_FIXED,
      mapping: nvdimmFile(k, frames),
      pgoff: 0,
    }),
  );
  if (at < 0) throw new Error(`mmap of an NVDIMM: errno ${-at}`);
  setMemSlot(vm, { id: NVDIMM_SLOT, gpa: NVDIMM_GPA, lenBytes, hva: NVDIMM_HVA, flags: 0 });
};

/** The memory, as the registers' model wants it. */
const memoryOf = (domain: PersistDomain): NvdimmMemory => ({
  lenBytes: domain.lenBytes,
  mode: domain.mode,
  flushHint: () => domain.flushHint(),
  addPoison: (at, lenBytes) => domain.addPoison(at, lenBytes),
  clearPoison: (at, lenBytes) => domain.clearPoison(at, lenBytes),
  poisonIn: (at, lenBytes) => domain.poisonIn(at, lenBytes),
});

class NvdimmPart implements GuestPart {
  readonly regions: GuestPart['regions'];
  readonly nodes: GuestPart['nodes'];
  readonly actors = [];
  private readonly config: NvdimmPartConfig;
  private readonly wiring: PartWiring;
  private readonly frames: NvdimmFrames;
  private readonly domain: PersistDomain;
  private readonly device: Nvdimm;
  /** What the user's file is to hold; null: not known yet. */
  private last: Uint8Array | null;

  constructor(config: NvdimmPartConfig, wiring: PartWiring, state: State | undefined) {
    const { k, clock, name } = wiring;
    this.config = config;
    this.wiring = wiring;
    this.last = null;
    const lenBytes = nvdimmMemoryBytes(config.image.sizeBytes);
    const image = state === undefined ? loadNvdimm(config.image) : undefined;
    this.frames =
      state?.frames ??
      makeNvdimmFrames(k, name, config.backing ?? 'devdax', image?.memory ?? new Uint8Array());
    this.domain = new PersistDomain(
      {
        memory: k.memory,
        firstOffset: k.memory.pageOffset(this.frames.firstPage),
        lenBytes,
        mode: config.mode ?? 'adr',
      },
      state?.domain,
    );
    // What the guest would do after it has not happened.
    this.domain.onFailure = () => wiring.endSlice();
    this.device = new Nvdimm({
      clock,
      memory: memoryOf(this.domain),
      gpa: NVDIMM_GPA,
      labels: image?.labels ?? new Uint8Array(NVDIMM_LABEL_BYTES),
      unsafe: image?.unsafe ?? false,
      unsafeShutdowns: (image?.unsafeShutdowns ?? 0) + (image?.unsafe === true ? 1 : 0),
      name,
    });
    if (state !== undefined) this.device.restore(state.device);
    else {
      for (const [at, badBytes] of image?.poison ?? []) this.domain.addPoison(at, badBytes);
      this.domain.failAt = config.failAtEvent ?? 0;
      mapIntoGuest(wiring, this.frames, lenBytes);
    }
    this.regions = [
      {
        gpa: NVDIMM_CONTROL_BASE,
        lenBytes: NVDIMM_CONTROL_BYTES,
        device: this.device,
        name: 'nvdimm',
      },
    ];
    this.nodes = [
      partNode('nvdimm', NVDIMM_CONTROL_BASE, NVDIMM_CONTROL_BYTES, 'gupbed,nvdimm', []),
      partNode('pmem', NVDIMM_GPA, lenBytes, 'pmem-region', []),
    ];
  }

  get powerHasFailed(): boolean {
    return this.domain.failed;
  }

  save(): State {
    return { frames: this.frames, domain: this.domain.save(), device: this.device.save() };
  }

  /** Power goes in good order: the platform writes its caches back first. */
  ended(): void {
    if (!this.domain.failed) this.domain.powerOff();
  }

  powerFail(keeps: (unit: number) => boolean): Uint8Array {
    const memory = this.domain.crashImage(prefixBy(keeps));
    this.last = encodeNvdimm(this.imageOf(memory, true));
    return memory;
  }

  release(): void {
    // The media alone is certain: what a guest left in caches went with powerOff(), or with the power.
    this.last ??= encodeNvdimm(this.imageOf(this.domain.media, this.domain.failed));
    this.domain.detach();
    releaseNvdimmFrames(this.wiring.k, this.frames);
  }

  writeBack(): void {
    const { file } = this.config.image;
    if (file === null) return;
    // The run was given up: as if power had been lost.
    const image = this.last ?? encodeNvdimm(this.imageOf(this.domain.media, true));
    writeImage(file, image);
  }

  report(): Record<string, number | string> {
    const { domain, device } = this;
    const { store, clean, fence, hint } = domain.counts;
    return {
      stores: store,
      'write-backs': clean,
      fences: fence,
      'flush hints': hint,
      'lines not durable': domain.pendingLines().length,
      ...(domain.failed ? { 'power failed at event': domain.events } : {}),
      ...(device.commands > 0 ? { commands: device.commands } : {}),
    };
  }

  private imageOf(memory: Uint8Array, unsafe: boolean): NvdimmImage {
    return {
      memory,
      labels: this.device.labels,
      unsafe,
      unsafeShutdowns: this.device.unsafeShutdowns,
      poison: this.domain.poisonIn(0, this.domain.lenBytes),
    };
  }
}

/** How much of a line arrives, by one question for each of its stores: up to the first that does not. */
const prefixBy =
  (keeps: (unit: number) => boolean): PickPrefix =>
  (line, choices) => {
    let arrived = 0;
    while (arrived < choices - 1 && keeps(line)) arrived++;
    return arrived;
  };

export const NVDIMM_PART: PartKind<NvdimmPartConfig> = {
  create: (config, wiring, saved?: unknown) =>
    new NvdimmPart(config, wiring, saved as State | undefined),
  hostRamBytes: ({ image, backing }) =>
    nvdimmHostRamBytes(backing ?? 'devdax', nvdimmMemoryBytes(image.sizeBytes)),
  virtio: false,
};
