/**
 * Calls the command line as a user does: the bundle that `npm run build` makes, in a process of its own.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

const root = fileURLToPath(new URL('../../', import.meta.url));

export interface CliResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** A built command line and a folder for its files; `remove` takes both away. */
export interface Cli {
  folder: string;
  run(...words: string[]): CliResult;
  remove(): void;
}

/** A guest program of the repository. */
export const guest = (name: string): string => join(root, 'guests/bin', `${name}.elf`);

export const buildCli = (): Cli => {
  const folder = mkdtempSync(join(tmpdir(), 'gupbed-test-'));
  const bundle = join(folder, 'gupbed.mjs');
  buildSync({
    entryPoints: [join(root, 'testbed/main.ts')],
    outfile: bundle,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    define: { GUPBED_VERSION: '"0.0.0-test"' },
  });
  return {
    folder,
    run: (...words) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [bundle, ...words], {
        encoding: 'utf8',
        cwd: folder,
        timeout: 120_000,
      });
      return { code: status, stdout, stderr };
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
};
