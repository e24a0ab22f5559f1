/** Persistent memory under a hart: every store is seen, CBO and FENCE mean something, poison is a hardware error. */
import { describe, expect, it } from 'vitest';
import { PersistDomain, type PersistEvent } from '../../../emu/persist/domain.ts';
import {
  DATA,
  get,
  LEAF,
  machine,
  type Machine,
  mapIdentity,
  mapPage,
  newRoot,
  put,
  RWX,
  sv39,
  trappedTo,
} from '../hart/harness.ts';
import { PTE_U } from '../../../emu/pte.ts';

const PAGE = 4096;

interface World {
  m: Machine;
  domain: PersistDomain;
  told: [PersistEvent, number, number][];
}

/** DATA is two pages of persistent memory; a1 points to it, a0 is 0x1111. */
const world = (text: string, setup: (m: Machine) => void = () => {}): World => {
  const m = machine(text);
  setup(m);
  m.hart.setX(10, 0x1111n);
  m.hart.setX(11, BigInt(DATA));
  const domain = new PersistDomain({
    memory: m.memory,
    firstOffset: m.memory.offsetOf(DATA),
    lenBytes: 2 * PAGE,
    mode: 'adr',
  });
  const told: World['told'] = [];
  domain.onEvent = (...event) => told.push(event);
  return { m, domain, told };
};

const kinds = (w: World): PersistEvent[] => w.told.map(([kind]) => kind);
const durable = (w: World, at: number): number => w.domain.media[at]!;

describe('stores', () => {
  it('every store is seen, the hundredth to one page too', () => {
    const w = world(`
      li   t0, 100
      mv   t1, a1
1:    sd   t0, 0(t1)
      addi t1, t1, 8
      addi t0, t0, -1
      bnez t0, 1b
    `);
    w.m.hart.run(1000);
    expect(w.domain.counts.store).toBe(100);
    expect(w.told.every(([, hart]) => hart === 0)).toBe(true);
    expect(w.domain.choicesOf(0)).toBe(9);
  });

  for (const text of [
    'sb a0, 0(a1)',
    'sh a0, 0(a1)',
    'sw a0, 0(a1)',
    'sd a0, 0(a1)',
    'sd a0, 4(a1)',
    'c.sd a0, 0(a1)',
    'amoadd.d a2, a0, (a1)',
    'amoswap.w a2, a0, (a1)',
    'cbo.zero (a1)',
  ])
    it(`${text} is one`, () => {
      const w = world(`${text}\n${text}`);
      w.m.memory.setBytes(w.m.memory.offsetOf(DATA), new Uint8Array(64).fill(0x55));
      w.told.length = 0;
      w.m.hart.run(2);
      expect(kinds(w)).toEqual(['store', 'store']);
    });

  it('SC that succeeds is one, SC that fails is none', () => {
    const w = world('lr.d a2, (a1)\nsc.d a3, a0, (a1)\nsc.d a3, a0, (a1)');
    w.m.hart.run(3);
    expect(kinds(w)).toEqual(['store']);
  });

  it('a write entry from before does not hide them', () => {
    const w = world('sd a0, 0(a1)\nsd a0, 8(a1)', () => {});
    w.domain.detach();
    w.m.hart.run(1);
    const domain = new PersistDomain({
      memory: w.m.memory,
      firstOffset: w.m.memory.offsetOf(DATA),
      lenBytes: PAGE,
      mode: 'adr',
    });
    w.m.hart.run(1);
    expect(domain.events).toBe(1);
    expect(domain.media[0]).toBe(0x11);
  });

  it('HSV from HS-mode, through both stages', () => {
    const w = world('hsv.d a0, (a2)', (m) => {
      const root = newRoot(m, true);
      mapIdentity(m, root, true);
      mapPage(m, root, 0x4000_0000, DATA, LEAF | RWX | PTE_U);
      put(m, 'hgatp', sv39(root));
      put(m, 'hstatus', 1n << 8n); // SPVP
      m.hart.setX(12, 0x4000_0000n);
    });
    w.m.hart.run(1);
    expect(trappedTo(w.m)).toBeUndefined();
    expect(kinds(w)).toEqual(['store']);
  });

  it('a page that is code too: instructions follow the store, and the store is seen', () => {
    const w = world('jalr ra, a1\nsw a2, 0(a1)\njalr ra, a1', (m) => {
      m.hart.setX(12, 0x0010_0513n | 0n); // li a0, 1
      m.memory.i32[m.memory.offsetOf(DATA) >>> 2] = 0x0050_0513; // li a0, 5
      m.memory.i32[(m.memory.offsetOf(DATA) >>> 2) + 1] = 0x0000_8067; // ret
    });
    w.m.hart.run(3);
    expect(w.m.hart.x(10)).toBe(5n);
    w.m.hart.run(4);
    expect(w.m.hart.x(10)).toBe(1n);
    expect(kinds(w)).toEqual(['store']);
  });
});

