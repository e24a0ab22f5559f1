/** Does what a guest's DMA port waits for: pins for submissions, unpins after completions. */
import type { PinnedPort } from '#devices/host';
import type { Path } from '#mm';
import { PathActor } from '../sched/actor.ts';

export class DmaPump extends PathActor {
  private readonly port: PinnedPort;

  constructor(name: string, port: PinnedPort) {
    super(name);
    this.port = port;
  }

  protected nextAt(): number {
    return this.port.pendingWork() > 0 ? 0 : Number.POSITIVE_INFINITY;
  }

  protected begin(): Path<void> {
    return this.port.work();
  }
}
