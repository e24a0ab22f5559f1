/**
 * A seeded driver of the whole of mm/: operations of several processes, devices and the kernel itself
 * run at once, stepped in an order that the seed decides, against a plain history of every word
 * (history.ts) and the sanitizer.
 *
 * The model knows no frames, no page tables and no COW: only what each process has written where.
 * Values are unique, so that a byte that leaks from one process to another is told from luck.
 */
import { Mmu, PAGE_SIZE, PhysMemory } from '#emu';
import {
  checkKernel,
  createKernel,
  createPolicy,
  ENOMEM,
  ENOSPC,
  HostProcess,
  type ExtentFs,
  extentCheck,
  type Kernel,
  lruAddDrainAll,
  type MmStruct,
  mmExit,
  nrFreePages,
  pageOnline,
  type Path,
  pipeRelease,
  type PolicyName,
  mappingPut,
  YP_WAIT,
} from '#mm';
import { folioMapcount, folioOf } from '../../../mm/folio/folio.ts';
import { isZeroFolio } from '../../../mm/folio/pin.ts';
import { reclaimFolio } from '../../../mm/swap/out.ts';
import { mmTryCreate } from '../../../mm/vma/mm.ts';
import { type Rng, rng } from '../../support/rng.ts';
import { createSecondaryMmu } from '../secondary-mmu.ts';
import { type History, UNKNOWN } from './history.ts';
import { beginHotplug, giveBack, type Taken } from './memory.ts';
import { closeOdp, type OdpModel } from './odp.ts';
import type { FileModel, Held, PipeModel, Process, Region, RemoteModel, Word } from './model.ts';
import { OPERATIONS } from './operations.ts';
import { dropHeld } from './pins.ts';

const MAX_PATHS = 4;
const MAX_PROCESSES = 4;
/** Waits in a row after which somebody who holds pages lets go: a DAX file waits for that (1.8, I14). */
const PATIENCE = 400;
/** Waits in a row, of all actors together, that are a deadlock. */
const MAX_WAITS = 20_000;
/** Where mappings go: each to a place of its own, until the end is reached and it begins again. */
const ARENA_START = 0x1000_0000;
const ARENA_END = 2 ** 37;
const HUGE = 512 * PAGE_SIZE;

/** What goes wrong where writeback does not look for pins, and a debugger writes through a reference. */
const DIRTIED_BEHIND =
  '1.12, 2.6, 2.7: I7, dirty and nothing promised: written behind the file system';
const BEHIND =
  '2.6: bytes that reached the page behind the file system are not on the device after fsync';
const LOST_BEHIND =
  '1.12, 2.6, 2.7: I8, clean and not on the device: written behind the file system';

interface Actor {
  name: string;
  process: Process | null;
  start: number;
  /** Its last step was a wait. */
  waits: boolean;
  path: Path<unknown>;
  done: (result: never) => void;
}

export interface RandomOptions {
  seed: number;
  policy: PolicyName;
  ramBytes: number;
  /** Prepares the kernel: swap, huge page pools, sizes of folios. */
  prepare?: (k: Kernel) => void;
  /** Of the RAM, zone MOVABLE and CMA. Default none. */
  movableBytes?: number;
  cmaBytes?: number;
}

export class RandomDriver {
  readonly k: Kernel;
  readonly random: Rng;
  /** Operations that have ended, by name; `name!` where they ended with an error. */
  readonly counts: Map<string, number>;
  readonly processes: Process[];
  readonly held: Held[];
  readonly files: FileModel[];
  readonly pipes: PipeModel[];
  readonly remotes: RemoteModel[];
  /** A memory block is on its way offline. */
  hotplugging: boolean;
  /** Memory regions by on-demand paging. */
  readonly odps: OdpModel[];
  /** What CMA and ranges have given out. */
  readonly taken: Taken[];
  /** File systems, whose own state has rules as well. */
  readonly filesystems: ExtentFs[];
  /** Run at the end, when every file is closed. */
  readonly closers: (() => Path<unknown>)[];
  /** What went wrong as the policy lets it, by rule. */
  readonly predicted: Map<string, number>;
  /** Values that went through a plain reference, to whatever page it led, and by which rule. */
  readonly strays: Map<number, string>;
  /** Steps so far: the time of the histories. */
  now: number;
  /** Operations begun. */
  begun: number;
  private readonly mmu: Mmu;
  private readonly actors: Actor[];
  private readonly weights: number;
  private readonly freeAtStart: number;
  private waits: number;
  private nextHva: number;
  private nextValue: number;
  private nextId: number;
  private focus: Region | undefined;

