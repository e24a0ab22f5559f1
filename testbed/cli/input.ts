/** Reading what the user names: files that must exist, be files, and be what the command takes. */
import { readFileSync, statSync } from 'node:fs';
import { type ElfImage, ElfError, parseElf } from '#emu';
import { UsageError } from './usage-error.ts';

const REASONS: Record<string, string> = {
  ENOENT: 'no such file',
  EACCES: 'permission denied',
  EISDIR: 'is a directory',
  ENOTDIR: 'no such file',
};

/** @throws UsageError with the file's name and what is wrong */
export const readInput = (path: string): Uint8Array => {
  try {
    if (statSync(path).isDirectory()) throw new UsageError(`${path}: is a directory`);
    return readFileSync(path);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UsageError(`${path}: ${(code && REASONS[code]) ?? message}`);
  }
};

/** Reads and parses an executable. @throws UsageError when it is not a riscv64 ELF */
export const readElf = (path: string): ElfImage => {
  const bytes = readInput(path);
  try {
    return parseElf(bytes);
  } catch (error) {
    if (error instanceof ElfError) throw new UsageError(`${path}: ${error.message}`);
    throw error;
  }
};
