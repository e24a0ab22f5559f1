/**
 * The host that harm is measured on: zones and CMA, almost all of it touched by one process, which has
 * then dropped a third of its pages: the free memory lies in single pages.
 */
import { Bus, Clock, Hart, PAGE_SIZE, PhysMemory } from '#emu';
import { createKvm, type Kvm } from '#kvm';
import {
  createKernel,
  drive,
  HostProcess,
  type Kernel,
  MADV_DONTNEED,
  MADV_POPULATE_WRITE,
  madvise,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MEMORY_BLOCK_PAGES,
  mmap,
  mmCreate,
  type MmStruct,
  type Policy,
  PROT_READ,
  PROT_WRITE,
} from '#mm';
import { shootdownOf } from '../machine/shootdown.ts';
import { Rng } from '../rng.ts';

const MIB = 2 ** 20;
export const HARM_RAM_MIN = 512 * MIB;
export const HARM_RAM_MAX = 3 * 1024 * MIB;
/** What is faulted in at once, so that Ctrl-C and the progress line get their turn. */
const PIECE_BYTES = 32 * MIB;
/** Of the process's pages one in so many is dropped again: holes in memory. */
const DROPPED = 3;
/** The process may register as much as it likes. */
const NO_LIMIT = 2 ** 40;
const HVA = 0x10_0000_0000;

/** Pages that are held lie in runs of so many, as much as a pipe holds. */
export const UNIT_PAGES = 16;

/** How the RAM is divided, in bytes. */
export interface HarmSizes {
  ramBytes: number;
  movableBytes: number;
  cmaBytes: number;
  /** What the process touches. */
  loadBytes: number;
}

/** Three eighths MOVABLE, or as much as has a whole memory block; a quarter CMA. */
export const harmSizes = (ramBytes: number): HarmSizes => {
  const eighth = Math.floor(ramBytes / 8 / (4 * MIB)) * 4 * MIB;
  const blockBytes = MEMORY_BLOCK_PAGES * PAGE_SIZE;
  return {
    ramBytes,
    movableBytes: Math.max(3 * eighth, blockBytes + (ramBytes % blockBytes)),
    cmaBytes: 2 * eighth,
    loadBytes: 7 * eighth,
  };
};

export interface HarmHost {
  sizes: HarmSizes;
  k: Kernel;
  kvm: Kvm;
  /** The process whose memory is held. */
  process: HostProcess;
  mm: MmStruct;
  hva: number;
  /** Where the pages that are going to be held are: each the first of UNIT_PAGES. */
  units: number[];
  /** Pages that the process has. */
  loadedPages: number;
}

/** Makes hosts one after the other in the same RAM; each begins from nothing. */
export class HarmHosts {
  readonly sizes: HarmSizes;
  private readonly memory: PhysMemory;
  private readonly hart: Hart;
  private readonly policy: Policy;
  private readonly seed: number;
  private readonly nrUnits: number;

  /** @param nrUnits runs of UNIT_PAGES pages that are going to be held, evenly over the process's memory */
  constructor(sizes: HarmSizes, policy: Policy, seed: number, nrUnits: number) {
    this.sizes = sizes;
    this.memory = new PhysMemory(sizes.ramBytes);
    const bus = new Bus(this.memory);
    this.hart = new Hart({ memory: this.memory, bus, clock: new Clock(), index: 0 });
    this.policy = policy;
    this.seed = seed;
    this.nrUnits = nrUnits;
  }

  /** A host, piece by piece. */
  *load(): Generator<void, HarmHost, undefined> {
    const host = this.create();
    const { k, mm, hva, units, sizes } = host;
    for (let at = 0; at < sizes.loadBytes; at += PIECE_BYTES) {
      const lenBytes = Math.min(PIECE_BYTES, sizes.loadBytes - at);
      must('MADV_POPULATE_WRITE', drive(madvise(k, mm, hva + at, lenBytes, MADV_POPULATE_WRITE)));
      yield;
    }
    const rng = new Rng(this.seed);
    const kept = new Set(units);
    const unitBytes = UNIT_PAGES * PAGE_SIZE;
    for (let at = 0; at < sizes.loadBytes; at += PAGE_SIZE) {
      if (at % PIECE_BYTES === 0) yield;
      if (rng.below(DROPPED) !== 0 || kept.has(hva + at - (at % unitBytes))) continue;
      must('MADV_DONTNEED', drive(madvise(k, mm, hva + at, PAGE_SIZE, MADV_DONTNEED)));
    }
    host.loadedPages = mm.rssAnon;
    return host;
  }

  private create(): HarmHost {
    const { sizes, memory, hart, policy } = this;
    const { movableBytes, cmaBytes, loadBytes } = sizes;
    const k = createKernel({ memory, tlb: shootdownOf([hart]), policy, movableBytes, cmaBytes });
    const kvm = createKvm(k, [hart]);
    const mm = mmCreate(k);
    mm.rlimitMemlock = NO_LIMIT;
    const hva = must(
      'mmap',
      drive(
        mmap(k, mm, {
          hva: HVA,
          lenBytes: loadBytes,
          prot: PROT_READ | PROT_WRITE,
          flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
        }),
      ),
    );
    const unitBytes = UNIT_PAGES * PAGE_SIZE;
    const step = Math.floor(loadBytes / unitBytes / this.nrUnits) * unitBytes;
    const units = Array.from({ length: this.nrUnits }, (_, i) => hva + i * step);
    const process = new HostProcess(k, mm, hart.mmu);
    return { sizes, k, kvm, process, mm, hva, units, loadedPages: 0 };
  }
}

/** @throws Error for an errno: of a measurement nothing may fail but what is measured */
export const must = <T>(what: string, result: T | number): T => {
  if (typeof result === 'number' && result < 0) throw new Error(`${what}: errno ${-result}`);
  return result as T;
};
