/** Every computing instruction, branch, jump and AMO on a hart, against the BigInt model. */
import { describe, expect, it } from 'vitest';
import { assemble } from '../../../emu/asm/assemble.ts';
import { Bus } from '../../../emu/bus.ts';
import { Clock } from '../../../emu/clock.ts';
import { EXIT_BUDGET, Hart } from '../../../emu/hart/hart.ts';
import { registerName } from '../../../emu/isa/registers.ts';
import { INSTRUCTIONS, type InstructionRow, OP_NAMES } from '../../../emu/isa/table.ts';
import { RAM_BASE } from '../../../emu/layout.ts';
import { PhysMemory } from '../../../emu/memory.ts';
import { MODEL_AMOS, MODEL_BRANCHES, MODEL_COMPUTES, model } from '../../support/isa-model.ts';
import { rng } from '../../support/rng.ts';
import { sample } from './operands.ts';
import { plainExpand } from './plain-rvc.ts';

const memory = new PhysMemory(1 << 20);
const hart = new Hart({ memory, bus: new Bus(memory), clock: new Clock(), index: 0 });
hart.reset(BigInt(RAM_BASE));

/** Code in the middle of RAM, so that jumps stay inside; a double-word of data far from it. */
const CODE = RAM_BASE + 0x8_0000;
const DATA = RAM_BASE + 0x1000;

const u64 = (x: bigint): bigint => BigInt.asUintN(64, x);
const EDGES = [
  ...[0n, 1n, 2n, 3n, 31n, 32n, 33n, 63n, 64n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0x8000n],
  ...[0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 0x1_0000_0000n, 0x8000_0001n],
  ...[0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n, 0x8000_0000_8000_0000n],
  ...[-1n, -2n, -31n, -0x8000_0000n, -0x1_0000_0000n].map(u64),
  ...[0x0102_0304_0506_0708n, 0x20_0000_0000_0000n, 0x1f_ffff_ffff_ffffn, 0xff00_00ff_0000_ff00n],
];

const random = rng(0x5e5a);
/** A value of any magnitude, and often an edge. */
const value = (): bigint =>
  random.chance(0.4) ? random.pick(EDGES) : random.u64() >> BigInt(random.below(64));

/** One instruction that is to be run at CODE + offset. */
interface Case {
  mnemonic: string;
  text: string;
  rd: number;
  rs1: number;
  rs2: number;
  imm: number;
  lengthBytes: 2 | 4;
  pa: number;
}

/** Few registers, so that sources and destination are often the same; x0 among them. */
const REGISTERS = [0, 1, 5, 10, 31];

const rowOf = (mnemonic: string): InstructionRow => {
  const row = INSTRUCTIONS.find(([name]) => name === mnemonic);
  if (row === undefined) throw new RangeError(`no row for ${mnemonic}`);
  return row;
};

/** Puts encodings of 32-bit instructions behind each other into RAM. */
const place = (mnemonic: string, count: number): Case[] => {
  const row = rowOf(mnemonic);
  const [, , , format] = row;
  const cases = Array.from({ length: count }, (_, i): Case => {
    const pick = (register: number): number => REGISTERS[register % REGISTERS.length] ?? 0;
    const drawn = sample(row, random);
    const [rd, rs1, rs2] = [pick(drawn.rd), pick(drawn.rs1), pick(drawn.rs2)];
    const operands = format.operands.map((operand) => {
      if (operand === 'rd') return registerName(rd);
      if (operand === 'rs1') return registerName(rs1);
      if (operand === 'rs2') return registerName(rs2);
      if (operand === 'mem') return `${drawn.imm}(${registerName(rs1)})`;
      if (operand === 'base') return `(${registerName(rs1)})`;
      if (operand === 'upper') return `${drawn.imm >>> 12}`;
      return operand === 'target' ? `.+(${drawn.imm})` : `${drawn.imm}`;
    });
    const text = `${mnemonic} ${operands.join(', ')}`;
    return { ...drawn, mnemonic, text, rd, rs1, rs2, lengthBytes: 4, pa: CODE + 4 * i };
  });
  const code = assemble(cases.map(({ text }) => text).join('\n'), { origin: CODE });
  memory.writeBytes(CODE, code.bytes);
  return cases;
};

/**
 * Gives the source registers values, runs the one instruction, and returns what was in rs1 and rs2.
 * Registers that it does not write must keep their values.
 */
