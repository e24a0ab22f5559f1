/**
 * One hart's MMU: what the hart and the host kernel call. Selects contexts, fills the TLB after a
 * miss, turns the walker's faults into causes, and carries out the fences. Privileged ISA 1.13,
 * chapters 12.2.1 (SFENCE.VMA), 15.3.2 (HFENCE) and 15.5.3.
 */
import {
  CODE_FLAGS,
  FRAME_POISONED,
  HART_BASE,
  HART_DATA_HASH,
  HART_DATA_KEY,
  HART_FETCH_HASH,
  HART_FETCH_KEY,
  HART_STRIDE,
  PAGE_MASK,
  PAGE_SHIFT,
  PAGE_SIZE,
  RAM_BASE,
  RAM_OFFSET,
  WRITTEN_FLAGS,
} from '../layout.ts';
import type { PhysMemory } from '../memory.ts';
import { PTE_R, PTE_W, PTE_X } from '../pte.ts';
import {
  CTX_ADUE1,
  CTX_ADUE2,
  CTX_MXR,
  CTX_SUM,
  CTX_USER,
  CTX_VIRT,
  CTX_VMXR,
  type Context,
  type ContextKey,
  ContextTable,
  type ContextTableState,
  KEY_SHIFT,
} from './context.ts';
import {
  COUNT_ACCESS_FAULTS,
  COUNT_CONTEXT_SWITCHES,
  COUNT_CONTEXTS_CREATED,
  COUNT_CONTEXTS_EVICTED,
  COUNT_FENCES_PAGE,
  COUNT_FENCES_SPACE,
  COUNT_FLUSH_ALL,
  COUNT_FLUSHES,
  COUNT_GUEST_PAGE_FAULTS,
  COUNT_PAGE_FAULTS,
  COUNT_ROLLOVERS,
  COUNT_TLB_MISS_EXEC,
  COUNT_TLB_MISS_READ,
  COUNT_TLB_MISS_WRITE,
  counterBase,
  type MmuCounts,
  readMmuCounts,
} from './counters.ts';
import { createTranslationRegs, PRIV_M, PRIV_U, type TranslationRegs } from './regs.ts';
import { TAG_PAGE_MASK, TLB_INDEX_MASK, Tlb } from './tlb.ts';
import type { Need } from './steps.ts';
import { FAULT_ACCESS, FAULT_PAGE, WALK_NOT_RAM, Walker } from './walk.ts';

/** Kinds of access. For guestAccessSlow(), ACCESS_EXEC is what HLVX does: a load by execute permission. */
export const ACCESS_READ = 0;
export const ACCESS_WRITE = 1;
export const ACCESS_EXEC = 2;
export type Access = typeof ACCESS_READ | typeof ACCESS_WRITE | typeof ACCESS_EXEC;

/** The translation raised an exception: Mmu.fault* say which. */
export const MMU_FAULT = -1;
/** Translated, but not RAM: Mmu.pa is the physical address. */
export const MMU_MMIO = -2;

/** Mmu.lastOffset where the address is not RAM; no offset of RAM is 2^32 - 1. */
const NOT_RAM = -1;

/** Exception codes (Priv 15.6.1), by access: read, write, execute. */
const ACCESS_FAULT_CAUSE = [5, 7, 1] as const;
const PAGE_FAULT_CAUSE = [13, 15, 12] as const;
const GUEST_PAGE_FAULT_CAUSE = [21, 23, 20] as const;

/** What a saved machine keeps of an MMU; the arrays and the counters are saved with the memory. */
export interface MmuState {
  regs: TranslationRegs;
  table: ContextTableState;
  dataContext: number;
  fetchContext: number;
  /** What `pa` says. */
  lastOffset: number;
  mmioPa: number;
}

