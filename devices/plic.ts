/**
 * PLIC: the platform-level interrupt controller, level-triggered gateways and hart contexts.
 *
 * RISC-V PLIC 1.0.0. Priorities have three bits, as on QEMU's `virt` board. Context 2 h is hart h's
 * machine mode, 2 h + 1 its supervisor mode. Registers are words; any other access reads 0 and
 * writes nothing, as do the places of sources and contexts that do not exist.
 */
import type { IrqLine, MmioDevice } from '#emu';

export const PLIC_PRIORITY = 0x00_0000; // + 4 source
export const PLIC_PENDING = 0x00_1000; // one bit a source
export const PLIC_ENABLE = 0x00_2000; // + 0x80 context, one bit a source
export const PLIC_ENABLE_STRIDE = 0x80;
export const PLIC_CONTEXT = 0x20_0000; // + 0x1000 context: threshold, then claim/complete
export const PLIC_CONTEXT_STRIDE = 0x1000;
export const PLIC_THRESHOLD = 0;
export const PLIC_CLAIM = 4;
/** Priorities and thresholds go from 0 (never interrupts) to this. */
export const PLIC_MAX_PRIORITY = 7;

export interface PlicConfig {
  /** Highest source. */
  nrSources: number;
  /** External-interrupt inputs of the harts, by context. */
  contexts: readonly IrqLine[];
}

/** What a saved machine keeps of the PLIC. Bit arrays are 32 sources a word. */
export interface PlicState {
  priority: Uint8Array;
  threshold: Uint8Array;
  enable: Int32Array;
  pending: Int32Array;
  level: Int32Array;
  inService: Int32Array;
  notified: Uint8Array;
}

export class Plic implements MmioDevice {
  private readonly config: PlicConfig;
  /** Words of one bit array. */
  private readonly nrWords: number;
  private readonly lines: IrqLine[];
  private s: PlicState;

  constructor(config: PlicConfig) {
    this.config = config;
    this.nrWords = (config.nrSources >>> 5) + 1;
    this.s = {
      priority: new Uint8Array(config.nrSources + 1),
      threshold: new Uint8Array(config.contexts.length),
      enable: new Int32Array(config.contexts.length * this.nrWords),
      pending: new Int32Array(this.nrWords),
      level: new Int32Array(this.nrWords),
      // Requests that were claimed and are not completed: their gateways are shut.
      inService: new Int32Array(this.nrWords),
      // What each context was last told.
      notified: new Uint8Array(config.contexts.length),
    };
    this.lines = Array.from({ length: config.nrSources + 1 }, (_, source) => ({
      set: (level: boolean) => this.setLevel(source, level),
    }));
  }

  /** The input wire of a source. @throws RangeError when there is no such source */
  source(source: number): IrqLine {
    const line = source > 0 ? this.lines[source] : undefined;
    if (line === undefined) throw new RangeError(`plic: no source ${source}`);
    return line;
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return 0;
    if (offset < PLIC_PENDING) return this.s.priority[offset >>> 2] ?? 0;
    if (offset < PLIC_ENABLE) return this.s.pending[(offset - PLIC_PENDING) >>> 2] ?? 0;
    if (offset < PLIC_CONTEXT) {
      const index = this.enableIndex(offset);
      return index < 0 ? 0 : this.s.enable[index]!;
    }
    const context = (offset - PLIC_CONTEXT) >>> 12;
    if (context >= this.config.contexts.length) return 0;
    const register = offset & (PLIC_CONTEXT_STRIDE - 1);
    if (register === PLIC_THRESHOLD) return this.s.threshold[context]!;
    return register === PLIC_CLAIM ? this.claim(context) : 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return;
    if (offset < PLIC_PENDING) {
      const source = offset >>> 2;
      if (source === 0 || source > this.config.nrSources) return;
      this.s.priority[source] = value & PLIC_MAX_PRIORITY;
    } else if (offset < PLIC_ENABLE) {
      return; // pending bits are cleared by claims alone (chapter 5)
    } else if (offset < PLIC_CONTEXT) {
      const index = this.enableIndex(offset);
      if (index < 0) return;
      this.s.enable[index] = value & this.existing(index % this.nrWords);
    } else {
      const context = (offset - PLIC_CONTEXT) >>> 12;
      if (context >= this.config.contexts.length) return;
      const register = offset & (PLIC_CONTEXT_STRIDE - 1);
      if (register === PLIC_THRESHOLD) this.s.threshold[context] = value & PLIC_MAX_PRIORITY;
      else if (register === PLIC_CLAIM) this.complete(context, value);
    }
    this.notify();
  }

