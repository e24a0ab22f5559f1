/** Values of the command line and tables for people: what is taken, what is refused, how it is shown. */
import { describe, expect, it } from 'vitest';
import { formatSize, parseCommandLine, parseCount, parseSize } from '../../testbed/cli/args.ts';
import { hex, mips, speedLine, withCommas } from '../../testbed/report/numbers.ts';
import { alignRows, paint, wantsColour } from '../../testbed/report/table.ts';

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const GIB = 2 ** 30;

describe('sizes', () => {
  const size = (text: string): number => parseSize('--memory', text, 4 * KIB, 3 * GIB);
  const taken: [string, number][] = [
    ['4096', 4096],
    ['4k', 4 * KIB],
    ['64M', 64 * MIB],
    ['64m', 64 * MIB],
    ['64MB', 64 * MIB],
    ['64MiB', 64 * MIB],
    ['1.5G', 1536 * MIB],
    ['3G', 3 * GIB],
  ];
  for (const [text, bytes] of taken)
    it(`${text} is ${bytes} bytes`, () => expect(size(text)).toBe(bytes));

  const refused: [string, RegExp][] = [
    ['', /not a size/],
    ['M', /not a size/],
    ['-4M', /not a size/],
    ['0x1000', /not a size/],
    ['4T', /not a size/],
    ['64 M', /not a size/],
    ['0.3k', /not a size/],
    ['1k', /must be 4K to 3G/],
    ['3073M', /must be 4K to 3G/],
    ['9'.repeat(400), /not a size/],
    ['5000', /not a multiple of 4096/],
  ];
  for (const [text, says] of refused)
    it(`${text.slice(0, 10) || 'nothing'} is refused: ${says.source}`, () => {
      expect(() => size(text)).toThrow(says);
      expect(() => size(text)).toThrow(`--memory ${text}`);
    });

  it('are shown in the largest unit that divides them', () => {
    expect([3 * GIB, 1536 * MIB, 64 * KIB, 4097].map(formatSize)).toEqual([
      '3G',
      '1536M',
      '64K',
      '4097',
    ]);
  });
});

describe('counts', () => {
  const count = (text: string): number => parseCount('--seed', text, 0, 0xffff_ffff);
  const taken: [string, number][] = [
    ['0', 0],
    ['007', 7],
    ['0x10', 16],
    ['4294967295', 0xffff_ffff],
  ];
  for (const [text, value] of taken)
    it(`${text} is ${value}`, () => expect(count(text)).toBe(value));

  const refused: [string, RegExp][] = [
    ['', /not a whole number/],
    ['-1', /not a whole number/],
    ['1.5', /not a whole number/],
    ['1e3', /not a whole number/],
    ['0x', /not a whole number/],
    ['9007199254740993', /not a whole number/],
    ['4294967296', /must be 0 to 4294967295/],
  ];
  for (const [text, says] of refused)
    it(`${text || 'nothing'} is refused: ${says.source}`, () =>
      expect(() => count(text)).toThrow(says));
});

describe('options', () => {
  const parse = (...words: string[]) =>
    parseCommandLine('run', words, { seed: { type: 'string' }, json: { type: 'boolean' } });

  it('may stand before and behind the arguments, with = or without', () => {
    for (const words of [
      ['a.elf', '--seed', '5', '--json'],
      ['--json', '--seed=5', 'a.elf'],
    ]) {
      const { values, positionals } = parse(...words);
      expect({ ...values }).toEqual({ seed: '5', json: true });
      expect(positionals).toEqual(['a.elf']);
    }
  });

  it('that are unknown, or miss their value, are refused in one sentence that names them', () => {
    expect(() => parse('--frob')).toThrow(/^run: unknown option '--frob'$/);
    expect(() => parse('--seed')).toThrow(/^run: option '--seed <value>' argument missing$/);
    expect(() => parse('--json=1')).toThrow(/^run: option '--json' does not take an argument$/);
  });
});

describe('tables', () => {
  it('are aligned: the first column to the left, the others to the right', () => {
    expect(
      alignRows([
        ['', 'n'],
        ['walks', '12,345'],
        ['TLB hit rate', '9'],
      ]),
    ).toEqual(['                   n', 'walks         12,345', 'TLB hit rate       9']);
  });

  it('are coloured on a terminal only, and not there under NO_COLOR', () => {
    const before = process.env['NO_COLOR'];
    try {
      delete process.env['NO_COLOR'];
      expect(wantsColour({ isTTY: true })).toBe(true);
      expect(wantsColour({})).toBe(false);
      process.env['NO_COLOR'] = '1';
      expect(wantsColour({ isTTY: true })).toBe(false);
    } finally {
      if (before === undefined) delete process.env['NO_COLOR'];
      else process.env['NO_COLOR'] = before;
    }
    expect(paint(false, 'bold', 'x')).toBe('x');
    expect(paint(true, 'bold', 'x')).toContain('x');
  });

  it('hold numbers as people read them', () => {
    expect(withCommas(1234567)).toBe('1,234,567');
    expect(hex(0x8020_0000n)).toBe('0x80200000');
    expect(mips(5e6, 0)).toBe(0);
    expect(speedLine(12.34e6, 0.5)).toBe('12.3 M instructions, 25 MIPS');
  });
});
