/** Guests that do nothing sensible: each ends with its pc and cause, and the host never hangs. */
import { describe, expect, test } from 'vitest';
import { load, run, testMachine } from './machine.ts';
import { HALT, OUT_EQU, SHUTDOWN } from './programs.ts';

describe('hostile guests end with pc and cause', () => {
  const end = (source: string) => {
    const m = testMachine();
    const symbols = load(m, OUT_EQU + source);
    return { end: run(m), symbols, m };
  };

  test('a jump to nowhere', () => {
    const { end: exit } = end('li t0, 0x123456000\njr t0\n');
    expect(exit).toMatchObject({
      kind: 'error',
      pc: 0x1_2345_6000n,
      cause: 20,
      gpa: 0x1_2345_6000,
    });
    expect((exit as { message: string }).message).toMatch(/instruction fetch from gpa 0x123456000/);
  });

  test('a load and a store outside the slots', () => {
    const { end: load1, symbols } = end('li t0, 0x40000008\nbad: ld t1, 0(t0)\n');
    expect(load1).toMatchObject({
      kind: 'error',
      pc: symbols.get('bad'),
      cause: 21,
      gpa: 0x4000_0008,
    });
    const { end: store1, symbols: s2 } = end('li t0, -8\nbad: sb t1, 1(t0)\n');
    expect(store1).toMatchObject({ kind: 'error', pc: s2.get('bad'), cause: 23 });
  });

  test('an illegal instruction without a trap handler: vstvec 0 leads nowhere, and why is said', () => {
    const { end: exit, symbols } = end('bad: .word 0\n');
    expect(exit).toMatchObject({ kind: 'error', pc: 0n, cause: 20, gpa: 0 });
    const bad = (symbols.get('bad') ?? 0n).toString(16);
    expect((exit as { message: string }).message).toContain(
      `after illegal instruction at 0x${bad}`,
    );
  });

  test('a trap handler that is itself illegal is found out', () => {
    const { end: exit, symbols } = end('la t0, bad\ncsrw stvec, t0\n.align 2\nbad: .word 0\n');
    expect(exit).toMatchObject({ kind: 'error', pc: symbols.get('bad'), cause: 2 });
    expect((exit as { message: string }).message).toMatch(
      /illegal instruction again and again: the guest.s trap handler/,
    );
  });

  test('a trap handler that returns to the illegal instruction is found out', () => {
    const { end: exit, symbols } = end(
      'la t0, back\ncsrw stvec, t0\nbad: .word 0\n.align 2\nback: sret',
    );
    expect(exit).toMatchObject({ kind: 'error', pc: symbols.get('bad'), cause: 2 });
    expect((exit as { message: string }).message).toMatch(/handler returns to it/);
  });

  test('a guest that emulates an instruction 110,000 times is left alone', () => {
    const m = testMachine();
    load(
      m,
      `
      la t0, skip
      csrw stvec, t0
      li s0, 110000
    1: .word 0
      addi s0, s0, -1
      bnez s0, 1b
      ${SHUTDOWN}
      .align 2
    skip:
      csrr t0, sepc
      addi t0, t0, 4
      csrw sepc, t0
      sret`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(m.vm.stat.redirected).toBe(110_000);
  });

  test('a trap handler that page-faults, which the guest handles itself, does not hang the host', () => {
    // satp with a root that is all zero: every fetch faults, the handler's too.
    const { end: exit } = end(`
      li t0, (8 << 60) | (OUT >> 12)
      la t1, handler
      csrw stvec, t1
      csrw satp, t0
      nop
      .align 2
    handler: nop`);
    expect(exit).toMatchObject({ kind: 'error', cause: 12 });
  });

  test('a store into a read-only slot', () => {
    const m = testMachine({ flags: 2 });
    const symbols = load(m, 'la t0, bad\nbad: sw t0, 0(t0)\n');
    expect(run(m)).toMatchObject({ kind: 'error', pc: symbols.get('bad'), cause: 23 });
  });

  test('a loop without end stops at the budget, exactly', () => {
    const m = testMachine();
    load(m, HALT);
    expect(run(m, 12_345, 1000)).toBe('limit');
    expect(m.vcpus[0]!.state.retired).toBeGreaterThanOrEqual(12_345);
  });
});
