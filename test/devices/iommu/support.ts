/** A machine with nothing but memory and an IOMMU, and its driver in a few functions. */
import { BusPort, Iommu, type IommuConfig } from '#devices';
import { Clock, type DmaPort, PhysMemory, RAM_BASE } from '#emu';
import { type ProbedLine, probedLine } from '../support/wires.ts';

export const CAPABILITIES = 0x00;
export const FCTL = 0x08;
export const DDTP = 0x10;
export const CQB = 0x18;
export const CQH = 0x20;
export const CQT = 0x24;
export const FQB = 0x28;
export const FQH = 0x30;
export const FQT = 0x34;
export const PQB = 0x38;
export const PQH = 0x40;
export const PQT = 0x44;
export const CQCSR = 0x48;
export const FQCSR = 0x4c;
export const PQCSR = 0x50;
export const IPSR = 0x54;
export const ICVEC = 0x2f8;

/** Where the driver has its structures. */
export const CQ = RAM_BASE + 0x1000;
export const FQ = RAM_BASE + 0x2000;
export const PQ = RAM_BASE + 0x3000;
export const ROOT = RAM_BASE + 0x4000;
/** Free for tests. */
export const FREE = RAM_BASE + 0x1_0000;

/** Where most tests put a device's tables, from FREE on, and the page behind them. */
export const ROOT1 = FREE;
export const MIDDLE = FREE + 0x1000;
export const LEAF = FREE + 0x2000;
/** 16 KiB. */
export const SECOND = FREE + 0x4000;
export const PDT = FREE + 0x8000;
export const IOVA = 0x4000_0000;
/** 2 MiB aligned. */
export const TARGET = RAM_BASE + 0x20_0000;

export const MODE_OFF = 0;
export const MODE_BARE = 1;
export const MODE_1LVL = 2;
export const MODE_3LVL = 4;

export const ppnOf = (pa: number): bigint => BigInt(pa) >> 12n;

/** A PTE, a pointer or a leaf. */
export const pte = (pa: number, flags: number): bigint => (ppnOf(pa) << 10n) | BigInt(flags);
export const V = 1;
export const R = 2;
export const W = 4;
export const X = 8;
export const U = 16;
export const G = 32;
export const A = 64;
export const D = 128;
export const READ = V | R | U | A;
export const WRITE = READ | W | D;

/** A pointer field: MODE, PPN, and an id between them. */
export const atp = (mode: number, pa: number, id = 0): bigint =>
  (BigInt(mode) << 60n) | (BigInt(id) << 44n) | ppnOf(pa);
export const pscid = (id: number): bigint => BigInt(id) << 12n;

export interface DcWords {
  tc?: bigint;
  iohgatp?: bigint;
  ta?: bigint;
  fsc?: bigint;
  msiptp?: bigint;
  mask?: bigint;
  pattern?: bigint;
}

/** A fault record. */
export interface Fault {
  cause: number;
  pid: number | undefined;
  priv: boolean;
  ttyp: number;
  did: number;
  iotval: bigint;
  iotval2: bigint;
}

export interface Board {
  memory: PhysMemory;
  clock: Clock;
  iommu: Iommu;
  lines: ProbedLine[];
  reg(offset: number): number;
  set(offset: number, value: number): void;
  set64(offset: number, value: bigint): void;
  put(pa: number, word: bigint): void;
  get(pa: number): bigint;
  /** A device context in a directory of one level. */
  device(id: number, words: DcWords): void;
  /** Puts commands into the queue, and writes the tail. */
  command(...commands: readonly (readonly [bigint, bigint])[]): void;
  /** Takes the records of the fault queue. */
  faults(): Fault[];
}

