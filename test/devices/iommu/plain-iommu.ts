/**
 * A second RISC-V IOMMU for tests, deliberately plain: BigInt, no caches, one function per process of the
 * specification (RISC-V IOMMU 1.0, "Data Structures"), its own reading of every structure. It reads and
 * writes a memory of its own.
 */

export interface PlainMemory {
  /** An aligned doubleword; undefined where there is no memory. */
  read(pa: bigint): bigint | undefined;
  write(pa: bigint, value: bigint): void;
}

export interface PlainDdtp {
  mode: number;
  ppn: bigint;
  /** capabilities.MSI_FLAT */
  extended: boolean;
}

/** One transaction. pid undefined: without process_id. */
export interface PlainRequest {
  did: bigint;
  pid: bigint | undefined;
  priv: boolean;
  iova: bigint;
  need: 'r' | 'w' | 'x';
  kind: 'untranslated' | 'translated' | 'ats';
}

export type PlainOutcome =
  | { kind: 'ok'; spa: bigint }
  | { kind: 'mrif'; mrif: bigint; notice: bigint; nid: bigint }
  | { kind: 'fault'; cause: number; iotval2: bigint; dtf: boolean };

/** A fault, wherever it is found. */
class Stop {
  readonly cause: number;
  readonly iotval2: bigint;
  constructor(cause: number, iotval2 = 0n) {
    this.cause = cause;
    this.iotval2 = iotval2;
  }
}

const bits = (n: bigint, hi: number, lo: number): bigint =>
  (n >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n);
const bit = (n: bigint, at: number): boolean => ((n >> BigInt(at)) & 1n) === 1n;

const PAGE = { r: 13, w: 15, x: 12 } as const;
const GUEST_PAGE = { r: 21, w: 23, x: 20 } as const;
const ACCESS = { r: 5, w: 7, x: 1 } as const;

interface Dc {
  tc: bigint;
  iohgatp: bigint;
  ta: bigint;
  fsc: bigint;
  msiptp: bigint;
  mask: bigint;
  pattern: bigint;
}

export class PlainIommu {
  ddtp: PlainDdtp;
  private readonly memory: PlainMemory;

  constructor(memory: PlainMemory, ddtp: PlainDdtp) {
    this.memory = memory;
    this.ddtp = ddtp;
  }

  translate(request: PlainRequest): PlainOutcome {
    let dtf = false;
    try {
      return this.process(request, (dc) => {
        dtf = bit(dc.tc, 4);
      });
    } catch (stop) {
      if (!(stop instanceof Stop)) throw stop;
      return { kind: 'fault', cause: stop.cause, iotval2: stop.iotval2, dtf };
    }
  }

  /** "Process to translate an IOVA", by its numbers. */
  private process(request: PlainRequest, found: (dc: Dc) => void): PlainOutcome {
    const { mode, extended } = this.ddtp;
    const { did, pid, priv, iova, need, kind } = request;
    if (mode === 0) throw new Stop(256); // 1
    if (mode === 1) {
      if (kind !== 'untranslated') throw new Stop(260); // 2
      return { kind: 'ok', spa: iova };
    }
    const ddi = extended // 3, 4
      ? [bits(did, 5, 0), bits(did, 14, 6), bits(did, 23, 15)]
      : [bits(did, 6, 0), bits(did, 15, 7), bits(did, 23, 16)];
    if (mode === 3 && ddi[2] !== 0n) throw new Stop(260); // 5
    if (mode === 2 && (ddi[2] !== 0n || ddi[1] !== 0n)) throw new Stop(260);
    const dc = this.device(ddi, mode - 1); // 6
    found(dc);
    const pdtv = bit(dc.tc, 5);
    if (kind !== 'untranslated' && !bit(dc.tc, 1)) throw new Stop(260); // 7
    if (pid !== undefined && !pdtv) throw new Stop(260);
    const pdMode = bits(dc.fsc, 63, 60);
    if (pid !== undefined) {
      if (pdMode === 1n && pid >= 1n << 8n) throw new Stop(260);
      if (pdMode === 2n && pid >= 1n << 17n) throw new Stop(260);
    }
    if (kind === 'translated') {
      if (!bit(dc.tc, 3)) return { kind: 'ok', spa: iova }; // 8
      return this.stages(dc, 0n, need, iova, false, false); // 9
    }
    if (!pdtv) return this.stages(dc, dc.fsc, need, iova, false, false); // 10
    let process = pid;
    if (process === undefined && bit(dc.tc, 9)) process = 0n; // 11
    if (process === undefined || pdMode === 0n)
      return this.stages(dc, 0n, need, iova, false, false); // 12, 13
    const pc = this.processContext(dc, process, Number(pdMode), need); // 14
    const supervisor = pid !== undefined && priv;
    if (supervisor && !bit(pc.ta, 1)) throw new Stop(260); // 15
    return this.stages(dc, pc.fsc, need, iova, supervisor, bit(pc.ta, 2)); // 16
  }

