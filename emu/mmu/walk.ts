/**
 * The page-table walker: one loop over levels for Sv39, Sv48, Sv57 and their x4 forms, one or two
 * stages. Privileged ISA 1.13, 12.3.2 (the algorithm, whose steps are cited), 12.4 to 12.6, 15.5.
 * No PMP, no Svnapot, no Svpbmt: their bits are reserved and fault.
 *
 * The order is that of the composed algorithms: the first stage ends, its A/D update included, before
 * the G-stage looks at the final address. So D of a VS-stage entry may be set by a store that the
 * G-stage then refuses; the store is repeated after the hypervisor has made the page accessible.
 */
import { PAGE_MASK, PAGE_SIZE, RAM_OFFSET, RAM_PFN_BASE } from '../layout.ts';
import type { PhysMemory } from '../memory.ts';
import { PTE_A, PTE_BYTES, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W, PTE_X, ptePpn } from '../pte.ts';
import { CTX_ADUE1, CTX_ADUE2, CTX_MXR, CTX_VMXR, type Context, type GSpace } from './context.ts';
import {
  COUNT_AD_UPDATES,
  COUNT_GPA_CACHE_HITS,
  COUNT_WALK_CACHE_HITS,
  COUNT_WALK_STEPS,
  COUNT_WALKS,
} from './counters.ts';
import {
  ENTRY_FAULT,
  ENTRY_POINTER,
  ENTRY_UPDATE,
  judgeEntry,
  type Need,
  notCanonical,
  notCanonicalX4,
  pageInLeaf,
  rootIndexX4,
  vpn,
} from './steps.ts';
import { gpaTag, leaf1TagHi, leafTag, type Tlb } from './tlb.ts';

/** Outcomes of a translation that are not the offset of a frame. */
export const WALK_FAULT = -1; // Walker.fault says which
export const WALK_NOT_RAM = -2; // Walker.ppn is the physical page

/** Walker.fault */
export const FAULT_PAGE = 1;
export const FAULT_GUEST_PAGE = 2;
export const FAULT_ACCESS = 3;

/** htinst of a guest-page fault on a VS-stage entry (Priv 15.6.3, RV64): read, or write of A and D. */
export const HTINST_PTE_READ = 0x3000;
export const HTINST_PTE_WRITE = 0x3020;

/** A leaf that is good without an update, apart from the access's own permission. */
const G_LEAF = PTE_V | PTE_R | PTE_U | PTE_A;
/** G-stage leaf that a store may use: nothing to check, nothing to update. */
const G_LEAF_WRITE = G_LEAF | PTE_W | PTE_D;
const G_LEAF_EXEC = PTE_V | PTE_X | PTE_U | PTE_A;

export class Walker {
  /** After WALK_FAULT: FAULT_*, the guest physical address and htinst of a guest-page fault. */
  fault: number;
  faultGpaLo: number;
  faultGpaHi: number;
  faultHtinst: number;
  /** Level of the first stage's leaf: above 0, what the TLB takes is a piece of a superpage. */
  level: number;
  /** Result of the last table walk, and the page of the last WALK_NOT_RAM. */
  ppn: number;
  /** Last leaf of a table walk. */
  private leafLo: number;
  private leafLevel: number;
  private readonly memory: PhysMemory;
  private readonly i32: Int32Array;
  private readonly f64: Float64Array;
  private readonly counters: number;
  private readonly tlb: Tlb;
  private readonly nrPages: number;

  /** @param counters index of slot 0 in memory.f64 (counters.ts) */
  constructor(memory: PhysMemory, tlb: Tlb, counters: number) {
    this.fault = 0;
    this.faultGpaLo = 0;
    this.faultGpaHi = 0;
    this.faultHtinst = 0;
    this.level = 0;
    this.ppn = 0;
    this.leafLo = 0;
    this.leafLevel = 0;
    this.memory = memory;
    this.i32 = memory.i32;
    this.f64 = memory.f64;
    this.counters = counters;
    this.tlb = tlb;
    this.nrPages = memory.nrPages;
  }

