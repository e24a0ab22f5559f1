/** The CSR file: what writes are turned into, views of one register through another, and who may access what. */
import { describe, expect, it } from 'vitest';
import { CSR_STIMECMP } from '../../../emu/isa/csr-names.ts';
import { csrOf, get, type Machine, type ModeName, machine, put, runWithEvents } from './harness.ts';

const ONES = 0xffff_ffff_ffff_ffffn;
const UXL = 2n << 32n;

describe('WARL and WPRI fields: what is read after writing ones, then zeros', () => {
  // [csr, after ones, after zeros, section]
  const rows: [string, bigint, bigint, string][] = [
    ['mvendorid', 0n, 0n, '3.1.2'],
    ['mhartid', 0n, 0n, '3.1.5'],
    ['misa', (2n << 62n) | 0x14_1187n, (2n << 62n) | 0x14_1187n, '3.1.1: RV64ABCHIMSU, fixed'],
    [
      'mstatus',
      (0xcan << 32n) | 0x7e_19aan,
      0xan << 32n,
      '3.1.6: UXL and SXL fixed, FS and VS zero',
    ],
    ['medeleg', 0xfc_b7ffn, 0n, '3.1.8: ecall from M cannot be delegated'],
    ['mideleg', 0x666n, 0x444n, '15.4.2: VS-level interrupts are delegated for good'],
    ['mie', 0xeeen, 0n, '3.1.9'],
    ['mip', 0x226n, 0n, '3.1.9: SSIP, VSSIP, STIP, SEIP are writable'],
    ['mtvec', 0xffff_ffff_ffff_fffdn, 0n, '3.1.7: mode 0 or 1'],
    ['mcounteren', 7n, 0n, '3.1.11'],
    ['mcountinhibit', 0n, 0n, '3.1.12'],
    ['menvcfg', (0xan << 60n) | 0xf1n, 0n, '3.1.18: STCE, ADUE, CBZE, CBCFE, CBIE, FIOM'],
    ['mscratch', ONES, 0n, '3.1.13'],
    ['mepc', ONES - 1n, 0n, '3.1.14: bit 0 is zero'],
    ['mcause', ONES, 0n, '3.1.15'],
    ['mtval', ONES, 0n, '3.1.16'],
    ['mtval2', ONES, 0n, '15.4.3'],
    ['mtinst', ONES, 0n, '15.4.4'],
    ['mhpmcounter3', 0n, 0n, '3.1.10'],
    ['mhpmevent31', 0n, 0n, '3.1.10'],
    ['pmpcfg0', 0x9f9f_9f9f_9f9f_9f9fn, 0n, '3.7.1: storage'],
    ['pmpcfg4', 0n, 0n, '3.7.1: beyond 16 entries'],
    ['pmpaddr15', (1n << 54n) - 1n, 0n, '3.7.1'],
    ['pmpaddr16', 0n, 0n, '3.7.1'],
    ['sstatus', UXL | 0xc_0122n, UXL, '12.1.1'],
    ['stvec', 0xffff_ffff_ffff_fffdn, 0n, '12.1.2'],
    ['scounteren', 7n, 0n, '12.1.5'],
    ['senvcfg', 0xf1n, 0n, '12.1.10'],
    ['sscratch', ONES, 0n, '12.1.6'],
    ['sepc', ONES - 1n, 0n, '12.1.7'],
    ['scause', ONES, 0n, '12.1.8'],
    ['stval', ONES, 0n, '12.1.9'],
    ['satp', 0n, 0n, '12.1.11: MODE 15 does not exist, the write has no effect'],
    ['stimecmp', ONES, 0n, '12.1.12'],
    ['hstatus', UXL | 0x70_03c0n, UXL, '15.2.1: VSXL fixed, VGEIN zero'],
    ['hedeleg', 0xc_b1ffn, 0n, '15.2.2'],
    ['hideleg', 0x444n, 0n, '15.2.2'],
    ['hvip', 0x444n, 0n, '15.2.3'],
    ['hie', 0x444n, 0n, '15.2.3'],
    ['hip', 0x004n, 0n, '15.2.3: only VSSIP is writable'],
    ['hgeie', 0n, 0n, '15.2.4: GEILEN is 0'],
    ['hgeip', 0n, 0n, '15.2.4'],
    ['henvcfg', 0xf1n, 0n, '15.2.5: ADUE and STCE are zero while those of menvcfg are'],
    ['hcounteren', 7n, 0n, '15.2.6'],
    ['htimedelta', ONES, 0n, '15.2.7'],
    ['htval', ONES, 0n, '15.2.8'],
    ['htinst', ONES, 0n, '15.2.9'],
    ['hgatp', 0x03ff_ffff_ffff_fffcn, 0n, '15.2.10: MODE stays, VMID has 14 bits, root 16 KiB'],
    ['vsstatus', UXL | 0xc_0122n, UXL, '15.2.11'],
    ['vsie', 0n, 0n, '15.2.12: nothing is delegated'],
    ['vsip', 0n, 0n, '15.2.12'],
    ['vstvec', 0xffff_ffff_ffff_fffdn, 0n, '15.2.13'],
    ['vsscratch', ONES, 0n, '15.2.14'],
    ['vsepc', ONES - 1n, 0n, '15.2.15'],
    ['vscause', ONES, 0n, '15.2.16'],
    ['vstval', ONES, 0n, '15.2.17'],
    ['vsatp', (1n << 60n) - 1n, 0n, '15.2.18: fields one by one, MODE stays'],
    ['vstimecmp', ONES, 0n, '15.2.21'],
  ];
  for (const [name, ones, zeros, section] of rows)
    it(`${name} (${section})`, () => {
      const m = machine('nop');
      put(m, name, ONES);
      expect(get(m, name)).toBe(ones);
      put(m, name, 0n);
      expect(get(m, name)).toBe(zeros);
    });

  it('mstatus.MPP keeps its value when 2 is written (3.1.6.1)', () => {
    const m = machine('nop');
    put(m, 'mstatus', 1n << 11n);
    put(m, 'mstatus', 2n << 11n);
    expect((get(m, 'mstatus') >> 11n) & 3n).toBe(1n);
  });

  for (const mode of [0n, 8n, 9n, 10n])
    for (const name of ['satp', 'vsatp', 'hgatp'])
      it(`${name} takes MODE ${mode}`, () => {
        const m = machine('nop');
        put(m, name, (mode << 60n) | 0x1_2340n);
        expect(get(m, name)).toBe((mode << 60n) | 0x1_2340n);
      });
});

