/** Exceptions: every cause, where it is delegated to, what the trap writes, and the way back. */
import { describe, expect, it } from 'vitest';
import { EXIT_HOST_TRAP, EXIT_TRAP_LOOP } from '../../../emu/hart/hart.ts';
import {
  CODE,
  csrOf,
  DATA,
  DEVICE,
  get,
  HOLE,
  HS_HANDLER,
  LEAF,
  M_HANDLER,
  type Machine,
  mapIdentity,
  mapPage,
  MODES,
  type ModeName,
  machine,
  newRoot,
  put,
  RWX,
  sv39,
  trappedTo,
  VS_HANDLER,
} from './harness.ts';

const delegateAll = (m: Machine): void => {
  put(m, 'medeleg', ~0n);
  put(m, 'hedeleg', ~0n);
};

/** A program that raises a cause at its first instruction, in a mode that can raise it. */
interface Cause {
  code: number;
  fact: string;
  text: string;
  tval: bigint;
  /** tval is an address. */
  address?: boolean;
  setup?: (m: Machine) => void;
}
const a1 =
  (value: number) =>
  (m: Machine): void =>
    m.hart.setX(11, BigInt(value));
/** Paging on, first stage, with one page missing at 0x4000_0000. */
const paged = (m: Machine): void => {
  const root = newRoot(m);
  mapIdentity(m, root, m.hart.priv === 0);
  for (const pa of [HS_HANDLER, VS_HANDLER]) mapPage(m, root, pa, pa, LEAF | RWX);
  put(m, m.hart.virt ? 'vsatp' : 'satp', sv39(root));
  m.hart.setX(11, 0x4000_0000n);
};
const CAUSES: Cause[] = [
  {
    code: 1,
    fact: 'fetch from nowhere',
    text: 'nop',
    tval: BigInt(HOLE),
    address: true,
    setup: (m) => m.hart.setPc(BigInt(HOLE)),
  },
  { code: 2, fact: 'illegal, 4 bytes', text: '.word 0xffffffff', tval: 0xffff_ffffn },
  { code: 2, fact: 'illegal, 2 bytes', text: '.half 0\n.half 0x1234', tval: 0n },
  { code: 2, fact: 'MRET', text: 'mret', tval: 0x3020_0073n },
  { code: 3, fact: 'EBREAK', text: 'ebreak', tval: BigInt(CODE), address: true },
  { code: 3, fact: 'C.EBREAK', text: 'c.ebreak', tval: BigInt(CODE), address: true },
  {
    code: 4,
    fact: 'LR, misaligned',
    text: 'lr.d a0, (a1)',
    tval: BigInt(DATA + 4),
    address: true,
    setup: a1(DATA + 4),
  },
  {
    code: 5,
    fact: 'load from nowhere',
    text: 'ld a0, 0(a1)',
    tval: BigInt(HOLE),
    address: true,
    setup: a1(HOLE),
  },
  {
    code: 5,
    fact: 'LR of a device',
    text: 'lr.w a0, (a1)',
    tval: BigInt(DEVICE),
    address: true,
    setup: a1(DEVICE),
  },
  {
    code: 5,
    fact: 'misaligned load of a device',
    text: 'lw a0, 2(a1)',
    tval: BigInt(DEVICE + 2),
    address: true,
    setup: a1(DEVICE),
  },
  {
    code: 6,
    fact: 'SC, misaligned',
    text: 'sc.w a0, a2, (a1)',
    tval: BigInt(DATA + 2),
    address: true,
    setup: a1(DATA + 2),
  },
  {
    code: 6,
    fact: 'AMO, misaligned',
    text: 'amoadd.d a0, a2, (a1)',
    tval: BigInt(DATA + 4),
    address: true,
    setup: a1(DATA + 4),
  },
  {
    code: 7,
    fact: 'store to nowhere',
    text: 'sb a0, 1(a1)',
    tval: BigInt(HOLE + 1),
    address: true,
    setup: a1(HOLE),
  },
  {
    code: 7,
    fact: 'AMO on a device',
    text: 'amoswap.w a0, a2, (a1)',
    tval: BigInt(DEVICE),
    address: true,
    setup: a1(DEVICE),
  },
  {
    code: 7,
    fact: 'misaligned store to a device',
    text: 'sw a0, 2(a1)',
    tval: BigInt(DEVICE + 2),
    address: true,
    setup: a1(DEVICE),
  },
  {
    code: 12,
    fact: 'fetch from an unmapped page',
    text: 'jr a1',
    tval: 0x4000_0000n,
    address: true,
    setup: paged,
  },
  {
    code: 13,
    fact: 'load from an unmapped page',
    text: 'lw a0, 4(a1)',
    tval: 0x4000_0004n,
    address: true,
    setup: paged,
  },
  {
    code: 13,
    fact: 'LR of an unmapped page',
    text: 'lr.w a0, (a1)',
    tval: 0x4000_0000n,
    address: true,
    setup: paged,
  },
  {
    code: 15,
    fact: 'store to an unmapped page',
    text: 'sd a0, 8(a1)',
    tval: 0x4000_0008n,
    address: true,
    setup: paged,
  },
  {
    code: 15,
    fact: 'AMO on an unmapped page',
    text: 'amoor.w a0, a2, (a1)',
    tval: 0x4000_0000n,
    address: true,
    setup: paged,
  },
];

