/**
 * The NVDIMM under attack: registers in any order over a small persistence domain, label areas that are
 * nearly right, and images of it that somebody has tampered with.
 */
import { LabelArea, labelStoreOf, type Namespace, Nvdimm } from '#devices';
import { Clock, NO_HART, PAGE_SIZE, PersistDomain, type PersistMode, PhysMemory } from '#emu';
import { decodeNvdimm, encodeNvdimm, NVDIMM_EXTRA_BYTES } from '../machine/nvdimm-image.ts';
import type { Rng } from '../rng.ts';
import type { FuzzTarget } from './target.ts';

const MODES: readonly PersistMode[] = ['adr', 'eadr', 'none'];
const REGISTER_BYTES = 0x1000;
/** The domain is frames [FIRST, FIRST + PAGES) of a memory with a few more. */
const FIRST = 2;
const PAGES = 2;
const MEMORY_PAGES = 6;
const DOMAIN_BYTES = PAGES * PAGE_SIZE;
const LABEL_AREA_BYTES = 2048;
const MAX_STEPS = 40;

/** Numbers that a driver might write, most of them near something. */
const someNumber = (rng: Rng): number => {
  switch (rng.below(6)) {
    case 0:
      return rng.next();
    case 1:
      return rng.below(8);
    case 2:
      return (DOMAIN_BYTES + rng.below(17) - 8) >>> 0;
    case 3:
      return (LABEL_AREA_BYTES + rng.below(17) - 8) >>> 0;
    case 4:
      return (2 ** 32 - rng.below(300)) >>> 0;
    default:
      return rng.below(DOMAIN_BYTES);
  }
};

/** Offsets of registers and of what is between them. */
const someRegister = (rng: Rng): number =>
  rng.chance(90) ? 4 * rng.below(32) : rng.below(REGISTER_BYTES);

/** One NVDIMM and its driver, who means no good. */
class Attack {
  private readonly memory: PhysMemory;
  private readonly domain: PersistDomain;
  private readonly device: Nvdimm;
  private readonly clock: Clock;
  private readonly labels: Uint8Array;
  private readonly rng: Rng;

  constructor(memory: PhysMemory, rng: Rng) {
    this.memory = memory;
    this.rng = rng;
    memory.u8.fill(0, memory.pageOffset(0), memory.pageOffset(MEMORY_PAGES));
    this.domain = new PersistDomain({
      memory,
      firstOffset: memory.pageOffset(FIRST),
      lenBytes: DOMAIN_BYTES,
      mode: MODES[rng.below(MODES.length)] ?? 'adr',
    });
    this.clock = new Clock();
    // Guard bytes around the label area.
    const guarded = new Uint8Array(LABEL_AREA_BYTES + 64).fill(0xa5);
    this.labels = guarded.subarray(32, 32 + LABEL_AREA_BYTES);
    this.labels.fill(0);
    const { domain } = this;
    this.device = new Nvdimm({
      clock: this.clock,
      memory: {
        lenBytes: domain.lenBytes,
        mode: domain.mode,
        flushHint: () => domain.flushHint(),
        addPoison: (at, lenBytes) => domain.addPoison(at, lenBytes),
        clearPoison: (at, lenBytes) => domain.clearPoison(at, lenBytes),
        poisonIn: (at, lenBytes) => domain.poisonIn(at, lenBytes),
      },
      gpa: 0x3_0000_0000,
      labels: this.labels,
      unsafe: rng.chance(50),
      unsafeShutdowns: rng.below(3),
      name: 'nvdimm',
    });
  }

  run(): string | null {
    const steps = 1 + this.rng.below(MAX_STEPS);
    for (let step = 0; step < steps; step++) {
      this.step();
      const what = this.wrong();
      if (what !== null) return what;
    }
    const image = this.domain.crashImage((_line, choices) => this.rng.below(choices));
    if (image.length !== DOMAIN_BYTES) return `an image of ${image.length} bytes`;
    this.domain.detach();
    return null;
  }

  private step(): void {
    const { rng, memory, domain, device } = this;
    const sizes = [1, 2, 4, 4, 4, 4];
    const size = sizes[rng.below(sizes.length)] ?? 4;
    const first = memory.pageOffset(FIRST);
    switch (rng.below(10)) {
      case 0:
        domain.clean(rng.below(2), first + rng.below(DOMAIN_BYTES) - (rng.chance(5) ? 4096 : 0));
        return;
      case 1:
        domain.fence(rng.below(2));
        return;
      case 2: {
        const lenBytes = 1 + rng.below(300);
        memory.hart = rng.chance(70) ? rng.below(2) : NO_HART;
        memory.setBytes(
          first - 256 + rng.below(DOMAIN_BYTES + 200),
          new Uint8Array(lenBytes).fill(rng.next()),
        );
        memory.hart = NO_HART;
        return;
      }
      case 3:
        this.clock.now += rng.below(2000);
        this.clock.deliverDue();
        return;
      case 4:
      case 5: {
        const value = device.read(someRegister(rng), size);
        if (!(value >= 0 && value <= 0xffff_ffff && Number.isInteger(value)))
          throw new Error(`a register reads ${value}`);
        return;
      }
      default:
        device.write(someRegister(rng), size, someNumber(rng));
    }
  }

