/** What the mm tests share: a small kernel wired to one emulated MMU, processes on it, and actors stepped by a seed. */
import { Mmu, PAGE_SIZE, PhysMemory } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  createKernel,
  createPolicy,
  drive,
  fork,
  HostProcess,
  type Kernel,
  type KernelOptions,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  type MmStruct,
  mmap,
  mmCreate,
  mmExit,
  nrFreePages,
  type NotifierOps,
  type NotifierRange,
  type Path,
  PROT_READ,
  PROT_WRITE,
  ptePage,
  ptePresent,
  ptepGet,
  type TlbShootdown,
  walkPte,
} from '#mm';
import type { Rng } from '../support/rng.ts';

export const RW = PROT_READ | PROT_WRITE;
const MIB = 1 << 20;

/** A machine for tests: RAM, the MMU of its one hart, and the kernel. */
export interface World {
  k: Kernel;
  mmu: Mmu;
  /** What happened, in order: flushes, and notifier calls where they are subscribed. */
  log: string[];
  /** Free pages before anything was mapped. */
  freeAtStart: number;
}

/** Pages that a shootdown fences one by one; more, and the whole address space goes. */
const FENCE_PAGES = 16;

/** Shootdowns that reach one MMU, and are written down. */
const tlbOf = (mmu: Mmu, log: string[]): TlbShootdown => ({
  flushPage: (asid, hva) => {
    log.push('flush');
    mmu.hostSfenceVma(hva, asid);
  },
  flushRange: (asid, start, end) => {
    log.push('flush');
    if (end - start > FENCE_PAGES * PAGE_SIZE) mmu.hostSfenceVma(undefined, asid);
    else for (let hva = start; hva < end; hva += PAGE_SIZE) mmu.hostSfenceVma(hva, asid);
  },
  flushAsid: (asid) => {
    log.push('flush');
    mmu.hostSfenceVma(undefined, asid);
  },
});

/** Zones and pageblocks that a machine may have. */
export type MemoryOptions = Pick<KernelOptions, 'movableBytes' | 'cmaBytes' | 'groupByMobility'>;

/** @param satpMode ATP_MODE_SV39 unless given */
export const createWorld = (
  ramBytes = 32 * MIB,
  satpMode?: number,
  zones: MemoryOptions = {},
): World => {
  const memory = new PhysMemory(ramBytes);
  const mmu = new Mmu(memory, 0);
  const log: string[] = [];
  const k = createKernel({
    memory,
    tlb: tlbOf(mmu, log),
    policy: createPolicy('linux-7'),
    ...(satpMode === undefined ? {} : { satpMode }),
    ...zones,
  });
  k.checked = true;
  return { k, mmu, log, freeAtStart: nrFreePages(k) };
};

/** A new process on the world's hart. */
export const createProcess = (w: World, mm: MmStruct = mmCreate(w.k)): HostProcess =>
  new HostProcess(w.k, mm, w.mmu);

/** A child of an address space. @throws Error where fork fails */
export const forkMm = (k: Kernel, parent: MmStruct): MmStruct => {
  const child = drive(fork(k, parent));
  if (typeof child === 'number') throw new Error(`fork: ${child}`);
  return child;
};

/** A child of a process, on the same hart. @throws Error where fork fails */
export const forked = (w: World, p: HostProcess): HostProcess =>
  createProcess(w, forkMm(w.k, p.mm));

/** Maps private anonymous memory; its hva. */
export const mapAnon = (p: HostProcess, nrPages: number, prot = RW, hva = 0): number =>
  drive(
    mmap(p.k, p.mm, {
      hva,
      lenBytes: nrPages * PAGE_SIZE,
      prot,
      flags: MAP_PRIVATE | MAP_ANONYMOUS,
    }),
  );