  /**
   * Translates an address in a context that has a key (and whose G space has one).
   *
   * @param need PTE_R, PTE_W or PTE_X
   * @param fetch the U bit keeps S-mode from fetching, whatever SUM says (not so for HLVX)
   * @returns offset of the frame's first byte, WALK_FAULT or WALK_NOT_RAM. After success with PTE_W
   *   every stage has D set.
   */
  translate(c: Context, lo: number, hi: number, need: Need, fetch: boolean): number {
    const f64 = this.f64;
    const counters = this.counters;
    f64[counters + COUNT_WALKS]!++;
    this.level = 0;
    const space = c.space;
    if (c.levels === 0) {
      if (space !== undefined) return this.guestPhysical(c, space, lo, hi, need, false);
      // Nothing translates; physical addresses have 56 bits.
      if (hi >>> 24 !== 0) return this.fail(FAULT_ACCESS);
      return this.frameOf((hi >>> 0) * 0x10_0000 + (lo >>> 12));
    }

    // The leaf table is known and the leaf needs no update: the usual miss.
    const i32 = this.i32;
    const t = this.tlb.leaf1Index(c, lo, hi);
    if (i32[t] === leafTag(lo, hi) && i32[t + 1] === leaf1TagHi(c, hi)) {
      const p = (i32[t + 2]! + ((lo >>> 9) & 0xff8)) >>> 2;
      const pte = i32[p]!;
      const mask = need === PTE_R ? c.readMask : need === PTE_W ? c.writeMask : c.execMask;
      const want = need === PTE_R ? c.readWant : need === PTE_W ? c.writeWant : c.execWant;
      if ((pte & mask) === want && (pte & (PTE_R | PTE_W)) !== PTE_W && i32[p + 1] === 0) {
        f64[counters + COUNT_WALK_CACHE_HITS]!++;
        f64[counters + COUNT_WALK_STEPS]!++;
        const ppn = pte >>> 10;
        if (space === undefined) return this.frameOf(ppn);
        return this.guestPhysical(
          c,
          space,
          (ppn << 12) | (lo & PAGE_MASK),
          ppn >>> 20,
          need,
          false,
        );
      }
    }

    if (!this.walkTable(c, undefined, lo, hi, need, fetch, false)) return WALK_FAULT;
    this.level = this.leafLevel;
    if (space === undefined) return this.frameOf(this.ppn);
    const gpaLo = (this.ppn * PAGE_SIZE) | (lo & PAGE_MASK);
    return this.guestPhysical(c, space, gpaLo, Math.floor(this.ppn / 0x10_0000), need, false);
  }

  /**
   * The G-stage of one address, through its caches.
   *
   * @param implicit an access to a VS-stage table: MXR does not make it readable (Priv 15.5)
   * @returns as translate()
   */
  private guestPhysical(
    c: Context,
    s: GSpace,
    lo: number,
    hi: number,
    need: Need,
    implicit: boolean,
  ): number {
    const i32 = this.i32;
    const tlb = this.tlb;
    const f64 = this.f64;
    const want = need === PTE_R ? G_LEAF : need === PTE_W ? G_LEAF_WRITE : G_LEAF_EXEC;
    const page = gpaTag(lo, hi);
    const t = tlb.gpaIndex(s, page);
    if (i32[t] === page && i32[t + 1] === s.key && i32[t + 3] === hi >>> 12) {
      const entry = i32[t + 2]!;
      if ((entry & want) === want) {
        f64[this.counters + COUNT_GPA_CACHE_HITS]!++;
        return (entry & ~PAGE_MASK) >>> 0;
      }
    }
    const u = tlb.leafGIndex(s, lo, hi);
    if (i32[u] === leafTag(lo, hi) && i32[u + 1] === s.key && i32[u + 3] === hi >>> 21) {
      const p = (i32[u + 2]! + ((lo >>> 9) & 0xff8)) >>> 2;
      const pte = i32[p]!;
      const frame = (pte >>> 10) - RAM_PFN_BASE;
      if (
        (pte & want) === want &&
        (pte & (PTE_R | PTE_W)) !== PTE_W &&
        i32[p + 1] === 0 &&
        frame >= 0 &&
        frame < this.nrPages
      ) {
        f64[this.counters + COUNT_WALK_CACHE_HITS]!++;
        f64[this.counters + COUNT_WALK_STEPS]!++;
        const offset = RAM_OFFSET + frame * PAGE_SIZE;
        i32[t] = page;
        i32[t + 1] = s.key;
        i32[t + 2] = offset | (pte & 0xff);
        i32[t + 3] = hi >>> 12;
        return offset;
      }
    }

    if (!this.walkTable(c, s, lo, hi, need, false, implicit)) {
      if (this.fault === FAULT_GUEST_PAGE) {
        this.faultGpaLo = lo;
        this.faultGpaHi = hi;
      }
      return WALK_FAULT;
    }
    const offset = this.frameOf(this.ppn);
    if (offset < 0) return offset;
    tlb.fillGpa(s, lo, hi, offset, this.leafLo);
    if (this.leafLevel > 0) s.superpages.add(this.leafLevel, lo, hi);
    return offset;
  }

