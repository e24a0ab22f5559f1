/**
 * A host process: an address space whose loads and stores go through an emulated MMU in U-mode.
 *
 * So TLB entries, A and D bits and shootdowns are real. A page fault is handled by mm/fault/ and the
 * access tried again; what a real process would get as a signal is a negative errno. Every access
 * comes as a path, for actors that are stepped, and as a plain call that is driven through.
 */
import { MMU_FAULT, type Mmu, PAGE_SIZE, PRIV_U, RAM_PFN_BASE } from '#emu';
import { EFAULT, EINVAL } from './errno.ts';
import { FAULT_FLAG_USER, FAULT_FLAG_WRITE, userFault } from './fault/fault.ts';
import { drive, type Path } from './path.ts';
import type { Kernel, MmStruct } from './types.ts';

/** Exception codes of load and store page faults (Priv 15.6.1). */
const CAUSE_LOAD_PAGE_FAULT = 13;
const CAUSE_STORE_PAGE_FAULT = 15;
const TWO_32 = 2 ** 32;

export class HostProcess {
  readonly k: Kernel;
  readonly mm: MmStruct;
  /** The MMU of the hart it runs on; several processes may share one, in turns. */
  readonly mmu: Mmu;

  constructor(k: Kernel, mm: MmStruct, mmu: Mmu) {
    this.k = k;
    this.mm = mm;
    this.mmu = mmu;
  }

  /** Puts the hart into U-mode with satp on this address space. Flushes nothing. */
  activate(): void {
    const { k, mm } = this;
    const { regs } = this.mmu;
    const ppn = mm.pgd + RAM_PFN_BASE;
    if (regs.satpPpn === ppn && regs.satpAsid === mm.asid && regs.priv === PRIV_U && !regs.virt)
      return;
    regs.priv = PRIV_U;
    regs.virt = false;
    regs.mprv = false;
    regs.satpMode = k.satpMode;
    regs.satpAsid = mm.asid;
    regs.satpPpn = ppn;
    regs.adueHs = true;
    this.mmu.contextChanged();
  }

  /** Offset in the machine's memory, without handling a fault; negative: MMU_FAULT, MMU_MMIO. */
  private tryOffset(hva: number, sizeBytes: number, write: boolean): number {
    this.activate();
    const hi = Math.floor(hva / TWO_32);
    return write
      ? this.mmu.storeOffset(hva | 0, hi, sizeBytes)
      : this.mmu.loadOffset(hva | 0, hi, sizeBytes);
  }

  /**
   * The same, with faults handled. To be used before the next yield.
   * @returns the offset, or -EFAULT, -ENOMEM
   */
  private *offset(hva: number, sizeBytes: number, write: boolean): Path<number> {
    for (;;) {
      const offset = this.tryOffset(hva, sizeBytes, write);
      if (offset >= 0) return offset;
      if (offset !== MMU_FAULT) return -EFAULT;
      const cause = this.mmu.faultCause;
      if (cause !== CAUSE_LOAD_PAGE_FAULT && cause !== CAUSE_STORE_PAGE_FAULT) return -EFAULT;
      const flags = FAULT_FLAG_USER | (write ? FAULT_FLAG_WRITE : 0);
      const error = yield* userFault(this.k, this.mm, hva, flags);
      if (error !== 0) return error;
    }
  }

  /**
   * Loads 1, 2 or 4 bytes, naturally aligned.
   * @returns the unsigned value, or a negative errno
   */
  *loadPath(hva: number, sizeBytes: number): Path<number> {
    if (hva % sizeBytes !== 0) return -EINVAL;
    const offset = yield* this.offset(hva, sizeBytes, false);
    return offset < 0 ? offset : this.peek(offset, sizeBytes);
  }

  /** Stores 1, 2 or 4 bytes, naturally aligned. @returns 0 or a negative errno */
  *storePath(hva: number, sizeBytes: number, value: number): Path<number> {
    if (hva % sizeBytes !== 0) return -EINVAL;
    const offset = yield* this.offset(hva, sizeBytes, true);
    if (offset < 0) return offset;
    this.poke(offset, sizeBytes, value);
    return 0;
  }

  /** Writes bytes into the process's memory. @returns 0, or a negative errno after a part of it */
  *copyInPath(hva: number, bytes: Uint8Array): Path<number> {
    const { memory } = this.k;
    for (let done = 0; done < bytes.length; ) {
      const n = Math.min(bytes.length - done, PAGE_SIZE - ((hva + done) % PAGE_SIZE));
      const offset = yield* this.offset(hva + done, 1, true);
      if (offset < 0) return offset;
      memory.setBytes(offset, bytes.subarray(done, done + n));
      done += n;
    }
    return 0;
  }

  /** Reads bytes of the process's memory into `bytes`. @returns 0, or a negative errno after a part of it */
  *copyOutPath(hva: number, bytes: Uint8Array): Path<number> {
    const { u8 } = this.k.memory;
    for (let done = 0; done < bytes.length; ) {
      const n = Math.min(bytes.length - done, PAGE_SIZE - ((hva + done) % PAGE_SIZE));
      const offset = yield* this.offset(hva + done, 1, false);
      if (offset < 0) return offset;
      bytes.set(u8.subarray(offset, offset + n), done);
      done += n;
    }
    return 0;
  }

  load8(hva: number): number {
    return this.load(hva, 1);
  }

  load32(hva: number): number {
    return this.load(hva, 4);
  }

  /** 8 bytes, naturally aligned; a negative errno as a bigint. */
  load64(hva: number): bigint {
    if (hva % 8 !== 0) return BigInt(-EINVAL);
    const bytes = new Uint8Array(8);
    const error = this.copyOut(hva, bytes);
    if (error !== 0) return BigInt(error);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  store8(hva: number, value: number): number {
    return this.store(hva, 1, value);
  }

  store32(hva: number, value: number): number {
    return this.store(hva, 4, value);
  }

  store64(hva: number, value: bigint): number {
    if (hva % 8 !== 0) return -EINVAL;
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
    return this.copyIn(hva, bytes);
  }

  copyIn(hva: number, bytes: Uint8Array): number {
    return drive(this.copyInPath(hva, bytes));
  }

  copyOut(hva: number, bytes: Uint8Array): number {
    return drive(this.copyOutPath(hva, bytes));
  }

  private load(hva: number, sizeBytes: number): number {
    if (hva % sizeBytes !== 0) return -EINVAL;
    const offset = this.tryOffset(hva, sizeBytes, false);
    if (offset >= 0) return this.peek(offset, sizeBytes);
    return drive(this.loadPath(hva, sizeBytes));
  }

  private store(hva: number, sizeBytes: number, value: number): number {
    if (hva % sizeBytes !== 0) return -EINVAL;
    const offset = this.tryOffset(hva, sizeBytes, true);
    if (offset < 0) return drive(this.storePath(hva, sizeBytes, value));
    this.poke(offset, sizeBytes, value);
    return 0;
  }

  private peek(offset: number, sizeBytes: number): number {
    const { u8, u16, i32 } = this.k.memory;
    if (sizeBytes === 1) return u8[offset]!;
    if (sizeBytes === 2) return u16[offset >>> 1]!;
    return i32[offset >>> 2]! >>> 0;
  }

  private poke(offset: number, sizeBytes: number, value: number): void {
    const { memory } = this.k;
    if (sizeBytes === 1) memory.u8[offset] = value;
    else if (sizeBytes === 2) memory.u16[offset >>> 1] = value;
    else memory.i32[offset >>> 2] = value;
    memory.wrote(offset, sizeBytes);
  }
}
