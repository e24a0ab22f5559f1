/**
 * Zicbom and Zicboz: CBO.INVAL, CBO.CLEAN, CBO.FLUSH and CBO.ZERO on blocks of 64 bytes, and what a
 * FENCE means to persistent memory. Unprivileged ISA, "CMO" Extensions 1.0.0.
 *
 * All agents of the machine are coherent, so that the management instructions change no value that a
 * load returns: an invalidate operation may be carried out as a flush, and is. What they change is
 * what persistent memory keeps when power is lost (emu/persist/).
 */
import * as op from '../isa/ops.ts';
import { PRIV_M, PRIV_U } from '../mmu/regs.ts';
import { MMU_FAULT, MMU_MMIO } from '../mmu/mmu.ts';
import { PERSIST_LINE_BYTES } from '../persist/lines.ts';
import { ACCESS_DONE, ACCESS_TRAP } from './access.ts';
import {
  CAUSE_ILLEGAL_INSTRUCTION,
  CAUSE_LOAD_ACCESS,
  CAUSE_LOAD_GUEST_PAGE_FAULT,
  CAUSE_LOAD_PAGE_FAULT,
  CAUSE_STORE_ACCESS,
  CAUSE_STORE_GUEST_PAGE_FAULT,
  CAUSE_STORE_PAGE_FAULT,
  CAUSE_VIRTUAL_INSTRUCTION,
  ENVCFG_CBCFE,
  ENVCFG_CBIE,
  ENVCFG_CBZE,
  ENVCFG_FIOM,
} from './bits.ts';
import type { HartCore } from './core.ts';
import { SLOT_HENVCFG, SLOT_MENVCFG, SLOT_SENVCFG } from './csr-table.ts';

/** Bits of a FENCE's predecessor and successor set. */
const FENCE_W = 1;
const FENCE_O = 4;
const FENCE_PRED_SHIFT = 4;

/** Executes one cache-block operation. Returns ACCESS_DONE or ACCESS_TRAP. */
export const executeCbo = (core: HartCore, code: number, record: number): number => {
  const refused = refusal(core, code);
  if (refused !== 0) {
    core.raise(refused, 0, 0, false);
    return ACCESS_TRAP;
  }
  const a = core.xBase + ((record >>> 15) & 62);
  const vaLo = core.i32[a]!;
  const vaHi = core.i32[a + 1]!;
  const zero = code === op.OP_CBO_ZERO;
  // Whatever may be written may be read, so that to ask for a read is to ask for either.
  const offset = zero ? core.mmu.storeOffset(vaLo, vaHi, 1) : core.mmu.loadOffset(vaLo, vaHi, 1);
  if (offset >= 0) {
    const block = offset - (offset % PERSIST_LINE_BYTES);
    if (zero) core.memory.zeroBytes(block, PERSIST_LINE_BYTES);
    else for (const watcher of core.memory.storeWatchers) watcher.clean(core.index, block);
    return ACCESS_DONE;
  }
  if (offset === MMU_FAULT) {
    core.raiseMmu();
    core.excCause = storeCause(core.excCause);
    return ACCESS_TRAP;
  }
  // Registers of a device: there is no cache to manage; to zero a block of them is not supported.
  if (offset === MMU_MMIO && !zero && core.bus.hasDevice(core.mmu.pa)) return ACCESS_DONE;
  core.raise(CAUSE_STORE_ACCESS, vaLo, vaHi, core.dataIsGuest());
  return ACCESS_TRAP;
};

/** A FENCE, with its sets: it ends what CBO instructions began if it orders writes before writes. */
export const persistFence = (core: HartCore, imm: number): void => {
  const io = fiom(core) ? FENCE_W | FENCE_O : FENCE_W;
  if (((imm >>> FENCE_PRED_SHIFT) & io) === 0 || (imm & (FENCE_W | FENCE_O)) === 0) return;
  for (const watcher of core.memory.storeWatchers) watcher.fence(core.index);
};

/** Does a fence of device accesses order memory too, in the mode of now (Privileged ISA 3.1.18, 12.1.10, 15.2.5)? */
const fiom = (core: HartCore): boolean => {
  if (core.priv === PRIV_M) return false;
  const bits =
    core.lo(SLOT_MENVCFG) |
    (core.virt ? core.lo(SLOT_HENVCFG) : 0) |
    (core.priv === PRIV_U ? core.lo(SLOT_SENVCFG) : 0);
  return (bits & ENVCFG_FIOM) !== 0;
};

/** The exception that the CSRs prescribe instead of an operation, or 0. */
const refusal = (core: HartCore, code: number): number => {
  if (core.priv === PRIV_M) return 0;
  const field =
    code === op.OP_CBO_INVAL ? ENVCFG_CBIE : code === op.OP_CBO_ZERO ? ENVCFG_CBZE : ENVCFG_CBCFE;
  const user = core.priv === PRIV_U;
  if ((core.lo(SLOT_MENVCFG) & field) === 0) return CAUSE_ILLEGAL_INSTRUCTION;
  const senvcfg = (core.lo(SLOT_SENVCFG) & field) !== 0;
  if (!core.virt) return user && !senvcfg ? CAUSE_ILLEGAL_INSTRUCTION : 0;
  const henvcfg = (core.lo(SLOT_HENVCFG) & field) !== 0;
  return henvcfg && (!user || senvcfg) ? 0 : CAUSE_VIRTUAL_INSTRUCTION;
};

/** The store's exception for a load's: CBO instructions raise those of stores, whatever they need. */
const storeCause = (cause: number): number => {
  switch (cause) {
    case CAUSE_LOAD_ACCESS:
      return CAUSE_STORE_ACCESS;
    case CAUSE_LOAD_PAGE_FAULT:
      return CAUSE_STORE_PAGE_FAULT;
    case CAUSE_LOAD_GUEST_PAGE_FAULT:
      return CAUSE_STORE_GUEST_PAGE_FAULT;
    default:
      return cause;
  }
};
