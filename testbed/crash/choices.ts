/**
 * What a loss of power may leave, as choices: persistent memory in units (cache lines, blocks), each of
 * which is in one of several states, independently of the others.
 *
 * State 0 of a unit is what was durable for certain; the last is as if all that was written had
 * arrived. Sheet: Yat, Jaaru and pmreorder enumerate the product of the choices in the same way.
 */

/** What may be left of one persistent memory at one moment. */
export interface CrashChoices {
  /** Bytes of the whole, a multiple of unitBytes. */
  readonly sizeBytes: number;
  readonly unitBytes: number;
  /** Units with more than one state, ascending. */
  readonly open: readonly number[];
  /** States of a unit: 1 where nothing is open. */
  states(unit: number): number;
  /** The unit's bytes in a state. Valid until the memory changes. */
  bytes(unit: number, state: number): Uint8Array;
}

/** State of each open unit that has been decided; what is not in it has not been looked at. */
export type Decisions = ReadonlyMap<number, number>;

/** Images that the rules allow: the product over all units. Infinity where a number cannot hold it. */
export const countImages = (choices: CrashChoices): number =>
  choices.open.reduce((product, unit) => product * choices.states(unit), 1);

/** The whole memory: open units as decided, those without a decision in `otherwise(unit, states)`. */
export const crashImage = (
  choices: CrashChoices,
  decisions: Decisions,
  otherwise: (unit: number, states: number) => number,
): Uint8Array => {
  const image = new Uint8Array(choices.sizeBytes);
  const nrUnits = choices.sizeBytes / choices.unitBytes;
  for (let unit = 0; unit < nrUnits; unit++) {
    const states = choices.states(unit);
    const state = decisions.get(unit) ?? (states === 1 ? 0 : otherwise(unit, states));
    image.set(choices.bytes(unit, state), unit * choices.unitBytes);
  }
  return image;
};
