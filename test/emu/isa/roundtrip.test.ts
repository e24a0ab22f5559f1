/** The instruction table, and every row of it from text to bits to record to text and back. */
import { describe, expect, it } from 'vitest';
import { assemble } from '../../../emu/asm/assemble.ts';
import { decode, findRow } from '../../../emu/isa/decode.ts';
import { disassemble } from '../../../emu/isa/disassemble.ts';
import { FORMAT_FENCE_NAMED } from '../../../emu/isa/formats.ts';
import { OP_COUNT, OP_ILLEGAL, OP_PAGE_END } from '../../../emu/isa/ops.ts';
import { recordLength, recordOp, recordRd, recordRs1, recordRs2 } from '../../../emu/isa/record.ts';
import { COMPRESSED, INSTRUCTIONS, OP_NAMES } from '../../../emu/isa/table.ts';
import { rng } from '../../support/rng.ts';
import { sample } from './operands.ts';

const ALL = [...INSTRUCTIONS, ...COMPRESSED];
const NAMED = ALL.filter(([mnemonic]) => mnemonic !== '');

/** An instruction's bytes as a number. */
const rawOf = (bytes: Uint8Array): number => bytes.reduceRight((raw, byte) => (raw << 8) | byte, 0);

/** Bytes of one instruction, or undefined where its operands are reserved. */
const assembleUnlessReserved = (text: string): Uint8Array | undefined => {
  try {
    return assemble(text).bytes;
  } catch (error) {
    if (String(error).includes('reserved or another instruction')) return undefined;
    throw error;
  }
};

describe('the instruction table', () => {
  it('gives every number from 3 on to a mnemonic of its own', () => {
    const used = new Set(INSTRUCTIONS.map(([, , , , op]) => op));
    for (let op = OP_PAGE_END + 1; op < OP_COUNT; op++)
      expect(used.has(op), `number ${op}`).toBe(true);
    expect(OP_NAMES.length).toBe(OP_COUNT);
    expect(new Set(OP_NAMES).size).toBe(OP_COUNT);
    expect(OP_NAMES.includes('')).toBe(false);
  });

  it('has each mnemonic once', () => {
    const names = NAMED.map(([mnemonic]) => mnemonic);
    expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
  });

  it('has every bit of an encoding either fixed or in an operand, except what fences ignore', () => {
    for (const [mnemonic, match, mask, f] of NAMED) {
      expect(match & ~mask, mnemonic).toBe(0);
      if (mnemonic.startsWith('fence')) continue;
      let fields = 0;
      for (const r of [f.rd, f.rs1, f.rs2]) fields |= r.mask << r.shift;
      for (const [at, width] of f.imm) fields |= ((1 << width) - 1) << at;
      const width = (match & 3) === 3 ? 0xffff_ffff : 0xffff;
      expect(((fields | mask) & width) >>> 0, mnemonic).toBe(width);
      expect(fields & mask, mnemonic).toBe(0);
    }
  });

  it('is unambiguous: where two rows fit, one is a special case, or a third is of both', () => {
    const ambiguous: string[] = [];
    for (const a of ALL)
      for (const b of ALL) {
        if (a === b || ((a[1] & 3) === 3) !== ((b[1] & 3) === 3)) continue;
        const common = a[2] & b[2];
        if (((a[1] ^ b[1]) & common) !== 0) continue;
        const nested = a[2] !== b[2] && (common === (a[2] | 0) || common === (b[2] | 0));
        const both = ALL.some(([, m, k]) => k === (a[2] | b[2]) && m === (a[1] | b[1]));
        if (!nested && !both) ambiguous.push(`${a[0]} and ${b[0]}`);
      }
    expect(ambiguous).toEqual([]);
  });
});

