/** What the user names: files that must exist and be what the command takes, memory that must be there. */
import { readFileSync, statSync } from 'node:fs';
import { type ElfImage, ElfError, parseElf } from '#emu';
import { formatSize } from './args.ts';
import { UsageError } from './usage-error.ts';

const REASONS: Record<string, string> = {
  ENOENT: 'no such file',
  EACCES: 'permission denied',
  EISDIR: 'is a directory',
  ENOTDIR: 'no such file',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'symbolic links in a circle',
  EROFS: 'a read-only file system',
  ENOSPC: 'no space left',
};

/** What the file system said, in words and without the names of system calls. */
export const reasonOf = (error: unknown): string => {
  const { code, message } = error as NodeJS.ErrnoException;
  return (code === undefined ? undefined : REASONS[code]) ?? message;
};

/**
 * All bytes of a file or a pipe. Terminals and devices are refused: they may never end.
 * @throws UsageError with the file's name and what is wrong
 */
export const readInput = (path: string): Uint8Array => {
  try {
    const stat = statSync(path);
    if (stat.isDirectory()) throw new UsageError(`${path}: is a directory`);
    if (!stat.isFile() && !stat.isFIFO()) throw new UsageError(`${path}: not a regular file`);
    return readFileSync(path);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${path}: ${reasonOf(error)}`);
  }
};

/** Reads and parses an executable. @throws UsageError when it is not a riscv64 ELF */
export const readElf = (path: string): ElfImage => {
  const bytes = readInput(path);
  return refusingElf(path, () => parseElf(bytes));
};

/** Does something with a program. @throws UsageError, with the file's name, for its ElfError */
export const refusingElf = <T>(path: string, work: () => T): T => {
  try {
    return work();
  } catch (error) {
    if (error instanceof ElfError) throw new UsageError(`${path}: ${error.message}`);
    throw error;
  }
};

/** Makes a machine. @throws UsageError when this computer has no room for its RAM */
export const withRoomFor = <T>(ramBytes: number, make: () => T): T => {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError && error.message.startsWith('WebAssembly.Memory'))
      throw new UsageError(
        `this computer has no ${formatSize(ramBytes)} of memory for the machine`,
      );
    throw error;
  }
};
