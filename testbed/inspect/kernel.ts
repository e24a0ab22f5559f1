/** The kernel of a saved machine, as it was: to be looked at, not to go on. */
import { PhysMemory } from '#emu';
import { createKernel, createPolicy, type Kernel } from '#mm';
import type { HostState } from '../machine/host.ts';
import { restoreMemory } from '../machine/snapshot.ts';

/** A process, and what it is the process of. */
export interface NamedProcess {
  /** Id of its address space. */
  pid: number;
  /** The guest whose VMM it is; null: a child of one. */
  guest: string | null;
}

/** What the views look at. */
export interface Inspected {
  k: Kernel;
  processes: NamedProcess[];
}

/** RAM and the kernel's records; no hart runs. @throws Error where the records are not a machine's */
export const inspect = (state: HostState): Inspected => {
  const memory = new PhysMemory(state.memory.ramBytes);
  restoreMemory(memory, state.memory);
  const nothing = (): void => {};
  const k = createKernel({
    memory,
    tlb: { flushPage: nothing, flushRange: nothing, flushAsid: nothing },
    policy: createPolicy(state.config.policy),
    state: state.kernel,
  });
  const guestOf = new Map<number, string>();
  for (const [i, { vmId }] of state.guests.entries()) {
    const vm = state.kvm.vms.get(vmId);
    if (vm !== undefined) guestOf.set(vm.mmId, state.config.guests[i]!.name);
  }
  const processes = [...k.state.mms.keys()].map((pid) => ({
    pid,
    guest: guestOf.get(pid) ?? null,
  }));
  return { k, processes };
};