describe('one register through another', () => {
  it('sie and sip show what mideleg delegates (12.1.3)', () => {
    const m = machine('nop');
    put(m, 'mie', 0xeeen);
    put(m, 'mip', 0x222n);
    put(m, 'mideleg', 0x202n);
    expect(get(m, 'sie')).toBe(0x202n);
    expect(get(m, 'sip')).toBe(0x202n);
    put(m, 'sip', 0n); // SSIP alone is writable
    expect(get(m, 'mip')).toBe(0x220n);
    put(m, 'sie', 0n);
    expect(get(m, 'mie')).toBe(0xcecn);
  });
  it('hie and hip are the VS bits of mie and mip, hvip drives them (15.2.3)', () => {
    const m = machine('nop');
    put(m, 'hvip', 0x444n);
    expect(get(m, 'hip')).toBe(0x444n);
    expect(get(m, 'mip')).toBe(0x444n);
    put(m, 'hip', 0n);
    expect(get(m, 'hvip')).toBe(0x440n);
    put(m, 'mip', 4n);
    expect(get(m, 'hvip')).toBe(0x444n);
    put(m, 'hie', 0x440n);
    expect(get(m, 'mie')).toBe(0x440n);
  });
  it('vsie and vsip are hie and hip shifted right, where hideleg delegates (15.2.12)', () => {
    const m = machine('nop');
    put(m, 'hideleg', 0x404n);
    put(m, 'hvip', 0x444n);
    put(m, 'vsie', 0x222n);
    expect(get(m, 'vsie')).toBe(0x202n);
    expect(get(m, 'hie')).toBe(0x404n);
    expect(get(m, 'vsip')).toBe(0x202n);
    put(m, 'vsip', 0n);
    expect(get(m, 'hvip')).toBe(0x440n);
  });
  it('with V=1 supervisor CSRs are the VS ones (15.2)', () => {
    const m = machine(
      [
        'csrw sscratch, a0',
        'csrw stvec, a0',
        'csrw sepc, a0',
        'csrw scause, a0',
        'csrw stval, a0',
        'csrw sstatus, a1',
        'csrr a2, sstatus',
      ].join('\n'),
      'VS',
    );
    m.hart.setX(10, 0x4444n);
    m.hart.setX(11, 0x4_0002n);
    m.hart.run(7);
    for (const name of ['vsscratch', 'vstvec', 'vsepc', 'vscause', 'vstval'])
      expect([name, get(m, name)]).toEqual([name, 0x4444n]);
    expect(get(m, 'sscratch')).toBe(0n);
    expect(get(m, 'vsstatus')).toBe(UXL | 0x4_0002n);
    expect(get(m, 'sstatus')).toBe(UXL);
    expect(m.hart.x(12)).toBe(UXL | 0x4_0002n);
  });
  it('henvcfg keeps ADUE and STCE only as menvcfg has them (15.2.5)', () => {
    const m = machine('nop');
    put(m, 'menvcfg', 0xan << 60n);
    put(m, 'henvcfg', ONES);
    expect(get(m, 'henvcfg')).toBe((0xan << 60n) | 0xf1n);
    put(m, 'menvcfg', 0x2n << 60n);
    expect(get(m, 'henvcfg')).toBe((0x2n << 60n) | 0xf1n);
  });
});