const runOne = (c: Case, first: bigint, second: bigint): { rs1: bigint; rs2: bigint } => {
  const watched = new Set([...REGISTERS, c.rd, c.rs1, c.rs2]);
  for (const register of watched) hart.setX(register, random.u64());
  hart.setX(c.rs1, first);
  hart.setX(c.rs2, second);
  hart.setPc(BigInt(c.pa));
  const before = new Map([...watched].map((register) => [register, hart.x(register)]));
  // expect() costs more than the instruction: it is called where something is wrong.
  const exit = hart.run(1);
  if (exit !== EXIT_BUDGET || hart.sliceRetired !== 1 || before.get(0) !== 0n)
    expect([exit, hart.sliceRetired, hart.x(0)], c.text).toEqual([EXIT_BUDGET, 1, 0n]);
  for (const [register, old] of before)
    if (register !== c.rd || register === 0)
      if (hart.x(register) !== old) expect(hart.x(register), `${c.text}: x${register}`).toBe(old);
  return { rs1: before.get(c.rs1) ?? 0n, rs2: before.get(c.rs2) ?? 0n };
};

const hex = (x: bigint): string => `0x${u64(x).toString(16)}`;

/** Runs a computing instruction, branch or jump and compares rd and pc with the model. */
const check = (c: Case, first: bigint, second: bigint): void => {
  const { rs1, rs2 } = runOne(c, first, second);
  const pc = BigInt(c.pa);
  const told = (): string => `${c.text} with rs1=${hex(rs1)} rs2=${hex(rs2)}`;
  const branch = MODEL_BRANCHES.includes(c.mnemonic);
  const result = model(c.mnemonic, rs1, rs2, c.imm, pc, c.lengthBytes);
  if (!branch && c.rd !== 0 && hart.x(c.rd) !== result)
    expect(hex(hart.x(c.rd)), told()).toBe(hex(result));
  let next = pc + BigInt(c.lengthBytes);
  if (c.mnemonic === 'jal' || (branch && result === 1n)) next = pc + BigInt(c.imm);
  if (c.mnemonic === 'jalr') next = (rs1 + BigInt(c.imm)) & ~1n;
  if (u64(hart.pc) !== u64(next)) expect(hex(hart.pc), `${told()}: pc`).toBe(hex(next));
};

describe('the model', () => {
  it('has every instruction but those that only memory, CSRs or privilege explain', () => {
    const known = new Set([...MODEL_COMPUTES, ...MODEL_BRANCHES, ...MODEL_AMOS]);
    const others = OP_NAMES.slice(3).filter((name) => !known.has(name));
    expect(others.filter((name) => !/^(l[bhwd]u?|s[bhwd]|lr\.|sc\.)/.test(name))).toEqual([
      ...['fence', 'fence.i', 'ecall', 'ebreak'],
      ...['csrrw', 'csrrs', 'csrrc', 'csrrwi', 'csrrsi', 'csrrci'],
      ...['mret', 'sret', 'wfi', 'sfence.vma', 'hfence.vvma', 'hfence.gvma'],
      ...['hlv.b', 'hlv.bu', 'hlv.h', 'hlv.hu', 'hlv.w', 'hlv.wu', 'hlv.d', 'hlvx.hu', 'hlvx.wu'],
      ...['hsv.b', 'hsv.h', 'hsv.w', 'hsv.d'],
      ...['cbo.inval', 'cbo.clean', 'cbo.flush', 'cbo.zero'],
    ]);
  });

  // The model is the reference for the hart; these are the manual's own words on the odd cases.
  for (const { fact, got, expected } of [
    { fact: '12.2: x / 0 is -1', got: model('div', 7n, 0n), expected: -1n },
    { fact: '12.2: x % 0 is x', got: model('rem', -7n, 0n), expected: -7n },
    {
      fact: '12.2: overflow gives the dividend',
      got: model('div', -(1n << 63n), -1n),
      expected: -(1n << 63n),
    },
    { fact: '12.2: and remainder 0', got: model('rem', -(1n << 63n), -1n), expected: 0n },
    { fact: '12.2: DIVUW by 0 is -1', got: model('divuw', 7n, 0n), expected: -1n },
    {
      fact: '12.2: REMUW by 0 sign-extends',
      got: model('remuw', 1n << 31n, 0n),
      expected: -(1n << 31n),
    },
    { fact: '12.1: MULHSU is signed by unsigned', got: model('mulhsu', -1n, -1n), expected: -1n },
    { fact: '28.5: CLZ of 0 is 64', got: model('clz', 0n, 0n), expected: 64n },
    { fact: '28.5: CTZW of 0 is 32', got: model('ctzw', 1n << 32n, 0n), expected: 32n },
    { fact: '28.5: ROLW sign-extends', got: model('rolw', 1n << 30n, 1n), expected: -(1n << 31n) },
    { fact: '28.5: ORC.B', got: model('orc.b', 0x0100_0020n, 0n), expected: 0xff00_00ffn },
    {
      fact: '2.4: SLTIU compares with -1 as 2^64-1',
      got: model('sltiu', 5n, 0n, -1),
      expected: 1n,
    },
  ])
    it(fact, () => expect(BigInt.asIntN(64, got)).toBe(expected));
});

