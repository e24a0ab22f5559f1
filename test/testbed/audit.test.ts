/** `gupbed audit`: the users table as it is printed. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GUP_USERS, POLICY_NAMES } from '#mm';
import { buildCli, type Cli } from '../support/cli.ts';

interface Audit {
  policy: string;
  users: {
    user: string;
    api: string;
    hold: string;
    dirty: string;
    notifier: string;
    unsafe: string;
  }[];
}

describe('gupbed audit', () => {
  let cli: Cli;
  beforeAll(() => {
    cli = buildCli();
  });
  afterAll(() => cli.remove());

  for (const policy of POLICY_NAMES)
    it(`names every user and its API under ${policy}`, () => {
      const { code, stdout } = cli.run('audit', '--policy', policy, '--json');
      expect(code).toBe(0);
      const audit = JSON.parse(stdout) as Audit;
      expect(audit.policy).toBe(policy);
      expect(audit.users.map(({ user, api }) => [user, api])).toEqual(
        GUP_USERS.map(({ id, api }) => [id, api[policy]]),
      );
      for (const { hold, dirty, notifier, unsafe } of audit.users) {
        expect(['none', 'bounded', 'unbounded']).toContain(hold);
        for (const text of [dirty, notifier, unsafe]) expect(text).not.toBe('');
      }
    });

  it('says what writeback does with pins, and a long-term pin with batches', () => {
    const rules = (policy: string) =>
      (JSON.parse(cli.run('audit', '--policy', policy, '--json').stdout) as { rules: unknown })
        .rules;
    expect(rules('linux-7')).toEqual({
      'pinned-writeback': 'ignore',
      'longterm-drain': 'referenced',
    });
    expect(rules('target')).toEqual({ 'pinned-writeback': 'bounce', 'longterm-drain': 'wait' });
    const { stdout } = cli.run('audit', '--set', 'pinned-writeback=bounce');
    expect(stdout).toMatch(/^pinned-writeback: bounce\. writeback writes a copy/m);
  });

  it('prints a table, and what each row means; no colour where nobody looks', () => {
    const { code, stdout } = cli.run('audit', '--set', 'vmsplice=copy');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^policy linux-7 with vmsplice=copy\n/);
    expect(stdout).toMatch(/^vmsplice +copy +none$/m);
    expect(stdout).toMatch(/^ {2}unsafe {4}\S/m);
    expect(stdout).not.toContain('\u001b');
  });

  for (const words of [
    ['--policy', 'linux-8'],
    ['--set', 'vmsplice'],
    ['--set', 'vmsplice=secondary'],
    ['--set', 'nobody=get'],
    ['--set', 'pinned-writeback=copy'],
    ['kvm'],
  ])
    it(`${words.join(' ')} is refused with one line and exit code 2`, () => {
      const { code, stdout, stderr } = cli.run('audit', ...words);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr.trim().split('\n')).toHaveLength(1);
    });
});
