/** Loads and stores that reach devices: every width, compressed and not, with and without htinst. */
import { beforeEach, describe, expect, test } from 'vitest';
import { assemble, CSR_HTINST, UART_BASE } from '#emu';
import { createMmioAccess, decodeMmio } from '../../kvm/exit-mmio.ts';
import { load, peek, run, type TestMachine, testMachine } from './machine.ts';
import { CAUSES_HANDLER, OUT, SHUTDOWN } from './programs.ts';

/** What the device answers: both words begin with their sign bit set, as does every byte. */
const LO = 0x89ab_cdef;
const HI = 0xfedc_ba98;

const LOADS: [string, number, bigint][] = [
  ['lb a5, 0(s0)', 1, 0xffff_ffff_ffff_ffefn],
  ['lbu a5, 0(s0)', 1, 0xefn],
  ['lh a5, 0(s0)', 2, 0xffff_ffff_ffff_cdefn],
  ['lhu a5, 0(s0)', 2, 0xcdefn],
  ['lw a5, 0(s0)', 4, 0xffff_ffff_89ab_cdefn],
  ['lwu a5, 0(s0)', 4, 0x89ab_cdefn],
  ['ld a5, 0(s0)', 8, 0xfedc_ba98_89ab_cdefn],
  ['c.lw a5, 0(s0)', 4, 0xffff_ffff_89ab_cdefn],
  ['c.ld a5, 0(s0)', 8, 0xfedc_ba98_89ab_cdefn],
  ['c.lwsp a5, 0(sp)', 4, 0xffff_ffff_89ab_cdefn],
  ['c.ldsp a5, 0(sp)', 8, 0xfedc_ba98_89ab_cdefn],
];
const STORES: [string, number, bigint][] = [
  ['sb a5, 0(s0)', 1, 0xefn],
  ['sh a5, 0(s0)', 2, 0xcdefn],
  ['sw a5, 0(s0)', 4, 0x89ab_cdefn],
  ['sd a5, 0(s0)', 8, 0xfedc_ba98_89ab_cdefn],
  ['c.sw a5, 0(s0)', 4, 0x89ab_cdefn],
  ['c.sd a5, 0(s0)', 8, 0xfedc_ba98_89ab_cdefn],
  ['c.swsp a5, 0(sp)', 4, 0x89ab_cdefn],
  ['c.sdsp a5, 0(sp)', 8, 0xfedc_ba98_89ab_cdefn],
];

/** Runs one instruction against the device; a5 before it is all ones or the value to store. */
const program = (instruction: string, a5: string): string => `
  li s0, 0x${UART_BASE.toString(16)}
  mv sp, s0
  li a5, ${a5}
  ${instruction}
  j 1f
  nop
1: li s1, 0x${OUT.toString(16)}
  sd a5, 0(s1)
  ${SHUTDOWN}`;

/** From now on the hart gives no transformed instruction: the hypervisor has to read it. */
const withoutHtinst = (m: TestMachine): void => {
  const hart = m.harts[0]!;
  const original = hart.run.bind(hart);
  hart.run = (budget) => {
    const why = original(budget);
    hart.writeCsr(CSR_HTINST, 0n);
    return why;
  };
};

describe.each([
  ['from htinst (Priv 15.6.3)', false],
  ['from the instruction in memory', true],
])('an access to a device, %s', (_where, hide) => {
  let m: TestMachine;
  beforeEach(() => {
    m = testMachine();
    m.device = () => [LO | 0, HI | 0];
    if (hide) withoutHtinst(m);
  });

  test.each(LOADS)(
    '%s reads %i bytes and fills the register as it is signed',
    (op, size, value) => {
      load(m, program(op, '-1'));
      expect(run(m)).toMatchObject({ kind: 'shutdown' });
      expect(m.mmio).toEqual([{ gpa: UART_BASE, sizeBytes: size, write: false, value: 0n }]);
      expect(peek(m, OUT)).toBe(value);
    },
  );

  test.each(STORES)('%s writes %i bytes', (op, size, value) => {
    load(m, program(op, '0xfedcba9889abcdef'));
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(m.mmio).toEqual([{ gpa: UART_BASE, sizeBytes: size, write: true, value }]);
  });

  test('a load into x0 reaches the device and changes no register', () => {
    load(m, program('lw x0, 0(s0)', '55'));
    run(m);
    expect(m.mmio).toHaveLength(1);
    expect(peek(m, OUT)).toBe(55n);
  });

  test('the gpa has the low bits of the address', () => {
    load(m, program('lbu a5, 7(s0)', '0'));
    run(m);
    expect(m.mmio[0]!.gpa).toBe(UART_BASE + 7);
  });

  test('an atomic on a device, and a misaligned access, are the guest’s exceptions', () => {
    const symbols = load(
      m,
      `
      la t0, handler
      csrw stvec, t0
      li s0, 0x${UART_BASE.toString(16)}
      li s1, 0x${OUT.toString(16)}
      amoadd.w t1, t1, (s0)
      lw t1, 2(s0)
      sw t1, 1(s0)
      ${SHUTDOWN}
      ${CAUSES_HANDLER}`,
    );
    expect(symbols.has('handler')).toBe(true);
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, OUT)).toBe(0x746n); // store access fault, load and store misaligned
    expect(m.mmio).toEqual([]);
  });
});

describe('answers', () => {
  test('failMmio: the guest gets an access fault at the access', () => {
    const m = testMachine();
    const symbols = load(
      m,
      `
      la t0, handler
      csrw stvec, t0
      li s0, 0x${UART_BASE.toString(16)}
    bad: lw t1, 4(s0)
    handler: j handler`,
    );
    const vcpu = m.vcpus[0]!;
    for (;;) {
      const exit = vcpu.run(1000);
      if (exit.kind === 'fault') {
        for (const _ of vcpu.handleFault());
        continue;
      }
      expect(exit).toMatchObject({ kind: 'mmio', gpa: UART_BASE + 4 });
      break;
    }
    expect(() => vcpu.run(1)).toThrow(/before completeMmio/);
    vcpu.failMmio();
    expect(vcpu.guestPc).toBe(symbols.get('handler'));
    expect(() => vcpu.completeMmio()).toThrow(/without such an exit/);
  });
});

describe('decodeMmio', () => {
  const access = createMmioAccess();
  const raw = (text: string): number => {
    const { bytes } = assemble(text);
    return bytes[0]! | (bytes[1]! << 8) | ((bytes[2] ?? 0) << 16) | ((bytes[3] ?? 0) << 24) | 0;
  };

  test.each([...LOADS, ...STORES])('%s', (op, sizeBytes) => {
    expect(decodeMmio(raw(op), access)).toBe(true);
    expect(access).toMatchObject({
      sizeBytes,
      write: op.includes('s') && /^(c\.)?s/.test(op),
      reg: 15,
      lenBytes: op.startsWith('c.') ? 2 : 4,
    });
  });

  test.each(['amoswap.d a0, a1, (a2)', 'lr.w a0, (a1)', 'addi a0, a0, 1', 'fence', 'c.addi a0, 1'])(
    '%s is none',
    (op) => {
      expect(decodeMmio(raw(op), access)).toBe(false);
    },
  );
});
