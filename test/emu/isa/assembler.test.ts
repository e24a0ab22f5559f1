/** The assembler: syntax, pseudo-instructions, constants, labels, directives, errors. */
import { describe, expect, it } from 'vitest';
import { assemble } from '../../../emu/asm/assemble.ts';
import { AsmError } from '../../../emu/asm/source.ts';
import { disassemble } from '../../../emu/isa/disassemble.ts';
import { model } from '../../support/isa-model.ts';
import { rng } from '../../support/rng.ts';

/** A program's instructions as the disassembler shows them; jumps relative. */
const listing = (text: string, origin = 0): string[] => {
  const { bytes } = assemble(text, { origin });
  const view = new DataView(bytes.buffer);
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const long = (view.getUint8(at) & 3) === 3;
    lines.push(disassemble(long ? view.getUint32(at, true) : view.getUint16(at, true)));
    at += long ? 4 : 2;
  }
  return lines;
};

/** Values of the registers after a straight line of LUI, ADDI, ADDIW, SLLI and AUIPC. */
const execute = (lines: readonly string[], origin: bigint): Map<string, bigint> => {
  const registers = new Map<string, bigint>([['zero', 0n]]);
  lines.forEach((line, i) => {
    const [mnemonic = '', rd = '', second = '', third = '0'] = line.split(/,? /);
    const upper = mnemonic === 'lui' || mnemonic === 'auipc';
    const imm = upper ? Number(second) << 12 : Number(third);
    const value = model(mnemonic, registers.get(second) ?? 0n, 0n, imm, origin + BigInt(4 * i));
    registers.set(rd, value);
  });
  return registers;
};

describe('pseudo-instructions — Unprivileged ISA 37', () => {
  for (const [text, ...expected] of [
    ['nop', 'addi zero, zero, 0'],
    ['mv a0, a1', 'addi a0, a1, 0'],
    ['not a0, a1', 'xori a0, a1, -1'],
    ['neg a0, a1', 'sub a0, zero, a1'],
    ['negw a0, a1', 'subw a0, zero, a1'],
    ['sext.w a0, a1', 'addiw a0, a1, 0'],
    ['zext.b a0, a1', 'andi a0, a1, 255'],
    ['zext.w a0, a1', 'add.uw a0, a1, zero'],
    ['seqz a0, a1', 'sltiu a0, a1, 1'],
    ['snez a0, a1', 'sltu a0, zero, a1'],
    ['sltz a0, a1', 'slt a0, a1, zero'],
    ['sgtz a0, a1', 'slt a0, zero, a1'],
    ['beqz a0, .+8', 'beq a0, zero, .+8'],
    ['bnez a0, .-8', 'bne a0, zero, .-8'],
    ['blez a0, .', 'bge zero, a0, .+0'],
    ['bgez a0, .', 'bge a0, zero, .+0'],
    ['bltz a0, .', 'blt a0, zero, .+0'],
    ['bgtz a0, .', 'blt zero, a0, .+0'],
    ['bgt a0, a1, .', 'blt a1, a0, .+0'],
    ['ble a0, a1, .', 'bge a1, a0, .+0'],
    ['bgtu a0, a1, .', 'bltu a1, a0, .+0'],
    ['bleu a0, a1, .', 'bgeu a1, a0, .+0'],
    ['j .+16', 'jal zero, .+16'],
    ['jal .+16', 'jal ra, .+16'],
    ['jr t0', 'jalr zero, 0(t0)'],
    ['jalr t0', 'jalr ra, 0(t0)'],
    ['jalr a0, t0', 'jalr a0, 0(t0)'],
    ['jalr a0, t0, 12', 'jalr a0, 12(t0)'],
    ['jalr a0, 12(t0)', 'jalr a0, 12(t0)'],
    ['ret', 'jalr zero, 0(ra)'],
    ['call .+64', 'jal ra, .+64'],
    ['tail .+64', 'jal zero, .+64'],
    ['fence', 'fence iorw, iorw'],
    ['csrr a0, satp', 'csrrs a0, satp, zero'],
    ['csrw satp, a0', 'csrrw zero, satp, a0'],
    ['csrs sie, a0', 'csrrs zero, sie, a0'],
    ['csrc sie, a0', 'csrrc zero, sie, a0'],
    ['csrwi sie, 3', 'csrrwi zero, sie, 3'],
    ['csrsi sie, 3', 'csrrsi zero, sie, 3'],
    ['csrci sie, 3', 'csrrci zero, sie, 3'],
    ['rdcycle a0', 'csrrs a0, cycle, zero'],
    ['rdtime a0', 'csrrs a0, time, zero'],
    ['rdinstret a0', 'csrrs a0, instret, zero'],
    ['unimp', 'csrrw zero, cycle, zero'],
    ['sfence.vma', 'sfence.vma zero, zero'],
    ['sfence.vma a0', 'sfence.vma a0, zero'],
    ['hfence.vvma', 'hfence.vvma zero, zero'],
    ['hfence.gvma a0', 'hfence.gvma a0, zero'],
  ] as const)
    it(text, () => expect(listing(text)).toEqual(expected));
});

