/** A vCPU as an actor: it runs slices of instructions, and the paths that its exits ask for. */
import type { Clock } from '#emu';
import type { ErrorExit, Vcpu } from '#kvm';
import type { Path } from '#mm';
import { YP_WAIT } from '#mm';
import type { Guest } from '../machine/guest.ts';
import type { Actor, Turn } from '../sched/actor.ts';

/** Called around a slice: while it runs, an event that becomes earlier must end it. */
export interface SliceWatch {
  begin(vcpu: Vcpu): void;
  end(): void;
}

export class VcpuActor implements Actor {
  readonly name: string;
  private readonly guest: Guest;
  private readonly vcpu: Vcpu;
  private readonly clock: Clock;
  private readonly watch: SliceWatch;
  private path: Path<ErrorExit | undefined> | null;

  constructor(guest: Guest, vcpu: Vcpu, clock: Clock, watch: SliceWatch) {
    this.name = `${guest.config.name} vcpu ${vcpu.state.id}`;
    this.guest = guest;
    this.vcpu = vcpu;
    this.clock = clock;
    this.watch = watch;
    this.path = null;
  }

  get quiet(): boolean {
    return this.path === null;
  }

  wakeAt(): number {
    if (this.path !== null) return 0;
    return this.guest.end === null && this.vcpu.runnable ? 0 : Number.POSITIVE_INFINITY;
  }

  turn(limit: number): Turn {
    return this.path === null ? this.runSlice(limit) : this.stepPath(this.path);
  }

  private stepPath(path: Path<ErrorExit | undefined>): Turn {
    const step = path.next();
    if (step.done !== true) return step.value === YP_WAIT ? 'waited' : 'ran';
    this.path = null;
    this.guest.noteFault(-1);
    if (step.value !== undefined) this.fail(step.value);
    return 'ran';
  }

  private runSlice(limit: number): Turn {
    const { vcpu, guest, clock } = this;
    const start = clock.now;
    this.watch.begin(vcpu);
    const exit = vcpu.run(limit);
    this.watch.end();
    clock.now = start + exit.retired;
    switch (exit.kind) {
      case 'mmio':
        guest.serveMmio(vcpu, exit);
        break;
      case 'fault':
        guest.noteFault(exit.gpa);
        this.path = vcpu.handleFault();
        break;
      case 'sbi':
        this.path = vcpu.handleSbi();
        break;
      case 'shutdown':
        guest.ended({
          kind: 'shutdown',
          resetType: exit.resetType,
          resetReason: exit.resetReason,
        });
        break;
      case 'error':
        this.fail(exit);
        break;
      case 'budget':
      case 'wfi':
      case 'stop':
      case 'dirtyRing':
        break;
    }
    return 'ran';
  }

  private fail({ pc, cause, gpa, message }: ErrorExit): void {
    this.guest.ended({ kind: 'error', vcpu: this.vcpu.state.id, pc, cause, gpa, message });
  }
}
