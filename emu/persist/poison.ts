/**
 * Bytes of persistent media that cannot be read any more: an error that the memory controller finds, of
 * a whole unit of 256 bytes, and hands to whoever loads one of them.
 *
 * It goes with a command, or when the unit has been written again as a whole: line by line, each line at
 * once, because a smaller store would first have to read the line. Compare nd_region badblocks.
 */
import { PAGE_SHIFT } from '../layout.ts';
import { PERSIST_LINE_BYTES } from './lines.ts';

/** Bytes that go bad together. */
export const POISON_UNIT_BYTES = 256;

const LINES_OF_UNIT = POISON_UNIT_BYTES / PERSIST_LINE_BYTES;
const ALL_LINES = (1 << LINES_OF_UNIT) - 1;

export interface PoisonState {
  units: number[];
  overwritten: [unit: number, lines: number][];
}

/** All addresses count from the first byte of the media. */
export class Poison {
  private readonly units: Set<number>;
  /** Lines of a unit that have been written again, as bits. */
  private readonly overwritten: Map<number, number>;

  constructor(state?: PoisonState) {
    this.units = new Set(state?.units);
    this.overwritten = new Map(state?.overwritten);
  }

  get nrUnits(): number {
    return this.units.size;
  }

  add(at: number, lenBytes: number): void {
    for (let unit = first(at); unit <= last(at, lenBytes); unit++) {
      this.units.add(unit);
      this.overwritten.delete(unit);
    }
  }

  /** Makes the units good that begin and end in the range. @returns where they are, and how long */
  clear(at: number, lenBytes: number): [at: number, lenBytes: number][] {
    const cleared: [number, number][] = [];
    const whole = Math.floor((at + lenBytes) / POISON_UNIT_BYTES);
    for (let unit = Math.ceil(at / POISON_UNIT_BYTES); unit < whole; unit++)
      if (this.forget(unit)) cleared.push([unit * POISON_UNIT_BYTES, POISON_UNIT_BYTES]);
    return cleared;
  }

  /** Bytes were stored at once. @returns whether a unit is good again by that */
  overwrite(at: number, lenBytes: number): boolean {
    if (this.units.size === 0) return false;
    let good = false;
    const end = Math.floor((at + lenBytes) / PERSIST_LINE_BYTES);
    for (let line = Math.ceil(at / PERSIST_LINE_BYTES); line < end; line++) {
      const unit = Math.floor(line / LINES_OF_UNIT);
      if (!this.units.has(unit)) continue;
      const lines = (this.overwritten.get(unit) ?? 0) | (1 << (line % LINES_OF_UNIT));
      if (lines !== ALL_LINES) this.overwritten.set(unit, lines);
      else good = this.forget(unit) || good;
    }
    return good;
  }

  touches(at: number, lenBytes: number): boolean {
    if (this.units.size === 0) return false;
    for (let unit = first(at); unit <= last(at, lenBytes); unit++)
      if (this.units.has(unit)) return true;
    return false;
  }

  /** Runs of poisoned units that the range touches, ascending. */
  ranges(from: number, lenBytes: number): [at: number, lenBytes: number][] {
    const ranges: [number, number][] = [];
    for (const unit of [...this.units].sort((a, b) => a - b)) {
      if (unit < first(from) || unit > last(from, lenBytes)) continue;
      const before = ranges.at(-1);
      const at = unit * POISON_UNIT_BYTES;
      if (before !== undefined && before[0] + before[1] === at) before[1] += POISON_UNIT_BYTES;
      else ranges.push([at, POISON_UNIT_BYTES]);
    }
    return ranges;
  }

  /** Pages with poisoned bytes. */
  pages(): Set<number> {
    const pages = new Set<number>();
    for (const unit of this.units) pages.add((unit * POISON_UNIT_BYTES) >>> PAGE_SHIFT);
    return pages;
  }

  save(): PoisonState {
    return { units: [...this.units], overwritten: [...this.overwritten] };
  }

  private forget(unit: number): boolean {
    this.overwritten.delete(unit);
    return this.units.delete(unit);
  }
}

const first = (at: number): number => Math.floor(at / POISON_UNIT_BYTES);
const last = (at: number, lenBytes: number): number =>
  Math.floor((at + lenBytes - 1) / POISON_UNIT_BYTES);
