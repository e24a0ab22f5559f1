/*
 * Start of a bare-metal M-mode program on QEMU's virt board (-bios none) and on `gupbed bare`.
 *
 * Hart 0 gets a stack and calls main(); the others sleep. The program ends by writing to the test
 * finisher, so main() does not return in practice; if it does, the hart sleeps too.
 */
    .section .text.start, "ax"
    .globl _start
_start:
    j       boot

    /* Parameters, as in crt0.S. */
    .balign 8
    .globl guest_parameters
guest_parameters:
    .dword  0, 0, 0, 0

boot:
    csrr    t0, mhartid
    bnez    t0, 3f
    la      sp, boot_stack_top
    la      t0, _bss_start
    la      t1, _bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       1b
2:  call    main
3:  wfi
    j       3b

    .bss
    .balign 16
boot_stack:
    .space  4096
boot_stack_top:
