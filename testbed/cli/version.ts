/** The version: put in by the build, read from package.json when run from source. */
import { readFileSync } from 'node:fs';

declare const GUPBED_VERSION: string | undefined;

export const version = (): string => {
  if (typeof GUPBED_VERSION === 'string') return GUPBED_VERSION;
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
};
