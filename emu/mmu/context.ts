/**
 * Translation contexts: everything that a translation depends on besides the address and the access,
 * interned, so that a TLB entry can name it in 9 bits. Changing satp, vsatp, hgatp, V or the privilege
 * selects another context and flushes nothing; a flush gives a context another key.
 *
 *   context     (stage 1 mode, ASID, root; G-stage space; user or supervisor; SUM, MXR; ADUE)  64, LRU
 *   key         1..511, in the tags of the TLB and of the first-stage walk cache. 0 = none yet
 *   G space     (hgatp MODE, VMID, root): what the GPA caches are keyed by                     64, LRU
 *
 * A key is used once. When all are used up the arrays are cleared and keys start again (a rollover).
 */
import { PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, PTE_X } from '../pte.ts';

export const NR_CONTEXTS = 64;
export const NR_SPACES = 64;
/** Keys are 9 bits of a tag: 1..511. */
export const KEY_LIMIT = 512;
/** Place of the key in the low word of a tag: above the bits that tell a misaligned access. */
export const KEY_SHIFT = 3;
/** Keys of G spaces are whole words; so many flushes bring their rollover. */
export const SPACE_KEY_LIMIT = 0x7fff_ffff;

/* Context.flags */
export const CTX_VIRT = 1 << 0; // V=1: VS-stage and G-stage
export const CTX_USER = 1 << 1; // effective privilege U
export const CTX_SUM = 1 << 2; // the SUM that counts: sstatus's or, V=1, vsstatus's
export const CTX_MXR = 1 << 3; // HS-level MXR: both stages
export const CTX_VMXR = 1 << 4; // vsstatus.MXR: VS-stage only
export const CTX_ADUE1 = 1 << 5; // hardware updates A and D of the first stage
export const CTX_ADUE2 = 1 << 6; // and of the G-stage

/** Which superpages of one generation have been cut into 4 KiB entries: a filter, may say yes wrongly. */
export class SuperpageFilter {
  /** Bits chosen by address >> 21 for 2 MiB leaves, by address >> 30 for 1 GiB ones, and whether there was a larger one. */
  private mega: number;
  private giga: number;
  private larger: number;

  constructor() {
    this.mega = 0;
    this.giga = 0;
    this.larger = 0;
  }

  clear(): void {
    this.mega = 0;
    this.giga = 0;
    this.larger = 0;
  }

  /** Notes an entry cut from a leaf at `level` >= 1. */
  add(level: number, lo: number, hi: number): void {
    if (level === 1) this.mega |= megaBit(lo, hi);
    else if (level === 2) this.giga |= gigaBit(lo, hi);
    else this.larger = 1;
  }

  /** False only where no superpage that contains the address has been cut. */
  mayCover(lo: number, hi: number): boolean {
    return ((this.mega & megaBit(lo, hi)) | (this.giga & gigaBit(lo, hi)) | this.larger) !== 0;
  }

  save(): number[] {
    return [this.mega, this.giga, this.larger];
  }

  restore(state: readonly number[]): void {
    [this.mega = 0, this.giga = 0, this.larger = 0] = state;
  }
}

const foldBit = (n: number): number => 1 << ((n ^ (n >>> 5) ^ (n >>> 11)) & 31);
const megaBit = (lo: number, hi: number): number => foldBit((lo >>> 21) | (hi << 11));
const gigaBit = (lo: number, hi: number): number => foldBit((lo >>> 30) | (hi << 2));

/** Spreads a key over the index bits, so that address spaces do not sit on each other's entries. */
const hashOf = (key: number): number => (Math.imul(key, 0x9e37_79b1) >>> 12) & 0xfff;

/** One G-stage address space. */
export class GSpace {
  /** ATP_MODE_*, never Bare; and 3, 4 or 5 levels. */
  mode: number;
  levels: number;
  vmid: number;
  rootPpn: number;
  /** Generation, in the tags of the GPA caches; 0 = none yet. */
  key: number;
  hash: number;
  lastUse: number;
  readonly superpages: SuperpageFilter;