  /** "Process to locate the Device-context". */
  private device(ddi: readonly (bigint | undefined)[], levels: number): Dc {
    let a = this.ddtp.ppn << 12n;
    for (let i = levels - 1; i > 0; i--) {
      const ddte = this.memory.read(a + (ddi[i] ?? 0n) * 8n);
      if (ddte === undefined) throw new Stop(257);
      if (!bit(ddte, 0)) throw new Stop(258);
      if (bits(ddte, 9, 1) !== 0n || bits(ddte, 63, 54) !== 0n) throw new Stop(259);
      a = bits(ddte, 53, 10) << 12n;
    }
    const size = this.ddtp.extended ? 64n : 32n;
    const at = a + (ddi[0] ?? 0n) * size;
    const words: bigint[] = [];
    for (let i = 0n; i < size; i += 8n) {
      const word = this.memory.read(at + i);
      if (word === undefined) throw new Stop(257);
      words.push(word);
    }
    const [tc = 0n, iohgatp = 0n, ta = 0n, fsc = 0n, msiptp = 0n, mask = 0n, pattern = 0n] = words;
    const dc = { tc, iohgatp, ta, fsc, msiptp, mask, pattern };
    if (!bit(tc, 0)) throw new Stop(258);
    if (this.misconfigured(dc, words[7] ?? 0n)) throw new Stop(259);
    return dc;
  }

  /** "Device-context configuration checks", for what our capabilities say. */
  private misconfigured(dc: Dc, last: bigint): boolean {
    const { tc, iohgatp, ta, fsc, msiptp, mask, pattern } = dc;
    const enAts = bit(tc, 1);
    const enPri = bit(tc, 2);
    const pdtv = bit(tc, 5);
    const gMode = bits(iohgatp, 63, 60);
    const fMode = bits(fsc, 63, 60);
    const schemes = [0n, 8n, 9n, 10n];
    return (
      bits(tc, 23, 12) !== 0n ||
      bits(tc, 63, 32) !== 0n ||
      bits(ta, 11, 0) !== 0n ||
      bits(ta, 63, 32) !== 0n ||
      bits(fsc, 59, 44) !== 0n ||
      (!enAts && bit(tc, 3)) ||
      (!enAts && enPri) ||
      (!enPri && bit(tc, 6)) ||
      (bit(tc, 3) && gMode === 0n) ||
      (pdtv && fMode > 3n) ||
      (!pdtv && !schemes.includes(fMode)) ||
      (!pdtv && bit(tc, 9)) ||
      !schemes.includes(gMode) ||
      (gMode !== 0n && bits(iohgatp, 1, 0) !== 0n) ||
      bit(tc, 10) ||
      bit(tc, 11) ||
      bits(msiptp, 63, 60) > 1n ||
      bits(msiptp, 59, 44) !== 0n ||
      bits(mask, 63, 52) !== 0n ||
      bits(pattern, 63, 52) !== 0n ||
      last !== 0n
    );
  }

