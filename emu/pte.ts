/**
 * Page-table entries of Sv39, Sv48 and Sv57, and of their x4 forms: field layout and accessors.
 * Privileged ISA 1.13, 12.4.1 (Sv39) and 15.5.1 (Sv39x4). Svnapot and Svpbmt bits are reserved
 * here (docs/limits.md).
 *
 *   63     54 53                       10 9  8 7 6 5 4 3 2 1 0
 *  | reserved |          PPN             | RSW |D A G U X W R V|
 *
 * An entry is held as two 32-bit halves: BigInt is some thirty times slower in a walk.
 */
export const PTE_V = 1 << 0; // valid
export const PTE_R = 1 << 1;
export const PTE_W = 1 << 2;
export const PTE_X = 1 << 3;
export const PTE_U = 1 << 4; // user; every G-stage entry needs it
export const PTE_G = 1 << 5; // global
export const PTE_A = 1 << 6;
export const PTE_D = 1 << 7;
export const PTE_RSW_SHIFT = 8;
export const PTE_RSW_MASK = 3 << PTE_RSW_SHIFT;
export const PTE_PPN_SHIFT = 10;
export const PTE_BYTES = 8;
/** Bits 63..54, in the high half: must be zero. */
export const PTE_HI_RESERVED = 0xffc0_0000 | 0;

/** satp.MODE, vsatp.MODE and hgatp.MODE. */
export const ATP_MODE_BARE = 0;
export const ATP_MODE_SV39 = 8;
export const ATP_MODE_SV48 = 9;
export const ATP_MODE_SV57 = 10;

/** Leaf = R or X set; a pointer to the next level has neither. */
export const pteLeaf = (lo: number): boolean => (lo & (PTE_R | PTE_X)) !== 0;
/** R=0 with W=1 is reserved (12.3.2 step 3). */
export const pteReserved = (lo: number, hi: number): boolean =>
  (lo & (PTE_R | PTE_W)) === PTE_W || (hi & PTE_HI_RESERVED) !== 0;
/** Physical page number of an entry: up to 44 bits. */
export const ptePpn = (lo: number, hi: number): number =>
  (hi & 0x3f_ffff) * 0x40_0000 + (lo >>> PTE_PPN_SHIFT);
/** Halves of an entry for a page number and flags. */
export const pteLo = (ppn: number, flags: number): number => (ppn * 1024) | flags | 0;
export const pteHi = (ppn: number): number => Math.floor(ppn / 0x40_0000) & 0x3f_ffff;
