/** The guest programs end to end, as a user calls them; and programs that behave badly. */
import { afterAll, describe, expect, it } from 'vitest';
import { buildCli, guest, withoutHost } from '../support/cli.ts';

const cli = buildCli();
afterAll(() => cli.remove());

describe('gupbed run: a guest in VS-mode', () => {
  it('hello prints through the SBI and shuts down', () => {
    const { code, stdout, stderr } = cli.run('run', guest('hello'));
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^hello from VS-mode on hart 0\n/);
    expect(code).toBe(0);
  });

  it('the end of memory is where --memory puts it', () => {
    const { stdout } = cli.run('run', guest('hello'), '--memory', '32M');
    expect(stdout).toMatch(/memory up to 0x82000000/);
  });

  it('--json prints one object; what depends on the host is under "host"', () => {
    const runs = [1, 2].map(() => cli.run('run', guest('hello'), '--json').stdout);
    for (const text of runs) expect(JSON.parse(text)).toHaveProperty('host.mips');
    const [a, b] = runs.map((text) => JSON.stringify(withoutHost(text)));
    expect(a).toBe(b);
    expect(a).toMatch(/hello from VS-mode/);
  });

  it('--max-instructions is exact', () => {
    const { code, stdout, stderr } = cli.run(
      'run',
      guest('wild-forever'),
      '--max-instructions',
      '12345',
      '--json',
    );
    const report = JSON.parse(stdout) as { instructions: number; stopped: string };
    expect(report.instructions).toBe(12345);
    expect(report.stopped).toBe('max-instructions');
    expect(stderr).toMatch(/--max-instructions reached: wild-forever at pc 0x8020/);
    expect(code).toBe(1);
  });
});

describe('gupbed bare: a program in M-mode', () => {
  it('bare-hello prints through the UART and ends through the test finisher', () => {
    const { code, stdout, stderr } = cli.run('bare', guest('bare-hello'));
    expect(stdout).toMatch(/^hello from M-mode on hart 0\n/);
    expect(stderr).toBe('');
    expect(code).toBe(0);
  });

  it('--json counts instructions and keeps the output', () => {
    const report = JSON.parse(cli.run('bare', guest('bare-hello'), '--json').stdout) as {
      instructions: number;
      output: string[];
    };
    expect(report.instructions).toBeGreaterThan(100);
    expect(report.output[0]).toBe('hello from M-mode on hart 0');
  });
});

describe('programs that behave badly end with a clear report and exit code 1', () => {
  const cases: { name: string; says: RegExp }[] = [
    { name: 'wild-jump', says: /pc 0x[0-9a-f]+.*cause \d+/ },
    { name: 'wild-illegal', says: /pc 0x[0-9a-f]+, cause 2: illegal instruction/ },
    { name: 'wild-touch', says: /pc 0x[0-9a-f]+.*cause \d+/ },
    { name: 'wild-storm', says: /pc 0x[0-9a-f]+, cause 2: illegal instruction/ },
    { name: 'wild-sleep', says: /pc 0x[0-9a-f]+/ },
    { name: 'wild-forever', says: /--max-instructions reached.*pc 0x[0-9a-f]+/ },
  ];
  for (const command of ['run', 'bare'] as const)
    for (const { name, says } of cases)
      it(`${command}: ${name}`, () => {
        const words = [command, guest(name), '--max-instructions', '300000'];
        const { code, stderr } = cli.run(...words);
        expect(stderr).toMatch(/^gupbed: [^\n]+\n$/);
        expect(stderr).not.toMatch(/internal error|\.ts:|\.mjs:/);
        if (command === 'run') expect(stderr).toMatch(says);
        else expect(stderr).toMatch(/pc 0x[0-9a-f]+/);
        expect(code).toBe(1);
      });
});
