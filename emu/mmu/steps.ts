/**
 * The steps of a table walk that every walker takes: the hart's MMU and the IOMMU. Which entry of a table
 * an address selects, and what an entry means (Priv 12.3.2, steps 2 to 7). A walker itself is a loop
 * around them: it knows where its tables are and what it keeps of them.
 */
import {
  PTE_A,
  PTE_D,
  type PTE_R,
  PTE_U,
  PTE_V,
  type PTE_W,
  PTE_X,
  pteLeaf,
  ptePpn,
  pteReserved,
} from '../pte.ts';

/** What a translation needs of a leaf: PTE_R, PTE_W or PTE_X. */
export type Need = typeof PTE_R | typeof PTE_W | typeof PTE_X;

/* What judgeEntry() says. */
export const ENTRY_FAULT = 0;
/** Points to the table of the next level. */
export const ENTRY_POINTER = 1;
/** A leaf that may be used as it is. */
export const ENTRY_LEAF = 2;
/** One that may be used when A (and D, for a store) has been set in it. */
export const ENTRY_UPDATE = 3;

/**
 * Steps 3 to 7 for one entry.
 * @param uMask PTE_U where it matters whether the page is the user's, and `uWant` what it has to be
 * @param mxr a load may use an executable page
 * @param update PTE_A, or PTE_A | PTE_D for a store
 */
export const judgeEntry = (
  lo: number,
  hi: number,
  level: number,
  uMask: number,
  uWant: number,
  need: number,
  mxr: boolean,
  update: number,
): number => {
  // Step 3.
  if ((lo & PTE_V) === 0 || pteReserved(lo, hi)) return ENTRY_FAULT;
  // Step 4: a pointer. D, A and U are reserved in it.
  if (!pteLeaf(lo))
    return (lo & (PTE_D | PTE_A | PTE_U)) !== 0 || level === 0 ? ENTRY_FAULT : ENTRY_POINTER;
  // Step 5: permission.
  if ((lo & uMask) !== uWant) return ENTRY_FAULT;
  if ((lo & need) === 0 && !(mxr && (lo & PTE_X) !== 0)) return ENTRY_FAULT;
  // Step 6: alignment.
  if (level > 0 && ptePpn(lo, hi) % 2 ** (9 * level) !== 0) return ENTRY_FAULT;
  // Step 7: A and D.
  return (lo & update) === update ? ENTRY_LEAF : ENTRY_UPDATE;
};

/** The address is not sign-extended from what so many levels translate. */
export const notCanonical = (levels: number, hi: number): boolean => {
  const high = hi >> (9 * levels - 21);
  return high !== 0 && high !== -1;
};

/** The same of an x4 form: not zero-extended from two more bits. */
export const notCanonicalX4 = (levels: number, hi: number): boolean =>
  hi >>> (9 * levels - 18) !== 0;

/** Index into a table at `level`: 9 bits. */
export const vpn = (level: number, lo: number, hi: number): number => {
  switch (level) {
    case 0:
      return (lo >>> 12) & 0x1ff;
    case 1:
      return (lo >>> 21) & 0x1ff;
    case 2:
      return ((lo >>> 30) | (hi << 2)) & 0x1ff;
    default:
      return (hi >>> (9 * level - 20)) & 0x1ff;
  }
};

/** Index into a 16 KiB root of an x4 form: 11 bits. */
export const rootIndexX4 = (level: number, lo: number, hi: number): number =>
  level === 2 ? ((lo >>> 30) | (hi << 2)) & 0x7ff : (hi >>> (9 * level - 20)) & 0x7ff;

/** Page within a leaf of `level`, by the low bits of the address's page number. */
export const pageInLeaf = (level: number, lo: number, hi: number): number => {
  if (level === 0) return 0;
  if (level <= 2) return (lo >>> 12) & ((1 << (9 * level)) - 1);
  return (hi & ((1 << (9 * level - 20)) - 1)) * 0x10_0000 + (lo >>> 12);
};
