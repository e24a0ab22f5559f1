/**
 * The transformed instruction that htinst and mtinst get for a guest-page fault of an explicit load
 * or store: Privileged ISA 1.13, 15.6.3. The other exceptions leave these registers zero, which the
 * manual allows.
 *
 * It is the instruction with rs1 replaced by the Address Offset and, for loads and stores, the
 * immediate by zero; a compressed instruction as its expansion, told by bit 1 being zero.
 */
import { OP_AMOMAXU_D, OP_LR_W } from '../isa/ops.ts';
import { recordLength, recordOp, recordRd, recordRs2 } from '../isa/record.ts';
import { INSTRUCTIONS } from '../isa/table.ts';
import { CAUSE_LOAD_GUEST_PAGE_FAULT, CAUSE_STORE_GUEST_PAGE_FAULT } from './bits.ts';

/** Encoding of each OP_* with its operands zero. */
const matchOfOp = new Map<number, number>(INSTRUCTIONS.map(([, match, , , op]) => [op, match]));

/**
 * @param record first word of the decoded instruction; 0 = none
 * @param imm its immediate: of atomics aq and rl
 * @param addressOffset faulting address minus the one the instruction named, 0..7
 */
export const transformedInstruction = (
  cause: number,
  record: number,
  imm: number,
  addressOffset: number,
): number => {
  if (cause !== CAUSE_LOAD_GUEST_PAGE_FAULT && cause !== CAUSE_STORE_GUEST_PAGE_FAULT) return 0;
  const op = recordOp(record);
  const match = matchOfOp.get(op);
  if (record === 0 || match === undefined) return 0;
  const ordering = op >= OP_LR_W && op <= OP_AMOMAXU_D ? (imm & 3) << 25 : 0;
  const full =
    match |
    ordering |
    ((recordRd(record) & 31) << 7) |
    (addressOffset << 15) |
    (recordRs2(record) << 20);
  return recordLength(record) === 1 ? full & ~2 : full;
};