/** Trap CSRs of a destination: [cause, epc, tval]. */
const written = (m: Machine, to: 'M' | 'HS' | 'VS'): bigint[] =>
  ['cause', 'epc', 'tval'].map((name) => get(m, { M: 'm', HS: 's', VS: 'vs' }[to] + name));

describe('every cause, from every mode, to every destination (3.1.8, 15.2.2)', () => {
  const deliveries: [ModeName, boolean, boolean, 'M' | 'HS' | 'VS'][] = [
    // mode, medeleg, hedeleg, destination
    ['M', true, true, 'M'],
    ['S', false, false, 'M'],
    ['S', true, true, 'HS'],
    ['U', true, true, 'HS'],
    ['VS', false, true, 'M'],
    ['VS', true, false, 'HS'],
    ['VS', true, true, 'VS'],
    ['VU', true, true, 'VS'],
  ];
  for (const cause of CAUSES)
    it(`${cause.code}: ${cause.fact}`, () => {
      for (const [mode, medeleg, hedeleg, to] of deliveries) {
        if (mode === 'M' && (cause.setup === paged || cause.text === 'mret')) continue;
        const m = machine(cause.text, mode);
        cause.setup?.(m);
        if (medeleg) put(m, 'medeleg', ~0n);
        if (hedeleg) put(m, 'hedeleg', ~0n);
        m.hart.run(cause.text === 'jr a1' ? 2 : 1);
        const epc = cause.code === 12 || cause.code === 1 ? cause.tval : BigInt(CODE);
        expect([mode, trappedTo(m), ...written(m, to)]).toEqual([
          mode,
          to,
          BigInt(cause.code),
          epc,
          cause.tval,
        ]);
        const guest = MODES[mode].virt && cause.address === true ? 1n : 0n;
        if (to === 'M') expect((get(m, 'mstatus') >> 38n) & 1n).toBe(guest);
        if (to === 'HS') expect((get(m, 'hstatus') >> 6n) & 1n).toBe(guest);
      }
    });

  const ecalls: [ModeName, number, 'M' | 'HS' | 'VS'][] = [
    ['M', 11, 'M'],
    ['S', 9, 'HS'],
    ['U', 8, 'HS'],
    ['VS', 10, 'HS'],
    ['VU', 8, 'VS'],
  ];
  for (const [mode, code, to] of ecalls)
    it(`ECALL from ${mode} is cause ${code}, and goes to ${to} with everything delegated`, () => {
      const m = machine('ecall', mode);
      delegateAll(m);
      m.hart.run(1);
      expect([trappedTo(m), ...written(m, to)]).toEqual([to, BigInt(code), BigInt(CODE), 0n]);
    });

  it('22: virtual instruction cannot be delegated to VS-mode; tval is the instruction', () => {
    const m = machine('csrr a0, hstatus', 'VS');
    delegateAll(m);
    m.hart.run(1);
    expect([trappedTo(m), ...written(m, 'HS')]).toEqual(['HS', 22n, BigInt(CODE), 0x6000_2573n]);
  });
});

