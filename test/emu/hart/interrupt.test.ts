/** Interrupts: priority, delegation, enables by mode, WFI. Priv 3.1.9, 15.2.3, 15.4. */
import { describe, expect, it } from 'vitest';
import { EXIT_BUDGET, EXIT_WFI } from '../../../emu/hart/hart.ts';
import {
  DEVICE,
  get,
  HS_HANDLER,
  type Machine,
  MODES,
  type ModeName,
  machine,
  put,
  trappedTo,
} from './harness.ts';

const INTERRUPT = 1n << 63n;
const LINES = (1 << 3) | (1 << 7) | (1 << 9) | (1 << 11);

/** Makes interrupts pending by their bits, each by its own way. */
const pend = (m: Machine, bits: number): void => {
  for (let bit = 0; bit < 12; bit++)
    if ((bits & LINES & (1 << bit)) !== 0) m.hart.setPending(1 << bit, true);
  put(m, 'mip', BigInt(bits & 0x22));
  put(m, 'hvip', BigInt(bits & 0x444));
};

describe('priority: of all that are pending, the first is taken (3.1.9, 15.4.3)', () => {
  const order = [11, 3, 7, 9, 1, 5, 10, 2, 6];
  const run = (bits: number, to: 'M' | 'HS' | 'VS'): bigint => {
    const m = machine('nop', 'VU');
    put(m, 'mie', 0xeeen);
    if (to !== 'M') put(m, 'mideleg', 0x222n);
    if (to === 'VS') put(m, 'hideleg', 0x444n);
    pend(m, bits);
    m.hart.run(1);
    expect(trappedTo(m)).toBe(to);
    return get(m, { M: 'mcause', HS: 'scause', VS: 'vscause' }[to]);
  };
  it('M-mode: MEI MSI MTI SEI SSI STI', () => {
    for (let i = 0; i < 6; i++) {
      const rest = order.slice(i).reduce((bits, irq) => bits | (1 << irq), 0);
      expect(run(rest, 'M')).toBe(INTERRUPT | BigInt(order[i] ?? 0));
    }
  });
  it('HS-mode: SEI SSI STI VSEI VSSI VSTI', () => {
    for (let i = 3; i < 9; i++) {
      const rest = order.slice(i).reduce((bits, irq) => bits | (1 << irq), 0);
      expect(run(rest, 'HS')).toBe(INTERRUPT | BigInt(order[i] ?? 0));
    }
  });
  it('VS-mode: VSEI VSSI VSTI, with the S-level codes', () => {
    for (let i = 6; i < 9; i++) {
      const rest = order.slice(i).reduce((bits, irq) => bits | (1 << irq), 0);
      expect(run(rest, 'VS')).toBe(INTERRUPT | BigInt((order[i] ?? 0) - 1));
    }
  });
  it('an interrupt for M goes before every one for HS, that before every one for VS', () => {
    const m = machine('nop', 'VU');
    put(m, 'mie', 0xeeen);
    put(m, 'mideleg', 0x220n);
    put(m, 'hideleg', 0x444n);
    pend(m, 0x666);
    m.hart.run(0);
    m.hart.run(1);
    expect([trappedTo(m), get(m, 'mcause')]).toEqual(['M', INTERRUPT | 1n]);
  });
});

describe('who is interrupted: mode against destination and global enables', () => {
  // [destination, mode, SIE/MIE of the destination, taken]
  const rows: ['M' | 'HS' | 'VS', ModeName, boolean, boolean][] = [
    ['M', 'M', false, false],
    ['M', 'M', true, true],
    ['M', 'S', false, true],
    ['M', 'VU', false, true],
    ['HS', 'M', true, false],
    ['HS', 'S', false, false],
    ['HS', 'S', true, true],
    ['HS', 'U', false, true],
    ['HS', 'VS', false, true],
    ['HS', 'VU', false, true],
    ['VS', 'M', true, false],
    ['VS', 'S', true, false],
    ['VS', 'U', true, false],
    ['VS', 'VS', false, false],
    ['VS', 'VS', true, true],
    ['VS', 'VU', false, true],
  ];
  for (const [to, mode, enabled, taken] of rows)
    it(`for ${to}, in ${mode}, enable ${enabled ? 1 : 0}: ${taken ? 'taken' : 'not taken'}`, () => {
      const m = machine('nop\nnop', mode);
      put(m, 'mideleg', 0x222n);
      put(m, 'hideleg', 0x444n);
      const irq = { M: 7, HS: 5, VS: 6 }[to];
      put(m, 'mie', 1n << BigInt(irq));
      pend(m, 1 << irq);
      if (enabled) {
        if (to === 'M') put(m, 'mstatus', 8n);
        if (to === 'HS') put(m, 'sstatus', 2n);
        if (to === 'VS') put(m, 'vsstatus', 2n);
      }
      m.hart.run(1);
      expect(trappedTo(m)).toBe(taken ? to : undefined);
      if (!taken) expect([m.hart.priv, m.hart.virt]).toEqual([MODES[mode].priv, MODES[mode].virt]);
    });
});

