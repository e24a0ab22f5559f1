/** One hart with a little RAM, programs as assembly text, and handlers at known places: for the tests of emu/hart. */
import { assemble } from '../../../emu/asm/assemble.ts';
import { Bus } from '../../../emu/bus.ts';
import { Clock } from '../../../emu/clock.ts';
import { Hart } from '../../../emu/hart/hart.ts';
import { csrNumber } from '../../../emu/isa/csr-names.ts';
import { RAM_BASE } from '../../../emu/layout.ts';
import { PhysMemory } from '../../../emu/memory.ts';
import { PRIV_M, PRIV_S, PRIV_U, type Privilege } from '../../../emu/mmu/regs.ts';
import { PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, PTE_X, pteHi, pteLo } from '../../../emu/pte.ts';

export const CODE = RAM_BASE + 0x1000;
export const DATA = RAM_BASE + 0x8000;
/** Where the three trap vectors point: pages of `nop`, so that one retires and shows where the hart is. */
export const M_HANDLER = RAM_BASE + 0x1_0000;
export const HS_HANDLER = RAM_BASE + 0x1_1000;
export const VS_HANDLER = RAM_BASE + 0x1_2000;
/** Page tables are made from here on. */
const TABLES = RAM_BASE + 0x4_0000;
const RAM_BYTES = 1 << 20;
/** A device of four registers of 4 bytes. */
export const DEVICE = 0x1000_0000;
/** Nothing is there. */
export const HOLE = 0x2000_0000;

export type ModeName = 'M' | 'S' | 'U' | 'VS' | 'VU';
export const MODES: Record<ModeName, { priv: Privilege; virt: boolean }> = {
  M: { priv: PRIV_M, virt: false },
  S: { priv: PRIV_S, virt: false },
  U: { priv: PRIV_U, virt: false },
  VS: { priv: PRIV_S, virt: true },
  VU: { priv: PRIV_U, virt: true },
};

export interface Machine {
  memory: PhysMemory;
  bus: Bus;
  clock: Clock;
  hart: Hart;
  /** Accesses of the device: [kind, offset, size, value, clock.now]. */
  log: [string, number, number, number, number][];
  symbols: ReadonlyMap<string, number | bigint>;
  nextTable: number;
}

/** Number of a CSR by name. @throws RangeError for an unknown one */
export const csrOf = (name: string): number => {
  const number = csrNumber(name);
  if (number === undefined) throw new RangeError(name);
  return number;
};
export const get = (m: Machine, name: string): bigint => m.hart.readCsr(csrOf(name));
export const put = (m: Machine, name: string, value: bigint | number): void =>
  m.hart.writeCsr(csrOf(name), BigInt(value));

/** Puts assembled text at a physical address. */
export const place = (m: Machine, pa: number, text: string): void =>
  m.memory.writeBytes(pa, assemble(text, { origin: pa }).bytes);

/** A machine with a program at CODE, in a mode, about to execute its first instruction. */
export const machine = (text: string, mode: ModeName = 'M'): Machine => {
  const memory = new PhysMemory(RAM_BYTES);
  const bus = new Bus(memory);
  const clock = new Clock();
  const hart = new Hart({ memory, bus, clock, index: 0 });
  hart.reset(BigInt(CODE));
  const { bytes, symbols } = assemble(text, { origin: CODE });
  memory.writeBytes(CODE, bytes);
  const m: Machine = { memory, bus, clock, hart, log: [], symbols, nextTable: TABLES };
  clock.onEarlier = (when) => hart.endSliceAt(when);
  bus.attach(
    DEVICE,
    16,
    {
      read: (offset, size) => {
        m.log.push(['read', offset, size, 0, clock.now]);
        return 0x8182_8384 + offset;
      },
      write: (offset, size, value) => {
        m.log.push(['write', offset, size, value, clock.now]);
      },
    },
    'device',
  );
  for (const [name, pa] of [
    ['mtvec', M_HANDLER],
    ['stvec', HS_HANDLER],
    ['vstvec', VS_HANDLER],
  ] as const) {
    place(m, pa, 'nop\n'.repeat(64));
    put(m, name, pa);
  }
  hart.setMode(MODES[mode].priv, MODES[mode].virt);
  return m;
};

/** Where the hart is: in which trap handler, or undefined in none. */
export const trappedTo = (m: Machine): 'M' | 'HS' | 'VS' | undefined => {
  const page = Number(m.hart.pc & ~0xfffn);
  return page === M_HANDLER
    ? 'M'
    : page === HS_HANDLER
      ? 'HS'
      : page === VS_HANDLER
        ? 'VS'
        : undefined;
};

/** Runs like a machine does: slices up to the next event, which is delivered, until `budget` have retired. */
export const runWithEvents = (m: Machine, budget: number): number => {
  const end = m.clock.now + budget;
  let exit = 0;
  while (m.clock.now < end) {
    m.clock.deliverDue();
    exit = m.hart.run(Math.min(end, m.clock.nextAt) - m.clock.now);
    if (exit !== 0) return exit;
  }
  return exit;
};

export const RWX = PTE_R | PTE_W | PTE_X;
export const LEAF = PTE_V | PTE_A | PTE_D;

const newTable = (m: Machine, pages: number): number => {
  const size = pages * 4096;
  m.nextTable = Math.ceil(m.nextTable / size) * size;
  const pa = m.nextTable;
  m.nextTable += size;
  return pa;
};

/** Writes a PTE at a physical address. */
const setPte = (m: Machine, pa: number, targetPa: number, flags: number): void => {
  const i = m.memory.offsetOf(pa) >>> 2;
  m.memory.i32[i] = pteLo(targetPa / 4096, flags);
  m.memory.i32[i + 1] = pteHi(targetPa / 4096);
};
const readPte = (m: Machine, pa: number): number => m.memory.i32[m.memory.offsetOf(pa) >>> 2]!;

/** A new Sv39 root (of 16 KiB for Sv39x4). */
export const newRoot = (m: Machine, x4 = false): number => newTable(m, x4 ? 4 : 1);

/** Maps a 4 KiB page in an Sv39 or Sv39x4 tree. */
export const mapPage = (m: Machine, root: number, va: number, pa: number, flags: number): void => {
  let table = root;
  for (const shift of [30, 21]) {
    const at = table + (Math.floor(va / 2 ** shift) % (table === root ? 2048 : 512)) * 8;
    if ((readPte(m, at) & PTE_V) === 0) setPte(m, at, newTable(m, 1), PTE_V);
    table = (readPte(m, at) >>> 10) * 4096;
  }
  setPte(m, table + (Math.floor(va / 4096) % 512) * 8, pa, flags);
};

/** Maps all of RAM at its own address, for U-mode too when asked. */
export const mapIdentity = (m: Machine, root: number, user: boolean): void => {
  for (let pa = RAM_BASE; pa < RAM_BASE + RAM_BYTES; pa += 4096)
    mapPage(m, root, pa, pa, LEAF | RWX | (user ? PTE_U : 0));
};

/** Value of satp, vsatp or hgatp for an Sv39 root. */
export const sv39 = (root: number, id = 0): bigint =>
  (8n << 60n) | (BigInt(id) << 44n) | BigInt(root / 4096);
