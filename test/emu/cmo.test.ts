/** Cache-block operations: who may execute them, what they translate, what they store. "CMO" Extensions 1.0.0. */
import { describe, expect, it } from 'vitest';
import { PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W } from '../../emu/pte.ts';
import {
  DATA,
  DEVICE,
  get,
  HOLE,
  LEAF,
  machine,
  type Machine,
  mapIdentity,
  mapPage,
  type ModeName,
  newRoot,
  put,
  RWX,
  sv39,
  trappedTo,
} from './hart/harness.ts';

const OPERATIONS = ['cbo.inval', 'cbo.clean', 'cbo.flush', 'cbo.zero'] as const;
type Operation = (typeof OPERATIONS)[number];

/** The field of menvcfg, henvcfg and senvcfg that lets an operation pass, set. */
const FIELD: Record<Operation, bigint> = {
  'cbo.inval': 3n << 4n,
  'cbo.clean': 1n << 6n,
  'cbo.flush': 1n << 6n,
  'cbo.zero': 1n << 7n,
};
const ALL_FIELDS = 0xf0n;
const VA = 0x4000_0000;
const NOWHERE = 0x5000_0000;

/** A machine about to execute one operation on the address, with everything enabled. */
const about = (operation: Operation, address: number, mode: ModeName = 'M'): Machine => {
  const m = machine(`${operation} (a1)\nnop`, mode);
  m.hart.setX(11, BigInt(address));
  for (const csr of ['menvcfg', 'henvcfg', 'senvcfg']) put(m, csr, ALL_FIELDS | (1n << 61n));
  return m;
};

/** The same in S-mode, with a page of `flags` at VA that is DATA. Returns where its PTE can be read. */
const paged = (operation: Operation, address: number, flags: number): Machine => {
  const m = about(operation, address, 'S');
  const root = newRoot(m);
  mapIdentity(m, root, false);
  mapPage(m, root, VA, DATA, flags);
  put(m, 'satp', sv39(root));
  return m;
};

/** Flags of the leaf that maps VA: the last table of three that newRoot() and mapPage() have made. */
const leafFlags = (m: Machine): number => {
  const root = Number(get(m, 'satp') & ((1n << 44n) - 1n)) * 4096;
  let table = root;
  for (const shift of [30, 21]) {
    const at = table + (Math.floor(VA / 2 ** shift) % 512) * 8;
    table = (m.memory.i32[m.memory.offsetOf(at) >>> 2]! >>> 10) * 4096;
  }
  return m.memory.i32[m.memory.offsetOf(table + (Math.floor(VA / 4096) % 512) * 8) >>> 2]! & 0xff;
};

describe('enables (CMO, CSR state)', () => {
  for (const operation of OPERATIONS)
    for (const mode of ['M', 'S', 'U', 'VS', 'VU'] as const)
      it(`${operation} in ${mode}-mode: every setting of the three fields`, () => {
        for (let set = 0; set < 8; set++) {
          const [mOn, hOn, sOn] = [(set & 1) !== 0, (set & 2) !== 0, (set & 4) !== 0];
          const m = about(operation, DATA, mode);
          put(m, 'menvcfg', mOn ? FIELD[operation] : ALL_FIELDS & ~FIELD[operation]);
          put(m, 'henvcfg', hOn ? FIELD[operation] : ALL_FIELDS & ~FIELD[operation]);
          put(m, 'senvcfg', sOn ? FIELD[operation] : ALL_FIELDS & ~FIELD[operation]);
          const illegal = (mode !== 'M' && !mOn) || (mode === 'U' && !sOn);
          const virtual = (mode === 'VS' && !hOn) || (mode === 'VU' && !(hOn && sOn));
          m.hart.run(1);
          const wanted = illegal ? 2n : virtual ? 22n : undefined;
          expect(trappedTo(m), `set ${set}`).toBe(wanted === undefined ? undefined : 'M');
          if (wanted !== undefined) expect(get(m, 'mcause'), `set ${set}`).toBe(wanted);
        }
      });

  it('CBIE has no value 2: it is written as 0', () => {
    const m = machine('nop');
    for (const csr of ['menvcfg', 'henvcfg', 'senvcfg']) {
      put(m, csr, 3n << 4n);
      expect(get(m, csr)).toBe(3n << 4n);
      put(m, csr, 2n << 4n);
      expect(get(m, csr), csr).toBe(0n);
      put(m, csr, 1n << 4n);
      expect(get(m, csr)).toBe(1n << 4n);
    }
  });
});

