/* wild-forever: never ends and asks for nothing. */
    .section .text.start, "ax"
    .globl _start
_start:
    addi    t0, t0, 1
    j       _start
