/**
 * Interleaves actors by the seed: at each turn one of those that can run is drawn, and runs to its
 * next yield point or for a slice of instructions.
 *
 * With a quantum nothing is drawn: they take turns in their order, each for so many instructions.
 *
 * Instructions are the only thing that takes time, so host activity between two slices happens at
 * one moment of machine time. When nothing can run, the clock jumps to the next event or wake-up.
 */
import type { Clock } from '#emu';
import type { Rng } from '../rng.ts';
import type { Actor } from './actor.ts';

/** Turns in a row in which every actor only waited, before it is called a deadlock. */
const DEADLOCK_TURNS = 10_000;
/** A slice while somebody is in the middle of a path, so that it is really interleaved. */
const SHORT_SLICE = 300;
/** A slice while no path is suspended, but other harts have their turns to come. */
const SHARED_SLICE = 5000;
/** A slice when nobody else can run: bounded, so that the caller gets to look at the terminal. */
const LONG_SLICE = 200_000;

export class Scheduler {
  readonly actors: Actor[];
  private readonly clock: Clock;
  private readonly rng: Rng;
  private ready: Actor[];
  private waitedInARow: number;
  private readonly quantum: number;
  /** Place of the actor that had the last turn. */
  private last: number;

  /** @param quantum instructions of a turn, in round robin; 0: by the seed */
  constructor(clock: Clock, rng: Rng, quantum = 0) {
    this.actors = [];
    this.clock = clock;
    this.rng = rng;
    this.ready = [];
    this.waitedInARow = 0;
    this.quantum = quantum;
    this.last = -1;
  }

  /** Whose turn it was last: what a machine with a quantum keeps of its scheduler. */
  save(): number {
    return this.last;
  }

  restore(last: number): void {
    this.last = last;
  }

  add(actor: Actor): void {
    this.actors.push(actor);
  }

  /** No path is suspended anywhere. */
  get quiet(): boolean {
    return this.actors.every((actor) => actor.quiet);
  }

  /** Nobody has anything to do, now or later, unless an event wakes somebody. */
  allAsleep(): boolean {
    return this.actors.every((actor) => actor.wakeAt() === Number.POSITIVE_INFINITY);
  }

  /**
   * One turn of one actor.
   * @param budget instructions that may retire in it, at most
   * @returns false when nothing can ever run again: no actor ready, no event due, ever
   * @throws Error when the actors wait for each other
   */
  step(budget: number): boolean {
    const now = this.clock.now;
    let nextWake = this.clock.nextAt;
    this.ready.length = 0;
    for (const actor of this.actors) {
      const wakeAt = actor.wakeAt();
      if (wakeAt <= now) this.ready.push(actor);
      else if (wakeAt < nextWake) nextWake = wakeAt;
    }
    if (this.ready.length === 0) return this.jump(nextWake);
    const actor =
      this.quantum > 0 ? this.nextInOrder() : this.ready[this.rng.below(this.ready.length)]!;
    const turn = actor.turn(Math.min(this.slice(), nextWake - now, budget));
    this.clock.deliverDue();
    this.waitedInARow = turn === 'waited' ? this.waitedInARow + 1 : 0;
    if (this.waitedInARow > DEADLOCK_TURNS)
      throw new Error(`deadlock: ${this.ready.map((a) => a.name).join(', ')} wait for each other`);
    return true;
  }

  /** The first that is ready behind the one that had the last turn. */
  private nextInOrder(): Actor {
    const { actors } = this;
    for (let step = 1; ; step++) {
      const at = (this.last + step) % actors.length;
      const actor = actors[at];
      if (actor === undefined || !this.ready.includes(actor)) continue;
      this.last = at;
      return actor;
    }
  }

  private slice(): number {
    if (this.ready.length === 1) return LONG_SLICE;
    if (this.quantum > 0) return this.quantum;
    return 1 + this.rng.below(this.quiet ? SHARED_SLICE : SHORT_SLICE);
  }

  private jump(to: number): boolean {
    if (to === Number.POSITIVE_INFINITY) return false;
    this.clock.now = Math.max(this.clock.now, to);
    this.clock.deliverDue();
    return true;
  }
}