describe('CBO.ZERO', () => {
  it('stores zeroes to the 64 bytes around its address, and to no other', () => {
    const m = about('cbo.zero', DATA + 64 + 37);
    m.memory.writeBytes(DATA, new Uint8Array(256).fill(0xff));
    m.hart.run(1);
    const bytes = m.memory.readBytes(DATA, 256);
    bytes.forEach((byte, i) => {
      expect(byte).toBe(i >= 64 && i < 128 ? 0 : 0xff);
    });
  });

  it('sets A and D, as a store does', () => {
    const m = paged('cbo.zero', VA, PTE_V | PTE_R | PTE_W);
    m.hart.run(1);
    expect(trappedTo(m)).toBeUndefined();
    expect(leafFlags(m) & (PTE_A | PTE_D)).toBe(PTE_A | PTE_D);
  });

  it('needs a page that may be written', () => {
    const m = paged('cbo.zero', VA + 5, LEAF | PTE_R);
    m.hart.run(1);
    expect([get(m, 'mcause'), get(m, 'mtval')]).toEqual([15n, BigInt(VA + 5)]);
  });

  it('changes the instructions that it zeroes', () => {
    const m = machine('cbo.zero (a1)\nj . + 60\n.align 6\nli a0, 1\n.align 6\nnop');
    m.hart.setX(11, BigInt(m.hart.pc) + 64n);
    m.hart.run(2);
    m.hart.run(1);
    expect(m.memory.readBytes(Number(m.hart.x(11)), 64).every((byte) => byte === 0)).toBe(true);
    expect([trappedTo(m), get(m, 'mcause')]).toEqual(['M', 2n]);
  });

  it('is not supported where a device is', () => {
    const m = about('cbo.zero', DEVICE);
    m.hart.run(1);
    expect([get(m, 'mcause'), get(m, 'mtval')]).toEqual([7n, BigInt(DEVICE)]);
    expect(m.log).toEqual([]);
  });
});

describe('management operations', () => {
  for (const operation of ['cbo.inval', 'cbo.clean', 'cbo.flush'] as const) {
    it(`${operation}: a page that may be read is enough; A is set, D is not`, () => {
      const m = paged(operation, VA, PTE_V | PTE_R);
      m.hart.run(1);
      expect(trappedTo(m)).toBeUndefined();
      expect(leafFlags(m) & (PTE_A | PTE_D)).toBe(PTE_A);
    });

    it(`${operation}: a page that is not there raises the fault of a store, tval the address as it was given`, () => {
      const m = paged(operation, NOWHERE + 77, LEAF | PTE_R);
      m.hart.run(1);
      expect([get(m, 'mcause'), get(m, 'mtval')]).toEqual([15n, BigInt(NOWHERE + 77)]);
    });

    it(`${operation}: a page of U-mode is out of reach of S-mode without SUM`, () => {
      const m = paged(operation, VA, LEAF | PTE_R | PTE_U);
      m.hart.run(1);
      expect(get(m, 'mcause')).toBe(15n);
    });

    it(`${operation}: a guest physical page that is not there is the guest-page fault of a store`, () => {
      const m = about(operation, NOWHERE + 0x123, 'VS');
      const root = newRoot(m, true);
      mapIdentity(m, root, true);
      put(m, 'hgatp', sv39(root));
      m.hart.run(1);
      expect([get(m, 'mcause'), get(m, 'mtval')]).toEqual([23n, BigInt(NOWHERE + 0x123)]);
      expect(get(m, 'mtval2')).toBe(BigInt(NOWHERE + 0x123) >> 2n);
      // The operation in bits 31..20, rs1 zero: the standard transformation.
      const encoding = { 'cbo.inval': 0x200fn, 'cbo.clean': 0x10_200fn, 'cbo.flush': 0x20_200fn };
      expect(get(m, 'mtinst')).toBe(encoding[operation]);
    });

    it(`${operation}: does nothing to a device, and faults where nothing is`, () => {
      const device = about(operation, DEVICE + 4);
      device.hart.run(1);
      expect([trappedTo(device), device.log]).toEqual([undefined, []]);
      const hole = about(operation, HOLE + 4);
      hole.hart.run(1);
      expect([get(hole, 'mcause'), get(hole, 'mtval')]).toEqual([7n, BigInt(HOLE + 4)]);
    });

    it(`${operation}: no value that a load returns changes`, () => {
      const m = machine(`sd a0, 8(a1)\n${operation} (a1)\nld a2, 8(a1)`);
      m.hart.setX(10, 0x1122_3344_5566_7788n);
      m.hart.setX(11, BigInt(DATA));
      m.hart.run(3);
      expect(m.hart.x(12)).toBe(0x1122_3344_5566_7788n);
    });
  }

  it('in VS-mode through both stages', () => {
    const m = about('cbo.clean', VA + 9, 'VS');
    const [first, second] = [newRoot(m), newRoot(m, true)];
    mapIdentity(m, first, false);
    mapPage(m, first, VA, VA, LEAF | PTE_R);
    mapIdentity(m, second, true);
    mapPage(m, second, VA, DATA, LEAF | RWX | PTE_U);
    put(m, 'vsatp', sv39(first));
    put(m, 'hgatp', sv39(second));
    m.hart.run(1);
    expect(trappedTo(m)).toBeUndefined();
  });
});
