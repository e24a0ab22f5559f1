/**
 * Runs cases of the fuzzer: case n of a target has random numbers of its own, made from the seed and n,
 * so that any case can be run alone.
 */
import { Rng } from '../rng.ts';
import type { FuzzCase, FuzzTarget } from './target.ts';

/** A case that failed. */
export interface FuzzFailure {
  target: string;
  /** The seed and the number that run it alone. */
  seed: number;
  case: number;
  what: string;
}

/** What came out of one target. */
export interface FuzzCount {
  target: string;
  cases: number;
  failures: FuzzFailure[];
}

/** Failures of a target that are kept; what comes after them says nothing new. */
const MAX_FAILURES = 10;

/** The random numbers of one case. */
const rngOf = (seed: number, number: number): Rng =>
  new Rng(Math.imul(seed + 1, 0x9e37_79b1) ^ Math.imul(number + 1, 0x85eb_ca6b));

/** One target, case by case. */
export class FuzzRun {
  readonly count: FuzzCount;
  private readonly target: FuzzTarget;
  private readonly seed: number;
  private run: FuzzCase;

  constructor(target: FuzzTarget, seed: number) {
    this.target = target;
    this.seed = seed;
    this.run = target.create();
    this.count = { target: target.name, cases: 0, failures: [] };
  }

  /** Has failed too often to go on. */
  get hopeless(): boolean {
    return this.count.failures.length >= MAX_FAILURES;
  }

  /** Runs case `number`. After a failure the next case meets a fresh device. */
  step(number: number): void {
    this.count.cases++;
    const what = this.attempt(number);
    if (what === null) return;
    this.count.failures.push({ target: this.target.name, seed: this.seed, case: number, what });
    this.run = this.target.create();
  }

  private attempt(number: number): string | null {
    try {
      return this.run(rngOf(this.seed, number));
    } catch (error) {
      return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    }
  }
}
