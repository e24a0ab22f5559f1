/** The interpreter as such: exact budgets, code that changes, pages and their aliases, atomics, odd addresses, devices. */
import { describe, expect, it } from 'vitest';
import { assemble } from '../../../emu/asm/assemble.ts';
import { CODE_FLAGS, RAM_BASE } from '../../../emu/layout.ts';
import { rng } from '../../support/rng.ts';
import {
  CODE,
  DATA,
  DEVICE,
  get,
  LEAF,
  type Machine,
  mapIdentity,
  mapPage,
  machine,
  newRoot,
  place,
  put,
  RWX,
  runWithEvents,
  sv39,
} from './harness.ts';

const encoding = (text: string): number => {
  const { bytes } = assemble(text, { origin: 0 });
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
};

/** Everything a program can see of a hart. */
const visible = (m: Machine): unknown => ({
  x: Array.from({ length: 32 }, (_, i) => m.hart.x(i)),
  pc: m.hart.pc,
  csrs: ['mcause', 'mepc', 'mtval', 'mstatus', 'minstret', 'mcycle', 'mip'].map((n) => get(m, n)),
  now: m.clock.now,
  data: [...m.memory.readBytes(DATA, 64)],
});

/** A program with calls across pages, traps, a device, atomics, self-modification and time. */
const MIXTURE = `
    la t0, handler
    csrw mtvec, t0
    la s0, ${DATA}
    la s1, ${DEVICE}
    li s2, 0
  loop:
    addi s2, s2, 1
    call far
    ecall
    lw a0, 4(s1)
    sw s2, 8(s1)
    amoadd.d a1, s2, (s0)
    sd a1, 8(s0)
    ld a2, 13(s0)
    rdtime a3
    add a4, a4, a3
    csrr a5, minstret
    xor a6, a6, a5
    la t1, patch
    lw t2, 0(t1)
    xori t2, t2, 0x100
    sw t2, 0(t1)
  patch:
    addi a7, a7, 3
    .half 0
    j loop
    .space 5000
  far:
    mul s3, s2, s2
    c.addi s3, 1
    ret
  handler:
    csrr t3, mcause
    csrr t4, mepc
    add s4, s4, t3
    addi t4, t4, 4
    li t5, 2
    bne t3, t5, 1f
    addi t4, t4, -2
  1:
    csrw mepc, t4
    mret
`
  .replace(/^ {4}/gm, ' ')
  .replace('rdtime a3', 'csrr a3, time');

describe('instruction budgets', () => {
  it('are exact', () => {
    for (const budget of [0, 1, 2, 3, 10, 999]) {
      const m = machine('1: addi a0, a0, 1\nj 1b');
      expect(m.hart.run(budget)).toBe(0);
      expect(m.hart.sliceRetired).toBe(budget);
      expect(m.hart.x(10)).toBe(BigInt(Math.ceil(budget / 2)));
      expect(m.hart.instret).toBe(budget);
      expect(m.clock.now).toBe(budget);
    }
  });
  it('n and then m give what n + m give, split anywhere', () => {
    const whole = machine(MIXTURE);
    whole.hart.run(3000);
    const random = rng(11);
    for (let round = 0; round < 12; round++) {
      const m = machine(MIXTURE);
      for (let left = 3000; left > 0; ) {
        const n = Math.min(left, 1 + random.below(round < 4 ? 5 : 300));
        m.hart.run(n);
        expect(m.hart.sliceRetired).toBe(n);
        left -= n;
      }
      expect(visible(m)).toEqual(visible(whole));
      expect(m.log).toEqual(whole.log);
    }
    expect(whole.hart.counts().exceptions).toBeGreaterThan(100);
  });
  it('a trapping instruction does not retire, and the trap costs nothing', () => {
    const m = machine('nop\necall\nnop');
    m.hart.run(3);
    expect([m.hart.instret, m.hart.pc & 0xfffn]).toEqual([3, 8n]);
  });
  it('an event that a device schedules ends the slice at its time', () => {
    const m = machine('nop\nsw x0, 0(a1)\n1: j 1b');
    m.hart.setX(11, BigInt(DEVICE + 0x1000));
    const taken: number[] = [];
    m.clock.receive('test', () => taken.push(m.clock.now));
    m.bus.attach(
      DEVICE + 0x1000,
      4,
      { read: () => 0, write: () => m.clock.at(m.clock.now + 7, 'test', 0) },
      'timer',
    );
    runWithEvents(m, 50);
    expect(taken).toEqual([8]); // written when one instruction had retired
    expect(m.clock.now).toBe(50);
  });
});