describe('write-back and fence', () => {
  it('store, CBO.CLEAN and FENCE W,W make durable', () => {
    const w = world('sd a0, 64(a1)\naddi a2, a1, 100\ncbo.clean (a2)\nfence w, w');
    w.m.hart.run(3);
    expect(durable(w, 64)).toBe(0);
    w.m.hart.run(1);
    expect(durable(w, 64)).toBe(0x11);
    expect(kinds(w)).toEqual(['store', 'clean', 'fence']);
  });

  it('CBO.FLUSH and CBO.INVAL write back as well', () => {
    for (const operation of ['cbo.flush', 'cbo.inval']) {
      const w = world(`sd a0, 0(a1)\n${operation} (a1)\nfence`);
      w.m.hart.run(3);
      expect(durable(w, 0)).toBe(0x11);
    }
  });

  for (const [fence, ends] of [
    ['fence', true],
    ['fence w, w', true],
    ['fence w, o', true],
    ['fence rw, w', true],
    ['fence.tso', true],
    ['fence r, rw', false],
    ['fence o, w', false],
    ['fence w, r', false],
    ['pause', false],
    ['fence.i', false],
    ['sfence.vma', false],
  ] as const)
    it(`${fence} ${ends ? 'ends' : 'does not end'} a write-back`, () => {
      const w = world(`sd a0, 0(a1)\ncbo.clean (a1)\n${fence}`);
      w.m.hart.run(3);
      expect(durable(w, 0)).toBe(ends ? 0x11 : 0);
    });

  it('FIOM makes a fence of device output one of memory, below M-mode', () => {
    for (const [fiom, wanted] of [
      [1n, 0x11],
      [0n, 0],
    ] as const) {
      const w = world('sd a0, 0(a1)\ncbo.clean (a1)\nfence o, o', (m) => {
        put(m, 'menvcfg', (1n << 6n) | fiom);
        m.hart.setMode(1, false);
      });
      w.m.hart.run(3);
      expect(durable(w, 0)).toBe(wanted);
    }
  });
});

describe('poison', () => {
  const poisoned = (text: string): World => {
    const w = world(text);
    w.domain.addPoison(256, 1);
    return w;
  };
  const at = (offset: number): World['m'] => {
    const { m } = poisoned('ld a2, 0(a1)');
    m.hart.setX(11, BigInt(DATA + offset));
    m.hart.run(1);
    return m;
  };

  it('a load of any byte of the unit of 256 raises a hardware error, and no other byte does', () => {
    for (const offset of [256, 300, 504, 249, 511]) {
      const m = at(offset);
      expect([trappedTo(m), get(m, 'mcause'), get(m, 'mtval')]).toEqual([
        'M',
        19n,
        BigInt(DATA + offset),
      ]);
    }
    for (const offset of [0, 248, 512]) expect(trappedTo(at(offset))).toBeUndefined();
  });

  it('a read entry from before does not hide it, and neither does a store', () => {
    const w = world('ld a2, 256(a1)\nsd a0, 256(a1)\nld a2, 256(a1)');
    w.m.hart.run(1);
    w.domain.addPoison(256, 256);
    w.m.hart.run(2);
    expect([trappedTo(w.m), get(w.m, 'mcause')]).toEqual(['M', 19n]);
  });

  it('LR and AMO meet it; SC and stores do not', () => {
    for (const text of ['lr.d a2, (a1)', 'amoadd.d a2, a0, (a1)']) {
      const w = poisoned(text);
      w.m.hart.setX(11, BigInt(DATA + 256));
      w.m.hart.run(1);
      expect(get(w.m, 'mcause'), text).toBe(19n);
    }
    const w = poisoned('sd a0, 256(a1)');
    w.m.hart.run(1);
    expect(trappedTo(w.m)).toBeUndefined();
  });

  it('goes when all four lines have been zeroed by CBO.ZERO, not before', () => {
    const w = poisoned(`
      addi a3, a1, 256
      cbo.zero (a3)
      addi a3, a3, 64
      cbo.zero (a3)
      addi a3, a3, 64
      cbo.zero (a3)
      addi a3, a3, 64
      nop
      cbo.zero (a3)
      ld   a2, 256(a1)
    `);
    w.m.hart.run(8);
    expect(w.domain.poison.nrUnits).toBe(1);
    w.m.hart.run(2);
    expect(trappedTo(w.m)).toBeUndefined();
    expect([w.domain.poison.nrUnits, w.m.hart.x(12)]).toEqual([0, 0n]);
  });

  it('does not go by stores of 8 bytes', () => {
    const w = poisoned(`
      addi t0, a1, 256
      addi t1, a1, 512
1:    sd   a0, 0(t0)
      addi t0, t0, 8
      bltu t0, t1, 1b
      ld   a2, 256(a1)
    `);
    w.m.hart.run(110);
    expect(get(w.m, 'mcause')).toBe(19n);
  });

  it('goes by a command: the unit is zero, durable and can be read', () => {
    const w = poisoned('ld a2, 256(a1)');
    w.m.memory.i32[w.m.memory.offsetOf(DATA + 256) >>> 2] = 7;
    expect(w.domain.clearPoison(200, 200)).toBe(0); // not the whole unit
    expect(w.domain.clearPoison(200, 400)).toBe(256);
    w.m.hart.run(1);
    expect([trappedTo(w.m), w.m.hart.x(12)]).toEqual([undefined, 0n]);
    expect(w.domain.choicesOf(4)).toBe(1);
  });

  it('is of the media: it is there after a loss of power', () => {
    const w = poisoned('ld a2, 256(a1)');
    w.domain.powerFail(() => 0);
    w.m.hart.run(1);
    expect(get(w.m, 'mcause')).toBe(19n);
    expect(w.domain.poisonIn(0, 2 * PAGE)).toEqual([[256, 256]]);
  });
});