  constructor({ seed, policy, ramBytes, prepare, movableBytes = 0, cmaBytes = 0 }: RandomOptions) {
    const memory = new PhysMemory(ramBytes);
    const mmu = new Mmu(memory, 0);
    this.mmu = mmu;
    this.k = createKernel({
      memory,
      policy: createPolicy(policy),
      movableBytes,
      cmaBytes,
      tlb: {
        flushPage: (asid, hva) => mmu.hostSfenceVma(hva, asid),
        flushRange: (asid) => mmu.hostSfenceVma(undefined, asid),
        flushAsid: (asid) => mmu.hostSfenceVma(undefined, asid),
      },
    });
    this.k.checked = true;
    prepare?.(this.k);
    this.freeAtStart = nrFreePages(this.k) + this.pooled();
    this.k.watched = true;
    this.random = rng(seed);
    this.counts = new Map();
    this.processes = [];
    this.actors = [];
    this.held = [];
    this.files = [];
    this.pipes = [];
    this.remotes = [];
    this.hotplugging = false;
    this.odps = [];
    this.taken = [];
    this.filesystems = [];
    this.closers = [];
    this.predicted = new Map();
    this.strays = new Map();
    this.now = 0;
    this.begun = 0;
    this.waits = 0;
    this.nextHva = ARENA_START;
    this.nextValue = 1;
    this.nextId = 1;
    this.focus = undefined;
    this.weights = OPERATIONS.reduce((sum, { weight }) => sum + weight, 0);
  }

  /** Begins an operation where there is room for one, or steps one. */
  step(): void {
    this.now++;
    if (this.actors.length < MAX_PATHS && this.random.chance(0.5)) this.beginOne();
    else if (this.actors.length > 0) this.advance(this.pick());
  }

  private beginOne(): void {
    if (this.processes.length === 0) this.addProcess(mmTryCreate(this.k), []);
    let dice = this.random.below(this.weights);
    for (const operation of OPERATIONS) {
      dice -= operation.weight;
      if (dice >= 0) continue;
      this.begun++;
      operation.begin(this);
      return;
    }
  }

  /** Runs every path to its end. */
  drain(): void {
    while (this.actors.length > 0) {
      this.now++;
      this.advance(this.pick());
    }
  }

  /** What the sanitizer says; `quiescent` after drain(). */
  violations(quiescent: boolean): string[] {
    // With provenance on the sanitizer has to find them by itself.
    const gets =
      this.k.state.provenance !== null
        ? 0
        : this.held.reduce((sum, held) => sum + this.knownGets(held), 0);
    // A page that has been truncated and is in a batch is nobody's whom the sanitizer could name.
    if (quiescent) lruAddDrainAll(this.k);
    const report = checkKernel(this.k, { quiescent, gets });
    if (quiescent) for (const fs of this.filesystems) report.push(...extentCheck(this.k, fs));
    return report.filter((line) => !this.isPredicted(line));
  }

  /** Is it a rule of dirty pages, under a policy that lets them be dirtied behind the file system's back? */
  private isPredicted(line: string): boolean {
    if (this.k.policy.pinnedWriteback === 'bounce' || !/^I[78] /.test(line)) return false;
    this.predict(line.startsWith('I7') ? DIRTIED_BEHIND : LOST_BEHIND);
    return true;
  }

