/** One run of one row: the processes it has started, and what it must give back at its end. */
import { HostProcess, mmCreate } from '#mm';
import { Task } from './task.ts';
import type { World } from './world.ts';

export class Trial {
  readonly world: World;
  private readonly undo: (() => void)[];

  constructor(world: World) {
    this.world = world;
    this.undo = [];
  }

  /** Done at the end of the row, last thing first, however the row ends. */
  defer(undo: () => void): void {
    this.undo.push(undo);
  }

  /** Until the end of the row all anonymous memory may have folios of one order, and of no other. */
  onlyThpOrder(order: number): void {
    const { thp } = this.world.k.state;
    const { always, madvise } = thp;
    this.defer(() => Object.assign(thp, { always, madvise }));
    Object.assign(thp, { always: 1 << order, madvise: 0 });
  }

  /** A process with nothing mapped; it may lock as much memory as there is. */
  start(): Task {
    const { k, mmu } = this.world;
    const mm = mmCreate(k);
    mm.rlimitMemlock = Number.POSITIVE_INFINITY;
    return new Task(this, new HostProcess(k, mm, mmu));
  }

  /** Gives everything back. Goes on after a step that throws, and throws the first error at its end. */
  end(): void {
    let first: unknown;
    for (let undo = this.undo.pop(); undo !== undefined; undo = this.undo.pop()) {
      try {
        undo();
      } catch (error) {
        first ??= error;
      }
    }
    if (first !== undefined) throw first;
  }
}
