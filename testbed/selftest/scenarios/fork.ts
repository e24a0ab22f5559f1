/** Basic COW: what a parent writes after fork() stays its own. */
import { PROT_READ } from '#mm';
import { MODIFIED } from '../content.ts';
import type { Memory, Scenario } from '../scenario.ts';
import { RW, type Task } from '../task.ts';
import { RowFailed } from '../verdict.ts';

/**
 * Makes memory read-only and writable again: the kernel may then map pages writable without a fault.
 * @param between done while it is read-only
 */
export const protectAndBack = (
  task: Task,
  hva: number,
  lenBytes: number,
  between: () => void = () => {},
): void => {
  task.mprotect(hva, lenBytes, PROT_READ);
  between();
  task.mprotect(hva, lenBytes, RW);
};

/** @throws RowFailed unless the task still sees what the memory held at first */
export const mustHold = (task: Task, memory: Memory, what: string): void => {
  const { hva, lenBytes, content } = memory;
  const at = task.differsAt(hva, lenBytes, content);
  if (at >= 0) throw new RowFailed(`${what}: byte ${at} differs`);
};

/** Forks, writes in the parent, and looks at what the child sees. */
export const writeInParent = (memory: Memory, protect: boolean): void => {
  const { task: parent, hva, lenBytes } = memory;
  const child = parent.fork();
  mustHold(child, memory, 'the child does not see what its parent wrote before fork()');
  if (protect) protectAndBack(parent, hva, lenBytes);
  parent.write(hva, lenBytes, MODIFIED);
  mustHold(child, memory, 'leak from parent into child');
};

export const FORK_SCENARIOS: readonly Scenario[] = [
  {
    title: 'Basic COW after fork()',
    run: (_trial, memory) => writeInParent(memory, false),
  },
  {
    title: 'Basic COW after fork() with mprotect() optimization',
    run: (_trial, memory) => writeInParent(memory, true),
  },
];