describe('what a trap writes, and what a return restores', () => {
  it('to M: MPP, MPV, MPIE, MIE (3.1.6.1)', () => {
    for (const mode of ['M', 'S', 'U', 'VS', 'VU'] as const) {
      const m = machine('ecall', mode);
      put(m, 'mstatus', 8n);
      m.hart.run(1);
      const status = get(m, 'mstatus');
      const { priv, virt } = MODES[mode];
      expect([
        (status >> 11n) & 3n,
        (status >> 39n) & 1n,
        (status >> 7n) & 1n,
        (status >> 3n) & 1n,
      ]).toEqual([BigInt(priv), virt ? 1n : 0n, 1n, 0n]);
      expect([m.hart.priv, m.hart.virt]).toEqual([3, false]);
    }
  });
  it('to HS: SPP, SPIE, SIE, and hstatus.SPV and SPVP when V was 1 (15.2.1)', () => {
    const rows: [ModeName, number, number, number | undefined][] = [
      // mode, SPP, SPV, SPVP; SPVP stays when V was 0
      ['S', 1, 0, undefined],
      ['U', 0, 0, undefined],
      ['VS', 1, 1, 1],
      ['VU', 0, 1, 0],
    ];
    for (const [mode, spp, spv, spvp] of rows)
      for (const before of [0, 1]) {
        const m = machine('ebreak', mode);
        put(m, 'medeleg', ~0n);
        put(m, 'sstatus', 2n);
        put(m, 'hstatus', BigInt(before) << 8n);
        m.hart.run(1);
        const status = get(m, 'sstatus');
        const hstatus = get(m, 'hstatus');
        expect([
          mode,
          (status >> 8n) & 1n,
          (status >> 5n) & 1n,
          (status >> 1n) & 1n,
          (hstatus >> 7n) & 1n,
          (hstatus >> 8n) & 1n,
        ]).toEqual([mode, BigInt(spp), 1n, 0n, BigInt(spv), BigInt(spvp ?? before)]);
        expect([m.hart.priv, m.hart.virt]).toEqual([1, false]);
      }
  });
  it('to VS: vsstatus alone, V stays 1 (15.6.2)', () => {
    for (const mode of ['VS', 'VU'] as const) {
      const m = machine('ebreak', mode);
      delegateAll(m);
      put(m, 'vsstatus', 2n);
      m.hart.run(1);
      expect((get(m, 'vsstatus') >> 1n) & 0x91n).toBe(mode === 'VS' ? 0x90n : 0x10n);
      expect(get(m, 'sstatus') & 0x122n).toBe(0n);
      expect(get(m, 'hstatus') & 0x1c0n).toBe(0n);
      expect([m.hart.priv, m.hart.virt]).toEqual([1, true]);
    }
  });
  it('MRET: to MPP and MPV; MPP becomes U, MPRV is cleared unless back in M (3.3.2)', () => {
    for (const mode of ['M', 'S', 'U', 'VS', 'VU'] as const) {
      const m = machine('mret\n.space 60\nnop');
      const { priv, virt } = MODES[mode];
      put(m, 'mepc', BigInt(CODE + 64));
      put(m, 'mstatus', (BigInt(priv) << 11n) | (1n << 17n) | (1n << 7n) | (virt ? 1n << 39n : 0n));
      m.hart.run(1);
      const status = get(m, 'mstatus');
      expect([m.hart.priv, m.hart.virt, m.hart.pc]).toEqual([priv, virt, BigInt(CODE + 64)]);
      expect([
        (status >> 11n) & 3n,
        (status >> 39n) & 1n,
        (status >> 3n) & 1n,
        (status >> 7n) & 1n,
        (status >> 17n) & 1n,
      ]).toEqual([0n, 0n, 1n, 1n, mode === 'M' ? 1n : 0n]);
    }
  });
  it('MRET to M with MPV set stays outside V (15.6.5)', () => {
    const m = machine('mret');
    put(m, 'mepc', BigInt(CODE));
    put(m, 'mstatus', (3n << 11n) | (1n << 39n));
    m.hart.run(1);
    expect([m.hart.priv, m.hart.virt]).toEqual([3, false]);
  });
  it('SRET from HS: to SPP and hstatus.SPV, which becomes 0 (15.6.5)', () => {
    for (const mode of ['S', 'U', 'VS', 'VU'] as const) {
      const m = machine('sret\n.space 60\nnop', 'S');
      const { priv, virt } = MODES[mode];
      put(m, 'sepc', BigInt(CODE + 64));
      put(m, 'sstatus', (BigInt(priv) << 8n) | 0x20n);
      put(m, 'hstatus', virt ? 0x180n : 0x100n);
      m.hart.run(1);
      expect([m.hart.priv, m.hart.virt, m.hart.pc]).toEqual([priv, virt, BigInt(CODE + 64)]);
      expect(get(m, 'sstatus') & 0x122n).toBe(0x22n);
      expect(get(m, 'hstatus') & 0x180n).toBe(0x100n);
    }
  });
  it('SRET from VS: to vsstatus.SPP, V stays 1', () => {
    const m = machine('sret\n.space 60\nnop', 'VS');
    put(m, 'vsepc', BigInt(CODE + 64));
    put(m, 'vsstatus', 0x20n);
    m.hart.run(1);
    expect([m.hart.priv, m.hart.virt, m.hart.pc]).toEqual([0, true, BigInt(CODE + 64)]);
    expect(get(m, 'vsstatus') & 0x122n).toBe(0x22n);
  });
  it('hostSret() is that SRET, for a hypervisor played by TypeScript', () => {
    const m = machine('nop', 'S');
    put(m, 'sepc', BigInt(CODE));
    put(m, 'sstatus', 1n << 8n);
    put(m, 'hstatus', 1n << 7n);
    m.hart.hostSret();
    expect([m.hart.priv, m.hart.virt, m.hart.pc]).toEqual([1, true, BigInt(CODE)]);
  });
  it('vectored mode spreads interrupts, not exceptions (3.1.7)', () => {
    const m = machine('ebreak');
    put(m, 'mtvec', BigInt(M_HANDLER + 1));
    m.hart.run(1);
    expect(m.hart.pc).toBe(BigInt(M_HANDLER + 4));
  });
});