export class Mmu {
  readonly memory: PhysMemory;
  readonly hartIndex: number;
  /** Written by the hart before contextChanged(). */
  readonly regs: TranslationRegs;
  /** After MMU_FAULT: exception code 1, 5, 7, 12, 13, 15, 20, 21 or 23. */
  faultCause: number;
  /** After MMU_FAULT: the virtual address that was given. */
  faultTvalLo: number;
  faultTvalHi: number;
  /** After MMU_FAULT: true where tval is a guest virtual address (hstatus.GVA, mstatus.GVA). */
  faultGuestVa: boolean;
  /** After a guest-page fault: the guest physical address (htval is its upper 62 bits), else 0. */
  faultGpaLo: number;
  faultGpaHi: number;
  /** After MMU_FAULT: pseudo-instruction 0x3000 or 0x3020 for an implicit access, else 0. */
  faultHtinst: number;

  /** What the last slow path found, as an int32: an address above 2^31 would be a number on the heap. */
  private lastOffset: number;
  private mmioPa: number;
  private readonly i32: Int32Array;
  /** Word indexes of the READ and WRITE arrays. */
  private readonly readBase: number;
  private readonly writeBase: number;
  private readonly u8: Uint8Array;
  private readonly f64: Float64Array;
  private readonly counters: number;
  private readonly hartBlock: number;
  private readonly tlb: Tlb;
  private readonly table: ContextTable;
  private readonly walker: Walker;
  /** The selected contexts; of loads and stores, the key in its place in a tag, and the hash in words of the arrays. */
  private dataContext: Context;
  private fetchContext: Context;
  private dataKey: number;
  private dataIndex: number;
  /** Last context of each (V, user) for loads and stores, and for fetches: trap and return find it here. */
  private readonly dataMemo: Context[];
  private readonly fetchMemo: Context[];
  /** Scratch of contextFor(). */
  private readonly wanted: ContextKey;

  constructor(memory: PhysMemory, hartIndex: number) {
    this.memory = memory;
    this.hartIndex = hartIndex;
    this.regs = createTranslationRegs();
    this.faultCause = 0;
    this.faultTvalLo = 0;
    this.faultTvalHi = 0;
    this.faultGuestVa = false;
    this.faultGpaLo = 0;
    this.faultGpaHi = 0;
    this.faultHtinst = 0;
    this.lastOffset = NOT_RAM;
    this.mmioPa = 0;
    this.i32 = memory.i32;
    this.u8 = memory.u8;
    this.f64 = memory.f64;
    this.counters = counterBase(hartIndex);
    this.hartBlock = (HART_BASE + hartIndex * HART_STRIDE) >>> 2;
    this.tlb = new Tlb(memory, hartIndex);
    this.readBase = this.tlb.readBase;
    this.writeBase = this.tlb.writeBase;
    this.table = new ContextTable({
      keysRolledOver: () => {
        this.tlb.clearKeyed();
        this.count(COUNT_ROLLOVERS);
      },
      spaceKeysRolledOver: () => {
        this.tlb.clearSpaces();
        this.count(COUNT_ROLLOVERS);
      },
      contextCreated: () => this.count(COUNT_CONTEXTS_CREATED),
      contextEvicted: () => this.count(COUNT_CONTEXTS_EVICTED),
    });
    this.walker = new Walker(memory, this.tlb, this.counters);
    const bare = this.table.bare;
    this.dataContext = bare;
    this.fetchContext = bare;
    this.dataKey = 0;
    this.dataIndex = 0;
    this.dataMemo = [bare, bare, bare, bare];
    this.fetchMemo = [bare, bare, bare, bare];
    this.wanted = { flags: 0, atp: 0, ppn: 0, gatp: 0, gppn: 0 };
    this.publish();
    memory.onDropEntries((page, nrPages, reads) => this.tlb.dropEntries(page, nrPages, reads));
  }

  /** After a slow path that did not fault: the physical address. */
  get pa(): number {
    if (this.lastOffset === NOT_RAM) return this.mmioPa;
    return (this.lastOffset >>> 0) - RAM_OFFSET + RAM_BASE;
  }

  /** The guest physical address as a number (exact below 2^53). */
  get faultGpa(): number {
    return (this.faultGpaHi >>> 0) * 2 ** 32 + (this.faultGpaLo >>> 0);
  }

  /** Counters by name. */
  counts(): MmuCounts {
    return readMmuCounts(this.memory, this.hartIndex);
  }

