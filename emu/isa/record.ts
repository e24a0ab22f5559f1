/**
 * The decoded instruction as the interpreter reads it: 8 bytes, two 32-bit words.
 *
 *   word 0   27 26 25    21 20    16 15       10 9        0
 *           | len |  rs2   |  rs1   |    rd     |    op    |     bits 31..28 are zero
 *   word 1  the immediate, sign-extended to 32 bits
 *
 * `op` is a number of emu/isa/ops.ts. `len` counts half-words: 1 or 2. `rd` is 32 where the
 * destination is x0 or the instruction has none, so that writing needs no test
 * (HART_X_DISCARD in emu/layout.ts). A compressed instruction has the record of its expansion,
 * except for its length.
 *
 * What word 1 holds: shifts the shift amount; LUI and AUIPC the value already in bits 31..12;
 * branches and JAL the byte offset; atomics aq in bit 1 and rl in bit 0; CSR instructions the
 * CSR number (the 5-bit immediate of their -I forms is in rs1); FENCE fm, pred and succ as in
 * bits 31..20; OP_ILLEGAL the raw bits, 16 or 32 of them, as they go into stval.
 */
export const RECORD_OP_MASK = 0x3ff;
export const RECORD_RD_SHIFT = 10;
export const RECORD_RD_MASK = 0x3f;
export const RECORD_RS1_SHIFT = 16;
export const RECORD_RS2_SHIFT = 21;
export const RECORD_RS_MASK = 0x1f;
export const RECORD_LENGTH_SHIFT = 26;

/** Number of the instruction. */
export const recordOp = (word0: number): number => word0 & RECORD_OP_MASK;
/** Destination register; 32 = discard. */
export const recordRd = (word0: number): number => (word0 >>> RECORD_RD_SHIFT) & RECORD_RD_MASK;
export const recordRs1 = (word0: number): number => (word0 >>> RECORD_RS1_SHIFT) & RECORD_RS_MASK;
export const recordRs2 = (word0: number): number => (word0 >>> RECORD_RS2_SHIFT) & RECORD_RS_MASK;
/** Length in half-words: 1 or 2. */
export const recordLength = (word0: number): number => word0 >>> RECORD_LENGTH_SHIFT;

/** Half-words an instruction takes, by its first one: 1 (compressed) or 2. */
export const instructionLength = (firstHalf: number): number => ((firstHalf & 3) === 3 ? 2 : 1);
