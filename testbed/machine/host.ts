/**
 * The machine with a host: harts and RAM, the model kernel that owns them, the hypervisor, guests,
 * and the actors that take turns. Put together from a plain config, or from what was saved.
 */
import { Bus, Clock, type ClockState, type ElfImage, Hart, type HartState, PhysMemory } from '#emu';
import { createKvm, destroyVm, type Kvm, type KvmState, saveKvm, type Vcpu } from '#kvm';
import {
  checkKernel,
  createKernel,
  createPolicy,
  drive,
  HPAGE_PMD_NR,
  type Kernel,
  type KernelState,
  mmExit,
  nrFreePages,
  provenanceStart,
  type Sabotage,
} from '#mm';
import { checkIommu, HostIommu, type HostIommuState } from '#devices/host';
import type { Activity, ActivityState } from '../actors/activity.ts';
import { activitiesFor } from '../actors/activities.ts';
import { Pump } from '../actors/pump.ts';
import { VcpuActor } from '../actors/vcpu-actor.ts';
import { Rng, type RngState } from '../rng.ts';
import { Scheduler } from '../sched/scheduler.ts';
import type { LineListener } from './console.ts';
import { Guest, type GuestState } from './guest.ts';
import { type HostConfig, hostRamBytes } from './guest-config.ts';
import { type MemoryImage, restoreMemory, saveMemory } from './snapshot.ts';
import { shootdownOf } from './shootdown.ts';

/** What may differ between two runs of one config without a difference in their outcome. */
export interface HostOptions {
  /** Told of every line that a guest prints. */
  onLine?: (guest: Guest, line: string) => void;
  /** Run the kernel's inline checks. */
  checked?: boolean;
  /** Write down who holds what by GUP, from the start. A saved machine goes on as it was. */
  provenance?: boolean;
  /** Rules to break, for tests. */
  sabotage?: Partial<Sabotage>;
}

/** A whole machine, as data. */
export interface HostState {
  config: HostConfig;
  memory: MemoryImage;
  clock: ClockState;
  harts: HartState[];
  kernel: KernelState;
  kvm: KvmState;
  /** Null: the machine has none. */
  iommu: HostIommuState | null;
  guests: GuestState[];
  rng: RngState;
  /** Of the scheduler: whose turn it was. */
  turn: number;
  activities: ActivityState[];
  /** Sanitizer passes so far. */
  sanitizerPasses: number;
  nextSanitizerPass: number;
  violations: string[];
}

/** Is this what HostMachine.save() makes? By its fields: a file can be anything. */
export const isHostState = (value: unknown): value is HostState =>
  typeof value === 'object' &&
  value !== null &&
  ['config', 'memory', 'clock', 'harts', 'kernel', 'kvm', 'guests', 'rng', 'activities'].every(
    (field) => Object.hasOwn(value, field),
  );

/** Machine time between two passes of the sanitizer over the whole kernel. */
const SANITIZER_GAP = 4_000_000;

export class HostMachine {
  readonly config: HostConfig;
  readonly memory: PhysMemory;
  readonly clock: Clock;
  /** One for each vCPU, and a last one for host processes. */
  readonly harts: Hart[];
  readonly k: Kernel;
  readonly kvm: Kvm;
  /** The IOMMU of the host's own devices; null: no guest asks for one. */
  readonly iommu: HostIommu | null;
  readonly guests: Guest[];
  readonly activities: Activity[];
  /** Violations that the sanitizer found; a run with any has failed. */
  readonly violations: string[];
  sanitizerPasses: number;
  private readonly scheduler: Scheduler;
  private readonly rng: Rng;
  private running: Vcpu | null;
  private nextSanitizerPass: number;

