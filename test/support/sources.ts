/** The project's own source files, for the tests that read sources. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');

/** Every folder that holds TypeScript of the project. */
export const CODE_FOLDERS = ['emu', 'mm', 'kvm', 'devices', 'testbed', 'test'];

export interface SourceFile {
  /** Path from the root, with slashes. */
  path: string;
  text: string;
}

/** The .ts files below some folders of the root, sorted by path. */
export const sourcesOf = (folders: string[]): SourceFile[] =>
  folders.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .toSorted()
      .map((name) => {
        const file = join(ROOT, folder, name);
        return {
          path: relative(ROOT, file).replaceAll(sep, '/'),
          text: readFileSync(file, 'utf8'),
        };
      }),
  );

/** The same text with comments blanked out; lines keep their numbers. Strings are left alone. */
export const withoutComments = (text: string): string =>
  text.replace(
    /'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (token) => (token.startsWith('/') ? token.replace(/[^\n]/g, ' ') : token),
  );
