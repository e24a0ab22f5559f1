/** Does what a device's host side waits for and cannot do itself, because it may sleep: pins, faults, file I/O. */
import type { Path } from '#mm';
import { PathActor } from '../sched/actor.ts';

/** The host side of a device. */
export interface Pumped {
  /** Things to do that nobody does yet; 0 while work() runs. */
  pendingWork(): number;
  /** Does them, until there is none. */
  work(): Path<void>;
}

export class Pump extends PathActor {
  private readonly pumped: Pumped;

  constructor(name: string, pumped: Pumped) {
    super(name);
    this.pumped = pumped;
  }

  protected nextAt(): number {
    return this.pumped.pendingWork() > 0 ? 0 : Number.POSITIVE_INFINITY;
  }

  protected begin(): Path<void> {
    return this.pumped.work();
  }
}