  constructor(config: HostConfig, options: HostOptions = {}, state?: HostState) {
    this.config = config;
    this.memory = new PhysMemory(hostRamBytes(config));
    this.clock = new Clock();
    const nrHarts = config.guests.reduce((sum, guest) => sum + guest.harts, 1);
    const bus = new Bus(this.memory);
    this.harts = Array.from(
      { length: nrHarts },
      (_, index) => new Hart({ memory: this.memory, bus, clock: this.clock, index }),
    );
    // A new hart resets its registers, so what was saved comes after.
    if (state !== undefined) restoreMemory(this.memory, state.memory);
    this.k = createKernel({
      memory: this.memory,
      tlb: shootdownOf(this.harts),
      policy: createPolicy(config.policy),
      movableBytes: config.movableBytes ?? 0,
      ...(state === undefined ? {} : { state: state.kernel }),
    });
    if (options.provenance === true && state === undefined) provenanceStart(this.k);
    this.k.watched = true;
    this.k.checked = options.checked ?? false;
    Object.assign(this.k.sabotage, options.sabotage);
    this.kvm = createKvm(this.k, this.harts, state?.kvm);
    this.iommu = this.makeIommu(state);
    this.rng = new Rng(config.seed);
    this.scheduler = new Scheduler(this.clock, this.rng, config.quantum);
    this.guests = [];
    this.activities = [];
    this.violations = [...(state?.violations ?? [])];
    this.sanitizerPasses = state?.sanitizerPasses ?? 0;
    this.nextSanitizerPass = state?.nextSanitizerPass ?? SANITIZER_GAP;
    this.running = null;
    this.clock.onEarlier = (when) => this.running?.hart.endSliceAt(when);
    this.addGuests(options, state);
    if (state !== undefined) this.restoreRest(state);
  }

  private makeIommu(state: HostState | undefined): HostIommu | null {
    const wanted = this.config.guests.some(({ iommu = 'off' }) => iommu !== 'off');
    if (!wanted) return null;
    const config = { kernel: this.k, clock: this.clock, name: 'host-iommu' };
    return new HostIommu(config, state?.iommu ?? undefined);
  }

  private addGuests(options: HostOptions, state: HostState | undefined): void {
    const watch = {
      begin: (vcpu: Vcpu): void => {
        this.running = vcpu;
      },
      end: (): void => {
        this.running = null;
      },
    };
    if (this.iommu !== null) this.scheduler.add(new Pump('iommu', this.iommu));
    let firstHart = 0;
    for (const [index, config] of this.config.guests.entries()) {
      const onLine: LineListener = (line) => options.onLine?.(this.guests[index]!, line);
      const { k, kvm, clock, iommu } = this;
      const endSlice = (): void => this.endSlice();
      const wiring = { k, kvm, clock, index, firstHart, iommu, onLine, endSlice };
      const guest = new Guest(config, wiring, state?.guests[index]);
      this.guests.push(guest);
      for (const vcpu of guest.vcpus) this.scheduler.add(new VcpuActor(guest, vcpu, clock, watch));
      const { pumped } = guest.dmaSide;
      if (pumped !== null) this.scheduler.add(new Pump(`${config.name} dma`, pumped));
      for (const part of guest.parts) for (const actor of part.actors) this.scheduler.add(actor);
      firstHart += config.harts;
    }
    for (const guest of this.guests)
      for (const activity of activitiesFor(guest, this)) {
        this.activities.push(activity);
        this.scheduler.add(activity);
      }
  }

  private restoreRest(state: HostState): void {
    for (const [i, hart] of this.harts.entries()) hart.restore(state.harts[i]!);
    for (const [i, activity] of this.activities.entries()) activity.restore(state.activities[i]!);
    this.rng.restore(state.rng);
    this.scheduler.restore(state.turn);
    this.clock.restore(state.clock);
  }

  /** Loads a guest's program and starts it. @throws ElfError when it does not fit */
  boot(guest: Guest, image: ElfImage): void {
    guest.boot(image);
  }

  /** Something moves the guests' memory. */
  private get disturbed(): boolean {
    return this.activities.length > 0;
  }

  /** The hart that host processes run on. */
  get hostHart(): Hart {
    return this.harts[this.harts.length - 1]!;
  }

