/**
 * Calls the command line as a user does: the bundle that `npm run build` makes, in a process of its own.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
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
  /** The bundle that Node runs. */
  bundle: string;
  run(...words: string[]): CliResult;
  /** The same with a copy of the bundle that is somewhere else. */
  runBundle(bundle: string, ...words: string[]): CliResult;
  /** The same as run() without waiting for its end, which is `ended(child)`. */
  start(...words: string[]): ChildProcess;
  remove(): void;
}

/** A guest program of the repository. */
export const guest = (name: string): string => join(root, 'guests/bin', `${name}.elf`);

/** @param exploring build the file for `gupbed explore` as well */
export const buildCli = (exploring = false): Cli => {
  const folder = mkdtempSync(join(tmpdir(), 'gupbed-test-'));
  const bundle = join(folder, 'dist', 'gupbed.mjs');
  const runBundle: Cli['runBundle'] = (file, ...words) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [file, ...words], {
      encoding: 'utf8',
      cwd: folder,
      timeout: 120_000,
    });
    return { code: status, stdout, stderr };
  };
  symlinkSync(join(root, 'guests'), join(folder, 'guests'));
  const build = (outfile: string, conditions: string[]): void => {
    buildSync({
      entryPoints: [join(root, 'testbed/main.ts')],
      outfile,
      conditions,
      bundle: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      define: { GUPBED_VERSION: '"0.0.0-test"' },
    });
  };
  build(bundle, []);
  if (exploring) build(bundle.replace('.mjs', '-explore.mjs'), ['explore']);
  return {
    folder,
    bundle,
    run: (...words) => runBundle(bundle, ...words),
    runBundle,
    start: (...words) => spawn(process.execPath, [bundle, ...words], { cwd: folder }),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
};

/** How a process ended. */
export interface Ended extends CliResult {
  signal: NodeJS.Signals | null;
}

/** Waits for the end of a process that `start` has made; to be called before it can have printed. */
export const ended = (child: ChildProcess): Promise<Ended> => {
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) =>
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr })),
  );
};

/** A report of --json without what depends on the host. */
export const withoutHost = (text: string): Record<string, unknown> => {
  const { host: _host, ...rest } = JSON.parse(text) as Record<string, unknown>;
  return rest;
};
