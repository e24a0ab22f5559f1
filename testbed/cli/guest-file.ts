/** Where the guest programs are that come with gupbed. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UsageError } from './usage-error.ts';

/**
 * Path of guests/bin/NAME.elf, whether this runs from dist/ or from source.
 * @throws UsageError when it is not there
 */
export const guestFile = (name: string): string => {
  // From dist/ first: what lies outside an installed package is not ours.
  for (const root of ['../', '../../']) {
    const file = fileURLToPath(new URL(`${root}guests/bin/${name}.elf`, import.meta.url));
    if (existsSync(file)) return file;
  }
  throw new UsageError(`guests/bin/${name}.elf: not found beside the program`);
};