describe('devices', () => {
  it('see clock.now as it is at the access, and sizes as they are; 8 bytes come as two, low first', () => {
    const m = machine(
      'nop\nlbu a0, 0(a1)\nlh a2, 2(a1)\nlwu a3, 4(a1)\nld a4, 8(a1)\nsd a1, 0(a1)',
    );
    m.hart.setX(11, BigInt(DEVICE));
    m.hart.run(6);
    expect(m.log).toEqual([
      ['read', 0, 1, 0, 1],
      ['read', 2, 2, 0, 2],
      ['read', 4, 4, 0, 3],
      ['read', 8, 4, 0, 4],
      ['read', 12, 4, 0, 4],
      ['write', 0, 4, DEVICE, 5],
      ['write', 4, 4, 0, 5],
    ]);
    expect([10, 12, 13, 14].map((r) => m.hart.x(r))).toEqual([
      0x84n,
      0xffff_ffff_ffff_8386n,
      0x8182_8388n,
      0x8182_8390_8182_838cn,
    ]);
    expect(m.hart.counts().mmio).toBe(5);
  });
});

describe('code that changes', () => {
  const ADDI_1 = encoding('addi a0, a0, 1');
  const ADDI_16 = encoding('addi a0, a0, 16');

  it('a store ahead of pc in the same page is executed as stored, without FENCE.I', () => {
    const m = machine('sw a2, 4(a1)\naddi a0, a0, 1');
    m.hart.setX(11, BigInt(CODE));
    m.hart.setX(12, BigInt(ADDI_16));
    m.hart.run(2);
    expect(m.hart.x(10)).toBe(16n);
  });
  it('a loop that patches itself every round', () => {
    const m = machine('1: addi a0, a0, 1\nlw t0, 0(a1)\nxor t0, t0, a2\nsw t0, 0(a1)\nj 1b');
    m.hart.setX(11, BigInt(CODE));
    m.hart.setX(12, BigInt(ADDI_1 ^ ADDI_16));
    m.hart.run(5 * 4);
    expect(m.hart.x(10)).toBe(34n);
  });
  it('a store to the second half of an instruction changes it', () => {
    const m = machine('1: addi a0, a0, 1\nsh a2, 2(a1)\nj 1b');
    m.hart.setX(11, BigInt(CODE));
    m.hart.setX(12, BigInt(ADDI_16 >>> 16));
    m.hart.run(4);
    expect(m.hart.x(10)).toBe(17n);
  });
  it('stores of every size and alignment drop what they cover, and nothing else', () => {
    const random = rng(5);
    const target = CODE + 0x800;
    const m = machine('nop');
    place(m, target, `${'addi a0, a0, 1\n'.repeat(16)}1: j 1b`);
    for (let round = 0; round < 200; round++) {
      // One of the sixteen gets another immediate, or a part of it, by one store.
      const size = random.pick([1, 2, 4, 8]);
      const word = random.below(16) * 4;
      const at = (word + random.below(4)) & ~(size - 1);
      const bytes = m.memory.readBytes(target, 72);
      const view = new DataView(bytes.buffer);
      view.setUint32(word, (ADDI_1 & 0xfffff) | (random.below(2000) << 20), true);
      const store = { 1: 'sb', 2: 'sh', 4: 'sw', 8: 'sd' }[size] ?? '';
      place(m, DATA, `${store} a2, 0(a1)\nli t0, ${target}\njr t0`);
      m.hart.setX(10, 0n);
      m.hart.setX(11, BigInt(target + at));
      m.hart.setX(12, view.getBigUint64(at, true));
      m.hart.setPc(BigInt(DATA));
      m.hart.run(40);
      const now = new DataView(m.memory.readBytes(target, 64).buffer);
      let sum = 0;
      for (let i = 0; i < 64; i += 4) sum += now.getInt32(i, true) >> 20;
      expect(m.hart.x(10)).toBe(BigInt.asUintN(64, BigInt(sum)));
    }
  });

  it('a store through another virtual address of the frame (Sv39 aliases)', () => {
    const m = machine('1: addi a0, a0, 1\nsw a2, 0(a1)\nj 1b', 'S');
    const root = newRoot(m);
    mapIdentity(m, root, false);
    mapPage(m, root, 0x4000_0000, CODE, LEAF | RWX);
    put(m, 'satp', sv39(root));
    m.hart.setX(11, 0x4000_0000n);
    m.hart.setX(12, BigInt(ADDI_16));
    m.hart.run(4);
    expect(m.hart.x(10)).toBe(17n);
  });
  it('execution through two virtual addresses: pc-relative values follow the address', () => {
    const m = machine('auipc a0, 0\njr a1', 'S');
    const root = newRoot(m);
    mapIdentity(m, root, false);
    mapPage(m, root, 0x4000_0000, CODE, LEAF | RWX);
    put(m, 'satp', sv39(root));
    m.hart.setX(11, 0x4000_0000n);
    m.hart.run(2);
    expect(m.hart.x(10)).toBe(BigInt(CODE));
    m.hart.run(1);
    expect(m.hart.x(10)).toBe(0x4000_0000n);
  });
  it('a page that was writable when its code was first executed (write entry dropped)', () => {
    const m = machine('sw a2, 0(a1)\njr a1');
    m.hart.setX(11, BigInt(DATA));
    m.hart.setX(12, BigInt(ADDI_1));
    place(m, DATA + 4, 'sw a3, 0(a1)\njr a1');
    m.hart.setX(13, BigInt(ADDI_16));
    m.hart.run(2 + 3 + 1);
    expect(m.hart.x(10)).toBe(17n);
  });
  it('the host writes code: DMA and the kernel go through PhysMemory', () => {
    const m = machine('1: addi a0, a0, 1\nj 1b');
    m.hart.run(2);
    place(m, CODE, 'addi a0, a0, 16');
    m.hart.run(1);
    expect(m.hart.x(10)).toBe(17n);
    expect(m.memory.u8[CODE_FLAGS + (CODE - RAM_BASE) / 4096]).toBe(1);
  });
  it('more code pages than slots: the oldest is decoded again', () => {
    const m = machine('nop');
    const pages = 128;
    for (let i = 0; i < pages; i++)
      place(
        m,
        RAM_BASE + 0x8_0000 + i * 4096,
        i === pages - 1
          ? 'addi a0, a0, 1\nli t0, 0x80080000\njr t0'
          : 'lui t0, 1\nauipc t1, 0\nadd t0, t0, t1\naddi t0, t0, -4\njr t0',
      );
    m.hart.setPc(0x8008_0000n);
    m.hart.run(4000);
    expect(m.hart.counts().exceptions).toBe(0);
    expect(m.hart.x(10)).toBe(BigInt(Math.floor(4000 / (127 * 5 + 4))));
  });
});

