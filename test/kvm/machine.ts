/**
 * A small machine for the tests of kvm: harts, a kernel, a VMM's address space with one anonymous
 * mapping as guest memory, and a loop that does what a VMM's main loop does.
 */
import {
  assemble,
  Bus,
  Clock,
  Hart,
  PAGE_SIZE,
  PhysMemory,
  PLIC_BASE,
  UART_BASE,
  UART_BYTES,
} from '#emu';
import { createSecondaryPfn } from '#mm/secondary';
import {
  createKvm,
  createVm,
  type ErrorExit,
  type Kvm,
  mapGuestPage,
  type MmioExit,
  setMemSlot,
  type ShutdownExit,
  Vcpu,
  type Vm,
  vmReadGuest,
  vmWriteGuest,
} from '#kvm';
import {
  assertKernel,
  createKernel,
  createPolicy,
  drive,
  HPAGE_PMD_ORDER,
  type Kernel,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  mmap,
  mmCreate,
  type MmStruct,
  type PolicyName,
  PROT_READ,
  PROT_WRITE,
  shmemCreate,
  type TlbShootdown,
} from '#mm';

export const GUEST_GPA = 0x8000_0000;
const HUGE_HVA = 0x4000_0000;
const MIB = 2 ** 20;

const shootdown = (harts: readonly Hart[]): TlbShootdown => ({
  flushPage: (asid, hva) => {
    for (const hart of harts) hart.mmu.hostSfenceVma(hva, asid);
  },
  flushRange: (asid, start, end) => {
    for (const hart of harts)
      for (let hva = start; hva < end; hva += PAGE_SIZE) hart.mmu.hostSfenceVma(hva, asid);
  },
  flushAsid: (asid) => {
    for (const hart of harts) hart.mmu.hostSfenceVma(undefined, asid);
  },
});

export interface TestMachine {
  clock: Clock;
  harts: Hart[];
  k: Kernel;
  kvm: Kvm;
  mm: MmStruct;
  vm: Vm;
  vcpus: Vcpu[];
  /** hva of the first byte of guest memory. */
  hva: number;
  /** What the guest has printed. */
  output: number[];
  /** What it can read. */
  input: number[];
  /** Device accesses, in order. */
  mmio: { gpa: number; sizeBytes: number; write: boolean; value: bigint }[];
  /** Answers a load of a device: [low word, high word]. */
  device: (exit: MmioExit) => [number, number];
}

export interface TestMachineConfig {
  ramMib?: number;
  guestMib?: number;
  nrVcpus?: number;
  policy?: PolicyName;
  shared?: boolean;
  flags?: number;
  /** Private memory may be transparent huge pages; hva and gpa are aligned alike. */
  huge?: boolean;
  dirtyRingEntries?: number;
}

export const testMachine = (config: TestMachineConfig = {}): TestMachine => {
  const { ramMib = 32, guestMib = 4, nrVcpus = 1, policy = 'target', shared = false } = config;
  const { huge = false, dirtyRingEntries = 0 } = config;
  const memory = new PhysMemory(ramMib * MIB);
  const clock = new Clock();
  const bus = new Bus(memory);
  const harts = Array.from(
    { length: nrVcpus },
    (_, i) => new Hart({ memory, bus, clock, index: i }),
  );
  const k = createKernel({ memory, tlb: shootdown(harts), policy: createPolicy(policy) });
  k.checked = true;
  if (huge) k.state.thp.always = 1 << HPAGE_PMD_ORDER;
  const kvm = createKvm(k, harts);
  const mm = mmCreate(k) as MmStruct;
  const lenBytes = guestMib * MIB;
  const hva = drive(
    mmap(k, mm, {
      ...(huge ? { hva: HUGE_HVA } : {}),
      lenBytes,
      prot: PROT_READ | PROT_WRITE,
      flags: shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
      ...(shared ? { mapping: shmemCreate(k, lenBytes / PAGE_SIZE), pgoff: 0 } : {}),
    }),
  );
  if (hva < 0) throw new Error(`mmap: ${hva}`);
  const vm = createVm(kvm, mm, { vmid: 7, nrVcpus, dirtyRingEntries }) as Vm;
  setMemSlot(vm, { id: 0, gpa: GUEST_GPA, lenBytes, hva, flags: config.flags ?? 0 });
  vm.mmioRegions.push({ gpa: UART_BASE, lenBytes: UART_BYTES, name: 'uart' });
  vm.mmioRegions.push({ gpa: PLIC_BASE, lenBytes: 0x1000, name: 'plic' });
  const output: number[] = [];
  const input: number[] = [];
  const console = { put: (byte: number) => output.push(byte), get: () => input.shift() ?? -1 };
  const vcpus = Array.from({ length: nrVcpus }, (_, i) => new Vcpu(kvm, vm, i, console));
  return {
    clock,
    harts,
    k,
    kvm,
    mm,
    vm,
    vcpus,
    hva,
    output,
    input,
    mmio: [],
    device: () => [0, 0],
  };
};

