/** Bad input on the command line: one line that names the input and what is wrong, and exit code 2. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { writeSnapshot } from '#testbed';
import { buildCli, guest } from '../support/cli.ts';

const cli = buildCli();
afterAll(() => cli.remove());

const file = (name: string, bytes: Uint8Array | string): string => {
  writeFileSync(join(cli.folder, name), bytes);
  return name;
};

/** hello.elf with some bytes replaced. */
const patched = (name: string, at: number, ...bytes: number[]): string => {
  const elf = new Uint8Array(readFileSync(guest('hello')));
  elf.set(bytes, at);
  return file(name, elf);
};

const EM_X86_64 = 62;
const ELFCLASS32 = 1;

/** Program header 0's p_paddr, set to an address with no memory. */
const withSegmentAt = (name: string, pa: bigint): string => {
  const elf = new Uint8Array(readFileSync(guest('hello')));
  const view = new DataView(elf.buffer);
  const phoff = Number(view.getBigUint64(32, true));
  const entries = view.getUint16(56, true);
  for (let i = 0; i < entries; i++) {
    const at = phoff + i * view.getUint16(54, true);
    if (view.getUint32(at, true) === 1) view.setBigUint64(at + 24, pa, true);
  }
  return file(name, elf);
};

/** A saved machine of these records, and empty ones for the rest. */
const saved = (name: string, records: object | null): string => {
  const rest = ['memory', 'clock', 'kernel', 'kvm', 'guests', 'rng', 'activities'];
  const all = { ...Object.fromEntries(rest.map((record) => [record, {}])), ...records };
  writeSnapshot(join(cli.folder, name), records === null ? null : all);
  return name;
};

copyFileSync(guest('hello'), join(cli.folder, 'hello.elf'));
const whole = new Uint8Array(readFileSync(guest('hello')));

const programs: { what: string; path: string; says: RegExp }[] = [
  { what: 'a file that is not there', path: 'nowhere.elf', says: /nowhere\.elf: no such file/ },
  { what: 'a folder', path: '.', says: /\.: is a directory/ },
  { what: 'a device', path: '/dev/zero', says: /\/dev\/zero: not a regular file/ },
  { what: 'an empty file', path: file('empty.elf', ''), says: /empty\.elf: .*empty/ },
  { what: 'a text file', path: file('text.elf', 'hello\n'), says: /text\.elf: .*not an ELF/ },
  {
    what: 'an ELF for x86-64',
    path: patched('x86.elf', 18, EM_X86_64, 0),
    says: /x86\.elf: .*x86-64/,
  },
  { what: 'a 32-bit ELF', path: patched('elf32.elf', 4, ELFCLASS32), says: /elf32\.elf: .*32-bit/ },
  {
    what: 'an ELF cut short in its segments',
    path: file('short.elf', whole.subarray(0, 4200)),
    says: /short\.elf: .*truncated/,
  },
  {
    what: 'an ELF cut short in its header',
    path: file('head.elf', whole.subarray(0, 40)),
    says: /head\.elf: .*truncated/,
  },
  {
    what: 'an ELF with a segment outside memory',
    path: withSegmentAt('far.elf', 0x1_0000_0000n),
    says: /far\.elf: .*0x100000000/,
  },
];

