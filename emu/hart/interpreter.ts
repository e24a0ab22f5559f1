/**
 * The interpreter: fetches decoded instructions by physical page, executes RV64I inline and calls out
 * for the rest. Unprivileged ISA 20240411, chapters 2 and 4.
 *
 * The loop runs inside one page of code: `p` is the word index of the record to be executed and `base`
 * that of the page's first one, so that p - base is the byte offset in the page, and the low half of
 * pc is page + (p - base). Leaving the page, and what could change keys or interrupts, goes round
 * the outer loop. A 64-bit value is two words; `x >>> 0 < y >>> 0` after an addition is the carry.
 *
 * Numbers that come by import cost a load each time, and a switch over them is a chain of tests; over
 * constants of an enclosing function it is one jump table. So everything the loop names is made such
 * a constant here. The function is made once, because only then does V8 take them as constants.
 */
import * as op from '../isa/ops.ts';
import {
  HART_DATA_HASH,
  HART_DATA_KEY,
  HART_FETCH_HASH,
  HART_FETCH_KEY,
  PAGE_SHIFT,
  RAM_OFFSET,
} from '../layout.ts';
import { TAG_PAGE_MASK, TLB_INDEX_MASK } from '../mmu/tlb.ts';
import { ACCESS_DONE, loadSlow, SPACE_CURRENT, storeSlow } from './access.ts';
import { executeAtomic } from './atomics.ts';
import { executeBitmanip } from './bitmanip.ts';
import { SLOT_RECORD_WORDS } from './code-cache.ts';
import { COUNT_ACCESSES, type HartCore } from './core.ts';
import { deliver } from './deliver.ts';
import { EXIT_BUDGET, EXIT_HOST_TRAP, EXIT_WFI } from './exit.ts';
import { FETCH_FAULT, decodeAt, fetchOffset, rawInstruction } from './fetch.ts';
import { TO_HS, wakesUp } from './interrupts.ts';
import { executeMulDiv } from './muldiv.ts';
import { executeSystem, SYSTEM_JUMP, SYSTEM_NEXT, SYSTEM_TRAP, SYSTEM_WAIT } from './system.ts';
import { executeShift } from './shift.ts';
import { takeInterrupt } from './trap.ts';

/** How a system instruction left the inner loop. */
const LEFT_NORMALLY = 0;
const LEFT_BY_JUMP = 1;
const LEFT_BY_WAIT = 2;

