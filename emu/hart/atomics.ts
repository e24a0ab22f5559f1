/**
 * The A extension: LR, SC and the AMOs. Unprivileged ISA 20240411, chapter 13.
 *
 * Harts run one at a time, so an AMO is a load and a store, and a reservation lives until its slice
 * ends, until SC, or until the hart stores to a device. aq and rl order nothing that is not already in order. Misaligned
 * addresses raise misaligned exceptions; devices take no atomics: access faults.
 */
import * as op from '../isa/ops.ts';
import { MMU_FAULT } from '../mmu/mmu.ts';
import {
  CAUSE_HARDWARE_ERROR,
  CAUSE_LOAD_ACCESS,
  CAUSE_MISALIGNED_LOAD,
  CAUSE_MISALIGNED_STORE,
  CAUSE_STORE_ACCESS,
} from './bits.ts';
import type { HartCore } from './core.ts';
import { ACCESS_DONE, ACCESS_TRAP } from './access.ts';

/** Executes one atomic instruction, given the first word of its record. Returns ACCESS_DONE or ACCESS_TRAP. */
export const executeAtomic = (core: HartCore, record: number): number => {
  const R = core.i32;
  const code = record & 1023;
  const a = core.xBase + ((record >>> 15) & 62);
  const b = core.xBase + ((record >>> 20) & 62);
  const d = core.xBase + ((record >>> 9) & 126);
  // Word and doubleword forms alternate (emu/isa/ops.ts).
  const wide = ((code - op.OP_LR_W) & 1) !== 0;
  const size = wide ? 8 : 4;
  const vaLo = R[a]!;
  const vaHi = R[a + 1]!;
  const isLr = code === op.OP_LR_W || code === op.OP_LR_D;
  const isSc = code === op.OP_SC_W || code === op.OP_SC_D;

  if ((vaLo & (size - 1)) !== 0) {
    const cause = isLr ? CAUSE_MISALIGNED_LOAD : CAUSE_MISALIGNED_STORE;
    core.raise(cause, vaLo, vaHi, core.dataIsGuest());
    return ACCESS_TRAP;
  }
  const offset = isLr
    ? core.mmu.loadOffset(vaLo, vaHi, size)
    : core.mmu.storeOffset(vaLo, vaHi, size);
  if (offset < 0) {
    if (offset === MMU_FAULT) core.raiseMmu();
    else core.raise(isLr ? CAUSE_LOAD_ACCESS : CAUSE_STORE_ACCESS, vaLo, vaHi, core.dataIsGuest());
    return ACCESS_TRAP;
  }
  if (!isSc && core.memory.isPoisoned(offset, size)) {
    core.raise(CAUSE_HARDWARE_ERROR, vaLo, vaHi, core.dataIsGuest());
    return ACCESS_TRAP;
  }
  const q = offset >>> 2;
  if (isLr) {
    core.reservation = offset;
    const lo = R[q]!;
    R[d + 1] = wide ? R[q + 1]! : lo >> 31;
    R[d] = lo;
    return ACCESS_DONE;
  }
  if (isSc) {
    const held = core.reservation === offset;
    core.reservation = 0;
    if (held) {
      R[q] = R[b]!;
      if (wide) R[q + 1] = R[b + 1]!;
      core.memory.wrote(offset, size);
    }
    R[d] = held ? 0 : 1;
    R[d + 1] = 0;
    return ACCESS_DONE;
  }
  const oldLo = R[q]!;
  if (wide) {
    const oldHi = R[q + 1]!;
    const srcLo = R[b]!;
    const srcHi = R[b + 1]!;
    amoPair(core, code - 1, oldLo, oldHi, srcLo, srcHi);
    R[q] = core.valueLo;
    R[q + 1] = core.valueHi;
    R[d] = oldLo;
    R[d + 1] = oldHi;
  } else {
    R[q] = amoWord(code, oldLo, R[b]!);
    R[d] = oldLo;
    R[d + 1] = oldLo >> 31;
  }
  core.memory.wrote(offset, size);
  return ACCESS_DONE;
};

const amoWord = (code: number, old: number, src: number): number => {
  switch (code) {
    case op.OP_AMOSWAP_W:
      return src;
    case op.OP_AMOADD_W:
      return (old + src) | 0;
    case op.OP_AMOXOR_W:
      return old ^ src;
    case op.OP_AMOAND_W:
      return old & src;
    case op.OP_AMOOR_W:
      return old | src;
    case op.OP_AMOMIN_W:
      return Math.min(old, src);
    case op.OP_AMOMAX_W:
      return Math.max(old, src);
    case op.OP_AMOMINU_W:
      return Math.min(old >>> 0, src >>> 0) | 0;
    default:
      return Math.max(old >>> 0, src >>> 0) | 0;
  }
};

/** The doubleword form of the word operation `code`; the result goes to core.valueLo and valueHi. */
const amoPair = (
  core: HartCore,
  code: number,
  oldLo: number,
  oldHi: number,
  srcLo: number,
  srcHi: number,
): void => {
  let lo = srcLo;
  let hi = srcHi;
  switch (code) {
    case op.OP_AMOSWAP_W:
      break;
    case op.OP_AMOADD_W:
      lo = (oldLo + srcLo) | 0;
      hi = (oldHi + srcHi + (lo >>> 0 < oldLo >>> 0 ? 1 : 0)) | 0;
      break;
    case op.OP_AMOXOR_W:
      lo = oldLo ^ srcLo;
      hi = oldHi ^ srcHi;
      break;
    case op.OP_AMOAND_W:
      lo = oldLo & srcLo;
      hi = oldHi & srcHi;
      break;
    case op.OP_AMOOR_W:
      lo = oldLo | srcLo;
      hi = oldHi | srcHi;
      break;
    default: {
      const signed = code === op.OP_AMOMIN_W || code === op.OP_AMOMAX_W;
      const less =
        oldHi === srcHi
          ? oldLo >>> 0 < srcLo >>> 0
          : signed
            ? oldHi < srcHi
            : oldHi >>> 0 < srcHi >>> 0;
      const wantsLess = code === op.OP_AMOMIN_W || code === op.OP_AMOMINU_W;
      if (less === wantsLess) {
        lo = oldLo;
        hi = oldHi;
      }
    }
  }
  core.valueLo = lo;
  core.valueHi = hi;
};
