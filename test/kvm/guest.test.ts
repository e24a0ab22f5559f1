/** Tiny guests in VS-mode under the hypervisor: boot state, SBI, interrupts, several vCPUs. */
import { describe, expect, test } from 'vitest';
import { GUEST_GPA, load, peek, printed, run, testMachine } from './machine.ts';
import { CAUSES_HANDLER, HALT, OUT, OUT_EQU, SHUTDOWN } from './programs.ts';

const sbi = (eid: number, fid: number): string => `li a7, ${eid}\nli a6, ${fid}\necall\n`;
const SUPERVISOR_TIMER = 5n;

describe('boot: the state at the first instruction (SBI 2.0, 9.1)', () => {
  test('VS-mode, hartid in a0, the device tree in a1, translation and interrupts off', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      sd a0, 0(s1)
      sd a1, 8(s1)
      csrr t0, satp
      sd t0, 16(s1)
      csrr t0, sstatus
      sd t0, 24(s1)
      csrr t0, sie
      sd t0, 32(s1)
      ${SHUTDOWN}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown', resetType: 0, resetReason: 0 });
    expect(peek(m, OUT)).toBe(0n);
    expect(peek(m, OUT + 8)).toBe(BigInt(GUEST_GPA + 0x10_0000));
    expect(peek(m, OUT + 16)).toBe(0n);
    expect(peek(m, OUT + 24)).toBe(2n << 32n); // UXL = 64 bits, everything else off
    expect(peek(m, OUT + 32)).toBe(0n);
  });

  test('memory is faulted in page by page: as many installs as pages touched', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li t0, 100
      li t1, 4096
    1: sd t0, 0(s1)
      add s1, s1, t1
      addi t0, t0, -1
      bnez t0, 1b
      ${SHUTDOWN}`,
    );
    run(m);
    // One page of code besides.
    expect(m.vm.stat.gstageInstalled).toBe(101);
    expect(m.vm.stat.gstageFaultsExec).toBe(1);
    expect(m.vm.stat.gstageFaultsWrite).toBe(100);
    expect(m.vm.stat.exits.fault).toBe(101);
    expect(peek(m, OUT + 99 * 4096)).toBe(1n);
  });
});

describe('saving', () => {
  test('a VM in the middle of its run is plain data: a clone of it is equal', () => {
    const m = testMachine({ nrVcpus: 2, flags: 1 });
    load(m, `li t0, 5000\n1: addi t0, t0, -1\nbnez t0, 1b\n${SHUTDOWN}`);
    expect(run(m, 3000)).toBe('limit');
    expect(structuredClone(m.vm)).toEqual(m.vm);
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
  });
});

describe('SBI 3: the calling convention', () => {
  test('an unknown extension or function is SBI_ERR_NOT_SUPPORTED; other registers stay', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a0, 11
      li a2, 0x123456789abcdef0
      ${sbi(0x0123_4567, 0)}
      sd a0, 0(s1)
      sd a2, 8(s1)
      ${sbi(0x10, 99)}
      sd a0, 16(s1)
      ${SHUTDOWN}`,
    );
    run(m);
    expect(BigInt.asIntN(64, peek(m, OUT))).toBe(-2n);
    expect(peek(m, OUT + 8)).toBe(0x1234_5678_9abc_def0n);
    expect(BigInt.asIntN(64, peek(m, OUT + 16))).toBe(-2n);
    expect(m.vm.stat.sbiCalls).toEqual({ unknown: 1, BASE: 1, SRST: 1 });
  });

  test('4: BASE tells version 2.0, and what can be probed', () => {
    const m = testMachine();
    const probe = (eid: number, at: number): string =>
      `li a0, ${eid}\n${sbi(0x10, 3)}sd a1, ${at}(s1)\n`;
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      ${sbi(0x10, 0)}
      sd a1, 0(s1)
      ${probe(0x4442_434e, 8)}
      ${probe(0x1, 16)}
      ${probe(0x0c0f_fee0, 24)}
      ${SHUTDOWN}`,
    );
    run(m);
    expect(peek(m, OUT)).toBe(0x0200_0000n);
    expect([8, 16, 24].map((at) => peek(m, OUT + at))).toEqual([1n, 1n, 0n]);
  });

  test('10: SRST passes type and reason on, and refuses what is reserved', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a0, 3
      li a1, 0
      ${sbi(0x5352_5354, 0)}
      sd a0, 0(s1)
      li a0, 1
      li a1, 1
      ${sbi(0x5352_5354, 0)}
      ${HALT}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown', resetType: 1, resetReason: 1 });
    expect(BigInt.asIntN(64, peek(m, OUT))).toBe(-3n);
    expect(m.vcpus[0]!.runnable).toBe(false);
    expect(() => m.vcpus[0]!.run(1)).toThrow(/after its end/);
  });
});

describe('SBI 5 and 12: consoles', () => {
  test('DBCN writes a string that crosses a page, in as many calls as it takes', () => {
    const m = testMachine();
    const text = `${'0123456789abcdef'.repeat(300)}\\n`;
    load(
      m,
      `
      la s0, text
      la s1, end
    1: sub a0, s1, s0
      beqz a0, done
      mv a1, s0
      li a2, 0
      ${sbi(0x4442_434e, 0)}
      bnez a0, done
      add s0, s0, a1
      j 1b
    done: ${SHUTDOWN}
      .align 3
      .space 3000
    text: .ascii "${text}"
    end:`,
    );
    run(m);
    expect(printed(m)).toBe(`${'0123456789abcdef'.repeat(300)}\n`);
    expect(m.vm.stat.exits.sbi).toBe(2);
  });

  test('DBCN refuses a buffer outside memory, reads what there is, writes single bytes', () => {
    const m = testMachine();
    m.input.push(...[...'hello'].map((c) => c.charCodeAt(0)));
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a0, 8
      li a1, 0x4000
      li a2, 0
      ${sbi(0x4442_434e, 0)}
      sd a0, 0(s1)
      li a0, 64
      addi a1, s1, 16
      ${sbi(0x4442_434e, 1)}
      sd a1, 8(s1)
      li a0, 0x141
      ${sbi(0x4442_434e, 2)}
      ${SHUTDOWN}`,
    );
    run(m);
    expect(BigInt.asIntN(64, peek(m, OUT))).toBe(-3n);
    expect(peek(m, OUT + 8)).toBe(5n);
    expect(peek(m, OUT + 16)).toBe(0x6f_6c6c_6568n); // "hello"
    expect(printed(m)).toBe('A');
  });

  test('legacy putchar and getchar: result in a0, a1 untouched, -1 when there is nothing', () => {
    const m = testMachine();
    m.input.push(0x7a);
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a1, 77
      li a0, 72
      ${sbi(1, 0)}
      li a0, 105
      ${sbi(1, 0)}
      ${sbi(2, 0)}
      sd a0, 0(s1)
      ${sbi(2, 0)}
      sd a0, 8(s1)
      sd a1, 16(s1)
      ${sbi(8, 0)}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(printed(m)).toBe('Hi');
    expect([0, 8, 16].map((at) => BigInt.asIntN(64, peek(m, OUT + at)))).toEqual([0x7an, -1n, 77n]);
  });
});

