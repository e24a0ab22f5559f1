/**
 * The IOMMU's performance monitor: a counter of cycles, and seven of events with filters by ids. RISC-V
 * IOMMU 1.0, "Performance-monitoring event selectors". A cycle is an instruction of the machine.
 */
import type { Clock } from '#emu';
import {
  HPM_EVENT_FIRST_STAGE_WALK,
  HPM_EVENT_SECOND_STAGE_WALK,
  HPM_EVENT_TLB_MISS,
} from './registers.ts';

/** Counters of events that there are; the others read 0. */
export const HPM_NR_COUNTERS = 7;

const EVT_DMASK = 1 << 15;
const EVT_EVENT_MASK = 0x7fff;
const EVT_HI_PV = 1 << 28;
const EVT_HI_DV = 1 << 29;
const EVT_HI_IDT = 1 << 30;
const EVT_HI_OF = 1 << 31;
const CYCLES_MAX = 2 ** 63;

/** Whose event it is; -1: has none. */
export interface HpmIds {
  deviceId: number;
  processId: number;
  gscid: number;
  pscid: number;
}

/** What a saved machine keeps of the monitor. Plain data. */
export interface HpmState {
  inhibit: number;
  counters: Uint32Array;
  events: Uint32Array;
  cycles: number;
  cyclesOverflowed: boolean;
  cyclesSince: number;
}

export class Hpm {
  /** Some counter counts something: requests have to be looked at. */
  active: boolean;
  private inhibit: number;
  /** Low and high words: of counter n at 2 (n - 1). */
  private readonly counters: Uint32Array;
  private readonly events: Uint32Array;
  /** Cycles up to `cyclesSince`, and OF. Beyond 2^53 the last bits are lost. */
  private cycles: number;
  private cyclesOverflowed: boolean;
  private cyclesSince: number;
  private readonly clock: Clock | undefined;
  private readonly interrupt: () => void;

  constructor(clock: Clock | undefined, interrupt: () => void) {
    this.active = false;
    this.inhibit = 0;
    this.counters = new Uint32Array(2 * HPM_NR_COUNTERS);
    this.events = new Uint32Array(2 * HPM_NR_COUNTERS);
    this.cycles = 0;
    this.cyclesOverflowed = false;
    this.cyclesSince = 0;
    this.clock = clock;
    this.interrupt = interrupt;
  }

  /* ---- registers ---- */

  get iocountinh(): number {
    return this.inhibit >>> 0;
  }

  set iocountinh(value: number) {
    this.settleCycles();
    this.inhibit = value & (2 ** (HPM_NR_COUNTERS + 1) - 1);
    this.updateActive();
  }

  get iocountovf(): number {
    this.settleCycles();
    let bits = this.cyclesOverflowed ? 1 : 0;
    for (let n = 1; n <= HPM_NR_COUNTERS; n++)
      if ((this.events[2 * n - 1]! & EVT_HI_OF) !== 0) bits |= 1 << n;
    return bits;
  }

  readCycles(high: boolean): number {
    this.settleCycles();
    if (!high) return this.cycles % 2 ** 32;
    return Math.floor(this.cycles / 2 ** 32) + (this.cyclesOverflowed ? 2 ** 31 : 0);
  }

  writeCycles(high: boolean, value: number): void {
    this.settleCycles();
    if (high) {
      this.cycles = (value & 0x7fff_ffff) * 2 ** 32 + (this.cycles % 2 ** 32);
      this.cyclesOverflowed = value >>> 31 !== 0;
    } else this.cycles = Math.floor(this.cycles / 2 ** 32) * 2 ** 32 + (value >>> 0);
  }

  /** @param word index into the registers of all 31 counters, two words each */
  readCounter(word: number): number {
    return this.counters[word] ?? 0;
  }

  writeCounter(word: number, value: number): void {
    if (word < this.counters.length) this.counters[word] = value;
  }

  readEvent(word: number): number {
    return this.events[word] ?? 0;
  }