const makeInterpreter = (): ((core: HartCore) => number) => {
  const PAGE_END = op.OP_PAGE_END;
  const ADDI = op.OP_ADDI;
  const ADD = op.OP_ADD;
  const LD = op.OP_LD;
  const SD = op.OP_SD;
  const LW = op.OP_LW;
  const SW = op.OP_SW;
  const BEQ = op.OP_BEQ;
  const BNE = op.OP_BNE;
  const BLT = op.OP_BLT;
  const BGE = op.OP_BGE;
  const BLTU = op.OP_BLTU;
  const BGEU = op.OP_BGEU;
  const JAL = op.OP_JAL;
  const JALR = op.OP_JALR;
  const LUI = op.OP_LUI;
  const AUIPC = op.OP_AUIPC;
  const ADDIW = op.OP_ADDIW;
  const ADDW = op.OP_ADDW;
  const SUB = op.OP_SUB;
  const SUBW = op.OP_SUBW;
  const ANDI = op.OP_ANDI;
  const ORI = op.OP_ORI;
  const XORI = op.OP_XORI;
  const AND = op.OP_AND;
  const OR = op.OP_OR;
  const XOR = op.OP_XOR;
  const SLLI = op.OP_SLLI;
  const SRLI = op.OP_SRLI;
  const SRAI = op.OP_SRAI;
  const SLLIW = op.OP_SLLIW;
  const SRLIW = op.OP_SRLIW;
  const SRAIW = op.OP_SRAIW;
  const SLT = op.OP_SLT;
  const SLTU = op.OP_SLTU;
  const SLTIU = op.OP_SLTIU;
  const LBU = op.OP_LBU;
  const LHU = op.OP_LHU;
  const LWU = op.OP_LWU;
  const LB = op.OP_LB;
  const LH = op.OP_LH;
  const SB = op.OP_SB;
  const SH = op.OP_SH;
  const LAST_MULDIV = op.OP_REMUW;
  const FIRST_MULDIV = op.OP_MUL;
  const FIRST_SHIFT = op.OP_SLL;
  const LAST_COMPARE = op.OP_SLTI;
  const LAST_BITMANIP = op.OP_BSETI;
  const LAST_ATOMIC = op.OP_AMOMAXU_D;
  const PAGE = TAG_PAGE_MASK;
  const INDEX = TLB_INDEX_MASK;
  const RECORDS = SLOT_RECORD_WORDS;
  const DONE = ACCESS_DONE;
  const CURRENT = SPACE_CURRENT;
  const NEXT = SYSTEM_NEXT;

  /** Runs until core.sliceLimit instructions have retired, or an exit comes first. */
  return function interpret(core: HartCore): number {
    const R = core.i32;
    const u8 = core.u8;
    const u16 = core.u16;
    const baseOfPage = core.code.baseOfPage;
    const xb = core.xBase;
    const tr = core.readBase;
    const tw = core.writeBase;
    const pcAt = core.pcAt;
    const keys = core.blockBase;
    let n = core.retired;
    let accesses = 0;
    let limit = core.limit;
    let exit = EXIT_BUDGET;

    for (;;) {
      core.retired = n;
      if (n >= core.sliceLimit) break;
      limit = core.sliceLimit;
      core.limit = limit;
      if (core.checkInterrupts && takeInterrupt(core) === TO_HS && core.hostIsHs) {
        exit = EXIT_HOST_TRAP;
        break;
      }
      const pcLo = R[pcAt]!;
      const pcHi = R[pcAt + 1]!;
      const key = R[keys + (HART_DATA_KEY >>> 2)]!;
      const hash = R[keys + (HART_DATA_HASH >>> 2)]!;
      let record = 0;
      let imm = 0;
      let left = LEFT_NORMALLY;
      let frame = 0;
      // The page's entry in the EXEC array: what fetchOffset() does, without the call.
      const e =
        core.execBase +
        ((((pcLo >>> PAGE_SHIFT) ^ R[keys + (HART_FETCH_HASH >>> 2)]!) & INDEX) << 2);
      if (R[e]! === ((pcLo & PAGE) | R[keys + (HART_FETCH_KEY >>> 2)]!) && R[e + 1]! === pcHi)
        frame = ((pcLo & PAGE) + R[e + 2]!) >>> 0;
      else {
        frame = fetchOffset(core, pcLo, pcHi);
        if (frame === FETCH_FAULT) {
          exit = deliver(core, 0, 0);
          if (exit !== EXIT_BUDGET) break;
          continue;
        }
        frame = (frame & PAGE) >>> 0;
      }
      const page = (frame - RAM_OFFSET) >>> PAGE_SHIFT;
      let base = baseOfPage[page]!;
      if (base === 0) base = core.code.enterSlow(page);
      const vaPage = pcLo & PAGE;
      let vaHi = pcHi;
      let pageLo = vaPage;
      let p = base + (pcLo & 0xffe);

      loop: for (; n < limit; n++) {
        record = R[p]!;
        imm = R[p + 1]!;
        if (record === 0) {
          core.retired = n;
          record = decodeAt(core, frame, base, p, vaPage, pcHi);
          if (record === 0) break;
          imm = core.valueLo;
        }
        const a = xb + ((record >>> 15) & 62);
        const d = xb + ((record >>> 9) & 126);
        // biome-ignore lint/suspicious/noConfusingLabels: the six branches and JAL share one tail
        taken: {
          switch (record & 1023) {
            case ADDI: {
              const l = R[a]!;
              const x = (l + imm) | 0;
              R[d + 1] = R[a + 1]! + (imm >> 31) + (x >>> 0 < l >>> 0 ? 1 : 0);
              R[d] = x;
              break;
            }
            case ADD: {
              const b = xb + ((record >>> 20) & 62);
              const l = R[a]!;
              const x = (l + R[b]!) | 0;
              R[d + 1] = R[a + 1]! + R[b + 1]! + (x >>> 0 < l >>> 0 ? 1 : 0);
              R[d] = x;
              break;
            }
            case LD: {
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tr + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              accesses++;
              if (R[t]! === ((lo & (PAGE | 7)) | key) && R[t + 1]! === hi) {
                const q = (lo + R[t + 2]!) >>> 2;
                R[d] = R[q]!;
                R[d + 1] = R[q + 1]!;
              } else {
                core.retired = n;
                if (loadSlow(core, lo, hi, 8, CURRENT) !== DONE) break loop;
                limit = core.limit;
                R[d] = core.valueLo;
                R[d + 1] = core.valueHi;
              }
              break;
            }
            case SD: {
              const b = xb + ((record >>> 20) & 62);
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tw + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              accesses++;
              if (R[t]! === ((lo & (PAGE | 7)) | key) && R[t + 1]! === hi) {
                const q = (lo + R[t + 2]!) >>> 2;
                R[q] = R[b]!;
                R[q + 1] = R[b + 1]!;
              } else {
                core.retired = n;
                if (storeSlow(core, lo, hi, 8, R[b]!, R[b + 1]!, CURRENT) !== DONE) break loop;
                limit = core.limit;
              }
              break;
            }
            case LW: {
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tr + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              let v = 0;
              accesses++;
              if (R[t]! === ((lo & (PAGE | 3)) | key) && R[t + 1]! === hi)
                v = R[(lo + R[t + 2]!) >>> 2]!;
              else {
                core.retired = n;
                if (loadSlow(core, lo, hi, 4, CURRENT) !== DONE) break loop;
                limit = core.limit;
                v = core.valueLo;
              }
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case SW: {
              const b = xb + ((record >>> 20) & 62);
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tw + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              accesses++;
              if (R[t]! === ((lo & (PAGE | 3)) | key) && R[t + 1]! === hi) {
                R[(lo + R[t + 2]!) >>> 2] = R[b]!;
              } else {
                core.retired = n;
                if (storeSlow(core, lo, hi, 4, R[b]!, R[b + 1]!, CURRENT) !== DONE) break loop;
                limit = core.limit;
              }
              break;
            }
            case BEQ: {
              const b = xb + ((record >>> 20) & 62);
              if (R[a]! === R[b]! && R[a + 1]! === R[b + 1]!) break taken;
              break;
            }
            case BNE: {
              const b = xb + ((record >>> 20) & 62);
              if (R[a]! !== R[b]! || R[a + 1]! !== R[b + 1]!) break taken;
              break;
            }
            case BLT: {
              const b = xb + ((record >>> 20) & 62);
              if (R[a + 1]! < R[b + 1]! || (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0))
                break taken;
              break;
            }
            case BGE: {
              const b = xb + ((record >>> 20) & 62);
              if (R[a + 1]! > R[b + 1]! || (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 >= R[b]! >>> 0))
                break taken;
              break;
            }
            case BLTU: {
              const b = xb + ((record >>> 20) & 62);
              if (
                R[a + 1]! >>> 0 < R[b + 1]! >>> 0 ||
                (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0)
              )
                break taken;
              break;
            }
            case BGEU: {
              const b = xb + ((record >>> 20) & 62);
              if (
                R[a + 1]! >>> 0 > R[b + 1]! >>> 0 ||
                (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 >= R[b]! >>> 0)
              )
                break taken;
              break;
            }
            case JAL: {
              const next = p - base + ((record >>> 25) & 6);
              const link = (vaPage + next) | 0;
              R[d] = link;
              R[d + 1] = vaHi + (link >>> 0 < vaPage >>> 0 ? 1 : 0);
              break taken;
            }
            case JALR: {
              const l = R[a]!;
              const sum = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (sum >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const link = (vaPage + (p - base) + ((record >>> 25) & 6)) | 0;
              R[d] = link;
              R[d + 1] = vaHi + (link >>> 0 < vaPage >>> 0 ? 1 : 0);
              p = base + (sum & 0xffe);
              if ((sum & PAGE) === vaPage && hi === pcHi) continue;
              pageLo = sum & PAGE;
              vaHi = hi;
              n++;
              break loop;
            }
            case LUI:
              R[d] = imm;
              R[d + 1] = imm >> 31;
              break;
            case AUIPC: {
              const l = vaPage + (p - base);
              const x = (l + imm) | 0;
              R[d] = x;
              R[d + 1] = vaHi + (imm >> 31) + (x >>> 0 < l >>> 0 ? 1 : 0);
              break;
            }
            case ADDIW: {
              const v = (R[a]! + imm) | 0;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case ADDW: {
              const b = xb + ((record >>> 20) & 62);
              const v = (R[a]! + R[b]!) | 0;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case SUB: {
              const b = xb + ((record >>> 20) & 62);
              const l = R[a]!;
              const y = R[b]!;
              R[d + 1] = R[a + 1]! - R[b + 1]! - (l >>> 0 < y >>> 0 ? 1 : 0);
              R[d] = l - y;
              break;
            }
            case SUBW: {
              const b = xb + ((record >>> 20) & 62);
              const v = (R[a]! - R[b]!) | 0;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case ANDI:
              R[d] = R[a]! & imm;
              R[d + 1] = R[a + 1]! & (imm >> 31);
              break;
            case ORI:
              R[d] = R[a]! | imm;
              R[d + 1] = R[a + 1]! | (imm >> 31);
              break;
            case XORI:
              R[d] = R[a]! ^ imm;
              R[d + 1] = R[a + 1]! ^ (imm >> 31);
              break;
            case AND: {
              const b = xb + ((record >>> 20) & 62);
              const hi = R[a + 1]! & R[b + 1]!;
              R[d] = R[a]! & R[b]!;
              R[d + 1] = hi;
              break;
            }
            case OR: {
              const b = xb + ((record >>> 20) & 62);
              const hi = R[a + 1]! | R[b + 1]!;
              R[d] = R[a]! | R[b]!;
              R[d + 1] = hi;
              break;
            }
            case XOR: {
              const b = xb + ((record >>> 20) & 62);
              const hi = R[a + 1]! ^ R[b + 1]!;
              R[d] = R[a]! ^ R[b]!;
              R[d + 1] = hi;
              break;
            }
            case SLLI: {
              const l = R[a]!;
              const h = R[a + 1]!;
              R[d] = imm < 32 ? l << imm : 0;
              R[d + 1] =
                imm === 0 ? h : imm < 32 ? (h << imm) | (l >>> (32 - imm)) : l << (imm - 32);
              break;
            }
            case SRLI: {
              const l = R[a]!;
              const h = R[a + 1]!;
              R[d] = imm === 0 ? l : imm < 32 ? (l >>> imm) | (h << (32 - imm)) : h >>> (imm - 32);
              R[d + 1] = imm < 32 ? h >>> imm : 0;
              break;
            }
            case SRAI: {
              const l = R[a]!;
              const h = R[a + 1]!;
              R[d] = imm === 0 ? l : imm < 32 ? (l >>> imm) | (h << (32 - imm)) : h >> (imm - 32);
              R[d + 1] = imm < 32 ? h >> imm : h >> 31;
              break;
            }
            case SLLIW: {
              const v = R[a]! << imm;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case SRLIW: {
              const v = (R[a]! >>> imm) | 0;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case SRAIW: {
              const v = R[a]! >> imm;
              R[d] = v;
              R[d + 1] = v >> 31;
              break;
            }
            case SLT: {
              const b = xb + ((record >>> 20) & 62);
              R[d] =
                R[a + 1]! < R[b + 1]! || (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0)
                  ? 1
                  : 0;
              R[d + 1] = 0;
              break;
            }
            case SLTU: {
              const b = xb + ((record >>> 20) & 62);
              R[d] =
                R[a + 1]! >>> 0 < R[b + 1]! >>> 0 ||
                (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0)
                  ? 1
                  : 0;
              R[d + 1] = 0;
              break;
            }
            case SLTIU: {
              const h = R[a + 1]!;
              const ih = imm >> 31;
              R[d] = h >>> 0 < ih >>> 0 || (h === ih && R[a]! >>> 0 < imm >>> 0) ? 1 : 0;
              R[d + 1] = 0;
              break;
            }
            case LBU:
            case LHU:
            case LWU:
            case LB:
            case LH: {
              const code = record & 1023;
              const size = code === LWU ? 4 : code === LHU || code === LH ? 2 : 1;
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tr + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              let v = 0;
              accesses++;
              if (R[t]! === ((lo & (PAGE | (size - 1))) | key) && R[t + 1]! === hi) {
                const q = (lo + R[t + 2]!) >>> 0;
                v = size === 1 ? u8[q]! : size === 2 ? u16[q >>> 1]! : R[q >>> 2]!;
              } else {
                core.retired = n;
                if (loadSlow(core, lo, hi, size, CURRENT) !== DONE) break loop;
                limit = core.limit;
                v = core.valueLo;
              }
              if (code === LB) v = (v << 24) >> 24;
              else if (code === LH) v = (v << 16) >> 16;
              R[d] = v;
              R[d + 1] = code >= LB ? v >> 31 : 0;
              break;
            }
            case SB:
            case SH: {
              const b = xb + ((record >>> 20) & 62);
              const wide = (record & 1023) === SH;
              const l = R[a]!;
              const lo = (l + imm) | 0;
              const hi = (R[a + 1]! + (imm >> 31) + (lo >>> 0 < l >>> 0 ? 1 : 0)) | 0;
              const t = tw + ((((lo >>> PAGE_SHIFT) ^ hash) & INDEX) << 2);
              accesses++;
              if (R[t]! === ((lo & (wide ? PAGE | 1 : PAGE)) | key) && R[t + 1]! === hi) {
                const q = (lo + R[t + 2]!) >>> 0;
                if (wide) u16[q >>> 1] = R[b]!;
                else u8[q] = R[b]!;
              } else {
                core.retired = n;
                if (storeSlow(core, lo, hi, wide ? 2 : 1, R[b]!, 0, CURRENT) !== DONE) break loop;
                limit = core.limit;
              }
              break;
            }
            case PAGE_END:
              break loop;
            default: {
              const code = record & 1023;
              if (code >= FIRST_MULDIV && code <= LAST_BITMANIP) {
                const b = xb + ((record >>> 20) & 62);
                if (code <= LAST_MULDIV) executeMulDiv(R, code, a, b, d);
                else executeBitmanip(R, code, a, b, d, imm);
                break;
              }
              if (code >= FIRST_SHIFT && code <= LAST_COMPARE) {
                executeShift(R, code, a, xb + ((record >>> 20) & 62), d, imm);
                break;
              }
              core.retired = n;
              if (code > LAST_BITMANIP && code <= LAST_ATOMIC) {
                accesses++;
                if (executeAtomic(core, record) === DONE) break;
                break loop;
              }
              const outcome = executeSystem(core, record, imm);
              if (outcome === NEXT) {
                limit = core.limit;
                break;
              }
              if (outcome === SYSTEM_TRAP) break loop;
              n++;
              if (outcome === SYSTEM_JUMP) left = LEFT_BY_JUMP;
              else {
                if (outcome === SYSTEM_WAIT) left = LEFT_BY_WAIT;
                p += (record >>> 25) & 6;
              }
              break loop;
            }
          }
          p += (record >>> 25) & 6;
          continue;
        }
        // A branch or a jump that is taken: the offset in bytes is that of the records in words.
        p += imm;
        if ((p - base) >>> 0 < RECORDS) continue;
        n++;
        break;
      }

      core.retired = n;
      if (left === LEFT_BY_JUMP) continue;
      const lo = (pageLo + (p - base)) | 0;
      R[pcAt] = lo;
      // Behind the page or before it: the high word takes the carry or the borrow.
      const crossed = p - base;
      R[pcAt + 1] =
        crossed >= RECORDS && lo >>> 0 < pageLo >>> 0
          ? vaHi + 1
          : crossed < 0 && lo >>> 0 > pageLo >>> 0
            ? vaHi - 1
            : vaHi;
      if (core.excPending) {
        rawInstruction(core, frame, record);
        exit = deliver(core, record, imm);
        if (exit !== EXIT_BUDGET) break;
      } else if (left === LEFT_BY_WAIT && !wakesUp(core)) {
        exit = EXIT_WFI;
        break;
      }
    }
    core.retired = n;
    core.f64[core.countersAt + COUNT_ACCESSES]! += accesses;
    return exit;
  };
};

export const interpret = makeInterpreter();