  /**
   * Slow paths, after a TLB miss. The bytes accessed must lie within one page.
   * Return a byte offset into the memory, MMU_FAULT or MMU_MMIO; enter what was found into the TLB.
   */
  readSlow(vaLo: number, vaHi: number): number {
    this.f64[this.counters + COUNT_TLB_MISS_READ]!++;
    const c = this.dataContext;
    const page = this.walker.translate(c, vaLo, vaHi, PTE_R, false);
    if (page < 0) return this.noRam(page, c, vaLo, vaHi, ACCESS_READ);
    if (this.mayCache(page)) this.tlb.fill(this.tlb.readBase, c, vaLo, vaHi, page);
    if (this.walker.level > 0) c.superpages.add(this.walker.level, vaLo, vaHi);
    return this.found(page + (vaLo & PAGE_MASK));
  }

  /** For a frame that CODE_FLAGS names: the offset, but no write entry; the writer calls memory.wrote(). */
  writeSlow(vaLo: number, vaHi: number): number {
    this.f64[this.counters + COUNT_TLB_MISS_WRITE]!++;
    const c = this.dataContext;
    const page = this.walker.translate(c, vaLo, vaHi, PTE_W, false);
    if (page < 0) return this.noRam(page, c, vaLo, vaHi, ACCESS_WRITE);
    const frame = (page - RAM_OFFSET) >>> PAGE_SHIFT;
    this.u8[WRITTEN_FLAGS + frame] = 1;
    const flags = this.u8[CODE_FLAGS + frame]!;
    // Whatever may be written may be read: W without R is reserved, in both stages.
    if (flags < FRAME_POISONED) this.tlb.fill(this.tlb.readBase, c, vaLo, vaHi, page);
    if (flags === 0) this.tlb.fill(this.tlb.writeBase, c, vaLo, vaHi, page);
    if (this.walker.level > 0) c.superpages.add(this.walker.level, vaLo, vaHi);
    return this.found(page + (vaLo & PAGE_MASK));
  }

  fetchSlow(vaLo: number, vaHi: number): number {
    this.f64[this.counters + COUNT_TLB_MISS_EXEC]!++;
    const c = this.fetchContext;
    const page = this.walker.translate(c, vaLo, vaHi, PTE_X, true);
    if (page < 0) return this.noRam(page, c, vaLo, vaHi, ACCESS_EXEC);
    if (this.mayCache(page)) this.tlb.fill(this.tlb.execBase, c, vaLo, vaHi, page);
    if (this.walker.level > 0) c.superpages.add(this.walker.level, vaLo, vaHi);
    return this.found(page + (vaLo & PAGE_MASK));
  }

  /** HLV, HSV, HLVX (ACCESS_EXEC): as if V=1 with privilege hstatus.SPVP. Leaves the TLB arrays alone. */
  guestAccessSlow(vaLo: number, vaHi: number, access: Access): number {
    const c = this.contextFor(this.dataMemo, true, this.regs.spvp === PRIV_U, false);
    if (this.table.use(c)) this.publish();
    const need: Need = access === ACCESS_READ ? PTE_R : access === ACCESS_WRITE ? PTE_W : PTE_X;
    const page = this.walker.translate(c, vaLo, vaHi, need, false);
    // HLVX is a load in all but the permission that it needs (Priv 15.3.1).
    const reported = access === ACCESS_EXEC ? ACCESS_READ : access;
    if (page < 0) return this.noRam(page, c, vaLo, vaHi, reported);
    if (access === ACCESS_WRITE) this.u8[WRITTEN_FLAGS + ((page - RAM_OFFSET) >>> PAGE_SHIFT)] = 1;
    return this.found(page + (vaLo & PAGE_MASK));
  }

