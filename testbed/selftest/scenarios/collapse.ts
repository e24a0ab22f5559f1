/** Basic COW of a huge page that is mapped page by page, and by one entry again: before or after fork(). */
import { MODIFIED } from '../content.ts';
import type { Memory, Scenario } from '../scenario.ts';
import { RowFailed } from '../verdict.ts';
import { writeInParent } from './fork.ts';

/** A part of the memory, in bytes from its start. */
interface Part {
  at: number;
  lenBytes: number;
}

/** Collapses after a fork() that gave the child only a part of it. */
const afterFork = (memory: Memory, shared: Part): void => {
  const { task: parent, hva, lenBytes, content } = memory;
  const own: Part = {
    at: shared.at === 0 ? shared.lenBytes : 0,
    lenBytes: lenBytes - shared.lenBytes,
  };
  if (own.lenBytes > 0) parent.madvise(hva + own.at, own.lenBytes, 'MADV_DONTFORK');
  const child = parent.fork();
  const mustHold = (what: string): void => {
    const at = child.differsAt(hva + shared.at, shared.lenBytes, content, shared.at);
    if (at >= 0) throw new RowFailed(`${what}: byte ${shared.at + at} differs`);
  };
  mustHold('the child does not see what its parent wrote before fork()');
  // One mapping again: halves could not be collapsed.
  if (own.lenBytes > 0) parent.madvise(hva, lenBytes, 'MADV_DOFORK');
  parent.collapse(hva, lenBytes);
  parent.write(hva, lenBytes, MODIFIED);
  mustHold('leak from parent into child');
};

export const COLLAPSE_SCENARIOS: readonly Scenario[] = [
  {
    title: 'Basic COW after fork() when collapsing before fork()',
    run: (_trial, memory) => {
      memory.task.collapse(memory.hva, memory.lenBytes);
      writeInParent(memory, false);
    },
  },
  {
    title: 'Basic COW after fork() when collapsing after fork() (fully shared)',
    run: (_trial, memory) => afterFork(memory, { at: 0, lenBytes: memory.lenBytes }),
  },
  {
    title: 'Basic COW after fork() when collapsing after fork() (lower shared)',
    run: (_trial, memory) => afterFork(memory, { at: 0, lenBytes: memory.lenBytes / 2 }),
  },
  {
    title: 'Basic COW after fork() when collapsing after fork() (upper shared)',
    run: (_trial, { lenBytes, ...rest }) =>
      afterFork({ lenBytes, ...rest }, { at: lenBytes / 2, lenBytes: lenBytes / 2 }),
  },
];
