/**
 * The exploring build in a process of its own: the same command line, with the other #cells.
 *
 * From dist/ it is the file beside this one with `-explore` in its name, which scripts/build.mjs
 * makes; from source it is the same main.ts under the import condition `explore`.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EXIT_INTERRUPTED, FailureError } from '../cli/usage-error.ts';

interface Program {
  file: string;
  execArgv: string[];
}

const exploringProgram = (): Program => {
  const here = fileURLToPath(import.meta.url);
  const built = here.replace(/(\.m?js)$/, '-explore$1');
  if (built !== here) return { file: built, execArgv: process.execArgv };
  const file = fileURLToPath(new URL('../main.ts', import.meta.url));
  return { file, execArgv: [...process.execArgv, '--conditions=explore'] };
};

/**
 * Runs `gupbed WORDS` in the exploring build, on the same terminal.
 * @returns its exit code
 */
export const runExploring = (words: string[]): Promise<number> => {
  const { file, execArgv } = exploringProgram();
  if (!existsSync(file)) throw new FailureError(`explore: ${file} is missing: build again`);
  const child = spawn(process.execPath, [...execArgv, file, ...words], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  // Ctrl-C reaches both; the child says where it was and ends, and then this process does.
  const forward = (): void => {
    child.kill('SIGINT');
  };
  process.on('SIGINT', forward);
  return new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new FailureError(`explore: ${error.message}`)));
    child.on('exit', (code, signal) => {
      process.off('SIGINT', forward);
      if (code !== null) resolve(code);
      else if (signal === 'SIGINT') resolve(EXIT_INTERRUPTED);
      else reject(new FailureError(`explore: the search was ended by ${signal}`));
    });
  });
};

/** The child's side: nobody is left to search for when the parent has gone. */
export const endWithParent = (): void => {
  if (process.channel === undefined || process.channel === null) return;
  process.on('disconnect', () => process.exit(EXIT_INTERRUPTED));
  process.channel.unref();
};