  /**
   * Where a load of `sizeBytes` (1, 2, 4, 8) by the current context finds its bytes: the TLB hit, else
   * readSlow(). A misaligned one always takes the slow path and must not cross a page. The arrays are
   * aligned to their size, so an index is or-ed to their base.
   */
  loadOffset(vaLo: number, vaHi: number, sizeBytes: number): number {
    const i32 = this.i32;
    const t = this.readBase | (((vaLo >>> 10) ^ this.dataIndex) & (TLB_INDEX_MASK << 2));
    const tag = (vaLo & (TAG_PAGE_MASK | (sizeBytes - 1))) | this.dataKey;
    if (i32[t] === tag && i32[t | 1] === vaHi) return (vaLo + i32[t | 2]!) >>> 0;
    return this.readSlow(vaLo, vaHi);
  }

  storeOffset(vaLo: number, vaHi: number, sizeBytes: number): number {
    const i32 = this.i32;
    const t = this.writeBase | (((vaLo >>> 10) ^ this.dataIndex) & (TLB_INDEX_MASK << 2));
    const tag = (vaLo & (TAG_PAGE_MASK | (sizeBytes - 1))) | this.dataKey;
    if (i32[t] === tag && i32[t | 1] === vaHi) return (vaLo + i32[t | 2]!) >>> 0;
    return this.writeSlow(vaLo, vaHi);
  }

  /** To be called after any change of `regs`. Flushes nothing. */
  contextChanged(): void {
    const r = this.regs;
    const fetch =
      r.priv === PRIV_M
        ? this.table.bare
        : this.contextFor(this.fetchMemo, r.virt, r.priv === PRIV_U, true);
    // From here on the table must not evict it to make room for the other one.
    this.table.fetchContext = fetch;
    // MPRV: loads and stores as in MPP and MPV (Priv 3.1.6.3; 15.4.1 for V).
    const priv = r.mprv ? r.mpp : r.priv;
    const virt = r.mprv ? r.mpv : r.virt;
    this.dataContext =
      priv === PRIV_M
        ? this.table.bare
        : this.contextFor(this.dataMemo, virt, priv === PRIV_U, false);
    this.fetchContext = fetch;
    this.publish();
  }

  /** SFENCE.VMA as the hart's current V has it: V=0 the S-stage, V=1 the VS-stage of the current VMID. */
  sfenceVma(vaLo?: number, vaHi?: number, asid?: number): void {
    if (this.regs.virt) this.fence(true, this.regs.hgatpVmid, asid, vaLo, vaHi);
    else this.fence(false, undefined, asid, vaLo, vaHi);
  }

  /** SFENCE.VMA of HS-mode whatever the hart does now: the host kernel's shootdown. */
  hostSfenceVma(hva?: number, asid?: number): void {
    if (hva === undefined) this.fence(false, undefined, asid, undefined, undefined);
    else this.fence(false, undefined, asid, hva | 0, Math.floor(hva / 2 ** 32) | 0);
  }

  /** HFENCE.VVMA: the VS-stage of the VMID in hgatp. */
  hfenceVvma(vaLo?: number, vaHi?: number, asid?: number): void {
    this.fence(true, this.regs.hgatpVmid, asid, vaLo, vaHi);
  }

  /**
   * HFENCE.GVMA. `gpa` is the address itself, not the shifted one of the instruction's rs1.
   * What combines both stages is not found by a gpa and goes; the G-stage caches lose one page.
   */
  hfenceGvma(gpa?: number, vmid?: number): void {
    const table = this.table;
    this.count(gpa !== undefined ? COUNT_FENCES_PAGE : COUNT_FENCES_SPACE);
    if (gpa === undefined && vmid === undefined) this.count(COUNT_FLUSH_ALL);
    for (let i = 1; i < table.count; i++) {
      const c = table.contexts[i] as Context;
      if (c.key !== 0 && c.space !== undefined && (vmid === undefined || c.vmid === vmid))
        this.flushContext(c);
    }
    const lo = gpa === undefined ? 0 : gpa | 0;
    const hi = gpa === undefined ? 0 : Math.floor(gpa / 2 ** 32) | 0;
    for (let i = 0; i < table.spaceCount; i++) {
      const s = table.spaces[i];
      if (s === undefined || s.key === 0 || (vmid !== undefined && s.vmid !== vmid)) continue;
      if (gpa === undefined || s.superpages.mayCover(lo, hi)) {
        table.retireSpace(s);
        this.count(COUNT_FLUSHES);
      } else this.tlb.dropGpa(s, lo, hi);
    }
    this.publish();
  }

