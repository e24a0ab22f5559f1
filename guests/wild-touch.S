/* wild-touch: stores where the machine has neither memory nor a device. */
    .section .text.start, "ax"
    .globl _start
_start:
    li      t0, 0x40000000
    li      t1, 0x600df00d
    sd      t1, 8(t0)
1:  j       1b
