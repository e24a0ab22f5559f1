/**
 * Suite `kvm`: what a guest's memory costs its host. Exits; faults in guest-physical memory by what is
 * behind it, all of it present; invalidations while more and more vCPUs have to hear of them; harvests of
 * the dirty log.
 */
import { assemble, Bus, Clock, Hart, PAGE_SIZE, PhysMemory } from '#emu';
import {
  createKvm,
  createVm,
  harvestDirtyLog,
  type Kvm,
  mapGuestPage,
  type MemSlot,
  setDirtyLog,
  setMemSlot,
  Vcpu,
  type Vm,
  vmWriteGuest,
} from '#kvm';
import {
  createKernel,
  createPolicy,
  drive,
  type Kernel,
  MADV_POPULATE_WRITE,
  madvise,
  MMU_NOTIFY_CLEAR,
  type MmStruct,
  mmCreate,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
  type PolicyName,
} from '#mm';
import { createSecondaryPfn } from '#mm/secondary';
import {
  BACKING_KINDS,
  type BackingKind,
  backingHostRamBytes,
  GUEST_RAM_HVA,
  makeBacking,
} from '../machine/backing.ts';
import { GUEST_RAM_GPA } from '../machine/guest-config.ts';
import { shootdownOf } from '../machine/shootdown.ts';
import type { Samples } from './row.ts';

const MIB = 2 ** 20;
const HUGE_BYTES = 2 * MIB;
/** The program is in the first 2 MiB, what it touches behind. */
const DATA_GPA = GUEST_RAM_GPA + HUGE_BYTES;
const DATA_BYTES = 32 * MIB;
const EXITS = 20_000;
const WARM_UP = 3;
/** Passes over huge entries, of which there are few. */
const HUGE_PASSES = 200;
const INVALIDATIONS = 4096;
const LOGGED_BYTES = 64 * MIB;
const PER_GIB = 2 ** 30 / LOGGED_BYTES;
const SLICE = 1_000_000;

/** Asks for the SBI's version again and again. */
const CALLS = `
  loop:
    li a7, 0x10
    li a6, 0
    ecall
    j loop
`;

/** Stores to one word in every `stride` bytes of the data, for ever. */
const touches = (stride: number): string => `
  again:
    li t0, 0x${DATA_GPA.toString(16)}
    li t1, 0x${(DATA_GPA + DATA_BYTES).toString(16)}
    li t2, ${stride}
  next:
    sd t0, 0(t0)
    add t0, t0, t2
    bltu t0, t1, next
    j again
`;

/** A guest on a host of its own. */
interface Subject {
  k: Kernel;
  kvm: Kvm;
  mm: MmStruct;
  vm: Vm;
  slot: MemSlot;
  vcpu: Vcpu;
}

interface SubjectConfig {
  backing: BackingKind;
  memoryBytes: number;
  nrVcpus?: number;
  policy?: PolicyName;
}

const createSubject = (config: SubjectConfig): Subject => {
  const { backing: kind, memoryBytes, nrVcpus = 1, policy = 'linux-7' } = config;
  const ramBytes = memoryBytes + backingHostRamBytes(kind, memoryBytes) + 16 * MIB;
  const memory = new PhysMemory(ramBytes);
  const clock = new Clock();
  const bus = new Bus(memory);
  const harts = Array.from(
    { length: nrVcpus },
    (_, index) => new Hart({ memory, bus, clock, index }),
  );
  const k = createKernel({ memory, tlb: shootdownOf(harts), policy: createPolicy(policy) });
  const kvm = createKvm(k, harts);
  // Statistics of the testbed's own, which no hypervisor has.
  kvm.countsTlbHits = false;
  const mm = mmCreate(k);
  if (typeof mm === 'number') throw new Error('bench: no memory for a process');
  const { ranges } = makeBacking(k, mm, kind, memoryBytes, 'guest memory');
  const vm = createVm(kvm, mm, { vmid: 1, nrVcpus });
  if (typeof vm === 'number') throw new Error('bench: no memory for a VM');
  for (const [id, { hva, lenBytes }] of ranges.entries())
    setMemSlot(vm, { id, gpa: GUEST_RAM_GPA + (hva - GUEST_RAM_HVA), lenBytes, hva });
  const error = drive(madvise(k, mm, GUEST_RAM_HVA, memoryBytes, MADV_POPULATE_WRITE));
  if (error !== 0) throw new Error(`bench: no memory behind ${kind}: ${error}`);
  const vcpu = new Vcpu(kvm, vm, 0, { put: () => {}, get: () => -1 });
  return { k, kvm, mm, vm, slot: vm.slots[0]!, vcpu };
};

const boot = ({ kvm, vm, vcpu }: Subject, source: string): void => {
  const program = assemble(source, { origin: GUEST_RAM_GPA });
  if (drive(vmWriteGuest(kvm, vm, GUEST_RAM_GPA, program.bytes)) !== 0)
    throw new Error('bench: the program does not fit');
  vcpu.boot(GUEST_RAM_GPA, 0);
};

/** Runs until so many faults, or exits of another kind, have been dealt with. */
const runFor = ({ vcpu }: Subject, kind: 'fault' | 'budget', count: number): void => {
  for (let done = 0; done < count; ) {
    const exit = vcpu.run(SLICE);
    if (exit.kind === 'error') throw new Error(`bench: the guest has failed: ${exit.message}`);
    if (exit.kind === kind) done++;
    if (exit.kind !== 'fault') continue;
    if (drive(vcpu.handleFault()) !== undefined) throw new Error('bench: a fault has failed');
  }
};

