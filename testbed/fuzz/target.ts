/**
 * What the fuzzer attacks: a device as its guest sees it. One case is one attack, on a device that the
 * target makes or resets itself; all its choices come from the random numbers it is given.
 */
import type { Rng } from '../rng.ts';

/**
 * Runs one case.
 * @returns null where the device did what its specification says of nonsense; or what went wrong: no
 *   end, a byte changed outside what was offered to it, a state that cannot be
 * @throws whatever the device throws: the fuzzer counts it as a failure of the case
 */
export type FuzzCase = (rng: Rng) => string | null;

export interface FuzzTarget {
  /** As it is named on the command line. */
  name: string;
  /** What is made up, in a few words. */
  describe: string;
  /** Makes what cases have in common. */
  create(): FuzzCase;
}
