/**
 * Makes a schedule that goes wrong shorter: fewer preemptions, then fewer changes of actor, then
 * fewer choices. Runs of choices are left out, long ones first, and what is left is tried; whatever
 * still goes wrong in the same way is the new schedule.
 */
import type { Choice, Execution } from './execution.ts';
import type { Explored } from './explored.ts';
import type { Violation } from './search.ts';

/** Runs that shrinking may cost. */
const MAX_TRIES = 3000;

/** What is to be small, the most important first. */
const sizeOf = (violation: Violation): number[] => {
  const { schedule, preemptions } = violation;
  const steps = schedule.filter(({ flush }) => !flush);
  const switches = steps.filter(({ actor }, i) => i > 0 && actor !== steps[i - 1]?.actor).length;
  return [preemptions, switches, schedule.length];
};

const smaller = (a: Violation, b: Violation): boolean => {
  const [ofA, ofB] = [sizeOf(a), sizeOf(b)];
  const i = ofA.findIndex((n, at) => n !== ofB[at]);
  return i >= 0 && ofA[i]! < ofB[i]!;
};

/** Follows a wish list as far as it goes, and then lets whoever is at work go on. */
const guided = (explored: Explored, wishes: readonly Choice[]): Execution => {
  const execution = explored.begin();
  for (const wish of wishes)
    if (execution.violation === null && execution.possible(wish)) execution.take(wish);
  for (;;) {
    const [first] = execution.choices(Number.POSITIVE_INFINITY);
    if (first === undefined) return execution;
    execution.take(first);
  }
};

/** The same violation by a schedule that cannot be made smaller by leaving a run of choices out. */
export const shrink = (explored: Explored, found: Violation): Violation => {
  let best = found;
  let tries = 0;
  for (let length = found.schedule.length - 1; length > 0; length--) {
    for (let at = 0; at + length <= best.schedule.length && tries < MAX_TRIES; tries++) {
      const { violation, taken, preemptions } = guided(
        explored,
        best.schedule.toSpliced(at, length),
      );
      const candidate = { message: found.message, schedule: taken, preemptions };
      if (violation === found.message && smaller(candidate, best)) best = candidate;
      else at++;
    }
  }
  return best;
};