describe('CSR instructions (Zicsr)', () => {
  const run = (text: string, a1: bigint): Machine => {
    const m = machine(text);
    put(m, 'mscratch', 0xf0f0n);
    m.hart.setX(11, a1);
    m.hart.run(1);
    return m;
  };
  const rows: [string, bigint, bigint][] = [
    ['csrrw a0, mscratch, a1', 0x1234n, 0x1234n],
    ['csrrs a0, mscratch, a1', 0x000fn, 0xf0ffn],
    ['csrrc a0, mscratch, a1', 0x00f0n, 0xf000n],
    ['csrrs a0, mscratch, x0', 0x1234n, 0xf0f0n],
    ['csrrwi a0, mscratch, 5', 0n, 5n],
    ['csrrsi a0, mscratch, 5', 0n, 0xf0f5n],
    ['csrrci a0, mscratch, 16', 0n, 0xf0e0n],
  ];
  for (const [text, a1, after] of rows)
    it(text, () => {
      const m = run(text, a1);
      expect(m.hart.x(10)).toBe(0xf0f0n);
      expect(get(m, 'mscratch')).toBe(after);
    });
  it('rd and rs1 may be one register', () => {
    const m = run('csrrw a1, mscratch, a1', 7n);
    expect([m.hart.x(11), get(m, 'mscratch')]).toEqual([0xf0f0n, 7n]);
  });
  it('setting another bit of mip does not latch the SEIP line (3.1.9)', () => {
    const m = machine('csrrs a0, mip, a1');
    m.hart.setPending(1 << 9, true);
    m.hart.setX(11, 2n);
    m.hart.run(1);
    expect(m.hart.x(10)).toBe(0x200n);
    m.hart.setPending(1 << 9, false);
    expect(get(m, 'mip')).toBe(2n);
  });
});