  /** Pages that the pools of hugetlb have. */
  private pooled(): number {
    return this.k.state.hugetlb.hstates.reduce(
      (sum, { order, nrPages }) => sum + nrPages * 2 ** order,
      0,
    );
  }

  /** References that the sanitizer can tell from an allocation: pages that have not been truncated. */
  private knownGets({ kind, pages, n }: Held): number {
    const { mapping } = this.k.state.frames;
    const piped = new Set(
      [...this.k.state.pipes.values()].flatMap(({ buffers }) =>
        buffers.filter(({ hold }) => hold !== 'pin').map(({ page }) => folioOf(this.k, page)),
      ),
    );
    const known = (page: number): boolean => {
      const folio = folioOf(this.k, page);
      return (
        mapping[folio] !== 0 ||
        piped.has(folio) ||
        isZeroFolio(this.k, folio) ||
        folioMapcount(this.k, folio) > 0
      );
    };
    return kind === 'get' ? pages.subarray(0, n).filter(known).length : 0;
  }

  /** Lets go of everything. @returns what is left over afterwards, one line each: nothing */
  finish(): string[] {
    this.drain();
    while (this.held.length > 0) dropHeld(this, 0);
    while (this.pipes.length > 0) this.closePipe(0);
    while (this.taken.length > 0) giveBack(this, 0);
    while (this.odps.length > 0) closeOdp(this, 0);
    this.drain();
    for (const process of [...this.processes]) this.exit(process);
    this.drain();
    for (const { mapping } of this.files.splice(0))
      this.start('put', null, mappingPut(this.k, mapping));
    this.drain();
    for (const close of this.closers) {
      this.start('close', null, close());
      this.drain();
    }
    this.filesystems.length = 0;
    // Pages that were locked when their last entry went stay in the swap cache until reclaim finds them.
    for (const page of new Set(this.k.state.swap.cache.values()))
      this.start('reclaim', null, reclaimFolio(this.k, folioOf(this.k, page)));
    this.drain();
    lruAddDrainAll(this.k);
    if (!pageOnline(this.k, this.k.state.frames.nrPages - 1)) beginHotplug(this);
    const left = this.violations(true);
    const { stat, swap, hugetlb } = this.k.state;
    const pins = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
    if (pins !== 0) left.push(`${pins} pins are left`);
    // The huge zero folio is made once, and stays.
    const kept = this.k.state.hugeZeroFolio >= 0 ? 512 : 0;
    // A free page of a pool is dissolved where its memory goes offline.
    const free = nrFreePages(this.k) + this.pooled();
    if (free + kept !== this.freeAtStart)
      left.push(`${this.freeAtStart - kept - free} frames are not free again`);
    if (swap.nrFree !== swap.nrSlots)
      left.push(`${swap.nrSlots - swap.nrFree} swap slots are left`);
    for (const { order, nrPages, free, reserved } of hugetlb.hstates)
      if (free.length !== nrPages || reserved !== 0)
        left.push(
          `hugetlb order ${order}: ${free.length} of ${nrPages} free, ${reserved} reserved`,
        );
    return left;
  }

