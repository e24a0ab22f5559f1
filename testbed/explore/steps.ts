/** A schedule as people read it: who went on, how far, and which of the watched words it changed. */
import type { Choice, Execution } from './execution.ts';
import type { Explored } from './explored.ts';
import { pointName, pointWords } from './points.ts';
import type { Point, Stage } from './scenario.ts';

export interface Step {
  actor: string;
  /** A buffered store of the actor reached memory; otherwise it went on. */
  flush: boolean;
  /** Where it stopped: a yield point's name, '' where there is none. */
  point: string;
  /** The same in words. */
  text: string;
  /** `name: before -> after` for each watched word that is different in memory. */
  changes: string[];
}

/** A schedule's steps, and how they ended. */
export interface Told {
  steps: Step[];
  /** What went wrong, or null. */
  violation: string | null;
}

/** Runs a schedule and writes it down. @returns null when a choice of it is not possible */
export const tell = (explored: Explored, schedule: readonly Choice[]): Told | null => {
  const { watched } = explored.stage;
  const execution = explored.begin();
  const steps: Step[] = [];
  for (const choice of schedule) {
    if (!execution.possible(choice)) return null;
    const before = valuesOf(watched);
    const point = execution.act(choice);
    const after = valuesOf(watched);
    const changes = watched.flatMap(({ name }, i) =>
      before[i] === after[i] ? [] : [`${name}: ${before[i]} -> ${after[i]}`],
    );
    steps.push({
      actor: explored.actorNames[choice.actor] ?? '',
      flush: choice.flush,
      point: point === null ? '' : pointName(point),
      text: textOf(choice, point, execution),
      changes,
    });
    execution.judge();
  }
  return { steps, violation: execution.violation };
};

const valuesOf = (watched: Stage['watched']): string[] =>
  watched.map((value) => ('read' in value ? value.read() : value.show(value.words[value.index]!)));

/** What the choice made just now has done, before anybody judges it. */
const textOf = ({ flush }: Choice, point: Point | null, execution: Execution): string => {
  if (flush) return 'its oldest store reaches memory';
  if (point !== null) return pointWords(point);
  return execution.violation === null ? 'ends' : 'fails';
};

/** Steps as numbered lines. */
export const stepLines = (steps: readonly Step[]): string[] => {
  const width = Math.max(0, ...steps.map(({ actor }) => actor.length));
  return steps.map(({ actor, text, point, changes }, i) => {
    const where = point === '' ? '' : ` (${point})`;
    const what = changes.length === 0 ? '' : `   [${changes.join('; ')}]`;
    return `${String(i + 1).padStart(3)}  ${actor.padEnd(width)}  ${text}${where}${what}`;
  });
};