  /**
   * Steps 1 to 8 of Priv 12.3.2 for one stage: the G-stage of `s`, or the first stage of `c` where `s`
   * is undefined. Leaves the page in `ppn`, the leaf in `leafLo` and `leafLevel`.
   *
   * @returns false after a fault (all but faultGpa* are set; guestPhysical() adds those)
   */
  private walkTable(
    c: Context,
    s: GSpace | undefined,
    lo: number,
    hi: number,
    need: Need,
    fetch: boolean,
    implicit: boolean,
  ): boolean {
    const i32 = this.i32;
    const gStage = s !== undefined;
    const levels = gStage ? s.levels : c.levels;
    // A first stage whose tables are themselves guest physical.
    const nested = gStage ? undefined : c.space;
    const pageFault = gStage ? FAULT_GUEST_PAGE : FAULT_PAGE;

    // Addresses must be sign-extended; guest physical ones zero-extended from two more bits.
    if (gStage ? notCanonicalX4(levels, hi) : notCanonical(levels, hi))
      return this.refuse(pageFault);

    let uMask = PTE_U;
    let uWant = PTE_U;
    if (!gStage) {
      uMask = fetch ? PTE_U : c.uMask;
      uWant = c.uWant;
    }
    const mxr =
      need === PTE_R && !implicit && (c.flags & (gStage ? CTX_MXR : CTX_MXR | CTX_VMXR)) !== 0;
    const adue = (c.flags & (gStage ? CTX_ADUE2 : CTX_ADUE1)) !== 0;
    const update = need === PTE_W ? PTE_A | PTE_D : PTE_A;

    let tablePpn = gStage ? s.rootPpn : c.ppn;
    let level = levels - 1;
    let index = gStage ? rootIndexX4(level, lo, hi) : vpn(level, lo, hi);
    for (;;) {
      // Step 2: where the entry is. 16 KiB roots: the index reaches into four pages.
      const pageOffset = this.tablePage(c, nested, tablePpn, index, PTE_R);
      if (pageOffset < 0) return false;
      const p = (pageOffset + (index & 0x1ff) * PTE_BYTES) >>> 2;
      const pteLo = i32[p]!;
      const pteHi = i32[p + 1]!;
      this.f64[this.counters + COUNT_WALK_STEPS]!++;

      const verdict = judgeEntry(pteLo, pteHi, level, uMask, uWant, need, mxr, update);
      if (verdict === ENTRY_FAULT) return this.refuse(pageFault);
      if (verdict === ENTRY_POINTER) {
        tablePpn = ptePpn(pteLo, pteHi);
        level--;
        index = vpn(level, lo, hi);
        continue;
      }
      // Step 7: A and D, in the entry itself and not in a cached one.
      if (verdict === ENTRY_UPDATE) {
        if (!adue) return this.refuse(pageFault);
        const page = this.tablePage(c, nested, tablePpn, index, PTE_W);
        if (page < 0) return false;
        const q = (page + (index & 0x1ff) * PTE_BYTES) >>> 2;
        // The G-stage's own updates may have hit this very entry: back to step 2.
        if (i32[q] !== pteLo || i32[q + 1] !== pteHi) continue;
        i32[q] = pteLo | update;
        this.memory.wrote(q * 4, PTE_BYTES);
        this.f64[this.counters + COUNT_AD_UPDATES]!++;
      }
      // Step 8. Pages below a superpage are numbered by the address.
      if (level === 0) {
        if (gStage) this.tlb.fillLeafG(s, lo, hi, pageOffset);
        else this.tlb.fillLeaf1(c, lo, hi, pageOffset);
      }
      this.ppn = ptePpn(pteLo, pteHi) + pageInLeaf(level, lo, hi);
      this.leafLo = pteLo | update;
      this.leafLevel = level;
      return true;
    }
  }

  /**
   * Offset of the page of a table that holds the entry `index`, for reading it (PTE_R) or for updating
   * it (PTE_W). Negative after a fault, which is set: a table outside RAM is an access fault.
   */
  private tablePage(
    c: Context,
    nested: GSpace | undefined,
    tablePpn: number,
    index: number,
    need: typeof PTE_R | typeof PTE_W,
  ): number {
    const page = tablePpn + (index >>> 9);
    if (nested === undefined) {
      const offset = this.frameOf(page);
      return offset >= 0 ? offset : this.fail(FAULT_ACCESS);
    }
    const gpaLo = (page * PAGE_SIZE) | ((index & 0x1ff) * PTE_BYTES);
    const offset = this.guestPhysical(c, nested, gpaLo, Math.floor(page / 0x10_0000), need, true);
    if (offset >= 0) return offset;
    if (offset === WALK_NOT_RAM) return this.fail(FAULT_ACCESS);
    if (this.fault === FAULT_GUEST_PAGE)
      this.faultHtinst = need === PTE_W ? HTINST_PTE_WRITE : HTINST_PTE_READ;
    return WALK_FAULT;
  }

  /** Offset of a physical page that is RAM, or WALK_NOT_RAM. */
  private frameOf(ppn: number): number {
    const frame = ppn - RAM_PFN_BASE;
    if (frame >= 0 && frame < this.nrPages) return RAM_OFFSET + frame * PAGE_SIZE;
    this.ppn = ppn;
    return WALK_NOT_RAM;
  }

  private fail(fault: number): number {
    this.fault = fault;
    this.faultGpaLo = 0;
    this.faultGpaHi = 0;
    this.faultHtinst = 0;
    return WALK_FAULT;
  }

  private refuse(fault: number): boolean {
    this.fail(fault);
    return false;
  }
}
