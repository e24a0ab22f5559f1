/**
 * Loses power in the middle of a guest's run, again and again: at instructions chosen by seed, what can
 * be left of its persistent memory is judged by a checker, against what the guest had promised by then.
 *
 * The run is made once to see how long it is, and once more stopping at each point. Points between which
 * nothing has moved towards the media, and nothing was promised, have the same images. When an image is
 * bad the run is made a third time, stopping at every event, for the earliest moment of a bad image: what
 * was done until then, as far as it concerns what was lost, is the shortest history.
 */
import type { Rng } from '../rng.ts';
import type { HostMachine } from '../machine/host.ts';
import type { Checker } from './checker.ts';
import { promisesOf } from './checker.ts';
import type { BadImage, Judge } from './enumerate.ts';
import type { CrashSource } from './source.ts';

/** A machine that is ready to run, and its persistent memory. */
export interface CrashSubject {
  machine: HostMachine;
  source: CrashSource;
  /** Has the listener told of every event of the persistent memory: what it was, and the unit or -1. */
  watch(listener: (what: string, unit: number) => void): void;
}

export interface CrashOptions {
  /** Makes the same machine again and again. */
  make(): CrashSubject;
  checker: Checker;
  /** Points at which power fails; every one of them where the run has fewer instructions. */
  points: number;
  /** Images of one point, at most. */
  images: number;
  rng: Rng;
  /** Instructions after which the guest is given up. */
  limit: number;
}

/** An event on the way to a loss. */
export interface HistoryEntry {
  instruction: number;
  what: string;
  /** Line or block, -1 for what concerns none. */
  unit: number;
}

/** A loss, with the shortest way to it. */
export interface Loss {
  /** Power failed after this many instructions. */
  instruction: number;
  what: string;
  /** Units that lost something. */
  lost: { unit: number; state: number; states: number }[];
  committed: number;
  history: HistoryEntry[];
}

export interface CrashResult {
  /** Instructions of the whole run. */
  instructions: number;
  points: number;
  /** Different moments among them. */
  moments: number;
  /** Moments of which every image that can be told apart was judged. */
  exhausted: number;
  images: number;
  /** Points at which an image was bad. */
  badPoints: number;
  loss: Loss | null;
  /** Of the run to its end. */
  committed: number;
  output: readonly string[];
}

const linesOf = (machine: HostMachine): readonly string[] => machine.guests[0]!.console.lines;

/** Stops a machine after exactly so many instructions, or at its end. */
const runTo = (machine: HostMachine, instruction: number): void => {
  while (machine.retired < instruction && !machine.done)
    if (!machine.step(instruction - machine.retired)) return;
};

const judgeFor = (checker: Checker, machine: HostMachine): Judge => {
  const promises = promisesOf(linesOf(machine));
  return (image) => checker(image, promises);
};

export class CrashRun {
  private readonly options: CrashOptions;
  private readonly pointsLeft: number[];
  private subject: CrashSubject | null;
  private lastMoment: string;
  readonly result: CrashResult;

  /** @throws Error when the guest does not come to an end within the limit */
  constructor(options: CrashOptions) {
    this.options = options;
    const { machine } = options.make();
    runTo(machine, options.limit);
    if (!machine.done)
      throw new Error(`the guest has not ended after ${machine.retired} instructions`);
    const { retired } = machine;
    this.result = {
      instructions: retired,
      points: Math.min(options.points, retired),
      moments: 0,
      exhausted: 0,
      images: 0,
      badPoints: 0,
      loss: null,
      committed: promisesOf(linesOf(machine)).committed,
      output: [...linesOf(machine)],
    };
    this.pointsLeft = this.choosePoints(retired);
    this.subject = null;
    this.lastMoment = '';
  }

  /** Ascending, the next one last. */
  private choosePoints(retired: number): number[] {
    const { points, rng } = this.options;
    if (points >= retired) return Array.from({ length: retired }, (_, i) => retired - i);
    const chosen = new Set<number>();
    while (chosen.size < points) chosen.add(1 + rng.below(retired));
    return [...chosen].sort((a, b) => b - a);
  }

  get status(): string {
    const { points, images } = this.result;
    return `${points - this.pointsLeft.length} of ${points} points, ${images} images`;
  }

  /** One point. @returns false when all is done */
  step(): boolean {
    const point = this.pointsLeft.pop();
    if (point === undefined) {
      if (this.result.badPoints > 0 && this.result.loss === null)
        this.result.loss = this.shortest();
      return false;
    }
    this.subject ??= this.options.make();
    const { machine, source } = this.subject;
    runTo(machine, point);
    const moment = `${source.moment} ${linesOf(machine).length}`;
    if (moment === this.lastMoment) return true;
    this.lastMoment = moment;
    const { checker, images, rng } = this.options;
    const judged = source.judge(judgeFor(checker, machine), images, (bound) => rng.below(bound));
    this.result.moments++;
    this.result.images += judged.images;
    if (judged.complete) this.result.exhausted++;
    if (judged.bad.length > 0) this.result.badPoints++;
    return true;
  }

  /** The earliest moment of a bad image, by a run that stops at every event. */
  private shortest(): Loss | null {
    const { make, checker, images, rng, limit } = this.options;
    const subject = make();
    const { machine, source } = subject;
    const history: HistoryEntry[] = [];
    const happened: Omit<HistoryEntry, 'instruction'>[] = [];
    subject.watch((what, unit) => {
      happened.push({ what, unit });
      machine.endSlice();
    });
    let printed = 0;
    let { moment } = source;
    while (!machine.done && machine.retired < limit && machine.step(limit)) {
      for (; printed < linesOf(machine).length; printed++)
        happened.push({ what: `the guest prints "${linesOf(machine)[printed]}"`, unit: -1 });
      if (happened.length === 0 && source.moment !== moment)
        happened.push({ what: source.describe(), unit: -1 });
      if (happened.length === 0) continue;
      ({ moment } = source);
      for (const entry of happened) history.push({ instruction: machine.retired, ...entry });
      happened.length = 0;
      const judge = judgeFor(checker, machine);
      const { bad } = source.judge(judge, images, (bound) => rng.below(bound));
      if (bad.length > 0) return this.lossOf(machine, source.shrink(judge, bad[0]!), history);
    }
    return null;
  }

  private lossOf(machine: HostMachine, bad: BadImage, history: HistoryEntry[]): Loss {
    const lost = bad.decided.filter(({ state, states }) => state + 1 < states);
    const units = new Set(lost.map(({ unit }) => unit));
    return {
      instruction: machine.retired,
      what: bad.what,
      lost,
      committed: promisesOf(linesOf(machine)).committed,
      history: history.filter(({ unit }) => unit < 0 || units.has(unit)),
    };
  }
}