describe('li', () => {
  const random = rng(64);
  const edges = [0n, 1n, -1n, 2047n, 2048n, -2048n, -2049n, 0x7ff_ffffn, 0x7fff_f800n];
  for (const power of [31n, 32n, 33n, 43n, 44n, 52n, 62n, 63n])
    for (const near of [-0x801n, -0x800n, -1n, 0n, 1n, 0x7ffn, 0x800n])
      edges.push((1n << power) + near, -(1n << power) + near);

  const check = (value: bigint): void => {
    const v = BigInt.asIntN(64, value);
    const lines = listing(`li a0, ${v}`);
    expect(execute(lines, 0n).get('a0'), `li ${v}`).toBe(BigInt.asUintN(64, v));
    expect(lines.length).toBeLessThanOrEqual(8);
    if (v >= -2048n && v < 2048n) expect(lines.length).toBe(1);
    if (v === BigInt.asIntN(32, v)) expect(lines.length).toBeLessThanOrEqual(2);
  };

  it('loads the ends of each range', () => edges.forEach(check));
  it('loads any 64 bits', () => {
    for (let i = 0; i < 2_000; i++) check(random.u64() >> BigInt(random.below(64)));
  });
  it('takes an unsigned 64-bit constant and an expression of what is defined above', () => {
    expect(listing('li a0, 0xffffffffffffffff')).toEqual(['addi a0, zero, -1']);
    expect(listing('.equ PAGE, 1 << 12\nli a0, PAGE - 1')).toEqual(listing('li a0, 4095'));
  });
});

describe('labels', () => {
  it('are known before they are defined', () => {
    expect(listing('j end\nnop\nend: beqz a0, end')).toEqual([
      'jal zero, .+8',
      'addi zero, zero, 0',
      'beq a0, zero, .+0',
    ]);
  });

  it('made of digits are local: f and b mean the nearest one', () => {
    expect(listing('1: j 1f\n1: j 1b\nj 1b\n1: j 1f\n1:')).toEqual([
      'jal zero, .+4',
      'jal zero, .+0',
      'jal zero, .-4',
      'jal zero, .+4',
    ]);
  });

  it('la forms the address from the pc, in both directions and across bit 11', () => {
    for (const origin of [0n, 0x8000_0000n, 0xffff_ffc0_0000_0000n])
      for (const gap of [0, 2040, 2044, 2048, 4096, 70_000]) {
        const text = `la a0, end\nla a1, start\n.space ${gap}\nend:`;
        const { bytes, symbols } = assemble(`start: ${text}`, { origin });
        const view = new DataView(bytes.buffer);
        const lines = [0, 4, 8, 12].map((at) => disassemble(view.getUint32(at, true)));
        const registers = execute(lines, origin);
        expect(registers.get('a0')).toBe(symbols.get('end'));
        expect(registers.get('a1')).toBe(origin);
      }
  });

  it('a load or store may name one, by way of AUIPC', () => {
    expect(listing('x: ld a0, x\nsw a1, x, t0')).toEqual([
      'auipc a0, 0x0',
      'ld a0, 0(a0)',
      'auipc t0, 0x0',
      'sw a1, -8(t0)',
    ]);
  });

  it('have addresses from the origin on', () => {
    const program = assemble('nop\nhere: nop', { origin: 0x8000_0000 });
    expect(program.at('here')).toBe(0x8000_0004);
    expect(program.symbols.get('here')).toBe(0x8000_0004n);
    expect(() => program.at('there')).toThrow(RangeError);
  });
});