  /** What cannot be, or null. */
  private wrong(): string | null {
    const { domain, labels } = this;
    const around = new Uint8Array(labels.buffer);
    for (let i = 0; i < 32; i++)
      if (around[i] !== 0xa5 || around[around.length - 1 - i] !== 0xa5)
        return 'bytes beside the label area have changed';
    for (const [at, lenBytes] of domain.poisonIn(0, DOMAIN_BYTES))
      if (at < 0 || at + lenBytes > DOMAIN_BYTES) return `poison at ${at}`;
    const open = domain.pendingLines();
    const [line] = open;
    if (line === undefined) return null;
    if (open.some((l) => l < 0 || l >= DOMAIN_BYTES / 64)) return 'a line outside is pending';
    // The last state of a line is what the frames hold.
    const now = domain.lineAfter(line, domain.choicesOf(line) - 1);
    const at = domain.firstOffset + line * 64;
    return now.every((byte, i) => byte === this.memory.u8[at + i])
      ? null
      : `line ${line} is not what the frame holds`;
  }
}

const REGISTERS: FuzzTarget = {
  name: 'nvdimm',
  describe: 'registers, stores, write-backs and poison in any order',
  create: () => {
    const memory = new PhysMemory(MEMORY_PAGES * PAGE_SIZE);
    return (rng) => {
      memory.storeWatchers.length = 0;
      return new Attack(memory, rng).run();
    };
  },
};

const someNamespace = (rng: Rng): Namespace => ({
  uuid: rng.below(5).toString(16).padStart(32, '0'),
  name: 'x'.repeat(rng.below(70)),
  flags: rng.below(16),
  dpa: rng.next(),
  rawSize: rng.next(),
  nrLabels: rng.below(0x1_0000),
  position: rng.below(0x1_0000),
  cookie: BigInt(rng.next()),
});

const tamper = (bytes: Uint8Array, rng: Rng, most: number): void => {
  for (let n = rng.below(most + 1); n > 0; n--)
    bytes[rng.below(bytes.length)] = rng.chance(50) ? rng.next() : 1 << rng.below(8);
};

const LABELS: FuzzTarget = {
  name: 'nvdimm-labels',
  describe: 'label areas with bytes changed by somebody else',
  create: () => {
    const formatted = new Uint8Array(LABEL_AREA_BYTES);
    new LabelArea(labelStoreOf(formatted)).format();
    return (rng) => {
      const bytes = formatted.slice();
      const labels = new LabelArea(labelStoreOf(bytes));
      for (let n = rng.below(4); n >= 0; n--) {
        if (rng.chance(70)) labels.put(someNamespace(rng));
        else labels.remove(someNamespace(rng).uuid);
        tamper(rng.chance(70) ? bytes.subarray(0, 1024) : bytes, rng, 3);
        if (labels.namespaces().length > labels.nrSlots) return 'more namespaces than labels';
      }
      if (!labels.formatted) labels.format();
      labels.remove(someNamespace(rng).uuid);
      return labels.formatted ? null : 'a formatted area is none';
    };
  },
};

const IMAGE_MEMORY_BYTES = PAGE_SIZE;

const IMAGES: FuzzTarget = {
  name: 'nvdimm-image',
  describe: 'image files with bytes of the controller changed',
  create: () => {
    const sound = encodeNvdimm(
      decodeNvdimm(new Uint8Array(IMAGE_MEMORY_BYTES + NVDIMM_EXTRA_BYTES)),
    );
    const bytes = sound.slice();
    const controller = bytes.length - PAGE_SIZE;
    return (rng) => {
      bytes.set(sound.subarray(controller), controller);
      tamper(bytes.subarray(controller, controller + 64), rng, 8);
      const image = decodeNvdimm(bytes);
      if (image.memory.length !== IMAGE_MEMORY_BYTES) return `memory of ${image.memory.length}`;
      for (const [at, lenBytes] of image.poison)
        if (at + lenBytes > IMAGE_MEMORY_BYTES) return `poison at ${at}`;
      const again = decodeNvdimm(encodeNvdimm(image));
      return again.unsafeShutdowns === image.unsafeShutdowns && again.unsafe === image.unsafe
        ? null
        : 'an image that is written is read differently';
    };
  },
};

export const NVDIMM_TARGETS: readonly FuzzTarget[] = [REGISTERS, LABELS, IMAGES];
