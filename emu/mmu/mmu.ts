/** One hart's MMU: TLB, contexts, walker and fences behind one class. Signatures first. */
import type { PhysMemory } from '../memory.ts';
import { type MmuCounts, readMmuCounts } from './counters.ts';
import { createTranslationRegs, type TranslationRegs } from './regs.ts';

/** Kinds of access. For guestAccessSlow(), ACCESS_EXEC is what HLVX does: a load by execute permission. */
export const ACCESS_READ = 0;
export const ACCESS_WRITE = 1;
export const ACCESS_EXEC = 2;
export type Access = typeof ACCESS_READ | typeof ACCESS_WRITE | typeof ACCESS_EXEC;

/** The translation raised an exception: Mmu.fault* say which. */
export const MMU_FAULT = -1;
/** Translated, but not RAM: Mmu.pa is the physical address. */
export const MMU_MMIO = -2;

/** What a saved machine keeps of an MMU; the arrays are saved with the memory. */
export interface MmuState {
  regs: TranslationRegs;
  contexts: Int32Array;
  spaces: Int32Array;
}

const later = (): never => {
  throw new Error('mmu: not linked');
};

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
  /** After a slow path that did not fault: the physical address. */
  pa: number;

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
    this.pa = 0;
  }

  /** The same as a number (exact below 2^53). */
  get faultGpa(): number {
    return (this.faultGpaHi >>> 0) * 2 ** 32 + (this.faultGpaLo >>> 0);
  }

  /** Counters by name. */
  counts(): MmuCounts {
    return readMmuCounts(this.memory, this.hartIndex);
  }

  /**
   * Slow paths, after a TLB miss. `size` bytes at the address must lie within one page.
   * Return a byte offset into the memory, MMU_FAULT or MMU_MMIO.
   */
  readSlow(_vaLo: number, _vaHi: number): number {
    return later();
  }

  /** For a frame that holds decoded instructions: the offset, but no TLB entry; the writer calls memory.wrote(). */
  writeSlow(_vaLo: number, _vaHi: number): number {
    return later();
  }

  fetchSlow(_vaLo: number, _vaHi: number): number {
    return later();
  }

  /** HLV, HSV, HLVX (ACCESS_EXEC): as if V=1 with privilege hstatus.SPVP. */
  guestAccessSlow(_vaLo: number, _vaHi: number, _access: Access): number {
    return later();
  }

  /** Load of `sizeBytes` (1, 2, 4, 8) as data of the current context: hit inline, then readSlow(). */
  loadOffset(_vaLo: number, _vaHi: number, _sizeBytes: number): number {
    return later();
  }

  storeOffset(_vaLo: number, _vaHi: number, _sizeBytes: number): number {
    return later();
  }

  /** To be called after any change of `regs`. Flushes nothing. */
  contextChanged(): void {
    later();
  }

  /** SFENCE.VMA as the hart's current V has it: V=0 the S-stage, V=1 the VS-stage of the current VMID. */
  sfenceVma(_vaLo?: number, _vaHi?: number, _asid?: number): void {
    later();
  }

  /** SFENCE.VMA of HS-mode whatever the hart does now: the host kernel's shootdown. */
  hostSfenceVma(_hva?: number, _asid?: number): void {
    later();
  }

  /** HFENCE.VVMA: the VS-stage of the VMID in hgatp. */
  hfenceVvma(_vaLo?: number, _vaHi?: number, _asid?: number): void {
    later();
  }

  /** HFENCE.GVMA. `gpa` is the address itself, not the shifted one of the instruction's rs1. */
  hfenceGvma(_gpa?: number, _vmid?: number): void {
    later();
  }

  /** Drops everything, by new generations. */
  flushAll(): void {
    later();
  }

  /** A frame gets decoded instructions: no write entry may reach it any more. */
  dropWriteEntries(_page: number): void {
    later();
  }

  /** Does any live entry map to this frame? */
  holdsPage(_page: number): boolean {
    return later();
  }

  save(): MmuState {
    return later();
  }

  restore(_state: MmuState): void {
    later();
  }
}