describe('timer: SBI 6 and Sstc', () => {
  const timerGuest = (arm: string): string => `${OUT_EQU}
      la t0, handler
      csrw stvec, t0
      li s1, OUT
      li t0, 1 << 5
      csrw sie, t0
      csrsi sstatus, 2
      rdtime s2
      addi s2, s2, 500
      ${arm}
    1: wfi
      ld t0, 0(s1)
      beqz t0, 1b
      ${SHUTDOWN}
      .align 2
    handler:
      csrr t0, scause
      sd t0, 0(s1)
      rdtime t0
      sub t0, t0, s2
      sd t0, 8(s1)
      li t0, 1 << 5
      csrc sie, t0
      sret`;
  const ARMS: [string, string][] = [
    ['sbi_set_timer', `mv a0, s2\n${sbi(0x5449_4d45, 0)}`],
    ['legacy set_timer', `mv a0, s2\n${sbi(0, 0)}`],
    ['vstimecmp, written by the guest as stimecmp', 'csrw stimecmp, s2\n'],
  ];
  test.each(ARMS)('%s: a supervisor timer interrupt at that time, not earlier', (_what, arm) => {
    const m = testMachine();
    load(m, timerGuest(arm));
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, OUT)).toBe((1n << 63n) | SUPERVISOR_TIMER);
    const late = BigInt.asIntN(64, peek(m, OUT + 8));
    expect(late >= 0n && late <= 2n).toBe(true);
    // It slept: the clock jumped, instructions did not pass the time.
    expect(m.vm.stat.exits.wfi).toBe(1);
    expect(m.vcpus[0]!.state.retired).toBeLessThan(200);
  });

  test('a later time takes a pending interrupt back', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      rdtime a0
      ${sbi(0x5449_4d45, 0)}
      csrr t0, sip
      sd t0, 0(s1)
      li a0, -1
      ${sbi(0x5449_4d45, 0)}
      csrr t0, sip
      sd t0, 8(s1)
      ${SHUTDOWN}`,
    );
    run(m);
    expect(peek(m, OUT) & (1n << 5n)).toBe(1n << 5n);
    expect(peek(m, OUT + 8) & (1n << 5n)).toBe(0n);
  });
});

describe('SBI 7, 8 and 9: several vCPUs', () => {
  const TWO = `${OUT_EQU}
      bnez a0, second
      li s1, OUT
      li a0, 1
      ${sbi(0x0048_534d, 2)}
      sd a1, 0(s1)          # status before: stopped
      li a0, 1
      la a1, second
      li a2, 0xabc
      ${sbi(0x0048_534d, 0)}
      sd a0, 8(s1)
      li a0, 1
      la a1, second
      ${sbi(0x0048_534d, 0)}
      sd a0, 16(s1)         # already there
      li a0, 5
      ${sbi(0x0048_534d, 0)}
      sd a0, 24(s1)         # no such hart
    1: ld t0, 64(s1)
      beqz t0, 1b
      li a0, 2
      li a1, 0
      ${sbi(0x0073_5049, 0)}  # IPI to hart 1
      sd a0, 32(s1)
    2: ld t0, 72(s1)
      beqz t0, 2b
      li a0, 2
      li a1, 0
      li a2, 0
      li a3, 0
      ${sbi(0x5246_4e43, 1)}  # remote SFENCE.VMA
      sd a0, 40(s1)
    3: li a0, 1
      ${sbi(0x0048_534d, 2)}
      li t0, 1
      bne a1, t0, 3b        # until hart 1 has stopped
      ${SHUTDOWN}
    second:
      li s1, OUT
      sd a0, 48(s1)
      sd a1, 56(s1)
      la t0, ipi
      csrw stvec, t0
      csrwi sie, 2
      csrsi sstatus, 2
      li t0, 1
      sd t0, 64(s1)
    4: wfi
      ld t0, 72(s1)
      beqz t0, 4b
      ${sbi(0x0048_534d, 1)}
      j halt
      .align 2
    ipi:
      csrci sip, 2
      csrr t0, scause
      sd t0, 72(s1)
      sret
      ${HALT}`;

  test('HSM starts hart 1 with its hartid and opaque; an IPI wakes it; it stops itself', () => {
    const m = testMachine({ nrVcpus: 2 });
    load(m, TWO);
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    const out = (at: number): bigint => BigInt.asIntN(64, peek(m, OUT + at));
    expect(out(0)).toBe(1n); // HSM STOPPED
    expect(out(8)).toBe(0n);
    expect(out(16)).toBe(-6n); // SBI_ERR_ALREADY_AVAILABLE
    expect(out(24)).toBe(-3n); // SBI_ERR_INVALID_PARAM
    expect(out(32)).toBe(0n);
    expect(out(40)).toBe(0n);
    expect(out(48)).toBe(1n);
    expect(out(56)).toBe(0xabcn);
    expect(BigInt.asUintN(64, out(72))).toBe((1n << 63n) | 1n); // supervisor software interrupt
    expect(m.vm.vcpus[1]!.hsm).toBe(1);
  });

  test('starting at an address outside memory is SBI_ERR_INVALID_ADDRESS', () => {
    const m = testMachine({ nrVcpus: 2 });
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a0, 1
      li a1, 0x1000
      ${sbi(0x0048_534d, 0)}
      sd a0, 0(s1)
      li a0, 4
      li a1, 0
      ${sbi(0x0073_5049, 0)}
      sd a0, 8(s1)
      ${SHUTDOWN}`,
    );
    run(m);
    expect(BigInt.asIntN(64, peek(m, OUT))).toBe(-5n);
    expect(BigInt.asIntN(64, peek(m, OUT + 8))).toBe(-3n);
  });

  test('legacy send_ipi reads its mask through the guest address, faulting it in', () => {
    const m = testMachine({ nrVcpus: 2 });
    load(
      m,
      `${OUT_EQU}
      li s1, OUT
      li a0, OUT + 0x5000   # a page nobody has touched: mask 0
      ${sbi(4, 0)}
      sd a0, 0(s1)
      li t0, 1
      sd t0, 8(s1)
      addi a0, s1, 8
      ${sbi(4, 0)}
      csrr t0, sip
      sd t0, 16(s1)
      ${sbi(3, 0)}
      sd a0, 24(s1)         # it was pending
      csrr t0, sip
      sd t0, 32(s1)
      ${SHUTDOWN}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect([0, 16, 24, 32].map((at) => peek(m, OUT + at))).toEqual([0n, 2n, 1n, 0n]);
  });
});

describe('traps given back to the guest (Priv 15.6.2)', () => {
  test('an illegal instruction: scause 2, sepc, the bits in stval, SPP and SPIE', () => {
    const m = testMachine();
    const symbols = load(
      m,
      `${OUT_EQU}
      la t0, handler
      csrw stvec, t0
      li s1, OUT
      csrsi sstatus, 2
    bad: .word 0xffffffff
      csrr t0, sstatus
      sd t0, 32(s1)
      ${SHUTDOWN}
      .align 2
    handler:
      csrr t0, scause
      sd t0, 0(s1)
      csrr t0, sepc
      sd t0, 8(s1)
      csrr t1, stval
      sd t1, 16(s1)
      csrr t1, sstatus
      sd t1, 24(s1)
      addi t0, t0, 4
      csrw sepc, t0
      sret`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, OUT)).toBe(2n);
    expect(peek(m, OUT + 8)).toBe(symbols.get('bad'));
    expect(peek(m, OUT + 16)).toBe(0xffff_ffffn);
    expect(peek(m, OUT + 24) & 0x122n).toBe(0x120n); // SPP, SPIE set, SIE clear
    expect(peek(m, OUT + 32) & 2n).toBe(2n); // SRET has put SIE back
    expect(m.vm.stat.redirected).toBe(1);
    expect(m.vm.stat.traps[2]).toBe(1);
  });

  test('a hypervisor CSR or instruction is illegal for the guest, though it traps as virtual', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      la t0, handler
      csrw stvec, t0
      li s1, OUT
      csrr t0, hstatus
      hlv.w t0, (t0)
      hfence.gvma
      ${SHUTDOWN}
      ${CAUSES_HANDLER}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, OUT)).toBe(0x222n);
    expect(m.vm.stat.traps[22]).toBe(3);
  });

  test('WFI in VU-mode is illegal for the guest; in VS-mode it is an exit', () => {
    const m = testMachine();
    load(
      m,
      `${OUT_EQU}
      la t0, handler
      csrw stvec, t0
      li s1, OUT
      la t0, user
      csrw sepc, t0
      li t0, 0x100
      csrc sstatus, t0
      sret
    user: wfi
      .align 2
    handler:
      csrr t0, scause
      sd t0, 0(s1)
      ${SHUTDOWN}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, OUT)).toBe(2n);
    expect(m.vm.stat.exits.wfi).toBe(0);
  });
});