  /** "Process to locate the Process-context". */
  private processContext(
    dc: Dc,
    pid: bigint,
    levels: number,
    need: 'r' | 'w' | 'x',
  ): { ta: bigint; fsc: bigint } {
    const pdi = [bits(pid, 7, 0), bits(pid, 16, 8), bits(pid, 19, 17)];
    const read = (gpa: bigint): bigint => {
      const word = this.memory.read(this.second(dc, gpa, 'r', need, true));
      if (word === undefined) throw new Stop(265);
      return word;
    };
    let a = bits(dc.fsc, 43, 0) << 12n;
    for (let i = levels - 1; i > 0; i--) {
      const pdte = read(a + (pdi[i] ?? 0n) * 8n);
      if (!bit(pdte, 0)) throw new Stop(266);
      if (bits(pdte, 9, 1) !== 0n || bits(pdte, 63, 54) !== 0n) throw new Stop(267);
      a = bits(pdte, 53, 10) << 12n;
    }
    const at = a + (pdi[0] ?? 0n) * 16n;
    const ta = read(at);
    const fsc = read(at + 8n);
    if (!bit(ta, 0)) throw new Stop(266);
    const reserved = bits(ta, 11, 3) | bits(ta, 63, 32) | bits(fsc, 59, 44);
    if (reserved !== 0n || ![0n, 8n, 9n, 10n].includes(bits(fsc, 63, 60))) throw new Stop(267);
    return { ta, fsc };
  }

  /** Steps 17 to 20. */
  private stages(
    dc: Dc,
    iosatp: bigint,
    need: 'r' | 'w' | 'x',
    iova: bigint,
    supervisor: boolean,
    sum: boolean,
  ): PlainOutcome {
    const mode = Number(bits(iosatp, 63, 60));
    const gpa = mode === 0 ? iova : this.first(dc, iosatp, need, iova, supervisor, sum);
    if (bits(dc.msiptp, 63, 60) === 1n) {
      const care = ~dc.mask;
      if (((gpa >> 12n) & care) === (dc.pattern & care)) return this.msi(dc, gpa, need);
    }
    return { kind: 'ok', spa: this.second(dc, gpa, need, need, false) };
  }

  private first(
    dc: Dc,
    iosatp: bigint,
    need: 'r' | 'w' | 'x',
    iova: bigint,
    supervisor: boolean,
    sum: boolean,
  ): bigint {
    const levels = Number(bits(iosatp, 63, 60)) - 5;
    const width = 12 + 9 * levels;
    if (BigInt.asUintN(64, BigInt.asIntN(width, iova)) !== iova) throw new Stop(PAGE[need]);
    return this.walk({
      address: iova,
      root: bits(iosatp, 43, 0),
      levels,
      need,
      wide: false,
      fault: () => new Stop(PAGE[need]),
      access: new Stop(ACCESS[need]),
      locate: (at, write) => this.second(dc, at, write ? 'w' : 'r', need, true),
      user: (u) => (supervisor ? !u || (sum && need !== 'x') : u),
      update: bit(dc.tc, 8),
    });
  }

  private second(
    dc: Dc,
    gpa: bigint,
    need: 'r' | 'w' | 'x',
    original: 'r' | 'w' | 'x',
    implicit: boolean,
  ): bigint {
    const mode = Number(bits(dc.iohgatp, 63, 60));
    if (mode === 0) return gpa;
    const low = implicit ? (need === 'w' ? 3n : 1n) : 0n;
    const fault = (): Stop => new Stop(GUEST_PAGE[original], ((gpa >> 2n) << 2n) | low);
    const levels = mode - 5;
    if (gpa >> BigInt(14 + 9 * levels) !== 0n) throw fault();
    return this.walk({
      address: gpa,
      root: bits(dc.iohgatp, 43, 0),
      levels,
      need,
      wide: true,
      fault,
      access: new Stop(ACCESS[original]),
      locate: (at) => at,
      user: (u) => u,
      update: bit(dc.tc, 7),
    });
  }