  /** Drops everything, by new generations. */
  flushAll(): void {
    const table = this.table;
    this.count(COUNT_FLUSH_ALL);
    for (let i = 0; i < table.count; i++) {
      const c = table.contexts[i] as Context;
      if (c.key !== 0) this.flushContext(c);
    }
    for (let i = 0; i < table.spaceCount; i++) {
      const s = table.spaces[i];
      if (s === undefined || s.key === 0) continue;
      table.retireSpace(s);
      this.count(COUNT_FLUSHES);
    }
    this.publish();
  }

  /** Does any live entry map to this frame? Reads all three arrays. */
  holdsPage(page: number): boolean {
    return this.tlb.holdsPage(page, this.table.live);
  }

  /**
   * The same for many frames at once: writes `stamp` into `stamps`, by page, wherever a live entry
   * maps to. For statistics of shootdowns over a range.
   */
  stampHeldPages(stamps: Int32Array, stamp: number): void {
    this.tlb.stampHeld(stamps, stamp, this.table.live);
  }

  save(): MmuState {
    return {
      regs: { ...this.regs },
      table: this.table.save(),
      dataContext: this.dataContext.index,
      fetchContext: this.fetchContext.index,
      lastOffset: this.lastOffset,
      mmioPa: this.mmioPa,
    };
  }

  /** Goes with the bytes of the TLB region and of the hart block, which the machine restores. */
  restore(state: MmuState): void {
    Object.assign(this.regs, state.regs);
    this.lastOffset = state.lastOffset;
    this.mmioPa = state.mmioPa;
    this.table.restore(state.table);
    const contexts = this.table.contexts;
    this.dataContext = contexts[state.dataContext] ?? this.table.bare;
    this.fetchContext = contexts[state.fetchContext] ?? this.table.bare;
    this.table.dataContext = this.dataContext;
    this.table.fetchContext = this.fetchContext;
    this.dataMemo.fill(this.table.bare);
    this.fetchMemo.fill(this.table.bare);
    this.dataKey = this.dataContext.key << KEY_SHIFT;
    this.dataIndex = this.dataContext.hash << 2;
  }

  /** The context of a mode that translates (if only to itself, with satp Bare). Has perhaps no key yet. */
  private contextFor(memo: Context[], virt: boolean, user: boolean, fetch: boolean): Context {
    const r = this.regs;
    const w = this.wanted;
    let flags = user ? CTX_USER : 0;
    if (virt) {
      flags |= CTX_VIRT;
      // Neither SUM nor MXR changes what may be fetched, so fetches share one context.
      if (!fetch) {
        if (r.vsum && !user) flags |= CTX_SUM;
        if (r.mxr) flags |= CTX_MXR;
        if (r.vmxr) flags |= CTX_VMXR;
      }
      if (r.adueVs) flags |= CTX_ADUE1;
      if (r.adueHs) flags |= CTX_ADUE2;
      w.atp = (r.vsatpMode << 16) | r.vsatpAsid;
      w.ppn = r.vsatpPpn;
      w.gatp = (r.hgatpMode << 16) | r.hgatpVmid;
      w.gppn = r.hgatpPpn;
    } else {
      if (r.satpMode === 0) return this.table.bare;
      if (!fetch) {
        if (r.sum && !user) flags |= CTX_SUM;
        if (r.mxr) flags |= CTX_MXR;
      }
      if (r.adueHs) flags |= CTX_ADUE1;
      w.atp = (r.satpMode << 16) | r.satpAsid;
      w.ppn = r.satpPpn;
      w.gatp = 0;
      w.gppn = 0;
    }
    w.flags = flags;
    const slot = (virt ? 2 : 0) + (user ? 1 : 0);
    const last = memo[slot] as Context;
    if (last.is(w)) return last;
    const c = this.table.intern(w);
    memo[slot] = c;
    return c;
  }