describe('when interrupts are looked at', () => {
  const enabled = (text: string): Machine => {
    const m = machine(text, 'S');
    put(m, 'mideleg', 0x222n);
    put(m, 'mie', 0x222n);
    return m;
  };
  it('after a CSR write that enables them: before the next instruction', () => {
    const m = enabled('nop\ncsrsi sstatus, 2\nnop\nnop');
    pend(m, 0x20);
    m.hart.run(3);
    expect([trappedTo(m), get(m, 'sepc') & 0xfffn]).toEqual(['HS', 8n]);
  });
  it('after a software interrupt to oneself', () => {
    const m = enabled('csrsi sstatus, 2\ncsrsi sip, 2\nnop');
    m.hart.run(3);
    expect([get(m, 'scause'), get(m, 'sepc') & 0xfffn]).toEqual([INTERRUPT | 1n, 8n]);
  });
  it('after a device was written that raised its line', () => {
    const m = enabled('csrsi sstatus, 2\nsw x0, 0(a1)\nnop');
    m.hart.setX(11, BigInt(DEVICE) + 0x1000n);
    m.bus.attach(
      DEVICE + 0x1000,
      4,
      { read: () => 0, write: () => m.hart.setPending(1 << 9, true) },
      'line',
    );
    m.hart.run(3);
    expect([get(m, 'scause'), get(m, 'sepc') & 0xfffn]).toEqual([INTERRUPT | 9n, 8n]);
  });
  it('after SRET sets SIE', () => {
    const m = enabled('sret');
    put(m, 'sepc', 0x8000_1100n);
    put(m, 'sstatus', 0x120n);
    pend(m, 0x20);
    m.hart.run(2);
    expect([trappedTo(m), get(m, 'sepc')]).toEqual(['HS', 0x8000_1100n]);
  });
  it('vectored: base + 4 x cause (3.1.7)', () => {
    const m = enabled('nop');
    put(m, 'stvec', BigInt(HS_HANDLER + 1));
    put(m, 'sstatus', 2n);
    pend(m, 0x20);
    m.hart.run(1);
    expect(m.hart.pc).toBe(BigInt(HS_HANDLER + 4 * 5 + 4));
  });
  it('budgets split anywhere do not change what is taken when', () => {
    for (let split = 0; split <= 4; split++) {
      const m = enabled('nop\ncsrsi sstatus, 2\nnop\nnop');
      pend(m, 0x20);
      m.hart.run(split);
      m.hart.run(4 - split);
      expect([m.hart.pc, get(m, 'sepc')]).toEqual([BigInt(HS_HANDLER + 8), 0x8000_1008n]);
    }
  });
});

describe('WFI (3.3.3)', () => {
  it('waits when nothing is pending: retired, pc behind it', () => {
    const m = machine('wfi\nnop');
    expect(m.hart.run(10)).toBe(EXIT_WFI);
    expect([m.hart.sliceRetired, m.hart.pc & 0xfffn]).toEqual([1, 4n]);
    expect(m.hart.interruptPending).toBe(false);
  });
  it('goes on when an enabled interrupt is pending, even with the global enable off', () => {
    const m = machine('wfi\nnop');
    put(m, 'mie', 0x80n);
    m.hart.setPending(0x80, true);
    expect(m.hart.interruptPending).toBe(true);
    expect(m.hart.run(2)).toBe(EXIT_BUDGET);
    expect(m.hart.pc & 0xfffn).toBe(8n);
  });
  it('a pending interrupt that mie does not enable does not wake', () => {
    const m = machine('wfi');
    m.hart.setPending(0x80, true);
    expect(m.hart.run(2)).toBe(EXIT_WFI);
  });
});