describe('computing instructions', () => {
  for (const mnemonic of MODEL_COMPUTES.filter((name) => !name.startsWith('jal')))
    it(mnemonic, () => {
      const cases = place(mnemonic, 128);
      const binary = rowOf(mnemonic)[3].operands.includes('rs2');
      // Every pair of edges on one choice of registers after the other, then random values.
      let i = 0;
      for (const first of EDGES)
        for (const second of binary ? EDGES : [0n]) {
          check(cases[i++ % cases.length] ?? random.pick(cases), first, second);
        }
      for (let n = 0; n < 400; n++) check(random.pick(cases), value(), value());
    });
});

describe('branches and jumps', () => {
  for (const mnemonic of [...MODEL_BRANCHES, 'jal'])
    it(mnemonic, () => {
      const cases = place(mnemonic, 128);
      let i = 0;
      for (const first of EDGES)
        for (const second of EDGES)
          check(cases[i++ % cases.length] ?? random.pick(cases), first, second);
      for (let n = 0; n < 400; n++) {
        const same = value();
        check(random.pick(cases), same, random.chance(0.3) ? same : value());
      }
    });

  it('jalr clears bit 0 of the target (2.5.1), and reads rs1 before it writes rd', () => {
    const cases = place('jalr', 128);
    for (let n = 0; n < 2_000; n++) check(random.pick(cases), value(), value());
  });
});

describe('compressed instructions', () => {
  it('do what they expand to, and are two bytes long', () => {
    const computed = new Set<string>();
    for (let page = 0; page < 4; page++) {
      const cases: Case[] = [];
      const code = new DataView(new ArrayBuffer(4096));
      while (cases.length < 2048) {
        const half = random.below(0x1_0000);
        const expansion = (half & 3) === 3 ? undefined : plainExpand(half);
        if (expansion === undefined || /^(l[wd]|s[wd]|ebreak)$/.test(expansion.mnemonic)) continue;
        const offset = 2 * cases.length;
        code.setUint16(offset, half, true);
        const text = `0x${half.toString(16)} (${expansion.mnemonic})`;
        cases.push({ ...expansion, text, lengthBytes: 2, pa: CODE + offset });
        computed.add(expansion.mnemonic);
      }
      memory.writeBytes(CODE, new Uint8Array(code.buffer));
      for (const c of cases) check(c, value(), value());
    }
    expect([...computed].sort().join(' ')).toBe(
      'add addi addiw addw and andi beq bne jal jalr lui or slli srai srli sub subw xor',
    );
  });
});

describe('AMOs — 13.4', () => {
  for (const mnemonic of MODEL_AMOS)
    it(mnemonic, () => {
      const word = mnemonic.endsWith('.w');
      const cases = place(mnemonic, 128).filter(({ rs1 }) => rs1 !== 0);
      const cell = new DataView(new ArrayBuffer(8));
      const checkAmo = (c: Case, old: bigint, operand: bigint, half: number): void => {
        cell.setBigUint64(0, old, true);
        memory.writeBytes(DATA, new Uint8Array(cell.buffer.slice(0)));
        const at = BigInt(DATA + (word ? half : 0));
        // Where rs2 is also rs1, the operand is the address.
        const { rs2 } = runOne(c, at, c.rs2 === c.rs1 ? at : operand);
        const offset = word ? half : 0;
        const before = word ? BigInt(cell.getInt32(offset, true)) : old;
        const after = model(mnemonic, before, rs2);
        if (word) cell.setUint32(offset, Number(after), true);
        else cell.setBigUint64(0, after, true);
        const found = new DataView(memory.readBytes(DATA, 8).buffer).getBigUint64(0, true);
        const told = (): string => `${c.text} of ${hex(old)} with ${hex(rs2)}`;
        if (found !== cell.getBigUint64(0, true))
          expect(hex(found), told()).toBe(hex(cell.getBigUint64(0, true)));
        if (c.rd !== 0 && hart.x(c.rd) !== u64(before))
          expect(hex(hart.x(c.rd)), told()).toBe(hex(before));
      };
      let i = 0;
      for (const old of EDGES)
        for (const operand of EDGES)
          checkAmo(cases[i++ % cases.length] ?? random.pick(cases), old, operand, 4 * (i & 1));
      for (let n = 0; n < 300; n++)
        checkAmo(random.pick(cases), value(), value(), 4 * random.below(2));
    });
});
