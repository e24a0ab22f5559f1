/*
 * Start of every S-mode (or VS-mode) guest, and its trap entry.
 *
 * Entered as the SBI boot protocol says: a0 = hart id, a1 = device tree, satp = 0, interrupts off.
 * main(hart, fdt) is called on a stack of its own; what it returns decides how the machine is shut
 * down: 0 = all is well, anything else = failure.
 */
#define STACK_BYTES 16384

    .section .text.start, "ax"
    .globl _start
_start:
    j       boot

    /*
     * Parameters, at the first 8-byte boundary after the entry (_start + 8): whoever loads the
     * image may store numbers here before the first instruction. 0 = the program's own default.
     */
    .balign 8
    .globl guest_parameters
guest_parameters:
    .dword  0, 0, 0, 0

boot:
    la      sp, boot_stack_top
    mv      tp, a0                  /* tp holds the hart id for good */
    la      t0, trap_entry
    csrw    stvec, t0
    csrw    sie, zero
    la      t0, _bss_start          /* not every loader clears it */
    la      t1, _bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       1b
2:  call    main
    call    guest_exit

/* Other harts begin here (SBI HSM): a0 = hart id, a1 = top of the stack they may use. */
    .globl secondary_start
secondary_start:
    mv      sp, a1
    mv      tp, a0
    la      t0, trap_entry
    csrw    stvec, t0
    csrw    sie, zero
    call    secondary_main
3:  wfi
    j       3b

/*
 * Every trap: all registers go to a struct trap_frame on the current stack, and trap_handler()
 * may change any of them. There is no user mode in these guests, so the stack is always usable.
 */
    .text
    .balign 4
trap_entry:
    addi    sp, sp, -288
    sd      x1, 8(sp)
    sd      x3, 24(sp)
    sd      x4, 32(sp)
    sd      x5, 40(sp)
    addi    x5, sp, 288
    sd      x5, 16(sp)              /* x2 as it was */
    sd      x6, 48(sp)
    sd      x7, 56(sp)
    sd      x8, 64(sp)
    sd      x9, 72(sp)
    sd      x10, 80(sp)
    sd      x11, 88(sp)
    sd      x12, 96(sp)
    sd      x13, 104(sp)
    sd      x14, 112(sp)
    sd      x15, 120(sp)
    sd      x16, 128(sp)
    sd      x17, 136(sp)
    sd      x18, 144(sp)
    sd      x19, 152(sp)
    sd      x20, 160(sp)
    sd      x21, 168(sp)
    sd      x22, 176(sp)
    sd      x23, 184(sp)
    sd      x24, 192(sp)
    sd      x25, 200(sp)
    sd      x26, 208(sp)
    sd      x27, 216(sp)
    sd      x28, 224(sp)
    sd      x29, 232(sp)
    sd      x30, 240(sp)
    sd      x31, 248(sp)
    csrr    t0, sepc
    csrr    t1, scause
    csrr    t2, stval
    sd      t0, 256(sp)
    sd      t1, 264(sp)
    sd      t2, 272(sp)
    mv      a0, sp
    call    trap_handler
    ld      t0, 256(sp)
    csrw    sepc, t0
    ld      x1, 8(sp)
    ld      x3, 24(sp)
    ld      x4, 32(sp)
    ld      x5, 40(sp)
    ld      x6, 48(sp)
    ld      x7, 56(sp)
    ld      x8, 64(sp)
    ld      x9, 72(sp)
    ld      x10, 80(sp)
    ld      x11, 88(sp)
    ld      x12, 96(sp)
    ld      x13, 104(sp)
    ld      x14, 112(sp)
    ld      x15, 120(sp)
    ld      x16, 128(sp)
    ld      x17, 136(sp)
    ld      x18, 144(sp)
    ld      x19, 152(sp)
    ld      x20, 160(sp)
    ld      x21, 168(sp)
    ld      x22, 176(sp)
    ld      x23, 184(sp)
    ld      x24, 192(sp)
    ld      x25, 200(sp)
    ld      x26, 208(sp)
    ld      x27, 216(sp)
    ld      x28, 224(sp)
    ld      x29, 232(sp)
    ld      x30, 240(sp)
    ld      x31, 248(sp)
    addi    sp, sp, 288
    sret

    .bss
    .balign 16
boot_stack:
    .space  STACK_BYTES
boot_stack_top:
