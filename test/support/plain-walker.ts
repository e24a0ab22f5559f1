/**
 * A second page-table walker for tests, deliberately plain: BigInt, no caches, one function per section
 * of the privileged ISA 1.13 (12.3.2, 12.4 to 12.6, 15.5), its own reading of PTEs. It reads and writes
 * memory through an environment, so that a test can also ask what older values would have given.
 */
import type { TranslationRegs } from '#emu';

export type PlainAccess = 'load' | 'store' | 'fetch' | 'hlv' | 'hlvx' | 'hsv';
export type Stage = 'S' | 'VS' | 'G';

export interface PlainEnv {
  /** Is the 8-byte word at `pa` RAM? */
  isRam(pa: bigint): boolean;
  /** A PTE at `pa`, met at `level` on the way to `address` of that stage. */
  readPte(pa: bigint, stage: Stage, level: number, address: bigint): bigint;
  /** Replaces `was` by `now`, if the word is still `was`. */
  updatePte(pa: bigint, was: bigint, now: bigint): boolean;
}

export type PlainResult =
  | { kind: 'ok'; pa: bigint }
  | { kind: 'fault'; cause: number; tval: bigint; gva: boolean; gpa: bigint; htinst: number };

/** What stops a walk. Cause is still to be chosen by the access. */
class Stop {
  readonly what: 'page' | 'guest' | 'access';
  readonly gpa: bigint;
  readonly htinst: number;
  constructor(what: 'page' | 'guest' | 'access', gpa = 0n, htinst = 0) {
    this.what = what;
    this.gpa = gpa;
    this.htinst = htinst;
  }
}

const bit = (pte: bigint, n: number): boolean => ((pte >> BigInt(n)) & 1n) === 1n;

interface Rules {
  stage: Stage;
  mode: number;
  rootPpn: bigint;
  user: boolean;
  sum: boolean;
  mxr: boolean;
  adue: boolean;
  /** What the access needs and whether it is a fetch, for SUM. */
  need: 'r' | 'w' | 'x';
  fetch: boolean;
  /** Where PTEs are: a physical address from the address of a table entry. */
  locate(ptePlace: bigint, write: boolean): bigint;
}

/** 12.3.2, steps 1 to 8. */
const walk = (env: PlainEnv, rules: Rules, address: bigint): bigint => {
  const { stage } = rules;
  const fault = (): Stop =>
    new Stop(stage === 'G' ? 'guest' : 'page', stage === 'G' ? address : 0n);
  const levels = rules.mode - 5;
  const bits = 12n + 9n * BigInt(levels);
  if (stage === 'G') {
    if (address >> (bits + 2n) !== 0n) throw fault();
  } else if (BigInt.asUintN(64, BigInt.asIntN(Number(bits), address)) !== address) throw fault();

  let a = rules.rootPpn << 12n; // step 1
  let i = levels - 1;
  for (;;) {
    const wide = stage === 'G' && i === levels - 1 ? 0x7ffn : 0x1ffn;
    const index = (address >> (12n + 9n * BigInt(i))) & wide;
    const place = a + index * 8n;
    const pa = rules.locate(place, false);
    if (!env.isRam(pa)) throw new Stop('access'); // step 2
    const pte = env.readPte(pa, stage, i, address);
    const v = bit(pte, 0);
    const r = bit(pte, 1);
    const w = bit(pte, 2);
    const x = bit(pte, 3);
    const u = bit(pte, 4);
    if (!v || (!r && w) || pte >> 54n !== 0n) throw fault(); // step 3
    const ppn = (pte >> 10n) & ((1n << 44n) - 1n);
    if (!r && !x) {
      // step 4
      if (u || bit(pte, 6) || bit(pte, 7)) throw fault();
      i = i - 1;
      if (i < 0) throw fault();
      a = ppn << 12n;
      continue;
    }
    // step 5
    if (rules.user && !u) throw fault();
    if (!rules.user && u && (rules.fetch || !rules.sum)) throw fault();
    if (rules.need === 'r' && !r && !(rules.mxr && x)) throw fault();
    if (rules.need === 'w' && !w) throw fault();
    if (rules.need === 'x' && !x) throw fault();
    // step 6
    const low = (1n << (9n * BigInt(i))) - 1n;
    if ((ppn & low) !== 0n) throw fault();
    // step 7
    let want = pte | (1n << 6n);
    if (rules.need === 'w') want |= 1n << 7n;
    if (want !== pte) {
      if (!rules.adue) throw fault();
      if (!env.updatePte(rules.locate(place, true), pte, want)) continue;
    }
    // step 8
    return (((ppn & ~low) | ((address >> 12n) & low)) << 12n) | (address & 0xfffn);
  }
};