describe('who may access what', () => {
  const ALL: ModeName[] = ['M', 'S', 'U', 'VS', 'VU'];
  /** Cause per mode; 0 = allowed. */
  const outcome = (text: string, mode: ModeName, setup: (m: Machine) => void): number => {
    const m = machine(text, mode);
    setup(m);
    m.hart.run(1);
    return m.hart.priv === 3 && mode !== 'M'
      ? Number(get(m, 'mcause'))
      : m.hart.counts().exceptions === 0
        ? 0
        : Number(get(m, 'mcause'));
  };
  const none = (): void => {};
  const set =
    (...pairs: [string, bigint][]) =>
    (m: Machine): void => {
      for (const [name, value] of pairs) put(m, name, value);
    };
  const TIME = 'csrr a0, time';
  const STCE = 1n << 63n;
  // [text, setup, causes in M S U VS VU, why]
  const rows: [string, (m: Machine) => void, number[], string][] = [
    ['csrr a0, mscratch', none, [0, 2, 2, 2, 2], 'machine CSRs are illegal below M, under V too'],
    ['csrr a0, sscratch', none, [0, 0, 2, 0, 22], 'supervisor CSRs from VU are virtual'],
    ['csrr a0, hstatus', none, [0, 0, 2, 22, 22], 'hypervisor CSRs under V are virtual'],
    ['csrr a0, vsscratch', none, [0, 0, 2, 22, 22], 'VS CSRs under V are virtual'],
    ['csrw hgeip, a0', none, [2, 2, 2, 2, 2], 'writing a read-only CSR is illegal everywhere'],
    ['csrr a0, 0x8ff', none, [2, 2, 2, 2, 2], 'an absent CSR is illegal everywhere'],
    ['csrr a0, fcsr', none, [2, 2, 2, 2, 2], 'no floating point'],
    ['csrr a0, satp', none, [0, 0, 2, 0, 22], 'satp'],
    ['csrr a0, satp', set(['mstatus', 1n << 20n]), [0, 2, 2, 0, 22], 'TVM closes satp to HS alone'],
    ['csrr a0, satp', set(['hstatus', 1n << 20n]), [0, 0, 2, 22, 22], 'VTVM closes satp to VS'],
    ['csrr a0, hgatp', set(['mstatus', 1n << 20n]), [0, 2, 2, 22, 22], 'TVM closes hgatp'],
    ['csrr a0, vsatp', set(['mstatus', 1n << 20n]), [0, 0, 2, 22, 22], 'TVM leaves vsatp open'],
    [TIME, none, [0, 2, 2, 2, 2], 'mcounteren.TM=0: illegal below M'],
    [TIME, set(['mcounteren', 2n]), [0, 0, 2, 22, 22], 'then scounteren and hcounteren decide'],
    [TIME, set(['mcounteren', 2n], ['scounteren', 2n]), [0, 0, 0, 22, 22], 'U needs scounteren'],
    [TIME, set(['mcounteren', 2n], ['hcounteren', 2n]), [0, 0, 2, 0, 22], 'VS needs hcounteren'],
    [
      TIME,
      set(['mcounteren', 2n], ['hcounteren', 2n], ['scounteren', 2n]),
      [0, 0, 0, 0, 0],
      'VU needs all three',
    ],
    ['csrr a0, cycle', set(['mcounteren', 2n]), [0, 2, 2, 2, 2], 'each counter has its bit'],
    [
      'csrr a0, hpmcounter3',
      set(['mcounteren', ONES]),
      [0, 2, 2, 2, 2],
      'counters that do not count stay closed',
    ],
    ['csrr a0, stimecmp', none, [0, 2, 2, 2, 2], 'Sstc needs menvcfg.STCE and mcounteren.TM'],
    ['csrr a0, stimecmp', set(['menvcfg', STCE]), [0, 2, 2, 2, 2], 'TM is missing'],
    [
      'csrr a0, stimecmp',
      set(['menvcfg', STCE], ['mcounteren', 2n]),
      [0, 0, 2, 22, 22],
      'enough for HS',
    ],
    [
      'csrr a0, stimecmp',
      set(['menvcfg', STCE], ['mcounteren', 2n], ['henvcfg', STCE], ['hcounteren', 2n]),
      [0, 0, 2, 0, 22],
      'enough for VS',
    ],
    [
      'csrr a0, vstimecmp',
      set(['menvcfg', STCE], ['mcounteren', 2n]),
      [0, 0, 2, 22, 22],
      "vstimecmp is HS-mode's",
    ],
    ['sret', none, [0, 0, 2, 0, 22], 'SRET'],
    ['sret', set(['mstatus', 1n << 22n]), [0, 2, 2, 0, 22], 'TSR'],
    ['sret', set(['hstatus', 1n << 22n]), [0, 0, 2, 22, 22], 'VTSR'],
    ['mret', none, [0, 2, 2, 2, 2], 'MRET'],
    ['wfi', none, [0, 0, 2, 0, 22], 'WFI'],
    ['wfi', set(['mstatus', 1n << 21n]), [0, 2, 2, 2, 2], 'TW'],
    ['wfi', set(['hstatus', 1n << 21n]), [0, 0, 2, 22, 22], 'VTW'],
    ['sfence.vma', none, [0, 0, 2, 0, 22], 'SFENCE.VMA'],
    ['sfence.vma', set(['mstatus', 1n << 20n]), [0, 2, 2, 0, 22], 'TVM'],
    ['sfence.vma', set(['hstatus', 1n << 20n]), [0, 0, 2, 22, 22], 'VTVM'],
    ['hfence.vvma', none, [0, 0, 2, 22, 22], 'HFENCE.VVMA'],
    ['hfence.vvma', set(['mstatus', 1n << 20n]), [0, 0, 2, 22, 22], 'TVM does not concern it'],
    ['hfence.gvma', none, [0, 0, 2, 22, 22], 'HFENCE.GVMA'],
    ['hfence.gvma', set(['mstatus', 1n << 20n]), [0, 2, 2, 22, 22], 'TVM does'],
    ['hlv.w a0, (a1)', none, [0, 0, 2, 22, 22], 'HLV'],
    ['hlv.w a0, (a1)', set(['hstatus', 1n << 9n]), [0, 0, 0, 22, 22], 'HU opens it to U'],
    ['hsv.b a0, (a1)', set(['hstatus', 1n << 9n]), [0, 0, 0, 22, 22], 'HSV as well'],
    ['fence.i', none, [0, 0, 0, 0, 0], 'FENCE.I'],
  ];
  for (const [text, setup, causes, why] of rows)
    it(`${text}: ${why} (15.6.1)`, () => {
      const withAddress = (m: Machine): void => {
        setup(m);
        m.hart.setX(11, 0x8000_8000n);
        for (const epc of ['mepc', 'sepc', 'vsepc']) put(m, epc, 0x8000_1100n);
      };
      expect(ALL.map((mode) => outcome(text, mode, withAddress))).toEqual(causes);
    });
});