describe('exits', () => {
  it('hostIsHs: run() ends when a trap arrives in HS-mode, and only then', () => {
    const m = machine('nop\nebreak\necall', 'VU');
    delegateAll(m);
    m.hart.hostIsHs = true;
    put(m, 'hedeleg', 0xb1ffn & ~8n);
    expect(m.hart.run(100)).toBe(EXIT_HOST_TRAP);
    expect(m.hart.sliceRetired).toBe(1);
    expect([m.hart.priv, m.hart.virt, m.hart.pc]).toEqual([1, false, BigInt(HS_HANDLER)]);
    expect([get(m, 'scause'), get(m, 'sepc')]).toEqual([3n, BigInt(CODE + 4)]);
    put(m, 'sepc', BigInt(CODE + 8));
    m.hart.hostSret();
    m.hart.run(1); // the ECALL goes to VS-mode
    expect(m.hart.pc).toBe(BigInt(VS_HANDLER + 4));
  });
  it('a trap vector that leads nowhere ends run() instead of hanging it', () => {
    const m = machine('ebreak');
    put(m, 'mtvec', BigInt(HOLE));
    expect(m.hart.run(1000)).toBe(EXIT_TRAP_LOOP);
    expect(m.hart.sliceRetired).toBe(0);
    expect(get(m, 'mcause')).toBe(1n);
  });
});

