/** Runs rows one after another: what each comes to, and that nothing is left of it. */
import type { Row } from './matrix.ts';
import { Trial } from './trial.ts';
import { type RowResult, RowFailed, RowSkipped } from './verdict.ts';
import { createWorld, leftBehind, type World, type WorldOptions } from './world.ts';

/** How many rows came to what. */
export interface Summary {
  rows: number;
  ok: number;
  notOk: number;
  skipped: number;
}

/** Rows' results, each as soon as it is there. */
export function* runRows(rows: readonly Row[], options: WorldOptions): Generator<RowResult> {
  let world: World | null = null;
  for (const row of rows) {
    world ??= createWorld(options);
    const { result, clean } = runRow(world, row);
    if (!clean) world = null;
    yield result;
  }
}

export const summaryOf = (results: readonly RowResult[]): Summary => {
  const count = (answer: RowResult['answer']): number =>
    results.filter((result) => result.answer === answer).length;
  return {
    rows: results.length,
    ok: count('ok'),
    notOk: count('not ok'),
    skipped: count('skip'),
  };
};

/** @returns the row's result, and whether the world may be used again */
const runRow = (world: World, { name, run }: Row): { result: RowResult; clean: boolean } => {
  const trial = new Trial(world);
  const failures: string[] = [];
  let skipped: string | null = null;
  /** @returns true unless it threw; notes why */
  const attempt = (step: () => void): boolean => {
    try {
      step();
      return true;
    } catch (error) {
      if (error instanceof RowSkipped) skipped = error.message;
      else if (error instanceof RowFailed) failures.push(error.message);
      // A rule that the kernel itself has found broken, by one of its inline checks.
      else failures.push(`the kernel stopped: ${String((error as Error).message ?? error)}`);
      return false;
    }
  };
  attempt(() => run(trial));
  const ended = attempt(() => trial.end());
  const left: string[] = [];
  const checked = ended && attempt(() => void left.push(...leftBehind(world)));
  const clean = checked && left.length === 0;
  failures.push(...left);
  if (failures.length > 0) return { result: { name, answer: 'not ok', reasons: failures }, clean };
  if (skipped !== null) return { result: { name, answer: 'skip', reasons: [skipped] }, clean };
  return { result: { name, answer: 'ok', reasons: [] }, clean };
};
