/**
 * One variant searched to its end: bound after bound from 0, so that what is found first has the
 * fewest preemptions, and then shrunk. What came of it is plain data.
 */
import { Explored } from './explored.ts';
import { scheduleWords } from './replay.ts';
import type { Ending, Scenario, Variant } from './scenario.ts';
import { Search, type Violation } from './search.ts';
import { shrink } from './shrink.ts';
import { type Step, tell } from './steps.ts';

/** What `--json` prints of a variant. */
export interface Verdict {
  name: string;
  title: string;
  declared: Ending;
  ended: Ending | 'interrupted';
  asDeclared: boolean;
  /** Preemptions of the last search. */
  bound: number;
  /** Nothing was left out because of the bound: these are all runs that there are. */
  complete: boolean;
  /** Runs of the last search, and the choices of the longest. */
  schedules: number;
  longest: number;
  /** Runs and choices of all searches, without shrinking. */
  allSchedules: number;
  allSteps: number;
  violation: {
    message: string;
    preemptions: number;
    schedule: string[];
    steps: Step[];
  } | null;
}

export class VariantSearch {
  readonly scenario: Scenario;
  readonly variant: Variant;
  private readonly bound: number;
  private readonly explored: Explored;
  private search: Search;
  private schedulesBefore: number;
  private stepsBefore: number;
  private found: Violation | null;
  private ended: boolean;

  /** @param bound preemptions of the last search */
  constructor(scenario: Scenario, variant: Variant, bound: number) {
    this.scenario = scenario;
    this.variant = variant;
    this.bound = bound;
    this.explored = new Explored(scenario, variant);
    this.search = new Search(this.explored, 0);
    this.schedulesBefore = 0;
    this.stepsBefore = 0;
    this.found = null;
    this.ended = false;
  }

  /** Tries one run. @returns false at the end */
  step(): boolean {
    if (this.ended) return false;
    const { search } = this;
    if (search.step()) return true;
    if (search.violation !== null) this.found = shrink(this.explored, search.violation);
    this.ended = this.found !== null || search.bound >= this.bound || !search.curbed;
    if (this.ended) return false;
    this.schedulesBefore += search.schedules;
    this.stepsBefore += search.steps;
    this.search = new Search(this.explored, search.bound + 1);
    return true;
  }

  /** Where the search is, in one line. */
  status(): string {
    return `${this.variant.name}, ${this.search.bound} preemptions: ${this.search.schedules} schedules`;
  }

  verdict(): Verdict {
    const { variant, search, found } = this;
    const whole = found === null ? 'holds' : 'breaks';
    const ended = this.ended ? whole : 'interrupted';
    return {
      name: variant.name,
      title: variant.title,
      declared: variant.declared,
      ended,
      asDeclared: ended === variant.declared,
      bound: search.bound,
      complete: this.ended && !search.curbed && found === null,
      schedules: search.schedules,
      longest: search.longest,
      allSchedules: this.schedulesBefore + search.schedules,
      allSteps: this.stepsBefore + search.steps,
      violation: found === null ? null : this.violationOf(found),
    };
  }

  private violationOf(found: Violation): NonNullable<Verdict['violation']> {
    const told = tell(this.explored, found.schedule);
    if (told === null || told.violation !== found.message)
      throw new Error(`explore ${this.scenario.name}: what went wrong does not go wrong again`);
    return {
      message: found.message,
      preemptions: found.preemptions,
      schedule: scheduleWords(this.explored.actorNames, found.schedule),
      steps: told.steps,
    };
  }
}
