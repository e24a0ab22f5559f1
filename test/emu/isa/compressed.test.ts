/** Every half-word, through the decoder and through a second, plain one. */
import { describe, expect, it } from 'vitest';
import { assemble } from '../../../emu/asm/assemble.ts';
import { decode } from '../../../emu/isa/decode.ts';
import { OP_ILLEGAL } from '../../../emu/isa/ops.ts';
import {
  instructionLength,
  recordLength,
  recordOp,
  recordRd,
  recordRs1,
  recordRs2,
} from '../../../emu/isa/record.ts';
import { OP_NAMES } from '../../../emu/isa/table.ts';
import { plainExpand } from './plain-rvc.ts';

describe('C, compressed instructions — Unprivileged ISA 26', () => {
  it('each of the 49,152 compressed half-words is illegal or its expansion', () => {
    const record = new Int32Array(2);
    const wrong: string[] = [];
    let legal = 0;
    for (let h = 0; h < 0x1_0000; h++) {
      if ((h & 3) === 3) continue;
      const expansion = plainExpand(h);
      if (expansion !== undefined) legal++;
      // Whatever follows it in the instruction stream has no say.
      const length = decode(h | ((h * 0x9e37) << 16), record, 0);
      const [word0 = 0, imm = 0] = record;
      const got = [
        ...[length, recordLength(word0), OP_NAMES[recordOp(word0)]],
        ...[recordRd(word0), recordRs1(word0), recordRs2(word0), imm],
      ];
      const {
        mnemonic,
        rd,
        rs1,
        rs2,
        imm: value,
      } = expansion ?? {
        ...{ mnemonic: 'illegal', rd: 0, rs1: 0, rs2: 0, imm: h },
      };
      const wanted = [1, 1, mnemonic, rd === 0 ? 32 : rd, rs1, rs2, value];
      if (got.join() !== wanted.join()) wrong.push(`0x${h.toString(16)}: ${got} not ${wanted}`);
    }
    expect(wrong.slice(0, 10)).toEqual([]);
    expect(legal).toBeGreaterThan(30_000);
  });

  it('a half-word that ends in 11 begins a longer instruction', () => {
    const halves = Array.from({ length: 0x1_0000 }, (_, h) => h);
    expect(halves.filter((h) => (instructionLength(h) === 2) !== (h % 4 === 3))).toEqual([]);
  });

  it('an expansion has the record of the instruction it stands for, but for its length', () => {
    const record = new Int32Array(4);
    for (const [compressed, expansion] of [
      ['c.addi a0, -3', 'addi a0, a0, -3'],
      ['c.addi16sp sp, -64', 'addi sp, sp, -64'],
      ['c.addi4spn a2, sp, 1020', 'addi a2, sp, 1020'],
      ['c.lui s1, 0xfffe1', 'lui s1, 0xfffe1'],
      ['c.ldsp ra, 504(sp)', 'ld ra, 504(sp)'],
      ['c.sd a5, 248(s0)', 'sd a5, 248(s0)'],
      ['c.mv a0, s11', 'add a0, zero, s11'],
      ['c.jr ra', 'jalr zero, 0(ra)'],
      ['c.jalr t0', 'jalr ra, 0(t0)'],
      ['c.j .-2048', 'jal zero, .-2048'],
      ['c.bnez a4, .+254', 'bne a4, zero, .+254'],
      ['c.nop', 'addi zero, zero, 0'],
      ['c.ebreak', 'ebreak'],
    ] as const) {
      decode(new DataView(assemble(compressed).bytes.buffer).getUint16(0, true), record, 0);
      decode(new DataView(assemble(expansion).bytes.buffer).getUint32(0, true), record, 2);
      const [short = 0, shortImm, long = 0, longImm] = record;
      expect(recordLength(short)).toBe(1);
      expect(recordLength(long)).toBe(2);
      expect(short & 0x3ff_ffff, compressed).toBe(long & 0x3ff_ffff);
      expect(shortImm).toBe(longImm);
      expect(recordOp(short)).not.toBe(OP_ILLEGAL);
    }
  });
});