  constructor() {
    this.mode = 0;
    this.levels = 0;
    this.vmid = 0;
    this.rootPpn = 0;
    this.key = 0;
    this.hash = 0;
    this.lastUse = 0;
    this.superpages = new SuperpageFilter();
  }
}

/** The fields by which a context is found. `atp` is MODE << 16 | ASID (or VMID); PPNs are whole numbers. */
export interface ContextKey {
  flags: number;
  atp: number;
  ppn: number;
  gatp: number;
  gppn: number;
}

export class Context implements ContextKey {
  readonly index: number;
  flags: number;
  atp: number;
  ppn: number;
  gatp: number;
  gppn: number;
  /** Levels of the first stage, 0 = Bare. */
  levels: number;
  /** The G-stage, or undefined where there is none. */
  space: GSpace | undefined;
  /** Generation; 0 = takes one when next selected. */
  key: number;
  hash: number;
  lastUse: number;
  /** U bit a leaf of the first stage must have: (pte & uMask) === uWant; loads and stores, then fetches. */
  uMask: number;
  uWant: number;
  /** A leaf passes without further looking if (pte & xMask) === xWant: read, write, execute. */
  readMask: number;
  readWant: number;
  writeMask: number;
  writeWant: number;
  execMask: number;
  execWant: number;
  readonly superpages: SuperpageFilter;

  constructor(index: number) {
    this.index = index;
    this.flags = -1;
    this.atp = 0;
    this.ppn = 0;
    this.gatp = 0;
    this.gppn = 0;
    this.levels = 0;
    this.space = undefined;
    this.key = 0;
    this.hash = 0;
    this.lastUse = 0;
    this.uMask = 0;
    this.uWant = 0;
    this.readMask = 0;
    this.readWant = 0;
    this.writeMask = 0;
    this.writeWant = 0;
    this.execMask = 0;
    this.execWant = 0;
    this.superpages = new SuperpageFilter();
  }

  get virt(): boolean {
    return (this.flags & CTX_VIRT) !== 0;
  }

  get asid(): number {
    return this.atp & 0xffff;
  }

  get vmid(): number {
    return this.gatp & 0xffff;
  }

  is(k: ContextKey): boolean {
    return (
      this.flags === k.flags &&
      this.atp === k.atp &&
      this.ppn === k.ppn &&
      this.gatp === k.gatp &&
      this.gppn === k.gppn
    );
  }

  /** Becomes the context of `k`, without a key. */
  assign(k: ContextKey): void {
    this.flags = k.flags;
    this.atp = k.atp;
    this.ppn = k.ppn;
    this.gatp = k.gatp;
    this.gppn = k.gppn;
    this.levels = levelsOf(k.atp >>> 16);
    this.space = undefined;
    this.key = 0;
    this.superpages.clear();
    const user = (k.flags & CTX_USER) !== 0;
    // S-mode: a U page only with SUM, and never to fetch from (Priv 12.3.1).
    this.uMask = user || (k.flags & CTX_SUM) === 0 ? PTE_U : 0;
    this.uWant = user ? PTE_U : 0;
    this.readWant = PTE_V | PTE_R | PTE_A | this.uWant;
    this.readMask = this.readWant | this.uMask;
    this.writeWant = PTE_V | PTE_R | PTE_W | PTE_A | PTE_D | this.uWant;
    this.writeMask = this.writeWant | this.uMask;
    this.execWant = PTE_V | PTE_X | PTE_A | this.uWant;
    this.execMask = this.execWant | PTE_U;
  }
}

/** Levels of a MODE field; 0 for Bare. Sv39x4 and the like have the same number. */
export const levelsOf = (mode: number): number => (mode === 0 ? 0 : mode - 5);

