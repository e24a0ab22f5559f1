/**
 * The host that rows run on: one hart's MMU, a little RAM, a kernel with everything switched on.
 *
 * Rows follow each other on one host, as they do on a machine with Linux. After each of them nothing
 * may be left of it; a host that something was left on is not used again.
 */
import { Mmu, PhysMemory } from '#emu';
import {
  checkKernel,
  createKernel,
  type Kernel,
  nrFreePages,
  type Policy,
  type Sabotage,
} from '#mm';
import { shootdownOf } from '../machine/shootdown.ts';

const MIB = 2 ** 20;
/** Room for a parent's, a child's and a copied 2 MiB page, twice over. */
const RAM_BYTES = 32 * MIB;

export interface WorldOptions {
  policy: Policy;
  /** Rules to break, for tests. */
  sabotage?: Partial<Sabotage>;
}

export interface World {
  k: Kernel;
  /** The MMU of the hart that every process runs on, in turns. */
  mmu: Mmu;
  /** Free pages while nothing runs. */
  freeAtStart: number;
}

/** A host with nothing on it. */
export const createWorld = (options: WorldOptions): World => {
  const memory = new PhysMemory(RAM_BYTES);
  const mmu = new Mmu(memory, 0);
  const k = createKernel({ memory, tlb: shootdownOf([{ mmu }]), policy: options.policy });
  k.checked = true;
  Object.assign(k.sabotage, options.sabotage);
  return { k, mmu, freeAtStart: nrFreePages(k) };
};

/** What is left on the host that nobody uses any more: violations of the kernel's rules, and leaks. */
export const leftBehind = (world: World): string[] => {
  const { k } = world;
  const { stat } = k.state;
  const report = checkKernel(k, { quiescent: true });
  const pins = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
  if (pins !== 0) report.push(`leak: ${pins} pins were never released`);
  const lost = world.freeAtStart - nrFreePages(k);
  if (lost !== 0) report.push(`leak: ${lost} frames were never freed`);
  return report;
};