  /** Priv 12.3.2. */
  private walk(w: {
    address: bigint;
    root: bigint;
    levels: number;
    need: 'r' | 'w' | 'x';
    wide: boolean;
    fault: () => Stop;
    access: Stop;
    locate: (at: bigint, write: boolean) => bigint;
    user: (u: boolean) => boolean;
    update: boolean;
  }): bigint {
    let a = w.root << 12n;
    let i = w.levels - 1;
    for (;;) {
      const shift = 12 + 9 * i;
      const top = w.wide && i === w.levels - 1;
      const at = a + bits(w.address, shift + (top ? 10 : 8), shift) * 8n;
      const pte = this.memory.read(w.locate(at, false));
      if (pte === undefined) throw w.access;
      const [v, r, wr, x, u] = [0, 1, 2, 3, 4].map((n) => bit(pte, n));
      if (!v || (!r && wr) || bits(pte, 63, 54) !== 0n) throw w.fault();
      const ppn = bits(pte, 53, 10);
      if (!r && !x) {
        if (u || bit(pte, 6) || bit(pte, 7) || i === 0) throw w.fault();
        a = ppn << 12n;
        i--;
        continue;
      }
      if (!w.user(u === true)) throw w.fault();
      if (!{ r, w: wr, x }[w.need]) throw w.fault();
      const inside = (1n << BigInt(9 * i)) - 1n;
      if ((ppn & inside) !== 0n) throw w.fault();
      const wanted = pte | (1n << 6n) | (w.need === 'w' ? 1n << 7n : 0n);
      if (wanted !== pte) {
        if (!w.update) throw w.fault();
        const place = w.locate(at, true);
        // The second stage may have changed this very entry on the way.
        if (this.memory.read(place) !== pte) continue;
        this.memory.write(place, wanted);
      }
      return ((ppn | ((w.address >> 12n) & inside)) << 12n) | (w.address & 0xfffn);
    }
  }

  /** "Process to translate addresses of MSIs". */
  private msi(dc: Dc, gpa: bigint, need: 'r' | 'w' | 'x'): PlainOutcome {
    let file = 0n;
    let place = 0n;
    for (let i = 0; i < 52; i++)
      if (bit(dc.mask, i)) {
        file |= bits(gpa >> 12n, i, i) << place;
        place++;
      }
    const at = (bits(dc.msiptp, 43, 0) << 12n) | (file * 16n);
    const lo = this.memory.read(at);
    const hi = this.memory.read(at + 8n);
    if (lo === undefined || hi === undefined) throw new Stop(261);
    if (!bit(lo, 0)) throw new Stop(262);
    const m = bits(lo, 2, 1);
    if (bit(lo, 63) || (m !== 3n && m !== 1n)) throw new Stop(263);
    if (m === 3n) {
      if (bits(lo, 9, 3) !== 0n || bits(lo, 62, 54) !== 0n || hi !== 0n) throw new Stop(263);
      if (need === 'x') throw new Stop(1);
      return { kind: 'ok', spa: (bits(lo, 53, 10) << 12n) | (gpa & 0xfffn) };
    }
    const reserved = bits(lo, 6, 3) | bits(lo, 62, 54) | bits(hi, 59, 54) | bits(hi, 63, 61);
    if (reserved !== 0n) throw new Stop(263);
    if (need === 'x') throw new Stop(1);
    return {
      kind: 'mrif',
      mrif: bits(lo, 53, 7) * 512n,
      notice: bits(hi, 53, 10) << 12n,
      nid: (bits(hi, 60, 60) << 10n) | bits(hi, 9, 0),
    };
  }
}