/** What a saved machine keeps of the table. */
export interface ContextTableState {
  nextKey: number;
  nextSpaceKey: number;
  useClock: number;
  /** Per context: key fields, key, lastUse, space index (-1 = none), superpage filter. */
  contexts: number[][];
  spaces: number[][];
}

/** Told when keys start again from 1: whatever has them in tags must be cleared. */
export interface RolloverListener {
  keysRolledOver(): void;
  spaceKeysRolledOver(): void;
  contextEvicted(): void;
  contextCreated(): void;
}

export class ContextTable {
  /** contexts[0] is the one that translates nothing; it is never evicted. In use: the first `count`. */
  readonly contexts: Context[];
  count: number;
  readonly spaces: GSpace[];
  spaceCount: number;
  /** live[key] is 1 while a context has that key. */
  readonly live: Uint8Array;
  /** Contexts that must not be evicted: the selected ones. */
  dataContext: Context;
  fetchContext: Context;
  private nextKey: number;
  private nextSpaceKey: number;
  private useClock: number;
  private readonly listener: RolloverListener;

  constructor(listener: RolloverListener) {
    this.contexts = Array.from({ length: NR_CONTEXTS }, (_, i) => new Context(i));
    this.spaces = Array.from({ length: NR_SPACES }, () => new GSpace());
    this.live = new Uint8Array(KEY_LIMIT);
    this.nextKey = 1;
    this.nextSpaceKey = 1;
    this.useClock = 0;
    this.listener = listener;
    this.count = 1;
    this.spaceCount = 0;
    const bare = this.bare;
    bare.assign({ flags: 0, atp: 0, ppn: 0, gatp: 0, gppn: 0 });
    this.dataContext = bare;
    this.fetchContext = bare;
  }

  /** The context in which an address is physical: M-mode, and satp Bare. */
  get bare(): Context {
    return this.contexts[0] as Context;
  }

  /** The context of `k`, interned; the least recently used one makes room. May have no key yet. */
  intern(k: ContextKey): Context {
    for (let i = 1; i < this.count; i++) {
      const c = this.contexts[i] as Context;
      if (c.is(k)) return c;
    }
    let c: Context;
    if (this.count < NR_CONTEXTS) {
      c = this.contexts[this.count++] as Context;
    } else {
      c = this.victim();
      this.retire(c);
      this.listener.contextEvicted();
    }
    this.listener.contextCreated();
    c.assign(k);
    if ((k.flags & CTX_VIRT) !== 0 && k.gatp >>> 16 !== 0) c.space = this.internSpace(k);
    return c;
  }

  /** Marks as used now, and makes sure of keys. True where a rollover took the keys of all others. */
  use(c: Context): boolean {
    const now = ++this.useClock;
    c.lastUse = now;
    const space = c.space;
    let rolledOver = false;
    if (space !== undefined) {
      space.lastUse = now;
      if (space.key === 0) rolledOver = this.takeSpaceKey(space);
    }
    if (c.key === 0 && this.takeKey(c)) rolledOver = true;
    return rolledOver;
  }

  /** A flush: the context's entries will never match again. */
  retire(c: Context): void {
    this.live[c.key] = 0;
    c.key = 0;
    c.superpages.clear();
  }

  retireSpace(s: GSpace): void {
    s.key = 0;
    s.superpages.clear();
  }

  save(): ContextTableState {
    return {
      nextKey: this.nextKey,
      nextSpaceKey: this.nextSpaceKey,
      useClock: this.useClock,
      contexts: this.contexts
        .slice(0, this.count)
        .map((c) => [
          c.flags,
          c.atp,
          c.ppn,
          c.gatp,
          c.gppn,
          c.key,
          c.lastUse,
          c.space === undefined ? -1 : this.spaces.indexOf(c.space),
          ...c.superpages.save(),
        ]),
      spaces: this.spaces
        .slice(0, this.spaceCount)
        .map((s) => [s.mode, s.vmid, s.rootPpn, s.key, s.lastUse, ...s.superpages.save()]),
    };
  }

