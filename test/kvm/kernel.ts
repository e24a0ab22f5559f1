/** A kernel by itself, for tests that need frames and no hart. */
import { PhysMemory } from '#emu';
import { createKernel, createPolicy, type Kernel } from '#mm';

/** A kernel over `ramMib` MiB of RAM. */
export const testKernel = (ramMib: number): Kernel =>
  createKernel({
    memory: new PhysMemory(ramMib * 2 ** 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('target'),
  });
