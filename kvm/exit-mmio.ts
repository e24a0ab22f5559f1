/**
 * Loads and stores that reach device registers: which access it was, from htinst or from the
 * instruction itself, and how a load is completed. Privileged ISA 1.13, 15.6.3 (transformed
 * instructions). Compare arch/riscv/kvm/vcpu_insn.c. Atomics on registers are not emulated.
 */
import {
  ACCESS_EXEC,
  CSR_HTINST,
  CSR_SEPC,
  decode,
  type Hart,
  OP_LB,
  OP_LBU,
  OP_LD,
  OP_LH,
  OP_LHU,
  OP_LW,
  OP_LWU,
  OP_SB,
  OP_SD,
  OP_SH,
  OP_SW,
  recordLength,
  recordOp,
  recordRd,
  recordRs2,
} from '#emu';

/** A decoded access to a device. One record per vCPU, filled anew. */
export interface MmioAccess {
  sizeBytes: number;
  write: boolean;
  /** Loads: fill the register with the sign. */
  signed: boolean;
  /** Loads: the register, HART_X_DISCARD for x0. Stores: where the value comes from. */
  reg: number;
  /** Of the instruction: 2 or 4. */
  lenBytes: number;
  /** Bytes between the first byte of the access and the one that faulted: misaligned if not 0. */
  offsetBytes: number;
}

export const createMmioAccess = (): MmioAccess => ({
  sizeBytes: 0,
  write: false,
  signed: false,
  reg: 0,
  lenBytes: 4,
  offsetBytes: 0,
});

const scratch = new Int32Array(2);

/**
 * Decodes a load or store, compressed or not.
 * @param raw its encoding; of a compressed one the low 16 bits
 * @returns false when it is something else (an atomic)
 */
export const decodeMmio = (raw: number, out: MmioAccess): boolean => {
  decode(raw, scratch, 0);
  const word0 = scratch[0]!;
  out.lenBytes = recordLength(word0) * 2;
  out.offsetBytes = 0;
  switch (recordOp(word0)) {
    case OP_LB:
      return load(out, word0, 1, true);
    case OP_LBU:
      return load(out, word0, 1, false);
    case OP_LH:
      return load(out, word0, 2, true);
    case OP_LHU:
      return load(out, word0, 2, false);
    case OP_LW:
      return load(out, word0, 4, true);
    case OP_LWU:
      return load(out, word0, 4, false);
    case OP_LD:
      return load(out, word0, 8, true);
    case OP_SB:
      return store(out, word0, 1);
    case OP_SH:
      return store(out, word0, 2);
    case OP_SW:
      return store(out, word0, 4);
    case OP_SD:
      return store(out, word0, 8);
    default:
      return false;
  }
};

const load = (out: MmioAccess, word0: number, sizeBytes: number, signed: boolean): boolean => {
  out.sizeBytes = sizeBytes;
  out.write = false;
  out.signed = signed;
  out.reg = recordRd(word0);
  return true;
};

const store = (out: MmioAccess, word0: number, sizeBytes: number): boolean => {
  out.sizeBytes = sizeBytes;
  out.write = true;
  out.signed = false;
  out.reg = recordRs2(word0);
  return true;
};

/** What trappingInstruction gives when the instruction cannot be read any more. */
export const INSTRUCTION_GONE = 0;

/**
 * The instruction behind the trap that the hart has just taken: from htinst where the hardware
 * gives it, else from the guest's memory as HLVX reads it.
 *
 * A transformed instruction has bit 1 cleared when the real one is compressed; its other fields are
 * those of the 32-bit form, except rs1, which is the offset of the faulting byte.
 * @returns true and `out` filled, false when it is no load or store; INSTRUCTION_GONE when the
 *   page it is on has been taken away meanwhile: then the guest just runs it again
 */
export const decodeTrappingAccess = (
  hart: Hart,
  out: MmioAccess,
): boolean | typeof INSTRUCTION_GONE => {
  const htinst = hart.csrLo(CSR_HTINST);
  // Bits above 31 mean something newer than this code: safe to treat as zero (15.6.3).
  if ((htinst & 1) !== 0 && hart.csrHi(CSR_HTINST) === 0) {
    if (!decodeMmio(htinst | 2, out)) return false;
    out.lenBytes = (htinst & 2) !== 0 ? 4 : 2;
    out.offsetBytes = (htinst >>> 15) & 31;
    return true;
  }
  const low = readHalf(hart, 0);
  if (low < 0) return INSTRUCTION_GONE;
  if ((low & 3) !== 3) return decodeMmio(low, out);
  const high = readHalf(hart, 2);
  return high < 0 ? INSTRUCTION_GONE : decodeMmio(low | (high << 16), out);
};

/** HLVX.HU at sepc + `at`. @returns 16 bits, or -1 */
const readHalf = (hart: Hart, at: number): number => {
  const lo = (hart.csrLo(CSR_SEPC) >>> 0) + at;
  const hi = hart.csrHi(CSR_SEPC) + (lo > 0xffff_ffff ? 1 : 0);
  const offset = hart.mmu.guestAccessSlow(lo | 0, hi | 0, ACCESS_EXEC);
  return offset < 0 ? -1 : hart.mmu.memory.u16[offset >>> 1]!;
};

/**
 * Puts what a device answered into the register of a load.
 * @param valueLo, valueHi 32-bit halves; bits above `sizeBytes` do not matter
 */
export const finishLoad = (
  hart: Hart,
  access: MmioAccess,
  valueLo: number,
  valueHi: number,
): void => {
  if (access.sizeBytes === 8) {
    hart.setXParts(access.reg, valueLo | 0, valueHi | 0);
    return;
  }
  const unused = 32 - access.sizeBytes * 8;
  const lo = access.signed ? (valueLo << unused) >> unused : ((valueLo << unused) >>> unused) | 0;
  hart.setXParts(access.reg, lo, access.signed ? lo >> 31 : 0);
};
