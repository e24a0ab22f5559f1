/*
 * wild-storm: the trap vector points at an illegal instruction. From the first trap on, no
 * instruction retires any more: a machine that only counts those never gets control back.
 */
    .section .text.start, "ax"
    .globl _start
_start:
    la      t0, vector
    csrw    stvec, t0
    .balign 4
vector:
    .word   0xffffffff
