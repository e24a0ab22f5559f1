/** Accesses as a hart makes them: the inline TLB hit over the arrays, then the MMU's slow path. */
import {
  ACCESS_EXEC,
  ACCESS_READ,
  ACCESS_WRITE,
  HART_BASE,
  MMU_FAULT,
  MMU_MMIO,
  type Mmu,
  RAM_BASE,
  RAM_OFFSET,
} from '#emu';
import {
  HART_DATA_HASH,
  HART_DATA_KEY,
  HART_FETCH_HASH,
  HART_FETCH_KEY,
  HART_STRIDE,
  TLB_BASE,
  TLB_EXEC,
  TLB_READ,
  TLB_STRIDE,
  TLB_WRITE,
} from '../../emu/layout.ts';
import type { PlainAccess, PlainResult } from './plain-walker.ts';

/** The hit check of the TLB's format (emu/mmu/tlb.ts): offset, or undefined. */
const hit = (
  mmu: Mmu,
  array: number,
  key: number,
  hash: number,
  lo: number,
  hi: number,
  sizeBytes: number,
): number | undefined => {
  const i32 = mmu.memory.i32;
  const block = (HART_BASE + mmu.hartIndex * HART_STRIDE) >>> 2;
  const base = (TLB_BASE + mmu.hartIndex * TLB_STRIDE + array) >>> 2;
  const t = base + (((lo >>> 12) ^ i32[block + (hash >>> 2)]!) & 4095) * 4;
  const tag = (lo & (0xfffff000 | (sizeBytes - 1))) | i32[block + (key >>> 2)]!;
  if (tag !== i32[t] || hi !== i32[t + 1]) return undefined;
  return (lo + i32[t + 2]!) >>> 0;
};

/** Offset, MMU_FAULT or MMU_MMIO of an access that does not cross a page. */
export const accessOffset = (
  mmu: Mmu,
  va: bigint,
  access: PlainAccess,
  sizeBytes: number,
): number => {
  const lo = Number(BigInt.asIntN(32, va));
  const hi = Number(BigInt.asIntN(32, va >> 32n));
  switch (access) {
    case 'load':
      return (
        hit(mmu, TLB_READ, HART_DATA_KEY, HART_DATA_HASH, lo, hi, sizeBytes) ?? mmu.readSlow(lo, hi)
      );
    case 'store':
      return (
        hit(mmu, TLB_WRITE, HART_DATA_KEY, HART_DATA_HASH, lo, hi, sizeBytes) ??
        mmu.writeSlow(lo, hi)
      );
    case 'fetch':
      return (
        hit(mmu, TLB_EXEC, HART_FETCH_KEY, HART_FETCH_HASH, lo, hi, sizeBytes) ??
        mmu.fetchSlow(lo, hi)
      );
    case 'hlv':
      return mmu.guestAccessSlow(lo, hi, ACCESS_READ);
    case 'hsv':
      return mmu.guestAccessSlow(lo, hi, ACCESS_WRITE);
    case 'hlvx':
      return mmu.guestAccessSlow(lo, hi, ACCESS_EXEC);
  }
};

/** The same in the terms of the plain walker. */
export const accessResult = (
  mmu: Mmu,
  va: bigint,
  access: PlainAccess,
  sizeBytes: number,
): PlainResult => {
  const offset = accessOffset(mmu, va, access, sizeBytes);
  if (offset === MMU_MMIO) return { kind: 'ok', pa: BigInt(mmu.pa) };
  if (offset !== MMU_FAULT) return { kind: 'ok', pa: BigInt(offset - RAM_OFFSET + RAM_BASE) };
  const unsigned = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  return {
    kind: 'fault',
    cause: mmu.faultCause,
    tval: unsigned(mmu.faultTvalLo, mmu.faultTvalHi),
    gva: mmu.faultGuestVa,
    gpa: unsigned(mmu.faultGpaLo, mmu.faultGpaHi),
    htinst: mmu.faultHtinst,
  };
};

/** One line for a comparison that fails. */
export const show = (r: PlainResult): string =>
  r.kind === 'ok'
    ? `pa 0x${r.pa.toString(16)}`
    : `cause ${r.cause} tval 0x${r.tval.toString(16)} gva ${r.gva} gpa 0x${r.gpa.toString(16)} htinst 0x${r.htinst.toString(16)}`;