describe('instructions in two pages', () => {
  const END = CODE + 0x1000;
  it('are fetched half by half, and jump by their own address', () => {
    const m = machine('nop');
    place(m, END - 2, 'jal a0, . + 0x100');
    m.hart.setPc(BigInt(END - 2));
    m.hart.run(1);
    expect([m.hart.x(10), m.hart.pc]).toEqual([BigInt(END + 2), BigInt(END - 2 + 0x100)]);
  });
  it('follow stores to either half', () => {
    const m = machine('nop');
    place(m, END - 2, 'addi a0, a0, 1\nj . - 4');
    m.hart.setPc(BigInt(END - 2));
    m.hart.run(2);
    place(m, END - 2, 'addi a0, a0, 16');
    m.hart.run(2);
    m.memory.writeBytes(END, Uint8Array.of(0x05, 0x04)); // the upper half of addi a0, a0, 64
    m.hart.run(1);
    expect(m.hart.x(10)).toBe(17n + 64n);
  });
  it('take the second half from where the second page is mapped now', () => {
    const m = machine('nop', 'S');
    const roots = [newRoot(m), newRoot(m)];
    for (const [i, root] of roots.entries()) {
      mapPage(m, root, 0x4000_0000, DATA, LEAF | RWX);
      mapPage(m, root, 0x4000_1000, DATA + 0x1000 * (i + 1), LEAF | RWX);
    }
    const halves = [ADDI(1), ADDI(16)];
    m.memory.writeBytes(DATA + 0xffe, new Uint8Array(Uint16Array.of(ADDI(1) & 0xffff).buffer));
    for (const [i, raw] of halves.entries())
      m.memory.writeBytes(
        DATA + 0x1000 * (i + 1),
        new Uint8Array(Uint16Array.of(raw >>> 16).buffer),
      );
    for (const [i, root] of roots.entries()) {
      put(m, 'satp', sv39(root, i));
      m.hart.setPc(0x4000_0ffen);
      m.hart.run(1);
    }
    expect(m.hart.x(10)).toBe(17n);
  });
  it('fault on the second page: epc is the instruction, tval the second page', () => {
    const m = machine('nop', 'S');
    const root = newRoot(m);
    mapPage(m, root, 0x4000_0000, DATA, LEAF | RWX);
    m.memory.writeBytes(DATA + 0xffe, new Uint8Array(Uint16Array.of(ADDI(1) & 0xffff).buffer));
    put(m, 'satp', sv39(root));
    m.hart.setPc(0x4000_0ffen);
    m.hart.run(1);
    expect(['mcause', 'mepc', 'mtval'].map((n) => get(m, n))).toEqual([
      12n,
      0x4000_0ffen,
      0x4000_1000n,
    ]);
  });
  const ADDI = (imm: number): number => encoding(`addi a0, a0, ${imm}`);
});