/** Takes every entry of [hva, hva + lenBytes) away, as any change of the host's tables does. */
const invalidate = ({ k, mm }: Subject, hva: number, lenBytes: number): void => {
  const range = notifierRange(mm, hva, hva + lenBytes, MMU_NOTIFY_CLEAR);
  notifyRangeStart(k, range);
  notifyRangeEnd(k, range);
};

const samplesOf = (name: string, unit: string, better: Samples['better']): Samples => ({
  suite: 'kvm',
  name,
  unit,
  better,
  samples: [],
  peers: {},
});

/** Samples a measurement, after some that do not count. */
const measure = (row: Samples, rounds: number, once: () => number): Samples => {
  for (let round = -WARM_UP; round < rounds; round++) {
    const value = once();
    if (round >= 0) row.samples.push(value);
  }
  return row;
};

const exitSamples = (rounds: number): Samples => {
  const subject = createSubject({ backing: 'anon', memoryBytes: 4 * MIB });
  boot(subject, CALLS);
  return measure(samplesOf('exits by SBI calls', 'exits/s', 'higher'), rounds, () => {
    const start = performance.now();
    runFor(subject, 'budget', EXITS);
    return (EXITS * 1000) / (performance.now() - start);
  });
};

/** Backings whose entries are huge: one fault for each of them. */
const HUGE: readonly BackingKind[] = ['thp', 'hugetlb'];
const FAULT_KINDS = BACKING_KINDS.filter((kind) => kind !== 'mixed' && kind !== 'gmem');

const faultSamples = (backing: BackingKind, policy: PolicyName, rounds: number): Samples => {
  const huge = HUGE.includes(backing);
  const stride = huge ? HUGE_BYTES : PAGE_SIZE;
  const subject = createSubject({ backing, policy, memoryBytes: HUGE_BYTES + DATA_BYTES });
  boot(subject, touches(stride));
  const faults = DATA_BYTES / stride;
  const passes = huge ? HUGE_PASSES : 1;
  const by = policy === 'linux-7' ? '' : `, policy ${policy}`;
  const size = huge ? '2 MiB' : '4 KiB';
  const row = samplesOf(`fault on present memory, ${backing}, ${size}${by}`, 'us/fault', 'lower');
  return measure(row, rounds, () => {
    let ms = 0;
    for (let pass = 0; pass < passes; pass++) {
      invalidate(subject, GUEST_RAM_HVA + HUGE_BYTES, DATA_BYTES);
      const start = performance.now();
      runFor(subject, 'fault', faults);
      ms += performance.now() - start;
    }
    return (ms * 1000) / (faults * passes);
  });
};

/** Installs the entries of the first pages of the data, for writing. */
const mapPages = ({ kvm, vm }: Subject, nrPages: number): void => {
  const scratch = createSecondaryPfn();
  for (let i = 0; i < nrPages; i++)
    if (drive(mapGuestPage(kvm, vm, DATA_GPA + i * PAGE_SIZE, true, scratch)) !== 0)
      throw new Error('bench: a page cannot be mapped');
};

const invalidationSamples = (nrVcpus: number, rounds: number): Samples => {
  const memoryBytes = HUGE_BYTES + INVALIDATIONS * PAGE_SIZE;
  const subject = createSubject({ backing: 'anon', memoryBytes, nrVcpus });
  const row = samplesOf(
    `invalidations of a mapped page, ${nrVcpus} vCPU${nrVcpus > 1 ? 's' : ''}`,
    'invalidations/s',
    'higher',
  );
  return measure(row, rounds, () => {
    mapPages(subject, INVALIDATIONS);
    const first = GUEST_RAM_HVA + HUGE_BYTES;
    const start = performance.now();
    for (let i = 0; i < INVALIDATIONS; i++) invalidate(subject, first + i * PAGE_SIZE, PAGE_SIZE);
    return (INVALIDATIONS * 1000) / (performance.now() - start);
  });
};

/** @param every of so many pages one has been written */
const harvestSamples = (every: number, rounds: number): Samples => {
  const subject = createSubject({ backing: 'anon', memoryBytes: HUGE_BYTES + LOGGED_BYTES });
  const { kvm, vm, slot } = subject;
  const share = every === 0 ? 'nothing' : every === 1 ? 'every page' : `a page in ${every}`;
  setDirtyLog(kvm, vm, slot, true);
  const scratch = createSecondaryPfn();
  return measure(samplesOf(`dirty-log harvest, ${share} dirty`, 'ms/GiB', 'lower'), rounds, () => {
    for (let at = 0; every > 0 && at < LOGGED_BYTES; at += every * PAGE_SIZE)
      drive(mapGuestPage(kvm, vm, DATA_GPA + at, true, scratch));
    const start = performance.now();
    harvestDirtyLog(kvm, vm, slot);
    return (performance.now() - start) * PER_GIB;
  });
};

/** All of the suite's samples. @param rounds samples of each figure */
export const kvmSuite = async (
  rounds: number,
  announce: (what: string) => void,
): Promise<Samples[]> => {
  announce('kvm: exits');
  const rows = [exitSamples(rounds)];
  for (const backing of FAULT_KINDS) {
    announce(`kvm: faults, ${backing}`);
    rows.push(faultSamples(backing, 'linux-7', rounds));
  }
  rows.push(faultSamples('anon', 'target', rounds));
  for (const nrVcpus of [1, 2, 4, 8]) {
    announce(`kvm: invalidations, ${nrVcpus} vCPUs`);
    rows.push(invalidationSamples(nrVcpus, rounds));
  }
  announce('kvm: dirty log');
  for (const every of [1, 64, 0]) rows.push(harvestSamples(every, rounds));
  return rows;
};