/** A machine of 4 MiB with rings of 256 entries that are on, and a directory of one level at ROOT. */
export const boardOf = (
  options: Partial<IommuConfig> & { wrap?: (port: DmaPort) => DmaPort; ramBytes?: number } = {},
): Board => {
  const memory = new PhysMemory(options.ramBytes ?? 4 << 20);
  const clock = new Clock();
  const lines = [probedLine(), probedLine(), probedLine(), probedLine()];
  const bus = new BusPort(memory);
  const iommu = new Iommu({
    memory,
    port: options.wrap?.(bus) ?? bus,
    irq: lines,
    name: 'iommu',
    clock,
    ...(options.extendedFormat === undefined ? {} : { extendedFormat: options.extendedFormat }),
  });
  const view = new DataView(memory.wasm.buffer);
  const at = (pa: number): number => memory.offsetOf(pa);
  const reg = (offset: number): number => iommu.read(offset, 4);
  const set = (offset: number, value: number): void => iommu.write(offset, 4, value);
  const set64 = (offset: number, value: bigint): void => {
    set(offset + 4, Number(value >> 32n));
    set(offset, Number(value & 0xffff_ffffn));
  };
  const put = (pa: number, word: bigint): void => view.setBigUint64(at(pa), word, true);
  const get = (pa: number): bigint => view.getBigUint64(at(pa), true);
  const dcBytes = (options.extendedFormat ?? true) ? 64 : 32;
  const ring = (base: number, csr: number, pa: number, log2: number): void => {
    set64(base, (ppnOf(pa) << 10n) | BigInt(log2 - 1));
    set(csr, 3);
  };
  ring(CQB, CQCSR, CQ, 8);
  ring(FQB, FQCSR, FQ, 7);
  ring(PQB, PQCSR, PQ, 8);
  set64(DDTP, (ppnOf(ROOT) << 10n) | BigInt(MODE_1LVL));
  return {
    memory,
    clock,
    iommu,
    lines,
    reg,
    set,
    set64,
    put,
    get,
    device: (id, words) => {
      const pa = ROOT + id * dcBytes;
      const all = [words.tc ?? 1n, words.iohgatp ?? 0n, words.ta ?? 0n, words.fsc ?? 0n];
      if (dcBytes === 64) all.push(words.msiptp ?? 0n, words.mask ?? 0n, words.pattern ?? 0n, 0n);
      for (const [i, word] of all.entries()) put(pa + 8 * i, word);
    },
    command: (...commands) => {
      let tail = reg(CQT);
      for (const [lo, hi] of commands) {
        put(CQ + tail * 16, lo);
        put(CQ + tail * 16 + 8, hi);
        tail = (tail + 1) % 256;
      }
      set(CQT, tail);
    },
    faults: () => {
      const found: Fault[] = [];
      let head = reg(FQH);
      for (; head !== reg(FQT); head = (head + 1) % 128) {
        const first = get(FQ + head * 32);
        const pv = ((first >> 32n) & 1n) === 1n;
        found.push({
          cause: Number(first & 0xfffn),
          pid: pv ? Number((first >> 12n) & 0xf_ffffn) : undefined,
          priv: ((first >> 33n) & 1n) === 1n,
          ttyp: Number((first >> 34n) & 0x3fn),
          did: Number(first >> 40n),
          iotval: get(FQ + head * 32 + 16),
          iotval2: get(FQ + head * 32 + 24),
        });
      }
      set(FQH, head);
      return found;
    },
  };
};

/* ---- commands ---- */
const AV = 1n << 10n;
const PSCV = 1n << 32n;
const GV = 1n << 33n;

export const iotinvalVma = (
  o: { gscid?: number; pscid?: number; iova?: number } = {},
): [bigint, bigint] => [
  1n |
    (o.iova === undefined ? 0n : AV) |
    (o.pscid === undefined ? 0n : PSCV | (BigInt(o.pscid) << 12n)) |
    (o.gscid === undefined ? 0n : GV | (BigInt(o.gscid) << 44n)),
  (BigInt(o.iova ?? 0) >> 12n) << 10n,
];
export const iotinvalGvma = (o: { gscid?: number; gpa?: number } = {}): [bigint, bigint] => [
  1n |
    (1n << 7n) |
    (o.gpa === undefined ? 0n : AV) |
    (o.gscid === undefined ? 0n : GV | (BigInt(o.gscid) << 44n)),
  (BigInt(o.gpa ?? 0) >> 12n) << 10n,
];
export const iofence = (
  o: { pa?: number; data?: number; wsi?: boolean } = {},
): [bigint, bigint] => [
  2n | (o.pa === undefined ? 0n : AV) | (o.wsi ? 1n << 11n : 0n) | (BigInt(o.data ?? 0) << 32n),
  BigInt(o.pa ?? 0) >> 2n,
];
export const iodirDdt = (did?: number): [bigint, bigint] => [
  3n | (did === undefined ? 0n : GV | (BigInt(did) << 40n)),
  0n,
];
export const iodirPdt = (did: number, pid: number): [bigint, bigint] => [
  3n | (1n << 7n) | (BigInt(pid) << 12n) | GV | (BigInt(did) << 40n),
  0n,
];
export const atsInval = (
  did: number,
  pid: number | undefined,
  payload: bigint,
): [bigint, bigint] => [
  4n |
    (pid === undefined ? 0n : (1n << 32n) | (BigInt(pid) << 12n)) |
    (BigInt(did & 0xffff) << 40n),
  payload,
];
export const atsPrgr = (
  did: number,
  pid: number,
  group: number,
  code: number,
): [bigint, bigint] => [
  4n | (1n << 7n) | (1n << 32n) | (BigInt(pid) << 12n) | (BigInt(did) << 40n),
  (BigInt(group) << 32n) | (BigInt(code) << 44n) | (BigInt(did) << 48n),
];
