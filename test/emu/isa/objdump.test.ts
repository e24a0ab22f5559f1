/**
 * The decoder and disassembler against GNU objdump, whose tables are not ours. It needs Debian's
 * binutils-riscv64-unknown-elf: where CI is set the tests fail without it, elsewhere they are
 * reported as skipped.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { csrName, csrNumber } from '../../../emu/isa/csr-names.ts';
import { disassemble } from '../../../emu/isa/disassemble.ts';
import { INSTRUCTIONS } from '../../../emu/isa/table.ts';
import { rng } from '../../support/rng.ts';

const PREFIX = 'riscv64-unknown-elf-';
const MARCH = '-march=rv64imac_zicsr_zifencei_zba_zbb_zbs_zicbom_zicboz_h';
const missing = spawnSync(`${PREFIX}objdump`, ['--version']).error !== undefined;
const skip = missing && process.env.CI === undefined;

/** Text of each `.word` or `.half` of an assembly source, as objdump has it. */
const objdump = (source: string): string[] => {
  const folder = mkdtempSync(join(tmpdir(), 'objdump-'));
  try {
    const [text, object] = [join(folder, 'words.s'), join(folder, 'words.o')];
    writeFileSync(text, source);
    execFileSync(`${PREFIX}as`, [MARCH, '-o', object, text]);
    // Without its symbols the file does not say that the words are data.
    execFileSync(`${PREFIX}strip`, ['--strip-all', object]);
    const args = ['-d', '-z', '-M', 'no-aliases', object];
    const listing = execFileSync(`${PREFIX}objdump`, args, {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    });
    return [...listing.matchAll(/^ *[0-9a-f]+:\t[0-9a-f ]+\t(.*)$/gm)].map((line) => line[1] ?? '');
  } finally {
    rmSync(folder, { recursive: true });
  }
};

/** What objdump 2.40 writes otherwise, and what it takes for an instruction and we do not. */
const OTHER_SPELLINGS: readonly (readonly [RegExp, string])[] = [
  [/^(c\.\w+)64 (\w+)$/, '$1 $2,0'], // RV128's name of what is a HINT here
  [/^fence w,unknown$/, 'pause'],
  [/unknown/g, '0'],
  [/^c\.addi zero,0$/, 'c.nop'],
  [/^c\.addi16sp sp,0$/, 'illegal'], // reserved (26.5.1)
  [/^c\.unimp$/, 'illegal'],
  [/^sfence\.vm .*$/, 'illegal'], // Privileged ISA 1.9
];

/** One spelling for both: no comment, no blanks, decimal numbers, data as `illegal`. */
const normal = (text: string): string => {
  const plain = text.replace(/ *(#|<).*$/, '').trim();
  if (plain.startsWith('.')) return 'illegal';
  const spelled = plain
    .replace(/\s+/, ' ')
    .replaceAll(', ', ',')
    .replace(/(?<=[ ,])0x[0-9a-f]+/g, (hex) => `${BigInt(hex)}`);
  return OTHER_SPELLINGS.reduce((t, [theirs, ours]) => t.replace(theirs, ours), spelled);
};

/** Where the two differ; `sizeBytes` apart, from address 0. */
const differences = (words: readonly number[], sizeBytes: 2 | 4): string[] => {
  const unit = sizeBytes === 2 ? '.half' : '.word';
  const theirs = objdump(words.map((word) => `${unit} ${word >>> 0}\n`).join(''));
  expect(theirs.length).toBe(words.length);
  return words.flatMap((word, i) => {
    const [ours, other] = [disassemble(word, i * sizeBytes), theirs[i] ?? ''];
    return normal(ours) === normal(other) ? [] : [`${word.toString(16)}: ${ours} | ${other}`];
  });
};

describe.skipIf(skip)('objdump agrees', () => {
  it('on every instruction of the table with random operands', () => {
    const random = rng(0x0bd);
    const words: number[] = [];
    // CSRs by number are compared below: objdump knows more names.
    for (const [mnemonic, match, mask] of INSTRUCTIONS)
      if (!mnemonic.startsWith('csrr'))
        for (let i = 0; i < 50; i++) words.push((match | (random.u32() & ~mask)) >>> 0);
    expect(differences(words, 4)).toEqual([]);
  });

  it('on random words with the major opcodes of the table', () => {
    const random = rng(0x0be);
    const opcodes = [...new Set(INSTRUCTIONS.map(([, match]) => match & 0x7f))];
    const words: number[] = [];
    while (words.length < 20_000) {
      // Most encodings have few bits set in funct7, so most words get few here.
      const funct7 = random.chance(0.7) ? 1 << random.below(7) : random.below(128);
      const word = (funct7 << 25) | (random.u32() & 0x01ff_ff80) | random.pick(opcodes);
      if (disassemble(word).startsWith('csrr')) continue;
      words.push(word >>> 0);
    }
    expect(differences(words, 4)).toEqual([]);
  });

  it('on every compressed half-word', () => {
    const halves = Array.from({ length: 0x1_0000 }, (_, h) => h).filter((h) => (h & 3) !== 3);
    expect(differences(halves, 2)).toEqual([]);
  });

  it('on the name of every CSR that both have', () => {
    const read = INSTRUCTIONS.find(([mnemonic]) => mnemonic === 'csrrs')?.[1] ?? 0;
    const words = Array.from({ length: 4096 }, (_, csr) => ((csr << 20) | read | (10 << 7)) >>> 0);
    const theirs = objdump(words.map((word) => `.word ${word}\n`).join(''));
    const named = theirs.map((text) => /^csrrs\ta0,(\w+),zero/.exec(text)?.[1] ?? '');
    const wrong = named.flatMap((name, csr) => {
      const ours = csrName(csr);
      const known = !name.startsWith('0x');
      return (ours !== undefined && known && name !== ours) || (csrNumber(name) ?? csr) !== csr
        ? [`0x${csr.toString(16)}: ${ours} | ${name}`]
        : [];
    });
    expect(wrong).toEqual([]);
    expect(named.filter((name, csr) => name === csrName(csr)).length).toBeGreaterThan(200);
  });
});
