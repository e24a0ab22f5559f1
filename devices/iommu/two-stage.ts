/**
 * The IOMMU's table walks: first stage and second stage, by the steps that the hart's MMU takes
 * (emu: judgeEntry()), over tables that are behind a port. Privileged ISA 1.13, 12.3.2 and 15.5.
 *
 * A walk ends with 0, with the cause of a fault, or with DMA_WAIT where the port has to make memory
 * reachable first; the request is then begun again. Nothing of a walk is kept but its result.
 */
import {
  DMA_WAIT,
  type DmaPort,
  ENTRY_FAULT,
  ENTRY_POINTER,
  ENTRY_UPDATE,
  judgeEntry,
  type Need,
  notCanonical,
  notCanonicalX4,
  PAGE_SIZE,
  pageInLeaf,
  type PhysMemory,
  PTE_A,
  PTE_BYTES,
  PTE_D,
  PTE_G,
  PTE_R,
  PTE_U,
  PTE_W,
  PTE_X,
  ptePpn,
  rootIndexX4,
  vpn,
} from '#emu';
import { LEVEL_BARE } from './iotlb.ts';
import {
  accessCauseOf,
  CAUSE_IO_INSTRUCTION_GUEST_PAGE,
  CAUSE_IO_INSTRUCTION_PAGE,
  CAUSE_IO_READ_GUEST_PAGE,
  CAUSE_IO_READ_PAGE,
  CAUSE_IO_WRITE_GUEST_PAGE,
  CAUSE_IO_WRITE_PAGE,
  CAUSE_PT_CORRUPT,
  type DeviceContext,
  type StageRoot,
  TC_GADE,
  TC_SADE,
} from './structures.ts';

/** A cause where a place is expected: below every outcome of a port. */
const CAUSE_BIAS = 16;
/** @param place negative, not DMA_WAIT */
export const causeOf = (place: number): number => -place - CAUSE_BIAS;
const placeOf = (cause: number): number => -cause - CAUSE_BIAS;

/** iotval2 of a guest-page fault: bit 0 an implicit access for the first stage, bit 1 a write. */
export const IOTVAL2_IMPLICIT = 1 << 0;
export const IOTVAL2_WRITE = 1 << 1;

const pageCause = (need: number): number =>
  need === PTE_X
    ? CAUSE_IO_INSTRUCTION_PAGE
    : need === PTE_W
      ? CAUSE_IO_WRITE_PAGE
      : CAUSE_IO_READ_PAGE;
const guestPageCause = (need: number): number =>
  need === PTE_X
    ? CAUSE_IO_INSTRUCTION_GUEST_PAGE
    : need === PTE_W
      ? CAUSE_IO_WRITE_GUEST_PAGE
      : CAUSE_IO_READ_GUEST_PAGE;
const accessCause = (need: number): number => accessCauseOf(need === PTE_W, need === PTE_X);

export class TwoStageWalk {
  /** Results of a stage: page, low word of its leaf, level of the leaf; and G of any entry on the way. */
  ppn: number;
  leaf: number;
  level: number;
  global: boolean;
  /** Of the last guest-page fault: the guest physical address, and IOTVAL2_* in its low bits. */
  iotval2Lo: number;
  iotval2Hi: number;
  /** Walks of tables, of each stage. */
  firstWalks: number;
  secondWalks: number;
  /** Where the last table entry was, in supervisor physical memory. */
  private tableSpa: number;
  readonly i32: Int32Array;
  private readonly memory: PhysMemory;
  private readonly port: DmaPort;
  /** Eight bytes of an entry on their way back. */
  private readonly entry: Uint8Array;
  private readonly entryWords: Int32Array;

  constructor(memory: PhysMemory, port: DmaPort) {
    this.ppn = 0;
    this.leaf = 0;
    this.level = 0;
    this.global = false;
    this.iotval2Lo = 0;
    this.iotval2Hi = 0;
    this.firstWalks = 0;
    this.secondWalks = 0;
    this.tableSpa = 0;
    this.i32 = memory.i32;
    this.memory = memory;
    this.port = port;
    this.entry = new Uint8Array(PTE_BYTES);
    this.entryWords = new Int32Array(this.entry.buffer);
  }

  /**
   * The first stage of one address.
   * @param root not Bare
   * @param supervisor privilege of the transaction; `sum` lets it use pages of the user, but not execute
   * @returns 0 with the results set, the cause of a fault, or DMA_WAIT
   */
  first(
    dc: DeviceContext,
    root: StageRoot,
    lo: number,
    hi: number,
    need: Need,
    supervisor: boolean,
    sum: boolean,
  ): number {
    this.firstWalks++;
    if (notCanonical(root.levels, hi)) return pageCause(need);
    const uMask = supervisor && sum && need !== PTE_X ? 0 : PTE_U;
    const uWant = uMask === 0 || supervisor ? 0 : PTE_U;
    return this.walk(dc, false, root, lo, hi, need, need, uMask, uWant);
  }

