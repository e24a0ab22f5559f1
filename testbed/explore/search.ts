/**
 * Every run of a scenario with at most so many preemptions, depth first (Musuvathi, Qadeer 2007:
 * iterative context bounding). The path down to the run under way is a list of nodes: the choices
 * that there were, and which of them is being tried.
 */
import type { Choice, Execution } from './execution.ts';
import type { Explored } from './explored.ts';

interface Node {
  choices: Choice[];
  at: number;
}

/** A run that went wrong. */
export interface Violation {
  message: string;
  schedule: readonly Choice[];
  preemptions: number;
}

export class Search {
  readonly bound: number;
  /** Runs that came to their end. */
  schedules: number;
  /** Choices made, those made again included. */
  steps: number;
  /** Choices of the longest run. */
  longest: number;
  violation: Violation | null;
  /** The bound has cut something off: a higher one would find more runs. */
  curbed: boolean;
  private readonly explored: Explored;
  private readonly nodes: Node[];
  private exhausted: boolean;

  constructor(explored: Explored, bound: number) {
    this.explored = explored;
    this.bound = bound;
    this.schedules = 0;
    this.steps = 0;
    this.longest = 0;
    this.violation = null;
    this.curbed = false;
    this.nodes = [];
    this.exhausted = false;
  }

  /** Tries one run. @returns false when there is no other one, or something is wrong */
  step(): boolean {
    const execution = this.run();
    if (execution.complete || execution.violation !== null) this.schedules++;
    this.steps += execution.taken.length;
    this.curbed ||= execution.curbed;
    this.longest = Math.max(this.longest, execution.taken.length);
    if (execution.violation !== null) {
      const { violation: message, taken: schedule, preemptions } = execution;
      this.violation = { message, schedule, preemptions };
      return false;
    }
    this.advance();
    return !this.exhausted;
  }

  /** From the beginning along the nodes, and then along the first choice of each new one. */
  private run(): Execution {
    const execution = this.explored.begin();
    for (const { choices, at } of this.nodes) {
      const choice = choices[at];
      if (choice === undefined || !execution.possible(choice))
        throw new Error(`explore ${this.explored.scenario.name}: a run went another way this time`);
      execution.take(choice);
    }
    for (;;) {
      const choices = execution.choices(this.bound);
      const [first] = choices;
      if (first === undefined) return execution;
      this.nodes.push({ choices, at: 0 });
      execution.take(first);
    }
  }

  /** On to the next choice of the last node that has one. */
  private advance(): void {
    for (;;) {
      const node = this.nodes.at(-1);
      if (node === undefined) {
        this.exhausted = true;
        return;
      }
      node.at++;
      if (node.at < node.choices.length) return;
      this.nodes.pop();
    }
  }
}