describe('pc at the ends of the address space', () => {
  it('carries into the high word when a page ends at 4 GiB', () => {
    const m = machine('nop', 'S');
    const root = newRoot(m);
    mapPage(m, root, 0xffff_f000, DATA, LEAF | RWX);
    mapPage(m, root, 0x1_0000_0000, DATA + 0x1000, LEAF | RWX);
    place(m, DATA + 0xffc, 'auipc a0, 1');
    place(m, DATA + 0x1000, 'jal a1, . - 4');
    put(m, 'satp', sv39(root));
    m.hart.setPc(0xffff_fffcn);
    m.hart.run(1);
    expect([m.hart.pc, m.hart.x(10)]).toEqual([0x1_0000_0000n, 0x1_0000_0ffcn]);
    m.hart.run(1);
    expect([m.hart.pc, m.hart.x(11)]).toEqual([0xffff_fffcn, 0x1_0000_0004n]);
  });
});

describe('LR and SC (13.2)', () => {
  const lrsc = (between: string): Machine => {
    const m = machine(`lr.d a0, (a1)\n${between}\nsc.d a2, a3, (a4)\nld a5, 0(a1)`);
    m.hart.setX(11, BigInt(DATA));
    m.hart.setX(14, BigInt(DATA));
    m.hart.setX(13, 0x1234_5678_9abcn);
    return m;
  };
  it('SC stores and returns 0 after LR of the same place', () => {
    const m = lrsc('nop');
    m.hart.run(4);
    expect([m.hart.x(12), m.hart.x(15)]).toEqual([0n, 0x1234_5678_9abcn]);
  });
  it('SC elsewhere fails, stores nothing and returns 1', () => {
    const m = lrsc('addi a4, a4, 8');
    m.hart.run(4);
    expect([m.hart.x(12), m.hart.x(15), m.memory.i32[m.memory.offsetOf(DATA + 8) >>> 2]]).toEqual([
      1n,
      0n,
      0,
    ]);
  });
  it('a second SC fails', () => {
    const m = lrsc('sc.d a6, a3, (a4)');
    m.hart.run(4);
    expect([m.hart.x(16), m.hart.x(12)]).toEqual([0n, 1n]);
  });
  it('a reservation ends with the slice: another hart may have stored', () => {
    const m = lrsc('nop');
    m.hart.run(2);
    m.hart.run(2);
    expect(m.hart.x(12)).toBe(1n);
  });
  it('LR.W and AMOs sign-extend; AMO on code changes the code', () => {
    const m = machine('lr.w a0, (a1)\namoswap.w a2, a3, (a4)\naddi a5, a5, 1');
    m.memory.writeBytes(DATA, Uint8Array.of(0, 0, 0, 0x80));
    m.hart.setX(11, BigInt(DATA));
    m.hart.setX(14, BigInt(CODE + 8));
    m.hart.setX(13, BigInt(encoding('addi a5, a5, 100')));
    m.hart.run(3);
    expect([m.hart.x(10), m.hart.x(15)]).toEqual([0xffff_ffff_8000_0000n, 100n]);
  });
});

