/** Pieces of the tests' guest programs: macros of a sort, as the assembler has none. */
import { GUEST_GPA } from './machine.ts';

/** SBI SRST: shutdown, no reason. */
export const SHUTDOWN = `
  li a7, 0x53525354
  li a6, 0
  li a0, 0
  li a1, 0
  ecall
`;

export const HALT = 'halt: j halt\n';

/** Where programs leave their results. */
export const OUT = GUEST_GPA + 0x10_0000;
export const OUT_EQU = `.equ OUT, 0x${OUT.toString(16)}\n`;

/** A trap handler that appends the cause, a hex digit, to the word at s1, and skips the instruction. */
export const CAUSES_HANDLER = `
      .align 2
    handler:
      csrr t0, scause
      ld t1, 0(s1)
      slli t1, t1, 4
      or t1, t1, t0
      sd t1, 0(s1)
      csrr t0, sepc
      addi t0, t0, 4
      csrw sepc, t0
      sret`;
