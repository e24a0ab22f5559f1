/**
 * ACLINT: software interrupts and timers of machine mode, in the memory map of SiFive's CLINT.
 *
 * RISC-V ACLINT 1.0-rc4, chapters 2 (MTIMER) and 3 (MSWI). Left out: SSWI, and writes to mtime,
 * which are ignored because the harts' `time` is the same counter. Registers are words and
 * double words (the bus splits those); any other access reads 0 and writes nothing.
 */
import { type Clock, INSTRUCTIONS_PER_TICK, type IrqLine, type MmioDevice } from '#emu';

/** msip of hart h is at ACLINT_MSIP + 4 h, mtimecmp at ACLINT_MTIMECMP + 8 h. */
export const ACLINT_MSIP = 0x0000;
export const ACLINT_MTIMECMP = 0x4000;
export const ACLINT_MTIME = 0xbff8;

/** Event of hart `arg`: mtime has reached mtimecmp. */
const EVENT_COMPARE = 0;

export interface AclintConfig {
  clock: Clock;
  /** Wires to each hart, by its number. */
  harts: readonly { msip: IrqLine; mtip: IrqLine }[];
}

/** What a saved machine keeps of the ACLINT; its events are the clock's. */
export interface AclintState {
  msip: number[];
  mtimecmp: Uint32Array;
}

export class Aclint implements MmioDevice {
  private readonly config: AclintConfig;
  /** 0 or 1, by hart. */
  private msip: number[];
  /** Low and high word, by hart; all ones after reset, so that no timer is due. */
  private mtimecmp: Uint32Array;

  constructor(config: AclintConfig) {
    this.config = config;
    this.msip = config.harts.map(() => 0);
    this.mtimecmp = new Uint32Array(2 * config.harts.length).fill(0xffff_ffff);
    config.clock.receive('aclint', (_kind, hart) => this.compare(hart));
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return 0;
    if (offset < ACLINT_MTIMECMP) return this.msip[offset >>> 2] ?? 0;
    const ticks = this.config.clock.ticks;
    if (offset === ACLINT_MTIME) return ticks >>> 0;
    if (offset === ACLINT_MTIME + 4) return Math.floor(ticks / 2 ** 32);
    return this.mtimecmp[(offset - ACLINT_MTIMECMP) >>> 2] ?? 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return;
    if (offset < ACLINT_MTIMECMP) {
      const hart = offset >>> 2;
      const wires = this.config.harts[hart];
      if (wires === undefined) return;
      this.msip[hart] = value & 1;
      wires.msip.set((value & 1) !== 0);
      return;
    }
    const word = (offset - ACLINT_MTIMECMP) >>> 2;
    if (word >= this.mtimecmp.length) return;
    this.mtimecmp[word] = value;
    this.compare(word >>> 1);
  }

  save(): AclintState {
    return { msip: this.msip.slice(), mtimecmp: this.mtimecmp.slice() };
  }

  /** Drives no line and schedules nothing: harts and clock are restored too. */
  restore(state: AclintState): void {
    this.msip = state.msip.slice();
    this.mtimecmp = state.mtimecmp.slice();
  }

  /** MTIP is the level of mtime >= mtimecmp (2.1); the clock calls again when it turns. */
  private compare(hart: number): void {
    const { clock, harts } = this.config;
    const ticks = this.mtimecmp[2 * hart + 1]! * 2 ** 32 + this.mtimecmp[2 * hart]!;
    const due = clock.ticks >= ticks;
    clock.cancel('aclint', EVENT_COMPARE, hart);
    const when = ticks * INSTRUCTIONS_PER_TICK;
    // Beyond 2^53 instructions no machine runs, and a number would not be exact.
    if (!due && when <= Number.MAX_SAFE_INTEGER) clock.at(when, 'aclint', EVENT_COMPARE, hart);
    harts[hart]?.mtip.set(due);
  }
}