/** Maps all of a file, or `nr` pages of it, shared unless MAP_PRIVATE is given; its hva. @throws Error where mmap() fails */
export const mapOf = (
  p: HostProcess,
  mapping: AddressSpace,
  { flags = MAP_SHARED, prot = RW, nr = mapping.nrPages, pgoff = 0, hva = 0 } = {},
): number => {
  const lenBytes = nr * PAGE_SIZE;
  const at = drive(mmap(p.k, p.mm, { hva, lenBytes, prot, flags, mapping, pgoff }));
  if (at < 0) throw new Error(`mmap: ${at}`);
  return at;
};

/** A process with one written anonymous page. */
export interface OnePage {
  w: World;
  p: HostProcess;
  hva: number;
  page: number;
}

/** @param value of the page's first word */
export const withPage = (value = 1): OnePage => {
  const w = createWorld();
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.store32(hva, value);
  return { w, p, hva, page: pageAt(p, hva) };
};

export const exit = (p: HostProcess): void => drive(mmExit(p.k, p.mm));

/** Pins that are live, as the counters have them. */
export const pinsLive = ({ state: { stat } }: Kernel): number =>
  stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;

/** Nothing is wrong, with nobody in the middle of something. @param gets references that somebody holds by FOLL_GET */
export const settled = ({ k }: Pick<World, 'k'>, gets = 0): void =>
  assertKernel(k, { quiescent: true, gets });

/** The leaf entry of an address; 0 without a table. */
export const entryAt = (p: HostProcess, hva: number): number => {
  const word = walkPte(p.k, p.mm, hva, false);
  return word > 0 ? ptepGet(p.k, word) : 0;
};

/** The frame that an address is mapped to, -1 for none. */
export const pageAt = (p: HostProcess, hva: number): number => {
  const pte = entryAt(p, hva);
  return ptePresent(pte) ? ptePage(pte) : -1;
};

/** Subscribes to a process's address space; every call goes to the log as `start UNMAP 2`, `end ..`: event and pages. */
export const recordNotifier = (w: World, name: string): NotifierOps => {
  const events = [
    'UNMAP',
    'CLEAR',
    'PROTECTION_VMA',
    'PROTECTION_PAGE',
    'SOFT_DIRTY',
    'RELEASE',
    'MIGRATE',
  ];
  const line = (what: string, r: NotifierRange): string =>
    `${what} ${events[r.event]} ${(r.end - r.start) / PAGE_SIZE}`;
  const ops: NotifierOps = {
    invalidateRangeStart: (_owner, range) => {
      w.log.push(line('start', range));
      return 0;
    },
    invalidateRangeEnd: (_owner, range) => w.log.push(line('end', range)),
    release: () => w.log.push('release'),
  };
  w.k.notifierOps.set(name, ops);
  return ops;
};

/** Steps a path with its guarded yields taken, until it yields `point`. @throws Error when it ends before */
export const stepTo = <T>(k: Kernel, path: Path<T>, point: number): void => {
  const seen: number[] = [];
  k.watched = true;
  for (;;) {
    const step = path.next();
    if (step.done === true)
      throw new Error(`the path ended before it yielded ${point}; it yielded ${seen.join(' ')}`);
    seen.push(step.value);
    if (step.value === point) break;
  }
  k.watched = false;
};

/**
 * Steps actors, one yield each, in an order drawn from the seed, until all have ended; they may add
 * others to the list meanwhile.
 * @throws Error when nobody can go on
 */
export const interleave = (k: Kernel, running: Path<void>[], random: Rng): void => {
  k.watched = true;
  let waits = 0;
  while (running.length > 0) {
    const i = random.below(running.length);
    const step = running[i]?.next();
    if (step === undefined || step.done === true) {
      running.splice(i, 1);
      waits = 0;
    } else if (step.value !== 0) {
      waits = 0;
    } else if (++waits > 10_000) {
      throw new Error(`deadlock: ${running.length} actors wait`);
    }
  }
  k.watched = false;
};