  restore(state: ContextTableState): void {
    this.nextKey = state.nextKey;
    this.nextSpaceKey = state.nextSpaceKey;
    this.useClock = state.useClock;
    this.count = state.contexts.length;
    this.spaceCount = state.spaces.length;
    this.live.fill(0);
    this.contexts.forEach((c, i) => {
      const s = state.contexts[i];
      if (s === undefined) {
        c.flags = -1;
        c.space = undefined;
        return;
      }
      const [flags = 0, atp = 0, ppn = 0, gatp = 0, gppn = 0, key = 0, lastUse = 0, space = -1] = s;
      c.assign({ flags, atp, ppn, gatp, gppn });
      c.key = key;
      c.hash = hashOf(key);
      c.lastUse = lastUse;
      c.space = space < 0 ? undefined : this.spaces[space];
      c.superpages.restore(s.slice(8));
      if (key !== 0) this.live[key] = 1;
    });
    this.spaces.forEach((g, i) => {
      const [mode = 0, vmid = 0, rootPpn = 0, key = 0, lastUse = 0, ...rest] =
        state.spaces[i] ?? [];
      this.assignSpace(g, mode, vmid, rootPpn);
      g.key = key;
      g.hash = hashOf(key);
      g.lastUse = lastUse;
      g.superpages.restore(rest);
    });
  }

  private assignSpace(s: GSpace, mode: number, vmid: number, rootPpn: number): void {
    s.mode = mode;
    s.levels = levelsOf(mode);
    s.vmid = vmid;
    s.rootPpn = rootPpn;
    s.key = 0;
    s.superpages.clear();
  }

  private internSpace(k: ContextKey): GSpace {
    const mode = k.gatp >>> 16;
    const vmid = k.gatp & 0xffff;
    for (let i = 0; i < this.spaceCount; i++) {
      const s = this.spaces[i] as GSpace;
      if (s.mode === mode && s.vmid === vmid && s.rootPpn === k.gppn) return s;
    }
    const s =
      this.spaceCount < NR_SPACES
        ? (this.spaces[this.spaceCount++] as GSpace)
        : this.unreferencedSpace();
    this.assignSpace(s, mode, vmid, k.gppn);
    return s;
  }

  /** Least recently used space that no context goes through; there are fewer contexts than spaces. */
  private unreferencedSpace(): GSpace {
    let oldest: GSpace | undefined;
    for (const s of this.spaces) {
      if (oldest !== undefined && s.lastUse >= oldest.lastUse) continue;
      if (!this.contexts.some((c) => c.space === s)) oldest = s;
    }
    return oldest as GSpace;
  }

  private victim(): Context {
    let oldest: Context | undefined;
    for (let i = 1; i < NR_CONTEXTS; i++) {
      const c = this.contexts[i] as Context;
      if (c === this.dataContext || c === this.fetchContext) continue;
      if (oldest === undefined || c.lastUse < oldest.lastUse) oldest = c;
    }
    return oldest as Context;
  }

  private takeKey(c: Context): boolean {
    let rolledOver = false;
    if (this.nextKey === KEY_LIMIT) {
      for (let i = 0; i < this.count; i++) this.retire(this.contexts[i] as Context);
      this.nextKey = 1;
      this.listener.keysRolledOver();
      rolledOver = true;
    }
    c.key = this.nextKey++;
    c.hash = hashOf(c.key);
    this.live[c.key] = 1;
    return rolledOver;
  }

  private takeSpaceKey(s: GSpace): boolean {
    const rolledOver = this.nextSpaceKey === SPACE_KEY_LIMIT;
    if (rolledOver) {
      for (const other of this.spaces) this.retireSpace(other);
      this.nextSpaceKey = 1;
      this.listener.spaceKeysRolledOver();
    }
    s.key = this.nextSpaceKey++;
    s.hash = hashOf(s.key);
    return rolledOver;
  }
}
