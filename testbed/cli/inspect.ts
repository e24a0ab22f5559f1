/** `gupbed inspect`: what /proc of a saved machine's host would say, and who holds a frame. */
import { inspect } from '../inspect/kernel.ts';
import { VIEWS } from '../inspect/views.ts';
import { parseCommandLine } from './args.ts';
import { wantsJson } from './host-options.ts';
import { withRoomFor } from './input.ts';
import { fitting, readSaved } from './saved.ts';
import { EXIT_OK, UsageError } from './usage-error.ts';

export const inspectCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('inspect', words, { json: { type: 'boolean', default: false } });
  const [file, name, ...rest] = args.positionals;
  const names = Object.keys(VIEWS).join(', ');
  if (file === undefined || name === undefined)
    throw new UsageError(`inspect: FILE and VIEW are wanted; views: ${names}`);
  const view = Object.hasOwn(VIEWS, name) ? VIEWS[name] : undefined;
  if (view === undefined) throw new UsageError(`inspect: no view ${name}: one of ${names}`);
  const state = readSaved(file);
  const inspected = fitting(file, () => withRoomFor(state.memory.ramBytes, () => inspect(state)));
  const { text, json } = view(inspected, rest);
  process.stdout.write(wantsJson(args) ? `${JSON.stringify(json(), null, 2)}\n` : text());
  return EXIT_OK;
};