describe('misaligned accesses (2.6): done by the hart, no trap', () => {
  const sizes = [
    ['h', 2],
    ['w', 4],
    ['d', 8],
  ] as const;
  for (const [letter, size] of sizes)
    it(`${size} bytes at every offset, inside a page and across`, () => {
      const m = machine('nop');
      const root = newRoot(m);
      mapIdentity(m, root, false);
      // Two pages that are not neighbours in physical memory.
      mapPage(m, root, 0x4000_0000, DATA + 0x2000, LEAF | RWX);
      mapPage(m, root, 0x4000_1000, DATA, LEAF | RWX);
      put(m, 'satp', sv39(root));
      m.hart.setMode(1, false);
      place(m, CODE, `s${letter} a2, 0(a1)\nl${letter} a0, 0(a1)`);
      const value = 0x8182_8384_8586_8788n;
      m.hart.setX(12, value);
      const expected = BigInt.asUintN(64, BigInt.asIntN(size * 8, value));
      for (let gva = 0x4000_0fff - size; gva <= 0x4000_1001; gva++) {
        m.hart.setPc(BigInt(CODE));
        m.hart.setX(11, BigInt(gva));
        m.hart.run(2);
        expect([gva, m.hart.x(10), m.hart.counts().exceptions]).toEqual([gva, expected, 0]);
      }
    });
  it('a store that crosses into a missing page stores nothing', () => {
    const m = machine('sd a2, -4(a1)', 'S');
    const root = newRoot(m);
    mapIdentity(m, root, false);
    mapPage(m, root, 0x4000_0000, DATA, LEAF | RWX);
    put(m, 'satp', sv39(root));
    m.hart.setX(11, 0x4000_1000n);
    m.hart.setX(12, ~0n);
    m.hart.run(1);
    expect([get(m, 'mcause'), get(m, 'mtval')]).toEqual([15n, 0x4000_1000n]);
    expect([...m.memory.readBytes(DATA + 0xffc, 4)]).toEqual([0, 0, 0, 0]);
  });
});

describe('a saved hart', () => {
  it('goes on as the one it was saved from, counters and all', () => {
    const m = machine(MIXTURE);
    m.hart.run(1234);
    const copy = machine(MIXTURE);
    copy.memory.u8.set(m.memory.u8.subarray(0, 0x40_0000));
    copy.memory.u8.set(m.memory.u8.subarray(0x200_0000), 0x200_0000);
    copy.clock.restore(structuredClone(m.clock.save()));
    copy.hart.restore(structuredClone(m.hart.save()));
    for (const one of [m, copy]) one.hart.run(2000);
    expect(visible(copy)).toEqual(visible(m));
    expect(copy.hart.counts()).toEqual(m.hart.counts());
    expect(copy.hart.mmu.counts()).toEqual(m.hart.mmu.counts());
  });
  it('counts accesses as loads and stores begun', () => {
    const m = machine('lw a0, 0(a1)\nsd a0, 8(a1)\namoadd.w a0, a0, (a1)\nnop');
    m.hart.setX(11, BigInt(DATA));
    m.hart.run(4);
    expect(m.hart.accesses).toBe(3);
  });
});
