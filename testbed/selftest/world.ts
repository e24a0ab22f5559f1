/**
 * The host that rows run on: one hart's MMU, a little RAM, a kernel with everything switched on.
 *
 * Rows follow each other on one host, as they do on a machine with Linux. After each of them nothing
 * may be left of it; a host that something was left on is not used again.
 */
import { Mmu, PhysMemory } from '#emu';
import {
  blockDeviceCreate,
  checkKernel,
  createKernel,
  extentCheck,
  type ExtentFs,
  extentMkfs,
  HPAGE_PMD_NR,
  HPAGE_PMD_ORDER,
  HUGETLB_ORDER_1G,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  type Kernel,
  type KernelState,
  nrFreePages,
  type Policy,
  type Sabotage,
  swapon,
} from '#mm';
import { shootdownOf } from '../machine/shootdown.ts';

const MIB = 2 ** 20;
/** Room for a parent's, a child's and a copied 2 MiB page, twice over. */
export const RAM_BYTES = 32 * MIB;
/** Room for a pool of 1 GiB pages, each at a multiple of its size, besides. */
export const GIGANTIC_RAM_BYTES = 3 * 1024 * MIB;
/** Slots of the swap device: 16 MiB. */
const SWAP_SLOTS = 4096;
/** hugetlb pages: one for a process, and one for its copy. */
const POOL_PAGES = 2;
/** Blocks of the disk: 1 MiB, for files of one page. */
const DISK_BLOCKS = 256;

export interface WorldOptions {
  policy: Policy;
  /** Have a pool of 1 GiB pages. */
  gigantic?: boolean;
  /** Rules to break, for tests. */
  sabotage?: Partial<Sabotage>;
}

export interface World {
  k: Kernel;
  /** The MMU of the hart that every process runs on, in turns. */
  mmu: Mmu;
  /** The file system on the host's disk, empty. */
  fs: ExtentFs;
  /** Free pages while nothing runs. */
  freeAtStart: number;
}

/** A host with nothing on it. */
export const createWorld = (options: WorldOptions): World => {
  const gigantic = options.gigantic ?? false;
  const memory = new PhysMemory(gigantic ? GIGANTIC_RAM_BYTES : RAM_BYTES);
  const mmu = new Mmu(memory, 0);
  const k = createKernel({ memory, tlb: shootdownOf([{ mmu }]), policy: options.policy });
  k.checked = true;
  Object.assign(k.sabotage, options.sabotage);
  Object.assign(k.state.thp, { always: 0, madvise: 1 << HPAGE_PMD_ORDER });
  swapon(k, SWAP_SLOTS);
  hugetlbSetPool(k, HUGETLB_ORDER_2M, POOL_PAGES);
  if (gigantic) hugetlbSetPool(k, HUGETLB_ORDER_1G, POOL_PAGES);
  const fs = extentMkfs(k, blockDeviceCreate(k, 'disk', DISK_BLOCKS));
  return { k, mmu, fs, freeAtStart: nrFreePages(k) };
};

/** Frames that the host takes when it first needs them, and keeps. */
const keptFrames = ({ hugeZeroFolio }: KernelState): number =>
  hugeZeroFolio < 0 ? 0 : HPAGE_PMD_NR;

/** What is left on the host that nobody uses any more: violations of the kernel's rules, and leaks. */
export const leftBehind = (world: World): string[] => {
  const { k, fs } = world;
  const { stat } = k.state;
  const report = checkKernel(k, { quiescent: true });
  report.push(...extentCheck(k, fs));
  if (fs.inodes.size > 0) report.push(`leak: ${fs.inodes.size} files are left on the disk`);
  const pins = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
  if (pins !== 0) report.push(`leak: ${pins} pins were never released`);
  const lost = world.freeAtStart - keptFrames(k.state) - nrFreePages(k);
  if (lost !== 0) report.push(`leak: ${lost} frames were never freed`);
  const { swap } = k.state;
  if (swap.nrFree !== swap.nrSlots)
    report.push(`leak: ${swap.nrSlots - swap.nrFree} swap slots were never freed`);
  for (const { order, nrPages, free, reserved } of k.state.hugetlb.hstates)
    if (free.length !== nrPages || reserved !== 0)
      report.push(
        `leak: of ${nrPages} huge pages of order ${order} ${free.length} are free, ${reserved} reserved`,
      );
  return report;
};
