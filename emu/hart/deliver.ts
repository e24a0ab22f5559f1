/**
 * Delivers exceptions for the interpreter, and notices when they follow each other for ever.
 *
 * The first of such a row is the one that says what went wrong: the later ones are only the trap
 * vector's own.
 */
import type { HartCore } from './core.ts';
import { EXIT_BUDGET, EXIT_HOST_TRAP, EXIT_TRAP_LOOP } from './exit.ts';
import { TO_HS } from './interrupts.ts';
import { takeException } from './trap.ts';

/** Exceptions in a row that are taken to be such a loop; nested handlers of real software are few. */
const TRAPS_IN_A_ROW = 64;

/** Takes the exception that is set up. Returns EXIT_BUDGET to go on, or the exit. */
export const deliver = (core: HartCore, record: number, imm: number): number => {
  if (core.trapsAt !== core.retired || core.trapsInARow === 0) {
    core.trapsAt = core.retired;
    core.trapsInARow = 0;
    core.firstTrapCause = core.excCause;
    core.firstTrapPcLo = core.i32[core.pcAt]!;
    core.firstTrapPcHi = core.i32[core.pcAt + 1]!;
  }
  core.trapsInARow++;
  if (takeException(core, record, imm) === TO_HS && core.hostIsHs) return EXIT_HOST_TRAP;
  return core.trapsInARow < TRAPS_IN_A_ROW ? EXIT_BUDGET : EXIT_TRAP_LOOP;
};
