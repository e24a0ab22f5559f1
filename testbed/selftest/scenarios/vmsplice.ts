/**
 * Memory in a pipe: what its reader gets is what was there when vmsplice() was called, whatever is
 * written after fork() by the process that did not call it.
 *
 * The caller unmaps the memory, so that only the pipe still has it: a writer that takes itself for
 * the page's only user, and does not copy, changes what is in the pipe (CVE-2020-29374).
 */
import { createPipe, drive, pipeRead, pipeRelease, vmspliceToPipe } from '#mm';
import { differsFrom, MODIFIED } from '../content.ts';
import type { Memory, Scenario } from '../scenario.ts';
import type { Task } from '../task.ts';
import type { Trial } from '../trial.ts';
import { must, RowFailed } from '../verdict.ts';
import { mustHold, protectAndBack } from './fork.ts';

/** Puts memory of a process into a new pipe, as much as fits. @returns what compares what the pipe has */
const splice = (trial: Trial, task: Task, memory: Memory): ((leak: string) => void) => {
  const { k, mm } = task.process;
  const pipe = createPipe(k);
  trial.defer(() => pipeRelease(k, pipe));
  const taken = must(
    'vmsplice()',
    drive(vmspliceToPipe(k, mm, pipe, memory.hva, memory.lenBytes, 0)),
  );
  if (taken === 0) throw new RowFailed('vmsplice() took nothing');
  return (leak) => {
    const bytes = new Uint8Array(taken);
    for (let at = 0; at < taken; ) at += must('read()', pipeRead(k, pipe, bytes.subarray(at)));
    const at = differsFrom(bytes, memory.content, 0);
    if (at >= 0) throw new RowFailed(`${leak}: byte ${at} of the pipe differs`);
  };
};

const inChild = (trial: Trial, memory: Memory, protect: boolean): void => {
  const { task: parent, hva, lenBytes } = memory;
  const child = parent.fork();
  mustHold(child, memory, 'the child does not see what its parent wrote before fork()');
  const readPipe = splice(trial, child, memory);
  child.munmap(hva, lenBytes);
  if (protect) protectAndBack(parent, hva, lenBytes);
  parent.write(hva, lenBytes, MODIFIED);
  readPipe('leak from parent into child');
};

const inParent = (trial: Trial, memory: Memory, beforeFork: boolean): void => {
  const { task: parent, hva, lenBytes } = memory;
  mustHold(parent, memory, 'the process does not see what it has written');
  let readPipe = beforeFork ? splice(trial, parent, memory) : null;
  const child = parent.fork();
  readPipe ??= splice(trial, parent, memory);
  parent.munmap(hva, lenBytes);
  child.write(hva, lenBytes, MODIFIED);
  child.exit();
  readPipe('leak from child into parent');
};

export const VMSPLICE_SCENARIOS: readonly Scenario[] = [
  {
    title: 'vmsplice() + unmap in child',
    run: (trial, memory) => inChild(trial, memory, false),
  },
  {
    title: 'vmsplice() + unmap in child with mprotect() optimization',
    run: (trial, memory) => inChild(trial, memory, true),
  },
  {
    title: 'vmsplice() before fork(), unmap in parent after fork()',
    run: (trial, memory) => inParent(trial, memory, true),
  },
  {
    title: 'vmsplice() + unmap in parent after fork()',
    run: (trial, memory) => inParent(trial, memory, false),
  },
];