describe('text -> bits -> record -> text -> bits', () => {
  const record = new Int32Array(2);
  const random = rng(0x15a);
  for (const row of NAMED) {
    const [mnemonic, match, , f, op] = row;
    it(mnemonic, () => {
      // The sets of fence.tso are in its mnemonic, and in its record.
      const immOf = (imm: number): number => (f === FORMAT_FENCE_NAMED ? match >>> 20 : imm);
      const wanted = f.operands.length === 0 ? 1 : 60;
      let done = 0;
      for (let tries = 0; done < wanted && tries < 10 * wanted; tries++) {
        const s = sample(row, random);
        const bytes = assembleUnlessReserved(s.text);
        if (bytes === undefined) continue;
        const raw = rawOf(bytes);
        // `fence w, 0` has a row of its own, pause.
        if (findRow(raw) !== row) continue;
        done++;
        const length = (match & 3) === 3 ? 2 : 1;
        expect(bytes.length).toBe(length * 2);
        // What follows a compressed instruction in its word does not count.
        const word = length === 1 ? raw | (random.u32() << 16) : raw;
        expect(decode(word, record, 0)).toBe(length);
        const [word0 = 0, imm] = record;
        const got = [recordOp(word0), recordRd(word0), recordRs1(word0), recordRs2(word0), imm];
        expect(got, s.text).toEqual([op, s.rd === 0 ? 32 : s.rd, s.rs1, s.rs2, immOf(s.imm)]);
        expect(recordLength(word0)).toBe(length);
        expect(disassemble(word)).toBe(s.text);
        const pc = (random.u64() >> 1n) << 1n;
        const again = assemble(disassemble(word, pc), { origin: pc }).bytes;
        expect(rawOf(again), s.text).toBe(raw);
      }
      expect(done).toBe(wanted);
    });
  }
});

describe('disassembly', () => {
  it('assembles to the same bits again, whatever the word is', () => {
    const random = rng(7);
    for (let i = 0; i < 5_000; i++) {
      // A row's encoding with random operands, and every second time with some fixed bits flipped.
      const [, match, mask] = random.pick(ALL);
      const flips = i % 2 === 0 ? 0 : random.u32() & random.u32() & random.u32() & ~3;
      const word = (match | (random.u32() & ~mask)) ^ flips;
      const text = disassemble(word, 0x8000_0000);
      const bytes = assemble(text, { origin: 0x8000_0000 }).bytes;
      expect(rawOf(bytes), text).toBe((word & 3) === 3 ? word : word & 0xffff);
    }
  });

  it('shows an encoding with bits that a fence ignores as data, and says what it does', () => {
    expect(disassemble(0x0ff0_0a0f)).toBe('.word 0x0ff00a0f # fence');
    expect(disassemble(0x0000_100f)).toBe('fence.i');
    expect(disassemble(0x0000_108f)).toBe('.word 0x0000108f # fence.i');
  });
});

describe('illegal encodings', () => {
  const record = new Int32Array(2);
  for (const { fact, raw, length } of [
    { fact: 'all zeros (26.5)', raw: 0, length: 1 },
    { fact: 'all ones', raw: 0xffff_ffff, length: 2 },
    { fact: 'SLLIW with bit 5 of the shift amount set (4.2.1)', raw: 0x0205_151b, length: 2 },
    { fact: 'LR with rs2 not zero (13.2)', raw: 0x10b5_252f, length: 2 },
    { fact: 'an AMO of one byte (Zabha)', raw: 0x00b5_052f, length: 2 },
    { fact: 'LOAD with funct3 7', raw: 0x0005_7503, length: 2 },
    { fact: 'BRANCH with funct3 2', raw: 0x00b5_2063, length: 2 },
    { fact: 'JALR with funct3 1', raw: 0x0005_1067, length: 2 },
    { fact: 'SYSTEM with funct3 4 and no HLV', raw: 0x0005_4073, length: 2 },
    { fact: 'ECALL with rd not zero (2.8)', raw: 0x0000_00f3, length: 2 },
    { fact: 'SFENCE.VMA with rd not zero', raw: 0x1200_00f3, length: 2 },
    { fact: 'HLV.D with rs2 not zero (Priv 15.3.1)', raw: 0x6c15_4573, length: 2 },
    { fact: 'FLD, without D', raw: 0x0005_3507, length: 2 },
    { fact: 'C.FLD, without D', raw: 0x2100, length: 1 },
    { fact: 'C.ADDIW with rd = x0 (26.5.1)', raw: 0x2005, length: 1 },
    { fact: 'C.LWSP with rd = x0 (26.3.1)', raw: 0x4002, length: 1 },
    { fact: 'an encoding longer than 32 bits (1.5.1)', raw: 0x0000_001f, length: 2 },
  ])
    it(fact, () => {
      expect(decode(raw, record, 0)).toBe(length);
      const [word0 = 0, imm = 0] = record;
      expect(recordOp(word0)).toBe(OP_ILLEGAL);
      expect(recordLength(word0)).toBe(length);
      expect(recordRd(word0)).toBe(32);
      expect(imm >>> 0).toBe(raw);
      expect(findRow(raw)).toBeUndefined();
    });

  it('keeps only 16 bits of an illegal compressed instruction', () => {
    decode(0xdead_0000, record, 0);
    expect(record[1]).toBe(0);
  });
});
