/**
 * One run of a scenario: which choices there are at each point, and what follows from one.
 *
 * A choice is to let an actor go on to its next yield, or to let its oldest buffered store reach
 * memory. Preemption = letting another actor go on although the last one could have; a flush is
 * none. An actor that waits cannot go on until somebody else has changed something.
 */
import { flushOldestStore, journal, setActor, storeBufferLength } from '#cells/explorer';
import { YP_WAIT } from '#mm';
import type { Actor, Play, Point } from './scenario.ts';

export interface Choice {
  /** Index of the actor. */
  actor: number;
  /** Its oldest store reaches memory; otherwise it goes on. */
  flush: boolean;
}

/** A run that has not ended after so many choices never will. */
export const MAX_CHOICES = 2000;

/** Judges, and whoever sets the stage, see memory as it is. Actors count from 1. */
const NOBODY = 0;
export const cellActor = (actor: number): number => actor + 1;

interface ActorState {
  ended: boolean;
  /** Its last step yielded YP_WAIT. */
  waiting: boolean;
  /** Somebody else has changed something since. */
  stirred: boolean;
}

export class Execution {
  readonly actors: readonly Actor[];
  readonly taken: Choice[];
  preemptions: number;
  /** A choice was left out because of the bound. */
  curbed: boolean;
  /** What is wrong; the run ends there. */
  violation: string | null;
  private readonly play: Play;
  private readonly states: ActorState[];
  /** Who went on last, -1 = nobody yet. */
  private current: number;
  /** Whose store was let into memory by the last choice, -1 = nobody's. */
  private flushed: number;

  constructor(play: Play) {
    this.play = play;
    this.actors = play.actors;
    this.taken = [];
    this.preemptions = 0;
    this.curbed = false;
    this.violation = null;
    this.states = play.actors.map(() => ({ ended: false, waiting: false, stirred: false }));
    this.current = -1;
    this.flushed = -1;
  }

  /** True when every actor has ended and nothing is on its way to memory. */
  get complete(): boolean {
    return this.states.every((state, i) => state.ended && !this.buffered(i));
  }

  /**
   * The choices with at most `bound` preemptions in all; who went on last comes first.
   *
   * A flush is left out where it makes no difference: an actor sees its own stores anyway, so a flush
   * right before its own next step can as well come after it, and so on until somebody else acts.
   * @returns none at the end, after a violation, and where only such a flush led
   */
  choices(bound: number): Choice[] {
    if (this.violation !== null) return [];
    const choices: Choice[] = [];
    for (const actor of this.inTurn()) {
      if (actor === this.flushed || !this.canStep(actor)) continue;
      if (this.affords(actor, bound)) choices.push({ actor, flush: false });
      else this.curbed = true;
    }
    for (const actor of this.actors.keys())
      if (this.buffered(actor) && this.flushMatters(actor, bound))
        choices.push({ actor, flush: true });
    return choices;
  }

  /** Is this choice possible at all? */
  possible(choice: Choice): boolean {
    const { actor, flush } = choice;
    if (this.violation !== null || this.states[actor] === undefined) return false;
    return flush ? this.buffered(actor) : this.canStep(actor);
  }

  /** Makes a choice that is possible, and judges. @returns as act() */
  take(choice: Choice): Point | null {
    const point = this.act(choice);
    this.judge();
    return point;
  }

  /**
   * Makes a choice that is possible; judge() has to follow.
   * @returns where the actor stopped; null: it ended or failed, or it was a flush
   */
  act(choice: Choice): Point | null {
    const before = journal.mark();
    const point = choice.flush ? this.flush(choice.actor) : this.step(choice.actor);
    this.taken.push(choice);
    this.flushed = choice.flush ? choice.actor : -1;
    this.stir(choice.actor, before);
    return point;
  }

  /** Looks whether something is wrong, as memory is now. At the end the scenario's check() may change it. */
  judge(): void {
    if (this.violation === null) this.violation = this.judgement();
  }

  private step(actor: number): Point | null {
    const state = this.states[actor]!;
    if (actor !== this.current && this.canPreempt()) this.preemptions++;
    this.current = actor;
    state.waiting = false;
    setActor(cellActor(actor));
    try {
      const { done, value } = this.actors[actor]!.path.next();
      state.ended = done === true;
      state.waiting = !state.ended && value === YP_WAIT;
      state.stirred = false;
      return state.ended ? null : (value as Point);
    } catch (error) {
      this.violation = `${this.actors[actor]!.name}: ${(error as Error).message}`;
      return null;
    } finally {
      setActor(NOBODY);
    }
  }

  private flush(actor: number): null {
    flushOldestStore(cellActor(actor));
    return null;
  }

  /** Those who wait may look again when something is different. */
  private stir(by: number, before: number): void {
    const waiting = this.states.filter((state, i) => i !== by && state.waiting && !state.stirred);
    if (waiting.length === 0 || journal.changes(before).length === 0) return;
    for (const state of waiting) state.stirred = true;
  }

  private judgement(): string | null {
    const broken = this.play.invariant?.() ?? null;
    if (broken !== null) return broken;
    if (this.complete) return this.play.check();
    if (this.taken.length >= MAX_CHOICES) return `no end after ${MAX_CHOICES} steps`;
    const stuck = !this.actors.some((_, i) => this.canStep(i) || this.buffered(i));
    if (!stuck) return null;
    const names = this.actors.filter((_, i) => !this.states[i]!.ended).map(({ name }) => name);
    return `deadlock: ${names.join(' and ')} ${names.length > 1 ? 'wait' : 'waits'} for ever`;
  }

  private buffered(actor: number): boolean {
    return storeBufferLength(cellActor(actor)) > 0;
  }

  private canStep(actor: number): boolean {
    const { ended, waiting, stirred } = this.states[actor]!;
    return !ended && (!waiting || stirred);
  }

  /** Would it be a preemption to let somebody else go on? */
  private canPreempt(): boolean {
    return this.current >= 0 && this.canStep(this.current);
  }

  private affords(actor: number, bound: number): boolean {
    return actor === this.current || !this.canPreempt() || this.preemptions < bound;
  }

  /** Who went on last, then the others. */
  private inTurn(): number[] {
    const all = [...this.actors.keys()];
    return all.sort((a, b) => Number(b === this.current) - Number(a === this.current));
  }

  /** Can anything but the actor's own next step follow? */
  private flushMatters(actor: number, bound: number): boolean {
    if (!this.canStep(actor)) return true;
    return this.states.some(
      (state, other) =>
        other !== actor && ((!state.ended && this.affords(other, bound)) || this.buffered(other)),
    );
  }
}
