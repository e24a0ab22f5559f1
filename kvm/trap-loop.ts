/**
 * Finding out guests that will never do anything but trap. Hardware would let them spin for ever; a
 * run that somebody waits for has to end, with the pc and the cause.
 *
 * Two signs. The same trap again with no instruction retired in between: the trap handler traps
 * itself. The same trap very often, with every register as it was: the handler returns to the
 * instruction, and nothing is getting anywhere. Exceptions that hedeleg gives to the guest are not
 * seen here; the hart finds the first kind of them (EXIT_TRAP_LOOP).
 */
import { setField } from '#cells';
import { CSR_SEPC, type Hart } from '#emu';

/** Of the first kind, for exceptions given back to the guest. */
export const TRAP_LOOP_LIMIT = 32;
/** Of the first kind, for guest-page faults, which migrations may well send back a few times. */
export const FAULT_LOOP_LIMIT = 10_000;
/** Of the second kind. Many, because a guest may wait for an interrupt like that, if it is odd. */
export const RETURN_LOOP_LIMIT = 100_000;

/** What is remembered of a vCPU's traps. Plain data. */
export interface TrapLoopState {
  /** The last trap to HS-mode, instructions retired at that time, and how often it has come so. */
  pcLo: number;
  pcHi: number;
  cause: number;
  retired: number;
  repeats: number;
  /** The last exception given back to the guest, a hash of the registers, and how often it has come so. */
  givenPcLo: number;
  givenPcHi: number;
  givenCause: number;
  registers: number;
  returns: number;
}

export const createTrapLoopState = (): TrapLoopState => ({
  pcLo: 0,
  pcHi: 0,
  cause: -1,
  retired: 0,
  repeats: 0,
  givenPcLo: 0,
  givenPcHi: 0,
  givenCause: -1,
  registers: 0,
  returns: 0,
});

/**
 * Counts a trap to HS-mode. @param retired instructions the vCPU has retired so far
 * @returns how often this one has come with nothing retired in between; 1 = it is new
 */
export const countRepeats = (
  state: TrapLoopState,
  hart: Hart,
  cause: number,
  retired: number,
): number => {
  const pcLo = hart.csrLo(CSR_SEPC);
  const pcHi = hart.csrHi(CSR_SEPC);
  const same =
    state.cause === cause &&
    state.pcLo === pcLo &&
    state.pcHi === pcHi &&
    state.retired === retired;
  setField(state, 'cause', cause);
  setField(state, 'pcLo', pcLo);
  setField(state, 'pcHi', pcHi);
  setField(state, 'retired', retired);
  setField(state, 'repeats', same ? state.repeats + 1 : 1);
  return state.repeats;
};

/**
 * Counts an exception that is given back to the guest.
 * @returns how often this one has come with the same registers; 1 = it is new
 */
export const countReturns = (state: TrapLoopState, hart: Hart, cause: number): number => {
  const pcLo = hart.csrLo(CSR_SEPC);
  const pcHi = hart.csrHi(CSR_SEPC);
  const registers = hashRegisters(hart);
  const same =
    state.givenCause === cause &&
    state.givenPcLo === pcLo &&
    state.givenPcHi === pcHi &&
    state.registers === registers;
  setField(state, 'givenCause', cause);
  setField(state, 'givenPcLo', pcLo);
  setField(state, 'givenPcHi', pcHi);
  setField(state, 'registers', registers);
  setField(state, 'returns', same ? state.returns + 1 : 1);
  return state.returns;
};

/** FNV-1a over the words of x1..x31: a collision must not come a hundred thousand times in a row. */
const hashRegisters = (hart: Hart): number => {
  let hash = 0x811c_9dc5 | 0;
  for (let reg = 1; reg < 32; reg++) {
    hash = Math.imul(hash ^ hart.xLo(reg), 0x0100_0193);
    hash = Math.imul(hash ^ hart.xHi(reg), 0x0100_0193);
  }
  return hash;
};