describe('counters and time', () => {
  it('instret and cycle count retired instructions, exactly (3.1.10)', () => {
    const m = machine('csrr a0, minstret\nnop\ncsrr a1, mcycle\nnop\nnop\ncsrr a2, minstret');
    m.hart.run(6);
    expect([m.hart.x(10), m.hart.x(11), m.hart.x(12)]).toEqual([0n, 2n, 5n]);
  });
  it('the instruction after a write of minstret or mcycle reads what was written (3.1.10)', () => {
    const m = machine(
      'csrw minstret, a0\ncsrr a1, minstret\ncsrr a2, mcycle\ncsrw mcycle, a0\ncsrr a3, mcycle\ncsrr a4, minstret',
    );
    m.hart.setX(10, 0xffff_fffen);
    m.hart.run(6);
    expect([11, 12, 13, 14].map((r) => m.hart.x(r))).toEqual([
      0xffff_fffen,
      2n,
      0xffff_fffen,
      0x1_0000_0002n,
    ]);
    expect(get(m, 'minstret')).toBe(0x1_0000_0003n);
    expect(get(m, 'mcycle')).toBe(0x1_0000_0000n);
  });
  it("time is the clock's, with htimedelta under V (15.2.7)", () => {
    const m = machine('csrr a0, time', 'VS');
    m.clock.now = 12345;
    put(m, 'mcounteren', 7n);
    put(m, 'hcounteren', 7n);
    put(m, 'htimedelta', -1235n);
    expect(get(m, 'time')).toBe(ONES);
    m.hart.run(1);
    expect(m.hart.x(10)).toBe(ONES);
    m.hart.setMode(3, false);
    expect(get(m, 'time')).toBe(1234n);
  });
  it('a timer interrupt comes at the exact instruction (Sstc)', () => {
    for (const at of [1, 2, 7, 20]) {
      const m = machine('csrw stimecmp, a0\n1: j 1b', 'S');
      put(m, 'menvcfg', 1n << 63n);
      put(m, 'mcounteren', 2n);
      put(m, 'mideleg', 0x222n);
      put(m, 'mie', 0x20n);
      put(m, 'sstatus', 2n);
      m.hart.setX(10, BigInt(at));
      runWithEvents(m, at * 10);
      expect([get(m, 'scause'), m.clock.now]).toEqual([0n, at * 10]);
      runWithEvents(m, 1);
      expect(get(m, 'scause')).toBe((1n << 63n) | 5n);
      expect(m.hart.csrLo(CSR_STIMECMP)).toBe(at);
    }
  });
  it('readCsr refuses a CSR that does not exist', () => {
    expect(() => machine('nop').hart.readCsr(0x8ff)).toThrow(RangeError);
    expect(csrOf('mstatus')).toBe(0x300);
  });
});
