/** Files that the user wants written: refused before anything runs, and written whole or not at all. */
import { accessSync, constants, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { checkTarget, writeWhole } from '../machine/snapshot.ts';
import { reasonOf } from './input.ts';
import { UsageError } from './usage-error.ts';

/**
 * Can a file of that name be written?
 * @param option as the user wrote it, for the message: `--save`
 * @throws UsageError when it cannot
 */
export const checkOutput = (option: string, path: string): void => {
  if (path === '') throw new UsageError(`${option}: the name is empty`);
  const folder = dirname(path);
  try {
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
      throw new UsageError(`${option} ${path}: no folder ${folder}`);
    checkTarget(path);
    accessSync(folder, constants.W_OK);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${option} ${path}: ${reasonOf(error)}`);
  }
};

/** Writes the file. @throws UsageError when that fails after all */
export const writeOutput = (option: string, path: string, text: string): void => {
  try {
    writeWhole(path, new TextEncoder().encode(text));
  } catch (error) {
    throw new UsageError(`${option} ${path}: ${reasonOf(error)}`);
  }
};
