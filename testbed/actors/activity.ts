/**
 * Host activity: an actor that does one thing to a guest's memory again and again, at random
 * intervals of machine time, from its own stream of random numbers.
 */
import type { Clock } from '#emu';
import type { Path } from '#mm';
import { Rng, type RngState } from '../rng.ts';
import { PathActor } from '../sched/actor.ts';
import type { Victim } from './targets.ts';

/** What is saved of an activity. Everything else is derived. */
export interface ActivityState {
  rng: RngState;
  nextAt: number;
  counts: Record<string, number>;
  /** Numbers an activity remembers between two of its actions. */
  memory: number[];
}

/** Whom an activity strikes, and how often. */
export interface ActivityConfig {
  clock: Clock;
  victim: Victim;
  seed: number;
  /** Mean machine time from one action to the next, in instructions. */
  meanGap: number;
  /** The guest still runs: without it there is nothing to disturb. */
  active(): boolean;
}

export abstract class Activity extends PathActor {
  protected readonly victim: Victim;
  protected readonly rng: Rng;
  protected memory: number[];
  /** What it did, by outcome. */
  readonly counts: Record<string, number>;
  private readonly clock: Clock;
  private readonly config: ActivityConfig;
  private dueAt: number;

  constructor(name: string, config: ActivityConfig) {
    super(name);
    this.victim = config.victim;
    this.clock = config.clock;
    this.config = config;
    this.rng = new Rng(config.seed);
    this.counts = {};
    this.memory = [];
    this.dueAt = 0;
    this.postpone();
  }

  /** One action, or null when the dice found nothing to do it to. */
  protected abstract act(): Path<void> | null;

  /** Called once after the guest has ended: gives back what is still held. */
  protected windUp(): Path<void> | null {
    return null;
  }

  protected count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  protected nextAt(): number {
    if (!this.config.active() && this.memory.length === 0) return Number.POSITIVE_INFINITY;
    return this.config.active() ? this.dueAt : 0;
  }

  protected begin(): Path<void> | null {
    if (!this.config.active()) return this.windUp();
    this.postpone();
    return this.act();
  }

  private postpone(): void {
    this.dueAt = this.clock.now + this.rng.between(1, 2 * this.config.meanGap);
  }

  save(): ActivityState {
    return {
      rng: this.rng.save(),
      nextAt: this.dueAt,
      counts: { ...this.counts },
      memory: [...this.memory],
    };
  }

  restore(state: ActivityState): void {
    this.rng.restore(state.rng);
    this.dueAt = state.nextAt;
    Object.assign(this.counts, state.counts);
    this.memory = [...state.memory];
  }
}
