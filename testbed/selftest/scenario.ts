/**
 * What the matrix is made of: kinds of memory, and scenarios that something is done to memory in.
 *
 * A row is one of each. The kind makes a process with memory of its sort; the scenario does things to
 * it, compares bytes, and throws RowFailed where they are not what they must be.
 */
import type { AddressSpace } from '#mm';
import type { Content } from './content.ts';
import type { Task } from './task.ts';
import type { Trial } from './trial.ts';

/** Memory of a kind, ready for a scenario. */
export interface Memory {
  task: Task;
  hva: number;
  lenBytes: number;
  /** What it holds. */
  content: Content;
}

/** Memory that another mapping of the same process shows as well. */
export interface TwiceMapped extends Memory {
  /** The other mapping, which only reads. */
  otherHva: number;
}

export interface Kind<M = Memory> {
  title: string;
  /** @throws RowSkipped where this host cannot have such memory */
  make(trial: Trial): M;
}

export interface Scenario<M = Memory> {
  title: string;
  /** @throws RowFailed */
  run(trial: Trial, memory: M): void;
}

/** A file that nobody has mapped yet, and what a scenario does with it. */
export type FileKind = Kind<AddressSpace>;
export type FileScenario = Scenario<AddressSpace>;
