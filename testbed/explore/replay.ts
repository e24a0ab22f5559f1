/** The replay file: one schedule of one variant, by the names of the actors. JSON. */
import type { Choice } from './execution.ts';

const FORMAT = 'gupbed-explore-1';
const FLUSH = 'flush ';

export interface Replay {
  scenario: string;
  variant: string;
  /** What went wrong, or null: the run ended well. */
  violation: string | null;
  /** `pinner`: goes on; `flush pinner`: its oldest store reaches memory. */
  schedule: string[];
}

export const scheduleWords = (names: readonly string[], schedule: readonly Choice[]): string[] =>
  schedule.map(({ actor, flush }) => `${flush ? FLUSH : ''}${names[actor] ?? ''}`);

/** @returns null when an actor has none of these names */
export const scheduleOf = (names: readonly string[], words: readonly string[]): Choice[] | null => {
  const choices = words.map((word) => {
    const flush = word.startsWith(FLUSH);
    return { actor: names.indexOf(flush ? word.slice(FLUSH.length) : word), flush };
  });
  return choices.some(({ actor }) => actor < 0) ? null : choices;
};

export const replayText = (replay: Replay): string =>
  `${JSON.stringify({ format: FORMAT, ...replay }, null, 2)}\n`;

/** @returns what is wrong with the text, as a string, when it is no replay file */
export const parseReplay = (text: string): Replay | string => {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return 'not JSON';
  }
  if (typeof value !== 'object' || value === null) return 'not a replay file';
  const { format, scenario, variant, violation, schedule } = value as Record<string, unknown>;
  if (format !== FORMAT) return 'not a replay file of this version';
  const strings = Array.isArray(schedule) && schedule.every((word) => typeof word === 'string');
  if (typeof scenario !== 'string' || typeof variant !== 'string' || !strings)
    return 'a replay file with parts missing';
  if (violation !== null && typeof violation !== 'string')
    return 'a replay file with parts missing';
  return { scenario, variant, violation, schedule: schedule as string[] };
};
