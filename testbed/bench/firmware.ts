/**
 * A firmware of some sixty instructions for the bare board: enough SBI to run the guest programs in
 * S-mode with one stage of translation, so that one and two stages can be measured on one program.
 *
 * SBI 2.0: BASE probe, console (DBCN write, legacy putchar) to the UART, SRST to the finisher.
 */
import { assemble } from '#emu';

/** The firmware's place: the first bytes of RAM, as OpenSBI's. */
export const FIRMWARE_PA = 0x8000_0000;

const SOURCE = `
start:                        # a0 = hart id, as the reset code leaves it
    la    t0, trap
    csrw  mtvec, t0
    la    t0, saved
    csrw  mscratch, t0
    li    t0, 0xb1ff          # everything but ECALL from S-mode is the program's own
    csrw  medeleg, t0
    li    t0, 0x222
    csrw  mideleg, t0
    li    t0, -1
    csrw  mcounteren, t0
    li    t0, 1
    slli  t0, t0, 61          # menvcfg.ADUE: hardware sets A and D
    csrw  menvcfg, t0
    li    t0, 0x1800          # mstatus.MPP = S
    csrc  mstatus, t0
    li    t0, 0x0800
    csrs  mstatus, t0
    la    t1, entry
    ld    t0, 0(t1)
    csrw  mepc, t0
    ld    a1, 8(t1)
    mret

    .align 2
trap:                         # only ECALL from S-mode comes here
    csrrw sp, mscratch, sp
    sd    t0, 0(sp)
    sd    t1, 8(sp)
    li    t0, 0x4442434e      # DBCN, console write: a0 bytes at a1
    beq   a7, t0, console
    li    t0, 1               # legacy console putchar
    beq   a7, t0, putchar
    li    t0, 0x53525354      # SRST
    beq   a7, t0, reset
    li    t0, 0x10            # BASE: every probe finds what it asks for
    beq   a7, t0, base
    li    a0, -2
    j     done
base:
    li    a0, 0
    li    a1, 1
done:
    csrr  t0, mepc
    addi  t0, t0, 4
    csrw  mepc, t0
    ld    t0, 0(sp)
    ld    t1, 8(sp)
    csrrw sp, mscratch, sp
    mret
console:
    li    t0, 0x10000000
    sd    a0, 16(sp)
    add   a0, a0, a1
1:  beq   a1, a0, 2f
    lbu   t1, 0(a1)
    sb    t1, 0(t0)
    addi  a1, a1, 1
    j     1b
2:  ld    a1, 16(sp)          # bytes written: all
    li    a0, 0
    j     done
putchar:
    li    t0, 0x10000000
    sb    a0, 0(t0)
    li    a0, 0
    j     done
reset:                        # a1 = reason
    li    t0, 0x100000
    li    t1, 0x5555
    beqz  a1, 1f
    li    t1, 0x13333
1:  sw    t1, 0(t0)
2:  j     2b
    .align 4
saved:
    .dword 0, 0, 0, 0
entry:
    .dword 0, 0               # entry of the program, device tree
`;

/** The firmware's bytes, set to enter `entry` in S-mode with a1 = `treePa`. */
export const firmware = (entry: number, treePa: number): Uint8Array => {
  const program = assemble(SOURCE, { origin: FIRMWARE_PA });
  const { bytes } = program;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parameters = program.at('entry') - FIRMWARE_PA;
  view.setBigUint64(parameters, BigInt(entry), true);
  view.setBigUint64(parameters + 8, BigInt(treePa), true);
  return bytes;
};
