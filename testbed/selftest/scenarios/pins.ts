/**
 * Read-only pins without time limit: what the process writes afterwards is seen through the pin.
 *
 * So the pin must be of the very page that the process goes on to write: one that it would have to
 * copy first is replaced by its own before it is pinned.
 */
import { MODIFIED } from '../content.ts';
import { LongtermPin } from '../pin.ts';
import type { Memory, Scenario } from '../scenario.ts';
import type { Trial } from '../trial.ts';
import { must, RowFailed } from '../verdict.ts';
import { protectAndBack } from './fork.ts';

/** Pins, writes, and reads through the pin. */
export const writeUnderPin = (trial: Trial, memory: Memory, fast: boolean): void => {
  const { task, hva, lenBytes } = memory;
  const pin = new LongtermPin(trial, task, lenBytes);
  must('the pin', pin.start(hva, fast, false));
  task.write(hva, lenBytes, MODIFIED);
  const at = pin.differsAt(MODIFIED);
  if (at >= 0) throw new RowFailed(`the pin does not see what the process writes: byte ${at}`);
  if (task.differsAt(hva, lenBytes, MODIFIED) >= 0)
    throw new RowFailed('the process does not see what it has written');
};

/** What becomes of the pages before they are pinned, so that they are mapped read-only. */
type Before = (memory: Memory) => void;

/** A child has them too, until the end of the row. */
const shared: Before = ({ task }) => {
  task.fork();
};

/** A child has had them. */
const previouslyShared: Before = ({ task }) => task.fork().exit();

/** They are the process's own; soft-dirty tracking keeps mprotect() from mapping them writable. */
const exclusive: Before = ({ task, hva, lenBytes }) =>
  protectAndBack(task, hva, lenBytes, () => task.clearSoftDirty());

const scenario = (title: string, before: Before, fast: boolean): Scenario => ({
  title,
  run: (trial, memory) => {
    before(memory);
    writeUnderPin(trial, memory, fast);
  },
});

/** By the name that the rows have for it. */
const BEFORE: readonly [string, Before][] = [
  ['shared', shared],
  ['previously-shared', previouslyShared],
  ['exclusive', exclusive],
];

export const PIN_SCENARIOS: readonly Scenario[] = BEFORE.flatMap(([page, before]) => [
  scenario(`R/O GUP pin on R/O-mapped ${page} page`, before, false),
  scenario(`R/O GUP-fast pin on R/O-mapped ${page} page`, before, true),
]);
