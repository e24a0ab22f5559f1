/* wild-illegal: an illegal instruction for ever; its trap handler returns to the same place. */
    .section .text.start, "ax"
    .globl _start
_start:
    la      t0, handler
    csrw    stvec, t0
again:
    .word   0xffffffff              /* never a valid instruction (unprivileged manual, 1.5) */
    j       again

    .balign 4
handler:
    sret                            /* sepc still points at the illegal instruction */
