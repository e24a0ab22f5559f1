/** The committed guests are what their sources give: rebuilt with the same compiler, compared byte for byte. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const GUESTS = join(import.meta.dirname, '../../guests');
const BIN = join(GUESTS, 'bin');
const COMPILER = 'riscv64-unknown-elf-gcc';

/** First line of what `<program> --version` prints, or undefined where there is no such program. */
const versionOf = (program: string): string | undefined => {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split('\n')[0] : undefined;
};

const committed = readdirSync(BIN).filter((name) => name.endsWith('.elf'));
const madeWith = readFileSync(join(BIN, 'COMPILER'), 'utf8').split('\n')[0];
const installed = versionOf(COMPILER);

describe('guests/bin', () => {
  it('holds one ELF for every program of guests/', () => {
    const programs = readdirSync(GUESTS).filter((name) => /\.[cS]$/.test(name));
    expect(committed.toSorted()).toEqual(
      programs.map((name) => name.replace(/\.[cS]$/, '.elf')).toSorted(),
    );
  });

  it('names no folder of the machine it was built on', () => {
    for (const name of committed)
      expect(readFileSync(join(BIN, name)).includes('/tmp/'), name).toBe(false);
  });

  if (installed === undefined && process.env.CI !== undefined)
    it(`is rebuilt in CI, which needs ${COMPILER}`, () => expect.fail(`${COMPILER} is missing`));
  else if (installed !== madeWith)
    it.skip(`is what its sources give (needs ${madeWith}, here is ${installed ?? 'none'})`);
  else
    it('is what its sources give', () => {
      const folder = mkdtempSync(join(tmpdir(), 'gupbed-guests-'));
      try {
        execFileSync(join(GUESTS, 'build.sh'), [folder], { stdio: 'pipe' });
        expect(readdirSync(folder).toSorted()).toEqual(readdirSync(BIN).toSorted());
        for (const name of readdirSync(folder))
          expect(
            readFileSync(join(folder, name)).equals(readFileSync(join(BIN, name))),
            `${name} differs from what its source gives`,
          ).toBe(true);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
});