  save(): PlicState {
    return structuredClone(this.s);
  }

  /** Drives no line: the harts are restored too. */
  restore(state: PlicState): void {
    this.s = structuredClone(state);
  }

  /**
   * A gateway: the first assertion becomes a request, and no other one until its completion.
   * A request that was forwarded stays, even if the level falls (1.2).
   */
  private setLevel(source: number, level: boolean): void {
    const word = source >>> 5;
    const bit = 1 << (source & 31);
    if (level) this.s.level[word]! |= bit;
    else this.s.level[word]! &= ~bit;
    if (!level || (this.s.inService[word]! & bit) !== 0) return;
    if ((this.s.pending[word]! & bit) !== 0) return;
    this.s.pending[word]! |= bit;
    this.notify();
  }

  /** Takes the best pending request, whatever the threshold (chapter 8). Returns 0 without one. */
  private claim(context: number): number {
    const source = this.best(context);
    if (source === 0) return 0;
    this.s.pending[source >>> 5]! &= ~(1 << (source & 31));
    this.s.inService[source >>> 5]! |= 1 << (source & 31);
    this.notify();
    return source;
  }

  /** Ignored when the source is not enabled for the context (chapter 9). */
  private complete(context: number, source: number): void {
    if (source === 0 || source > this.config.nrSources) return;
    const word = source >>> 5;
    const bit = 1 << (source & 31);
    if ((this.s.enable[context * this.nrWords + word]! & bit) === 0) return;
    if ((this.s.inService[word]! & bit) === 0) return;
    this.s.inService[word]! &= ~bit;
    if ((this.s.level[word]! & bit) !== 0) this.s.pending[word]! |= bit;
  }

  /** Enabled pending source of the highest priority, the lowest number among equals; 0 = none. */
  private best(context: number): number {
    let best = 0;
    let bestPriority = 0;
    for (let word = 0; word < this.nrWords; word++) {
      let bits = this.s.pending[word]! & this.s.enable[context * this.nrWords + word]!;
      while (bits !== 0) {
        const source = word * 32 + (31 - Math.clz32(bits & -bits));
        bits &= bits - 1;
        const priority = this.s.priority[source]!;
        if (priority > bestPriority) {
          best = source;
          bestPriority = priority;
        }
      }
    }
    return best;
  }

  /** Tells every context whose notification has changed (1.3). */
  private notify(): void {
    this.config.contexts.forEach((line, context) => {
      const priority = this.s.priority[this.best(context)]!;
      const level = priority > this.s.threshold[context]! ? 1 : 0;
      if (level === this.s.notified[context]) return;
      this.s.notified[context] = level;
      line.set(level !== 0);
    });
  }

  /** Index of an enable word, or -1 where there is no such context or source. */
  private enableIndex(offset: number): number {
    const context = ((offset - PLIC_ENABLE) / PLIC_ENABLE_STRIDE) | 0;
    const word = (offset & (PLIC_ENABLE_STRIDE - 1)) >>> 2;
    const exists = context < this.config.contexts.length && word < this.nrWords;
    return exists ? context * this.nrWords + word : -1;
  }

  /** Bits of a word that belong to sources which exist. */
  private existing(word: number): number {
    const first = word === 0 ? ~1 : ~0;
    const beyond = this.config.nrSources + 1 - word * 32;
    return beyond >= 32 ? first : first & ((1 << beyond) - 1);
  }
}
