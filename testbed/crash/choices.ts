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
  /** States of a unit: 1 where nothing is open. */
  states(unit: number): number;
  /** The unit's bytes in a state. Valid until the memory changes. */
  bytes(unit: number, state: number): Uint8Array;
}