describe('directives', () => {
  const bytes = (text: string, origin = 0): number[] => [...assemble(text, { origin }).bytes];
  for (const { text, expected } of [
    { text: '.byte 1, -1, 0xff', expected: [1, 255, 255] },
    { text: '.half 0x1234, -2', expected: [0x34, 0x12, 0xfe, 0xff] },
    { text: '.word 0xdeadbeef', expected: [0xef, 0xbe, 0xad, 0xde] },
    { text: '.dword -2', expected: [0xfe, 255, 255, 255, 255, 255, 255, 255] },
    { text: '.dword end - start\nstart: .byte 7\nend:', expected: [1, 0, 0, 0, 0, 0, 0, 0, 7] },
    { text: '.ascii "a,b;c#d", "//"', expected: [...Buffer.from('a,b;c#d//')] },
    { text: '.asciz "\\n\\t\\x41\\\\\\""', expected: [10, 9, 0x41, 0x5c, 0x22, 0] },
    { text: ".byte 'a', '\\n', ','", expected: [97, 10, 44] },
    { text: '.space 3', expected: [0, 0, 0] },
    { text: '.space 2, 0xaa', expected: [0xaa, 0xaa] },
    { text: '.byte 1\n.align 2\n.byte 2', expected: [1, 0, 1, 0, 2] },
    { text: '.byte 1, 2, 3, 4\n.balign 8', expected: [1, 2, 3, 4, 0x13, 0, 0, 0] },
    { text: '.globl x\n.text\nx: .byte 9 // c\n# nothing', expected: [9] },
    {
      text: 'size = 2; .byte size * 3, (size | 8) ^ 1, ~size & 0xff, 7 % 4, 1 << 3 >> 1',
      expected: [6, 11, 0xfd, 3, 4],
    },
    {
      text: '.word %hi(0x12345fff), %lo(0x12345fff)',
      expected: [0x46, 0x23, 1, 0, 255, 255, 255, 255],
    },
  ])
    it(text.replaceAll('\n', ' ; '), () => expect(bytes(text)).toEqual(expected));

  it('.align counts from address 0, not from the origin', () => {
    expect(bytes('.align 3', 0x8000_0004).length).toBe(4);
  });
});

describe('errors name the line and what is wrong', () => {
  for (const [text, message] of [
    ['nop\nfrob a0', 'line 2: frob: there is no such instruction'],
    ['add a0, a1', 'line 1: add: 3 operands, not 2'],
    ['add a0, a1, b2', 'line 1: add: b2 is not a register'],
    ['addi a0, a0, 2048', 'line 1: addi: 2048 does not fit the encoding'],
    ['slliw a0, a0, 32', 'line 1: slliw: 32 does not fit the encoding'],
    ['lui a0, 0x100000', 'line 1: lui: 1048576 is not in -524288..1048575'],
    ['beq a0, a1, .+4096', 'line 1: beq: 4096 does not fit the encoding'],
    ['j .+3', 'line 1: j: 3 does not fit the encoding'],
    ['j nowhere', 'line 1: j: nowhere is not defined'],
    ['j 1f', 'line 1: j: 1f is not defined'],
    ['li a0, later\nlater:', 'line 1: li: later is not defined'],
    ['li a0, 1 << 64', 'line 1: li: 18446744073709551616 has more than 64 bits'],
    ['a: nop\na: nop', 'line 2: nop: a is defined twice'],
    ['ld a0, 8[a1]', 'line 1: ld: 8[a1] does not read offset(register)'],
    ['amoadd.w a0, a1, 4(a2)', 'line 1: amoadd.w: 4(a2): no offset is possible'],
    ['amoadd.w a0, a1, a2', 'line 1: amoadd.w: a2 does not read offset(register)'],
    ['fence rx, w', 'line 1: fence: rx is not a set out of iorw'],
    ['c.mv a0, zero', 'line 1: c.mv: these operands are reserved or another instruction'],
    [
      'c.addi4spn a0, sp, 0',
      'line 1: c.addi4spn: these operands are reserved or another instruction',
    ],
    ['c.lw a0, 0(sp)', 'line 1: c.lw: 0(sp) cannot stand here'],
    ['csrr a0, nosuch', 'line 1: csrr: nosuch is not defined'],
    ['csrwi satp, 32', 'line 1: csrwi: 32 is not in 0..31'],
    ['.byte 256', 'line 1: .byte: 256 does not fit in 1 bytes'],
    ['.ascii hello', 'line 1: .ascii: hello is not a string'],
    ['.bogus 1', 'line 1: .bogus: there is no such directive'],
    ['.space -1', 'line 1: .space: -1 is not in 0..268435456'],
    ['.word 1 +', 'line 1: .word: a value is missing'],
    ['.word (1', 'line 1: .word: ) is missing in (1'],
    ['.word 1 2', 'line 1: .word: 2 is out of place in 1 2'],
    ['.word 1 / 0', 'line 1: .word: division by zero'],
    ['add a0,, a1', 'line 1: add: an operand is empty'],
  ] as const)
    it(text.replaceAll('\n', ' ; '), () => {
      expect(() => assemble(text)).toThrow(AsmError);
      expect(() => assemble(text)).toThrow(
        new RegExp(`^${message.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')}$`),
      );
    });
});
