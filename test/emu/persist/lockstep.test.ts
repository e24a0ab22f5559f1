/**
 * Random stores, write-backs, fences and hints against the definition: a store is certain when a
 * write-back of its line by some hart has followed, then a fence of that hart, then (none) a hint; in
 * eADR when a fence of its own hart has. Of a line every prefix can be there that has all certain stores.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '../../../emu/layout.ts';
import { NO_HART, PhysMemory } from '../../../emu/memory.ts';
import { PersistDomain, type PersistMode } from '../../../emu/persist/domain.ts';
import { rng, type Rng } from '../../support/rng.ts';

const FRAME = 7;
const LINES = 4;
const HARTS = 3;
const LINE = 64;

type Happening =
  | { kind: 'unit'; hart: number; line: number; after: string }
  | { kind: 'clean'; hart: number; line: number }
  | { kind: 'fence'; hart: number }
  | { kind: 'hint' };

/** Everything that has happened, and what follows from it by the definition. */
class Plain {
  readonly history: Happening[] = [];
  readonly bytes = new Uint8Array(LINES * LINE);
  private readonly mode: PersistMode;

  constructor(mode: PersistMode) {
    this.mode = mode;
  }

  lineText(line: number): string {
    return Buffer.from(this.bytes.subarray(line * LINE, (line + 1) * LINE)).toString('hex');
  }

  /** Bytes are stored: unit by unit, each of them whole. */
  store(hart: number, at: number, bytes: Uint8Array): void {
    for (let unit = at - (at % 8); unit < at + bytes.length; unit += 8) {
      for (let byte = Math.max(unit, at); byte < Math.min(unit + 8, at + bytes.length); byte++)
        this.bytes[byte] = bytes[byte - at]!;
      const line = Math.floor(unit / LINE);
      this.history.push({ kind: 'unit', hart, line, after: this.lineText(line) });
    }
  }

  private certain(index: number, line: number, hart: number): boolean {
    const later = this.history.slice(index + 1);
    if (this.mode === 'eadr')
      return hart === NO_HART || later.some((h) => h.kind === 'fence' && h.hart === hart);
    return later.some((clean, i) => {
      if (clean.kind !== 'clean' || clean.line !== line) return false;
      const afterClean = later.slice(i + 1);
      const fence = afterClean.findIndex((h) => h.kind === 'fence' && h.hart === clean.hart);
      if (fence < 0) return false;
      return this.mode === 'adr' || afterClean.slice(fence + 1).some((h) => h.kind === 'hint');
    });
  }

  /** Every state that the line can have. */
  states(line: number): Set<string> {
    let states = ['00'.repeat(LINE)];
    this.history.forEach((h, index) => {
      if (h.kind !== 'unit' || h.line !== line) return;
      states = this.certain(index, line, h.hart) ? [h.after] : [...states, h.after];
    });
    return new Set(states);
  }
}

const run = (mode: PersistMode, random: Rng): void => {
  const memory = new PhysMemory(32 * PAGE_SIZE);
  const firstOffset = memory.pageOffset(FRAME);
  const make = { memory, firstOffset, lenBytes: PAGE_SIZE, mode };
  let domain = new PersistDomain(make);
  const plain = new Plain(mode);
  for (let step = 0; step < 60; step++) {
    const hart = random.below(HARTS);
    const line = random.below(LINES);
    switch (random.below(8)) {
      case 0:
      case 1:
        domain.clean(hart, firstOffset + line * LINE + random.below(LINE));
        plain.history.push({ kind: 'clean', hart, line });
        break;
      case 2:
        domain.fence(hart);
        plain.history.push({ kind: 'fence', hart });
        break;
      case 3:
        domain.flushHint();
        plain.history.push({ kind: 'hint' });
        break;
      case 4: {
        // Saved and made again: nothing of it is lost.
        const state = structuredClone(domain.save());
        domain.detach();
        domain = new PersistDomain(make, state);
        break;
      }
      default: {
        const lenBytes = random.chance(0.5) ? 8 : 1 + random.below(20);
        const at = Math.min(line * LINE + random.below(LINE), LINES * LINE - lenBytes);
        const bytes = Uint8Array.from({ length: lenBytes }, () => random.below(3));
        const who = random.chance(0.1) ? NO_HART : hart;
        memory.hart = who;
        memory.setBytes(firstOffset + at, bytes);
        memory.hart = NO_HART;
        plain.store(who, at, bytes);
      }
    }
    for (let l = 0; l < LINES; l++) {
      const states = Array.from({ length: domain.choicesOf(l) }, (_, n) =>
        Buffer.from(domain.lineAfter(l, n)).toString('hex'),
      );
      expect([...new Set(states)].sort(), `${mode}, step ${step}, line ${l}`).toEqual(
        [...plain.states(l)].sort(),
      );
      expect(states.at(-1)).toBe(plain.lineText(l));
    }
  }
};

describe.each(['adr', 'eadr', 'none'] as const)('%s', (mode) => {
  it('every line has exactly the states of the definition, after every step of 40 runs', () => {
    for (let seed = 1; seed <= 40; seed++) run(mode, rng(seed * 7919));
  });
});
