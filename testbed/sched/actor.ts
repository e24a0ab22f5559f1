/**
 * What takes turns on a machine: virtual CPUs, and the host's own activities.
 *
 * An activity is a preemptible path (mm/path.ts) that is started now and then and stepped from yield
 * point to yield point, so that everything else can come in between. What an actor remembers
 * between two paths is plain data, which is saved with the machine.
 */
import type { Path } from '#mm';
import { YP_WAIT } from '#mm';

/** The outcome of one turn. */
export type Turn = 'ran' | 'waited';

export interface Actor {
  readonly name: string;
  /** Machine time at which it has something to do: now or earlier = at once; Infinity = only an event can wake it. */
  wakeAt(): number;
  /** No path is suspended: the machine may be saved as far as this actor goes. */
  readonly quiet: boolean;
  /**
   * Does one turn. @param limit instructions that may retire in it, at most
   * @returns 'waited' when it could do nothing before another actor releases a lock
   */
  turn(limit: number): Turn;
}

/** An actor that runs one path at a time. */
export abstract class PathActor implements Actor {
  readonly name: string;
  private path: Path<void> | null;

  constructor(name: string) {
    this.name = name;
    this.path = null;
  }

  get quiet(): boolean {
    return this.path === null;
  }

  /** When the next path is due. */
  protected abstract nextAt(): number;

  /** The next path, or null when there is nothing to do after all; nextAt() has to move on. */
  protected abstract begin(): Path<void> | null;

  wakeAt(): number {
    return this.path === null ? this.nextAt() : 0;
  }

  turn(_limit: number): Turn {
    this.path ??= this.begin();
    if (this.path === null) return 'ran';
    const step = this.path.next();
    if (step.done === true) this.path = null;
    else if (step.value === YP_WAIT) return 'waited';
    return 'ran';
  }
}