  writeEvent(word: number, value: number): void {
    if (word >= this.events.length) return;
    // An event that there is not counts nothing: the field reads 0.
    const unknown = word % 2 === 0 && (value & EVT_EVENT_MASK) > HPM_EVENT_SECOND_STAGE_WALK;
    this.events[word] = unknown ? value & ~EVT_EVENT_MASK : value;
    this.updateActive();
  }

  /* ---- events ---- */

  /** An event has happened `times` times. */
  count(event: number, ids: Readonly<HpmIds>, times: number): void {
    for (let n = 1; n <= HPM_NR_COUNTERS; n++) {
      const at = 2 * (n - 1);
      if ((this.events[at]! & EVT_EVENT_MASK) !== event) continue;
      if ((this.inhibit & (1 << n)) === 0 && this.matches(at, event, ids)) this.add(at, times);
    }
  }

  private matches(at: number, event: number, ids: Readonly<HpmIds>): boolean {
    const lo = this.events[at]!;
    const hi = this.events[at + 1]!;
    const bySoftwareId = (hi & EVT_HI_IDT) !== 0;
    const ofTables =
      event === HPM_EVENT_TLB_MISS ||
      event === HPM_EVENT_FIRST_STAGE_WALK ||
      event === HPM_EVENT_SECOND_STAGE_WALK;
    if (bySoftwareId && !ofTables) return false;
    const process = bySoftwareId ? ids.pscid : ids.processId;
    const device = bySoftwareId ? ids.gscid : ids.deviceId;
    if ((hi & EVT_HI_DV) !== 0) {
      const wanted = (hi >>> 4) & 0xff_ffff;
      // With DMASK: all bits up to the lowest zero are masked.
      const masked = (lo & EVT_DMASK) !== 0 ? wanted ^ (wanted + 1) : 0;
      if (device < 0 || ((device ^ wanted) & ~masked) !== 0) return false;
      // A filter of both lets a transaction of the device pass that has no process_id.
      if (!bySoftwareId && process < 0) return true;
    }
    if ((hi & EVT_HI_PV) === 0) return true;
    return process >= 0 && process === (((hi & 0xf) << 16) | (lo >>> 16));
  }

  private add(at: number, times: number): void {
    const lo = this.counters[at]! + times;
    this.counters[at] = lo;
    if (lo < 2 ** 32) return;
    const hi = this.counters[at + 1]! + 1;
    this.counters[at + 1] = hi;
    if (hi < 2 ** 32) return;
    if ((this.events[at + 1]! & EVT_HI_OF) !== 0) return;
    this.events[at + 1] = this.events[at + 1]! | EVT_HI_OF;
    this.interrupt();
  }

  private updateActive(): void {
    this.active = false;
    for (let n = 1; n <= HPM_NR_COUNTERS; n++)
      if ((this.events[2 * (n - 1)]! & EVT_EVENT_MASK) !== 0 && (this.inhibit & (1 << n)) === 0)
        this.active = true;
  }

  /** Brings the cycles up to now. An overflow is noticed when somebody looks. */
  private settleCycles(): void {
    const now = this.clock?.now ?? 0;
    if ((this.inhibit & 1) === 0) this.cycles += now - this.cyclesSince;
    this.cyclesSince = now;
    if (this.cycles < CYCLES_MAX) return;
    this.cycles -= CYCLES_MAX;
    if (this.cyclesOverflowed) return;
    this.cyclesOverflowed = true;
    this.interrupt();
  }

  save(): HpmState {
    const { inhibit, cycles, cyclesOverflowed, cyclesSince } = this;
    return {
      inhibit,
      counters: this.counters.slice(),
      events: this.events.slice(),
      cycles,
      cyclesOverflowed,
      cyclesSince,
    };
  }

  restore(state: HpmState): void {
    this.inhibit = state.inhibit;
    this.counters.set(state.counters);
    this.events.set(state.events);
    this.cycles = state.cycles;
    this.cyclesOverflowed = state.cyclesOverflowed;
    this.cyclesSince = state.cyclesSince;
    this.updateActive();
  }
}
