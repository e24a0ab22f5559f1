/** Command-line values: sizes, counts and options, each refused with one line that names it. */
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { UsageError } from './usage-error.ts';

export type OptionSpec = NonNullable<ParseArgsConfig['options']>;

/** Values of options by name, and the other words in their order. */
export interface ParsedArgs {
  values: Record<string, string | boolean | string[] | undefined>;
  positionals: string[];
}

/**
 * Parses the words after a command's name.
 * @throws UsageError on an option the command does not have, or one without its value
 */
export const parseCommandLine = (
  command: string,
  words: string[],
  options: OptionSpec,
): ParsedArgs => {
  try {
    const { values, positionals } = parseArgs({
      args: words,
      options,
      allowPositionals: true,
      strict: true,
    });
    return { values: values as ParsedArgs['values'], positionals };
  } catch (error) {
    throw new UsageError(`${command}: ${firstSentence((error as Error).message)}`);
  }
};

/** Node's message goes on with advice about `--`; the first sentence says what is wrong. */
const firstSentence = (message: string): string => {
  const end = message.search(/\.(\s|$)/);
  const sentence = end < 0 ? message : message.slice(0, end);
  return sentence.charAt(0).toLowerCase() + sentence.slice(1).replaceAll('\n', ' ');
};

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 };

/** `64M`, `1g`, `4096` -> bytes. @throws UsageError when it is not a size within [min, max] */
export const parseSize = (option: string, text: string, min: number, max: number): number => {
  const match = /^(\d+(?:\.\d+)?)([kmg]?)(?:i?b)?$/i.exec(text);
  const bytes = match === null ? Number.NaN : Number(match[1]) * UNITS[match[2]!.toLowerCase()]!;
  if (!Number.isInteger(bytes))
    throw new UsageError(`${option} ${text}: not a size (try 64M or 1G)`);
  if (bytes < min || bytes > max)
    throw new UsageError(`${option} ${text}: must be ${formatSize(min)} to ${formatSize(max)}`);
  if (bytes % 4096 !== 0) throw new UsageError(`${option} ${text}: not a multiple of 4096 bytes`);
  return bytes;
};

/** A whole number within [min, max], decimal or 0x. @throws UsageError when it is not */
export const parseCount = (option: string, text: string, min: number, max: number): number => {
  const value = /^(\d+|0x[0-9a-f]+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new UsageError(`${option} ${text}: not a whole number`);
  if (value < min || value > max)
    throw new UsageError(`${option} ${text}: must be ${min} to ${max}`);
  return value;
};

/** 67108864 -> "64M". */
export const formatSize = (bytes: number): string => {
  for (const [unit, size] of [
    ['G', 2 ** 30],
    ['M', 2 ** 20],
    ['K', 2 ** 10],
  ] as const)
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${unit}`;
  return `${bytes}`;
};