describe('guest-page faults: htval, htinst, GVA (15.6.3)', () => {
  const GVA = 0x4000_0000;
  const GPA = 0x5000_0000;
  /** A guest under two stages: code and RAM mapped, GVA -> GPA, and GPA nowhere. */
  const guest = (text: string, mode: ModeName): Machine => {
    const m = machine(text, mode);
    put(m, 'medeleg', ~0n);
    const vs = newRoot(m);
    const g = newRoot(m, true);
    mapIdentity(m, g, true);
    mapIdentity(m, vs, mode === 'VU');
    mapPage(m, vs, GVA, GPA, LEAF | RWX | (mode === 'VU' ? 0x10 : 0));
    put(m, 'vsatp', sv39(vs));
    put(m, 'hgatp', sv39(g, 3));
    m.hart.setX(11, BigInt(GVA));
    return m;
  };
  // [text, cause, htinst, offset of the fault]
  const rows: [string, number, number, number][] = [
    ['lb a0, 5(a1)', 21, 0x0000_0503, 5],
    ['lhu a0, 4(a1)', 21, 0x0000_5503, 4],
    ['lw a0, 8(a1)', 21, 0x0000_2503, 8],
    ['ld a0, 8(a1)', 21, 0x0000_3503, 8],
    ['lw x0, 0(a1)', 21, 0x0000_2003, 0],
    ['c.lw a0, 4(a1)', 21, 0x0000_2501, 4],
    ['c.ld a0, 8(a1)', 21, 0x0000_3501, 8],
    ['sb a2, 1(a1)', 23, 0x00c0_0023, 1],
    ['sd a2, 16(a1)', 23, 0x00c0_3023, 16],
    ['c.sw a2, 4(a1)', 23, 0x00c0_2021, 4],
    ['lr.w a0, (a1)', 21, 0x1000_252f, 0],
    ['sc.d a0, a2, (a1)', 23, 0x18c0_352f, 0],
    ['amoadd.w.aq a0, a2, (a1)', 23, 0x04c0_252f, 0],
  ];
  for (const [text, cause, htinst, offset] of rows)
    it(`${text}: cause ${cause}, htinst 0x${htinst.toString(16)}`, () => {
      for (const mode of ['VS', 'VU'] as const) {
        const m = guest(text, mode);
        m.hart.run(1);
        expect(trappedTo(m)).toBe('HS');
        expect(written(m, 'HS')).toEqual([BigInt(cause), BigInt(CODE), BigInt(GVA + offset)]);
        expect(get(m, 'htval')).toBe(BigInt(GPA + offset) >> 2n);
        expect(get(m, 'htinst')).toBe(BigInt(htinst));
        expect(get(m, 'hstatus') & 0xc0n).toBe(0xc0n);
      }
    });
  it('a fetch: cause 20, htinst 0', () => {
    const m = guest('jr a1', 'VS');
    m.hart.run(2);
    expect(written(m, 'HS')).toEqual([20n, BigInt(GVA), BigInt(GVA)]);
    expect([get(m, 'htval'), get(m, 'htinst')]).toEqual([BigInt(GPA) >> 2n, 0n]);
  });
  it('a crossing load whose second page is missing: Address Offset and tval are of that part', () => {
    const m = guest('ld a0, -3(a1)', 'VS');
    mapPage(m, Number((get(m, 'vsatp') & 0xfff_ffffn) * 4096n), GVA - 4096, DATA, LEAF | RWX);
    m.hart.run(1);
    expect(written(m, 'HS')).toEqual([21n, BigInt(CODE), BigInt(GVA)]);
    expect(get(m, 'htinst')).toBe(0x0001_b503n);
  });
  it('undelegated it goes to M: mtval2, mtinst, MPV, GVA', () => {
    const m = guest('lw a0, 8(a1)', 'VU');
    put(m, 'medeleg', 0n);
    m.hart.run(1);
    expect(written(m, 'M')).toEqual([21n, BigInt(CODE), BigInt(GVA + 8)]);
    expect([get(m, 'mtval2'), get(m, 'mtinst')]).toEqual([BigInt(GPA + 8) >> 2n, 0x2503n]);
    expect((get(m, 'mstatus') >> 38n) & 3n).toBe(3n);
  });
  it('an implicit access, to a page table nowhere: pseudo-instruction 0x3000', () => {
    const m = guest('lw a0, 0(a1)', 'VS');
    put(m, 'vsatp', sv39(GPA));
    m.hart.run(1);
    expect(written(m, 'HS')[0]).toBe(20n); // already the fetch needs the table
    expect(get(m, 'htinst')).toBe(0x3000n);
  });
  it('a later exception of another kind clears htval and htinst', () => {
    const m = guest('ebreak', 'VS');
    put(m, 'htval', 5n);
    put(m, 'htinst', 5n);
    m.hart.run(1);
    expect([get(m, 'scause'), get(m, 'htval'), get(m, 'htinst')]).toEqual([3n, 0n, 0n]);
  });

  it('HLV and HSV reach the guest with SPVP; their faults have GVA set and SPV clear (15.3.1)', () => {
    const m = guest(
      'hlv.d a0, (a2)\nhsv.w a3, (a2)\nhlv.w a4, (a2)\nhlvx.hu a5, (a6)\nhlv.w a0, (a1)',
      'VS',
    );
    m.hart.setMode(1, false);
    put(m, 'hstatus', 1n << 8n);
    m.memory.writeBytes(DATA, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 0x88));
    m.hart.setX(12, BigInt(DATA));
    m.hart.setX(13, 0xffff_fff0n);
    m.hart.setX(16, BigInt(CODE));
    m.hart.run(4);
    expect(m.hart.x(10)).toBe(0x8807_0605_0403_0201n);
    expect(m.hart.x(14)).toBe(0xffff_ffff_ffff_fff0n);
    expect(m.hart.x(15)).toBe(BigInt(m.memory.u16[m.memory.offsetOf(CODE) >>> 1] ?? 0));
    m.hart.run(1);
    expect(trappedTo(m)).toBe('HS');
    expect(written(m, 'HS')).toEqual([21n, BigInt(CODE + 16), BigInt(GVA)]);
    expect(get(m, 'hstatus') & 0x1c0n).toBe(0x140n);
    expect(get(m, 'htinst')).toBe(0x6800_4573n);
    expect(csrOf('htinst')).toBe(0x64a);
  });
});