  /** Gives the selected contexts keys and tells the hart block. */
  private publish(): void {
    const table = this.table;
    const data = this.dataContext;
    const fetch = this.fetchContext;
    table.dataContext = data;
    table.fetchContext = fetch;
    table.use(data);
    // A rollover for the second one has taken the first one's key.
    if (table.use(fetch) && data !== fetch) table.use(data);
    const key = data.key << KEY_SHIFT;
    const fetchKey = fetch.key << KEY_SHIFT;
    const i32 = this.i32;
    const block = this.hartBlock;
    if (key !== this.dataKey || i32[block + (HART_FETCH_KEY >>> 2)] !== fetchKey)
      this.f64[this.counters + COUNT_CONTEXT_SWITCHES]!++;
    this.dataKey = key;
    this.dataIndex = data.hash << 2;
    i32[block + (HART_DATA_KEY >>> 2)] = key;
    i32[block + (HART_DATA_HASH >>> 2)] = data.hash;
    i32[block + (HART_FETCH_KEY >>> 2)] = fetchKey;
    i32[block + (HART_FETCH_HASH >>> 2)] = fetch.hash;
  }

  /** A fence of first-stage entries; undefined operands name everything. */
  private fence(
    virt: boolean,
    vmid: number | undefined,
    asid: number | undefined,
    vaLo: number | undefined,
    vaHi: number | undefined,
  ): void {
    const table = this.table;
    const everything = vaLo === undefined && asid === undefined;
    this.count(vaLo !== undefined ? COUNT_FENCES_PAGE : COUNT_FENCES_SPACE);
    if (everything) this.count(COUNT_FLUSH_ALL);
    const hi = vaHi ?? 0;
    let flushed = false;
    for (let i = 1; i < table.count; i++) {
      const c = table.contexts[i] as Context;
      if (c.key === 0 || c.virt !== virt) continue;
      if (vmid !== undefined && c.vmid !== vmid) continue;
      if (asid !== undefined && c.asid !== asid) continue;
      if (vaLo === undefined || c.superpages.mayCover(vaLo, hi)) {
        this.flushContext(c);
        flushed = true;
      } else this.tlb.dropPage(c, vaLo, hi);
    }
    if (flushed) this.publish();
  }

  private flushContext(c: Context): void {
    this.table.retire(c);
    this.count(COUNT_FLUSHES);
  }

  /** May the read and execute arrays hold a page? Not one with bytes whose load fails. */
  private mayCache(page: number): boolean {
    if (!this.memory.hasPoison) return true;
    return this.u8[CODE_FLAGS + ((page - RAM_OFFSET) >>> PAGE_SHIFT)]! < FRAME_POISONED;
  }

  /** Notes the offset for `pa`, and returns it. */
  private found(offset: number): number {
    this.lastOffset = offset | 0;
    return offset;
  }

  private count(slot: number): void {
    this.f64[this.counters + slot]!++;
  }

  /** What a translation that did not end in RAM returns; sets `pa` or the fault. */
  private noRam(status: number, c: Context, lo: number, hi: number, access: Access): number {
    const walker = this.walker;
    if (status === WALK_NOT_RAM) {
      this.lastOffset = NOT_RAM;
      this.mmioPa = walker.ppn * PAGE_SIZE + (lo & PAGE_MASK);
      return MMU_MMIO;
    }
    this.faultTvalLo = lo;
    this.faultTvalHi = hi;
    this.faultGuestVa = c.virt;
    this.faultGpaLo = walker.faultGpaLo;
    this.faultGpaHi = walker.faultGpaHi;
    this.faultHtinst = walker.faultHtinst;
    if (walker.fault === FAULT_ACCESS) {
      this.faultCause = ACCESS_FAULT_CAUSE[access];
      this.count(COUNT_ACCESS_FAULTS);
    } else if (walker.fault === FAULT_PAGE) {
      this.faultCause = PAGE_FAULT_CAUSE[access];
      this.count(COUNT_PAGE_FAULTS);
    } else {
      this.faultCause = GUEST_PAGE_FAULT_CAUSE[access];
      this.count(COUNT_GUEST_PAGE_FAULTS);
    }
    return MMU_FAULT;
  }
}