  /** A number that two runs of one seed share, and hardly anybody else. */
  digest(): number {
    let hash = 0x811c9dc5;
    const mix = (n: number): void => {
      hash = Math.imul(hash ^ n, 0x01000193);
    };
    const { refcount, flags } = this.k.state.frames;
    for (let page = 0; page < refcount.length; page++) {
      mix(refcount[page]!);
      mix(flags[page]!);
    }
    const { i32 } = this.k.memory;
    for (let page = 0; page < this.k.memory.nrPages; page++)
      mix(i32[(this.k.memory.pageOffset(page) + 8) / 4]!);
    for (const n of this.counts.values()) mix(n);
    mix(this.now);
    return hash >>> 0;
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** Begins a path. @param done called with its result, in the step in which it ends */
  start<T>(
    name: string,
    process: Process | null,
    path: Path<T>,
    done: (result: T, start: number) => void = () => {},
  ): void {
    const start = this.now;
    if (process !== null) process.busy++;
    const actor: Actor = {
      name,
      process,
      start,
      waits: false,
      path,
      done: (result: never) => done(result, start),
    };
    this.actors.push(actor);
  }

  /** One that is to be stepped: mostly not one that waited the last time. */
  private pick(): number {
    const { random, actors } = this;
    const i = random.below(actors.length);
    return actors[i]?.waits === true && random.chance(0.8) ? random.below(actors.length) : i;
  }

  private advance(i: number): void {
    const actor = this.actors[i];
    if (actor === undefined) return;
    const step = actor.path.next();
    if (step.done === true) {
      this.actors.splice(i, 1);
      if (actor.process !== null) actor.process.busy--;
      this.waits = 0;
      const failed = typeof step.value === 'number' && step.value < 0;
      this.count(failed ? `${actor.name}!` : actor.name);
      actor.done(step.value as never);
      return;
    }
    actor.waits = step.value === YP_WAIT;
    this.waits = actor.waits ? this.waits + 1 : 0;
    if (this.waits > PATIENCE && this.letGo()) this.waits = 0;
    if (this.waits > MAX_WAITS)
      throw new Error(`deadlock among ${this.actors.map((a) => a.name).join(', ')}`);
  }

  /** Pages of a pin or a pipe are given back. @returns false: nobody holds any */
  private letGo(): boolean {
    if (this.held.length > 0) {
      dropHeld(this, this.random.below(this.held.length));
      return true;
    }
    // One that is being spliced into is in use.
    const idle = this.pipes.findIndex(({ busy }) => !busy);
    if (idle < 0) return false;
    this.closePipe(idle);
    return true;
  }

  /** Start of the oldest operation that is under way. */
  horizon(): number {
    return this.actors.reduce((oldest, { start }) => Math.min(oldest, start), this.now);
  }

  /** A value that nobody has stored before. */
  value(): number {
    this.nextValue = (this.nextValue + 1) & 0x3fff_ffff;
    return this.nextValue;
  }

  /** A place for a mapping where nothing has been for long, with as much room behind it. */
  place(lenBytes: number, huge: boolean): number {
    const align = huge ? HUGE : PAGE_SIZE;
    if (this.nextHva + 2 * lenBytes + 2 * HUGE > ARENA_END) this.nextHva = ARENA_START;
    const hva = Math.ceil(this.nextHva / align) * align;
    this.nextHva = hva + 2 * lenBytes;
    return hva;
  }

  addProcess(mm: MmStruct | null, regions: Region[]): Process | null {
    if (mm === null || this.processes.length >= MAX_PROCESSES) return null;
    const id = this.nextId++;
    const secondary = this.random.chance(0.5) ? createSecondaryMmu(this.k, mm, id) : null;
    const process: Process = {
      id,
      p: new HostProcess(this.k, mm, this.mmu),
      regions,
      secondary,
      busy: 0,
    };
    for (const region of regions) region.process = process;
    this.processes.push(process);
    return process;
  }

  /** A child that there is no room for: it ends unseen. */
  abandon(mm: MmStruct): void {
    this.start('exit', null, mmExit(this.k, mm));
  }

  /** No more processes for now. */
  full(): boolean {
    return this.processes.length >= MAX_PROCESSES;
  }

  /** Ends a process that nothing is under way in. */
  exit(process: Process): void {
    if (process.busy > 0) return;
    this.processes.splice(this.processes.indexOf(process), 1);
    for (const region of process.regions) {
      region.dead = true;
      if (region.kind !== 'shared') for (const { history } of region.words) history.epoch++;
    }
    this.start('exit', process, mmExit(this.k, process.p.mm));
  }

  /** Closes a pipe with whatever is in it. */
  closePipe(i: number): void {
    const [model] = this.pipes.splice(i, 1);
    if (model === undefined) return;
    pipeRelease(this.k, model.pipe);
    this.count('close pipe');
  }

  anyProcess(): Process | undefined {
    const { focus } = this;
    if (focus?.dead === false && this.random.chance(0.5)) return focus.process;
    return this.processes[this.random.below(Math.max(1, this.processes.length))];
  }

  /** Mostly the one that was chosen the last time: what meets, meets there. */
  anyRegion(): Region | undefined {
    if (this.focus?.dead === false && this.random.chance(0.6)) return this.focus;
    const process = this.anyProcess();
    if (process === undefined || process.regions.length === 0) return undefined;
    this.focus = process.regions[this.random.below(process.regions.length)];
    return this.focus;
  }

  /** A watched word and its number in the region. */
  anyWord(): { region: Region; i: number; word: Word } | undefined {
    const region = this.anyRegion();
    if (region === undefined || region.words.length === 0) return undefined;
    const i = this.random.below(this.random.chance(0.5) ? 1 : region.words.length);
    const word = region.words[i];
    return word === undefined ? undefined : { region, i, word };
  }

  /** Any frame: mostly one that something maps. */
  anyPage(): number {
    const { mapcount, nrPages } = this.k.state.frames;
    const from = this.random.below(nrPages);
    for (let i = 0; i < 256; i++)
      if (mapcount[(from + i) % nrPages]! > 0) return (from + i) % nrPages;
    return from;
  }

  /**
   * An operation that asks for writing to pages of these words begins.
   * @returns to be called at its end, with how many of them, from the first, it certainly reached
   */
  breakCow(histories: readonly History[]): (certain: number) => void {
    const start = this.now;
    for (const history of histories) history.breaksCow(start);
    return (certain) => {
      for (const [i, history] of histories.entries())
        history.brokeCow(start, this.now, i < certain);
    };
  }

  /** A read of `value` that took from `start` until now. @throws Error where no write explains it */
  read(what: string, history: History, value: number, start: number): void {
    if (!history.explains(value, start, this.now)) {
      if (this.excuses(value, history)) return;
      throw new Error(
        `${what} at ${start}..${this.now} read ${value}, of which no write is left: ${history.describe()}`,
      );
    }
    history.settle(value, Math.min(start, this.horizon()));
  }

  /** Is there a rule by which a word may have a value that nobody has written to it? Then it is counted. */
  excuses(value: number, history: History): boolean {
    const rule = this.strays.get(value) ?? history.rule();
    if (rule !== null && rule !== UNKNOWN) this.predict(rule);
    return rule !== null;
  }

  /** Something is wrong that the policy lets go wrong. @param rule section of what is known of GUP, and in words */
  predict(rule: string): void {
    this.predicted.set(rule, (this.predicted.get(rule) ?? 0) + 1);
  }

  /** Did the mapping of a word change since `start`, or its file end before it, so that an access may have failed? */
  mayFail(word: Word, start: number): boolean {
    if (word.region.dead || word.changing > 0 || word.changed >= start) return true;
    const { file } = word.region;
    if (file === null) return false;
    return file.changing > 0 || file.changed >= start || word.inFile * file.stride >= file.nrPages;
  }

  /** A read() or write() that failed, or moved fewer bytes, must have had a reason. */
  excuseFile(file: FileModel, what: string, error: number, start: number): void {
    if (error === -ENOMEM || error === -ENOSPC) return;
    if (file.changing > 0 || file.changed >= start) return;
    throw new Error(`${what} of ${file.name}: ${error}, and nothing in its way`);
  }

  /**
   * Somebody writes who is not the CPU. To a shared mapping of a file that is written back the file
   * system may not see it: then the bytes are lost when the page leaves the cache, or with the power.
   */
  writesBehind({ region: { file, kind }, history }: Word): void {
    if (file?.mapping.kind !== 'extent' || kind !== 'shared') return;
    if (this.k.policy.pinnedWriteback === 'ignore') history.strange ??= BEHIND;
  }

  /** A file that fits. */
  anyFile(fits: (file: FileModel) => boolean): FileModel | undefined {
    const files = this.files.filter(fits);
    return files[this.random.below(Math.max(1, files.length))];
  }
}