  /**
   * The second stage of one guest physical address; the identity where it is Bare.
   * @param need of the access itself; `original` of the transaction that it is made for
   * @param implicit an access to a table of the first stage
   * @returns 0 with ppn, leaf and level set, the cause of a fault, or DMA_WAIT
   */
  second(
    dc: DeviceContext,
    gpaLo: number,
    gpaHi: number,
    need: Need,
    original: Need,
    implicit: boolean,
  ): number {
    const root = dc.second;
    if (root.levels === 0) {
      this.ppn = (gpaHi >>> 0) * 2 ** 20 + (gpaLo >>> 12);
      this.leaf = PTE_R | PTE_W | PTE_X | PTE_A | PTE_D;
      this.level = LEVEL_BARE;
      return 0;
    }
    this.secondWalks++;
    const fault = notCanonicalX4(root.levels, gpaHi)
      ? guestPageCause(original)
      : this.walk(dc, true, root, gpaLo, gpaHi, need, original, PTE_U, PTE_U);
    if (fault === guestPageCause(original)) {
      this.iotval2Hi = gpaHi;
      this.iotval2Lo = gpaLo & ~3;
      if (implicit) this.iotval2Lo |= IOTVAL2_IMPLICIT | (need === PTE_W ? IOTVAL2_WRITE : 0);
    }
    return fault;
  }

  /**
   * Index of the word at a supervisor physical address, in memory.i32.
   * @param corrupt, access causes of a fault where it is poisoned, or not there
   * @returns it; DMA_WAIT; or what causeOf() makes a cause of
   */
  wordAt(spa: number, write: boolean, lenBytes: number, access: number, corrupt: number): number {
    const offset = this.port.translate(spa, write);
    if (offset === DMA_WAIT) return DMA_WAIT;
    if (offset < 0) return placeOf(access);
    return this.memory.isPoisoned(offset, lenBytes) ? placeOf(corrupt) : offset >>> 2;
  }

  private walk(
    dc: DeviceContext,
    gStage: boolean,
    root: StageRoot,
    lo: number,
    hi: number,
    need: Need,
    original: Need,
    uMask: number,
    uWant: number,
  ): number {
    const { i32 } = this;
    const refused = gStage ? guestPageCause(original) : pageCause(original);
    const update = need === PTE_W ? PTE_A | PTE_D : PTE_A;
    const adue = (dc.tc & (gStage ? TC_GADE : TC_SADE)) !== 0;
    let global = false;
    let tablePpn = root.ppn;
    let level = root.levels - 1;
    let index = gStage ? rootIndexX4(level, lo, hi) : vpn(level, lo, hi);
    for (;;) {
      const at = tablePpn * PAGE_SIZE + index * PTE_BYTES;
      const p = gStage
        ? this.tableWord(at, false, original)
        : this.firstWord(dc, at, PTE_R, original);
      if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
      const pteLo = i32[p]!;
      const pteHi = i32[p + 1]!;
      const verdict = judgeEntry(pteLo, pteHi, level, uMask, uWant, need, false, update);
      if (verdict === ENTRY_FAULT) return refused;
      global ||= (pteLo & PTE_G) !== 0;
      if (verdict === ENTRY_POINTER) {
        tablePpn = ptePpn(pteLo, pteHi);
        level--;
        index = vpn(level, lo, hi);
        continue;
      }
      if (verdict === ENTRY_UPDATE) {
        if (!adue) return refused;
        const q = gStage
          ? this.tableWord(at, true, original)
          : this.firstWord(dc, at, PTE_W, original);
        if (q < 0) return q === DMA_WAIT ? DMA_WAIT : causeOf(q);
        // The second stage's own updates may have hit this very entry: look at it again.
        if (i32[q] !== pteLo || i32[q + 1] !== pteHi) continue;
        this.entryWords[0] = pteLo | update;
        this.entryWords[1] = pteHi;
        // Reachable for writing, so this cannot wait; the port tells whoever follows changes.
        this.port.write(this.tableSpa, this.entry, 0, PTE_BYTES);
      }
      this.ppn = ptePpn(pteLo, pteHi) + pageInLeaf(level, lo, hi);
      this.leaf = pteLo | update;
      this.level = level;
      this.global = global;
      return 0;
    }
  }

  private tableWord(spa: number, write: boolean, original: Need): number {
    this.tableSpa = spa;
    return this.wordAt(spa, write, PTE_BYTES, accessCause(original), CAUSE_PT_CORRUPT);
  }

  /** As tableWord() for an entry of the first stage, whose address is guest physical. */
  private firstWord(dc: DeviceContext, gpa: number, need: Need, original: Need): number {
    const spa = this.implicit(dc, gpa, need, original);
    return spa < 0 ? spa : this.tableWord(spa, need === PTE_W, original);
  }

  /**
   * Supervisor physical address of a structure that the first stage needs: a table of its own, or the
   * process directory.
   * @returns it; DMA_WAIT; or what causeOf() makes a cause of
   */
  implicit(dc: DeviceContext, gpa: number, need: Need, original: Need): number {
    if (dc.second.levels === 0) return gpa;
    const fault = this.second(dc, gpa >>> 0, Math.floor(gpa / 2 ** 32) | 0, need, original, true);
    if (fault !== 0) return fault === DMA_WAIT ? DMA_WAIT : placeOf(fault);
    return this.ppn * PAGE_SIZE + (gpa % PAGE_SIZE);
  }
}
