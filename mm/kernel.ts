/** The kernel record: made once per machine, or from a saved state. Compare init/main.c, mm/mm_init.c. */
import { ATP_MODE_SV39, PAGE_SIZE, type PhysMemory } from '#emu';
import { ENOMEM } from './errno.ts';
import { freeAllPages } from './frames/boot.ts';
import { allocPages, GFP_ZERO } from './frames/buddy.ts';
import { createFrameTable, PG_RESERVED, PG_UPTODATE } from './frames/table.ts';
import { createZones } from './frames/zone.ts';
import { folioSetFlags } from './folio/folio.ts';
import type { Policy } from './policy.ts';
import { createHugetlbState } from './hugetlb/state.ts';
import { createKsmState } from './ksm/state.ts';
import { createLruState } from './lru/state.ts';
import { createTask } from './signal.ts';
import { createVmStat } from './stat.ts';
import { createSwapState } from './swap/state.ts';
import { createThpState } from './thp/state.ts';
import type { Kernel, KernelState, TlbShootdown } from './types.ts';

export { countStat } from './stat.ts';

export interface KernelOptions {
  memory: PhysMemory;
  tlb: TlbShootdown;
  policy: Policy;
  /** ATP_MODE_SV39 (the default) or ATP_MODE_SV48. */
  satpMode?: number;
  /** Zone MOVABLE: so much at the top of RAM, rounded down to 4 MiB. Default 0. */
  movableBytes?: number;
  /** Reserved for CMA, rounded up to pageblocks of 2 MiB. Default 0. */
  cmaBytes?: number;
  /** Pageblocks by migratetype. Default: where there is a zone MOVABLE or CMA. */
  groupByMobility?: boolean;
  /** What a saved machine kept; RAM has been restored before. */
  state?: KernelState;
}

/**
 * A kernel over all of RAM. A fresh one owns every frame and has taken one: the zero page.
 * @throws Error when RAM has no frame at all; RangeError when MOVABLE and CMA leave the kernel none
 */
export const createKernel = (options: KernelOptions): Kernel => {
  const { memory, tlb, policy, satpMode = ATP_MODE_SV39, state } = options;
  const { movableBytes = 0, cmaBytes = 0 } = options;
  const k: Kernel = {
    memory,
    state: state ?? freshState(memory.nrPages, Math.floor(movableBytes / PAGE_SIZE)),
    policy,
    tlb,
    satpMode,
    watched: false,
    checked: false,
    sabotage: {
      forkSharesPinned: false,
      forkKeepsExclusive: false,
      neverUnshare: false,
      forceDropsWrite: false,
      reuseByMapcount: false,
      hugetlbAlwaysReuses: false,
      migratePinned: false,
      longtermPinsTracked: false,
      gupFastSkipsSeq: false,
      gupFastSkipsRecheck: false,
      gupFastMarksLate: false,
      spliceKeepsMerge: false,
      gmemConvertsHeld: false,
      notifierKeepsTlb: false,
      faultSkipsRetry: false,
      logWritesUnasked: false,
    },
    currentUser: '',
    dropping: '',
    task: createTask(),
    pageNumbers: countUpTo(memory.nrPages),
    procMemForce: 'always',
    notifierOps: new Map(),
    intervalOps: new Map(),
    guestMemfdOps: new Map(),
    secondaryUsers: new Map(),
  };
  if (state !== undefined) return k;
  k.state.groupByMobility = options.groupByMobility ?? (movableBytes > 0 || cmaBytes > 0);
  freeAllPages(k, Math.ceil(cmaBytes / PAGE_SIZE));
  const zeroPage = allocPages(k, 0, GFP_ZERO);
  if (zeroPage === -ENOMEM) throw new Error('no frame for the zero page');
  folioSetFlags(k, zeroPage, PG_RESERVED | PG_UPTODATE);
  k.state.zeroPage = zeroPage;
  return k;
};

const countUpTo = (end: number): Int32Array => {
  const numbers = new Int32Array(end);
  for (let i = 0; i < end; i++) numbers[i] = i;
  return numbers;
};

const freshState = (nrPages: number, movablePages: number): KernelState => ({
  frames: createFrameTable(nrPages),
  zones: createZones(nrPages, movablePages),
  groupByMobility: false,
  cmaAreas: [],
  zoneDevices: [],
  mms: new Map(),
  mappings: new Map(),
  nextId: 1,
  nextAsid: 1,
  zeroPage: -1,
  hugeZeroFolio: -1,
  lru: createLruState(),
  thp: createThpState(),
  swap: createSwapState(),
  ksm: createKsmState(),
  hugetlb: createHugetlbState(),
  pipes: new Map(),
  fixedBuffers: new Map(),
  umems: new Map(),
  vfioContainers: new Map(),
  blockDevices: new Map(),
  filesystems: new Map(),
  remoteServers: new Map(),
  provenance: null,
  secondaryFaults: [],
  secondaryStates: new Map(),
  stat: createVmStat(),
});