/** 15.5: the G-stage. An implicit access reads or writes a VS-stage PTE. */
const guestPhysical = (
  env: PlainEnv,
  r: TranslationRegs,
  gpa: bigint,
  need: 'r' | 'w' | 'x',
  implicit: boolean,
): bigint => {
  if (r.hgatpMode === 0) {
    if (gpa >> 56n !== 0n) throw new Stop('access');
    return gpa;
  }
  return walk(
    env,
    {
      stage: 'G',
      mode: r.hgatpMode,
      rootPpn: BigInt(r.hgatpPpn),
      user: true,
      sum: false,
      mxr: r.mxr && !implicit,
      adue: r.adueHs,
      need,
      fetch: false,
      locate: (place) => place,
    },
    gpa,
  );
};

const CAUSES = {
  page: { load: 13, store: 15, fetch: 12, hlv: 13, hlvx: 13, hsv: 15 },
  guest: { load: 21, store: 23, fetch: 20, hlv: 21, hlvx: 21, hsv: 23 },
  access: { load: 5, store: 7, fetch: 1, hlv: 5, hlvx: 5, hsv: 7 },
} as const;

/** One access to `va` (64 bits, unsigned), with everything that it does to PTEs. */
export const plainTranslate = (
  env: PlainEnv,
  r: TranslationRegs,
  va: bigint,
  access: PlainAccess,
): PlainResult => {
  const explicitGuest = access === 'hlv' || access === 'hlvx' || access === 'hsv';
  let priv: number = r.priv;
  let virt = r.virt;
  if (explicitGuest) {
    priv = r.spvp;
    virt = true;
  } else if (access !== 'fetch' && r.mprv) {
    priv = r.mpp;
    virt = priv !== 3 && r.mpv;
  }
  if (priv === 3) virt = false;
  const need =
    access === 'load' || access === 'hlv'
      ? 'r'
      : access === 'store' || access === 'hsv'
        ? 'w'
        : 'x';
  const fetch = access === 'fetch';
  const common = { user: priv === 0, need, fetch } as const;
  try {
    if (virt) {
      let gpa = va;
      if (r.vsatpMode !== 0)
        gpa = walk(
          env,
          {
            ...common,
            stage: 'VS',
            mode: r.vsatpMode,
            rootPpn: BigInt(r.vsatpPpn),
            sum: r.vsum,
            mxr: r.mxr || r.vmxr,
            adue: r.adueVs,
            locate: (place, write) => {
              try {
                return guestPhysical(env, r, place, write ? 'w' : 'r', true);
              } catch (stop) {
                if (stop instanceof Stop && stop.what === 'guest')
                  throw new Stop('guest', stop.gpa, write ? 0x3020 : 0x3000);
                throw stop;
              }
            },
          },
          va,
        );
      return { kind: 'ok', pa: guestPhysical(env, r, gpa, need, false) };
    }
    if (priv === 3 || r.satpMode === 0) {
      if (va >> 56n !== 0n) throw new Stop('access');
      return { kind: 'ok', pa: va };
    }
    const pa = walk(
      env,
      {
        ...common,
        stage: 'S',
        mode: r.satpMode,
        rootPpn: BigInt(r.satpPpn),
        sum: r.sum,
        mxr: r.mxr,
        adue: r.adueHs,
        locate: (place) => place,
      },
      va,
    );
    return { kind: 'ok', pa };
  } catch (stop) {
    if (!(stop instanceof Stop)) throw stop;
    const { gpa, htinst } = stop;
    return { kind: 'fault', cause: CAUSES[stop.what][access], tval: va, gva: virt, gpa, htinst };
  }
};

/** An environment that is a memory as it is now. `base` is the physical address of bytes[0]. */
export const bytesEnv = (bytes: Uint8Array, base: bigint): PlainEnv => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = (pa: bigint): number => Number(pa - base);
  return {
    isRam: (pa) => pa >= base && pa + 8n <= base + BigInt(bytes.byteLength),
    readPte: (pa) => view.getBigUint64(at(pa), true),
    updatePte: (pa, was, now) => {
      if (view.getBigUint64(at(pa), true) !== was) return false;
      view.setBigUint64(at(pa), now, true);
      return true;
    },
  };
};