  /** Instructions retired by all vCPUs. */
  get retired(): number {
    return this.guests.reduce(
      (sum, guest) => sum + guest.vcpus.reduce((s, vcpu) => s + vcpu.state.retired, 0),
      0,
    );
  }

  /** Every guest has ended, and no activity holds anything any more. */
  get done(): boolean {
    return this.guests.every((g) => g.end !== null) && this.scheduler.allAsleep();
  }

  /** The machine may be saved now. */
  get quiet(): boolean {
    return this.scheduler.quiet;
  }

  /**
   * One turn of one actor, and a pass of the sanitizer when there is activity and one is due.
   * @param budget instructions that may retire in it, at most
   * @returns false when nothing can happen any more
   */
  step(budget: number): boolean {
    const going = this.scheduler.step(budget);
    if (this.disturbed && this.clock.now >= this.nextSanitizerPass && this.quiet) this.sanitize();
    return going;
  }

  /** The slice that runs at the moment ends after the instruction under way. */
  endSlice(): void {
    this.running?.hart.endSliceAt(0);
  }

  /** Checks every invariant of the kernel over its whole state. */
  sanitize(): void {
    this.sanitizerPasses++;
    this.nextSanitizerPass = this.clock.now + SANITIZER_GAP;
    this.violations.push(...checkKernel(this.k, { quiescent: this.quiet }));
    if (this.iommu !== null) this.violations.push(...checkIommu(this.iommu));
  }

  /**
   * Ends every VM and every process, as the last user of a host does, and checks that no frame and
   * no pin is left behind.
   */
  tearDown(): void {
    for (const vm of [...this.kvm.vms.values()]) destroyVm(this.kvm, vm);
    for (const mm of [...this.k.state.mms.values()]) if (!mm.exited) drive(mmExit(this.k, mm));
    for (const guest of this.guests) guest.releaseMemory();
    this.iommu?.shutdown();
    this.sanitize();
    const { stat } = this.k.state;
    const pins = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
    if (pins !== 0) this.violations.push(`leak: ${pins} pins were never released`);
    // The zero page stays, and the huge one, once anybody has read from it.
    const zeroes = this.k.state.hugeZeroFolio < 0 ? 1 : 1 + HPAGE_PMD_NR;
    const lost = this.memory.nrPages - zeroes - nrFreePages(this.k);
    if (lost !== 0) this.violations.push(`leak: ${lost} frames were never freed`);
  }

  /** Power has failed at an event that a part's config names. */
  get powerHasFailed(): boolean {
    return this.guests.some(({ parts }) => parts.some((part) => part.powerHasFailed === true));
  }

  /** Power fails: of what is on its way to media a part, chosen by the seed, has arrived. */
  powerFail(): void {
    for (const guest of this.guests)
      for (const part of guest.parts) part.powerFail?.(() => this.rng.chance(50));
  }

  /** The run is over: what belongs in files of the user is written. @throws Error where it cannot be */
  writeBack(): void {
    for (const guest of this.guests) for (const part of guest.parts) part.writeBack?.();
  }

  /**
   * The machine as data that is only valid until it goes on: to be written at once.
   * @throws Error while a path is suspended
   */
  save(): HostState {
    if (!this.quiet) throw new Error('a machine with a suspended path cannot be saved');
    return {
      config: this.config,
      memory: saveMemory(this.memory),
      clock: this.clock.save(),
      harts: this.harts.map((hart) => hart.save()),
      kernel: this.k.state,
      kvm: saveKvm(this.kvm),
      iommu: this.iommu?.save() ?? null,
      guests: this.guests.map((guest) => guest.save()),
      rng: this.rng.save(),
      turn: this.scheduler.save(),
      activities: this.activities.map((activity) => activity.save()),
      sanitizerPasses: this.sanitizerPasses,
      nextSanitizerPass: this.nextSanitizerPass,
      violations: [...this.violations],
    };
  }
}
