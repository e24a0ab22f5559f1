/* wild-sleep: waits for an interrupt that it has not enabled. */
    .section .text.start, "ax"
    .globl _start
_start:
    csrw    sie, zero
1:  wfi
    j       1b