const options: { what: string; words: string[]; says: RegExp }[] = [
  { what: '--memory 1k', words: ['run', 'hello.elf', '--memory', '1k'], says: /--memory 1k/ },
  { what: '--memory 64G', words: ['run', 'hello.elf', '--memory', '64G'], says: /--memory 64G/ },
  { what: '--memory lots', words: ['run', 'hello.elf', '--memory', 'lots'], says: /--memory lots/ },
  { what: '--harts 0', words: ['run', 'hello.elf', '--harts', '0'], says: /--harts 0/ },
  { what: '--harts 99', words: ['run', 'hello.elf', '--harts', '99'], says: /--harts 99/ },
  { what: '--seed x', words: ['run', 'hello.elf', '--seed', 'x'], says: /--seed x/ },
  {
    what: '--max-instructions -1',
    words: ['run', 'hello.elf', '--max-instructions=-1'],
    says: /--max-instructions -1/,
  },
  {
    what: 'a policy that is none',
    words: ['run', 'hello.elf', '--policy', 'x'],
    says: /--policy x/,
  },
  {
    what: 'memory of a kind that is none',
    words: ['run', 'hello.elf', '--backing', 'x'],
    says: /--backing x: one of mixed, anon/,
  },
  {
    what: 'more memory than its kind can have',
    words: ['run', 'hello.elf', '--backing', 'file', '--memory', '1G'],
    says: /--memory 1G: file has 640M at most/,
  },
  { what: 'an unknown option', words: ['run', 'hello.elf', '--frob'], says: /--frob/ },
  { what: 'an option without its value', words: ['run', 'hello.elf', '--seed'], says: /--seed/ },
  { what: 'no program', words: ['run'], says: /gupbed run GUEST\.elf/ },
  { what: 'two programs', words: ['bare', 'a.elf', 'b.elf'], says: /gupbed bare FILE\.elf/ },
  { what: 'an unknown command', words: ['frob'], says: /unknown command frob/ },
  { what: 'help for an unknown command', words: ['help', 'constructor'], says: /constructor/ },
  { what: 'a word between its processes', words: ['bench-guest'], says: /unknown command bench/ },
  { what: 'an unknown option before a command', words: ['--frob'], says: /unknown option --frob/ },
  { what: 'an argument to fight', words: ['fight', 'x'], says: /fight: .*x/ },
  { what: 'an unknown benchmark', words: ['bench', 'x'], says: /no suite x/ },
  { what: '--rounds 1', words: ['bench', '--rounds', '1'], says: /--rounds 1/ },
  {
    what: '--save without --save-at',
    words: ['run', 'hello.elf', '--save', 'm.gup'],
    says: /--save-at/,
  },
  {
    what: '--save into a folder that is not there',
    words: ['run', 'hello.elf', '--save', 'no/m.gup', '--save-at', '5'],
    says: /no\/m\.gup/,
  },
  {
    what: '--save without a name',
    words: ['run', 'hello.elf', '--save', '', '--save-at', '5'],
    says: /--save: the name is empty/,
  },
  {
    what: '--save with a name that no file can have',
    words: ['run', 'hello.elf', '--save', 'm'.repeat(300), '--save-at', '5'],
    says: /mmm: the name is too long/,
  },
  {
    what: '--save onto a folder',
    words: ['run', 'hello.elf', '--save', '.', '--save-at', '5'],
    says: /--save \.: is a directory/,
  },
  { what: 'resume without a file', words: ['resume'], says: /gupbed resume FILE/ },
  { what: 'resume of something else', words: ['resume', 'hello.elf'], says: /not a saved machine/ },
  {
    what: 'resume of records that make no machine',
    words: ['resume', saved('foreign.gup', { config: { guests: [] }, harts: [] })],
    says: /foreign\.gup: a saved machine, but its records do not fit together/,
  },
  {
    what: 'resume of other records',
    words: ['resume', saved('null.gup', null)],
    says: /null\.gup: a saved machine of another version/,
  },
];

const expectRefused = (words: string[], says: RegExp): void => {
  const { code, stdout, stderr } = cli.run(...words);
  expect(stderr).toMatch(says);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(stderr).toMatch(/^gupbed: /);
  expect(stdout).toBe('');
  expect(code).toBe(2);
};

describe('gupbed run and gupbed bare refuse what is not a riscv64 program', () => {
  for (const { what, path, says } of programs)
    for (const command of ['run', 'bare'])
      it(`${command}: ${what}`, () => expectRefused([command, path], says));
});

describe('gupbed refuses options and arguments that make no sense', () => {
  for (const { what, words, says } of options) it(what, () => expectRefused(words, says));
});

describe('gupbed --help and --version', () => {
  it('help names every command', () => {
    const { code, stdout } = cli.run('--help');
    expect(code).toBe(0);
    for (const command of [
      'run',
      'bare',
      'fight',
      'resume',
      'bench',
      'harm',
      'explore',
      'selftest',
    ])
      expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
  });
  for (const command of ['run', 'bare', 'fight', 'resume', 'bench', 'harm', 'explore', 'selftest'])
    it(`${command} --help has an example`, () => {
      const { code, stdout } = cli.run(command, '--help');
      expect(code).toBe(0);
      expect(stdout).toMatch(new RegExp(`^example: gupbed ${command}`, 'm'));
    });
  it('the version is one line', () => {
    expect(cli.run('--version')).toEqual({ code: 0, stdout: 'gupbed 0.0.0-test\n', stderr: '' });
  });
});