/** Puts a program at the start of guest memory and starts vCPU 0 there. Returns its symbols. */
export const load = (m: TestMachine, source: string): ReadonlyMap<string, bigint> => {
  const program = assemble(source, { origin: GUEST_GPA });
  expectZero(drive(vmWriteGuest(m.kvm, m.vm, GUEST_GPA, program.bytes)));
  m.vcpus[0]!.boot(GUEST_GPA, GUEST_GPA + 0x10_0000);
  return program.symbols;
};

/** 8 bytes into guest memory, as the VMM writes them. */
export const poke = (m: TestMachine, gpa: number, value: bigint): void => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  expectZero(drive(vmWriteGuest(m.kvm, m.vm, gpa, bytes)));
};

/** What a fault of vCPU 0 at `gpa` does. @returns as mapGuestPage() */
export const touch = (m: TestMachine, gpa: number, write: boolean): number =>
  drive(mapGuestPage(m.kvm, m.vm, gpa, write, createSecondaryPfn(), m.vm.vcpus[0]));

const expectZero = (error: number): void => {
  if (error !== 0) throw new Error(`errno ${-error}`);
};

/** 8 bytes of guest memory. */
export const peek = (m: TestMachine, gpa: number): bigint => {
  const bytes = new Uint8Array(8);
  expectZero(drive(vmReadGuest(m.kvm, m.vm, gpa, bytes)));
  return new DataView(bytes.buffer).getBigUint64(0, true);
};

export const printed = (m: TestMachine): string => String.fromCharCode(...m.output);

/** What every `mmio` exit is answered with; logged in m.mmio. */
export const serveMmio = (m: TestMachine, vcpu: Vcpu, exit: MmioExit): void => {
  const value = (BigInt(exit.valueHi >>> 0) << 32n) | BigInt(exit.valueLo >>> 0);
  m.mmio.push({
    gpa: exit.gpa,
    sizeBytes: exit.sizeBytes,
    write: exit.write,
    value: exit.write ? BigInt.asUintN(8 * exit.sizeBytes, value) : 0n,
  });
  const [lo, hi] = exit.write ? [0, 0] : m.device(exit);
  vcpu.completeMmio(lo, hi);
};

/**
 * Runs every vCPU in turn until one shuts the VM down or fails, or `limit` instructions have retired
 * ('limit'), or nothing can ever run again ('idle'). The sanitizer looks at the end.
 */
export const run = (
  m: TestMachine,
  limit = 2_000_000,
  slice = 1000,
): ShutdownExit | ErrorExit | 'limit' | 'idle' => {
  const end = runUnchecked(m, limit, slice);
  assertKernel(m.k);
  return end;
};

const runUnchecked = (
  m: TestMachine,
  limit: number,
  slice: number,
): ShutdownExit | ErrorExit | 'limit' | 'idle' => {
  let left = limit;
  while (left > 0) {
    let ran = false;
    for (const vcpu of m.vcpus) {
      m.clock.deliverDue();
      if (!vcpu.runnable) continue;
      ran = true;
      const started = m.clock.now;
      const exit = vcpu.run(Math.min(slice, m.clock.nextAt - m.clock.now));
      m.clock.now = started + exit.retired;
      left -= exit.retired;
      if (exit.kind === 'mmio') serveMmio(m, vcpu, exit);
      else if (exit.kind === 'sbi') drive(vcpu.handleSbi());
      else if (exit.kind === 'fault') {
        const error = drive(vcpu.handleFault());
        if (error !== undefined) return error;
      } else if (exit.kind === 'shutdown' || exit.kind === 'error') return exit;
    }
    if (ran) continue;
    if (m.clock.nextAt === Number.POSITIVE_INFINITY) return 'idle';
    m.clock.now = Math.max(m.clock.now, m.clock.nextAt);
  }
  return 'limit';
};
