/**
 * The layout of the one WebAssembly.Memory that a machine lives in: every region and every offset,
 * named once, for TypeScript and for generated code alike.
 *
 *   byte offset                                      size
 *   0x0000_0000  never used: an offset of 0 is a bug 64 KiB
 *   0x0001_0000  hart blocks: registers, CSRs        MAX_HARTS x 8 KiB
 *   0x0010_0000  TLB arrays and walk caches          MAX_HARTS x 256 KiB
 *   0x0040_0000  decoded instructions, by slot       DECODE_SLOTS x (16 KiB + 64 B)
 *   0x0180_0000  code flags, one byte per frame      1 MiB   (and who else watches the frame)
 *   0x0190_0000  written flags, one byte per frame   1 MiB
 *   0x0200_0000  RAM (physical 0x8000_0000 onwards)  up to 3.5 GiB
 *
 * Offsets do not depend on the machine's configuration, so the compiler sees constants; pages that
 * nothing touches cost nothing, because the operating system provides them on first use.
 */

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 1 << PAGE_SHIFT;
export const PAGE_MASK = PAGE_SIZE - 1;

/** Harts in one machine, at most. */
export const MAX_HARTS = 8;

/** First physical address of RAM, as on QEMU's virt board. */
export const RAM_BASE = 0x8000_0000;
/** Page frame number of the first byte of RAM. */
export const RAM_PFN_BASE = RAM_BASE / PAGE_SIZE;
/** Most RAM that fits beside the other regions under the 4 GiB of a 32-bit WebAssembly.Memory. */
export const RAM_MAX_BYTES = 0xe000_0000;
/** Byte offset of the first byte of RAM in the memory. */
export const RAM_OFFSET = 0x0200_0000;

/* ---- hart blocks: offsets inside one block are in the second half of this file ---- */
export const HART_BASE = 0x0001_0000;
export const HART_STRIDE = 0x2000;

/* ---- TLB: three direct-mapped arrays per hart, then the walk caches (emu/mmu/) ---- */
export const TLB_BASE = 0x0010_0000;
export const TLB_STRIDE = 0x4_0000;
export const TLB_ENTRIES = 4096;
/** One entry: tag low word, tag high word, addend, spare. */
export const TLB_ENTRY_BYTES = 16;
export const TLB_READ = 0x0_0000;
export const TLB_WRITE = 0x1_0000;
export const TLB_EXEC = 0x2_0000;
export const TLB_WALK_CACHES = 0x3_0000;

/* ---- decoded instructions: 2048 half-word records of 8 bytes and an end mark, per slot ---- */
export const DECODE_BASE = 0x0040_0000;
export const DECODE_SLOT_BYTES = 2048 * 8 + 64;
export const DECODE_SLOTS = 1024;

/** One byte per frame of RAM: not zero where stores to it must be seen, so that no TLB write entry reaches it. */
export const CODE_FLAGS = 0x0180_0000;
/** Why: instructions of the frame are decoded; its stores are watched (emu/persist/). */
export const FRAME_CODE = 1;
export const FRAME_WATCHED = 2;
/** Loads of some of its bytes fail: no read or execute entry reaches it either. Never without FRAME_WATCHED. */
export const FRAME_POISONED = 4;
/** One byte per frame of RAM: zero where nobody can have written since the machine was made, so that all of it is zero. */
export const WRITTEN_FLAGS = 0x0190_0000;

/* ---- inside a hart block ---- */
/** x0..x31, 8 bytes each, low word first; register number 32 takes what is written to x0. */
export const HART_X = 0x000;
export const HART_X_DISCARD = 32;
/** Program counter, 64 bits. */
export const HART_PC = 0x110;
/** Current key of loads and stores, and of fetches, already shifted to its place in a tag (emu/mmu/tlb.ts). */
export const HART_DATA_KEY = 0x118;
export const HART_FETCH_KEY = 0x11c;
/** What is xor-ed into a page number to get a TLB index, for data and for fetches. */
export const HART_DATA_HASH = 0x120;
export const HART_FETCH_HASH = 0x124;
/** Instructions this hart has retired: 64 bits, the value behind instret. */
export const HART_INSTRET = 0x128;
/** Scratch for values on their way through the slow paths. */
export const HART_SCRATCH = 0x138;
/** CSR values, 8 bytes each, at places that emu/hart/csr-file.ts assigns. */
export const HART_CSR = 0x200;
/** Counters of the MMU and the hart, 8-byte floats (emu/mmu/counters.ts). */
export const HART_COUNTERS = 0x1000;

/** Pages of 64 KiB that a WebAssembly.Memory needs for `ramBytes` of RAM. */
export const wasmPagesFor = (ramBytes: number): number =>
  Math.ceil((RAM_OFFSET + ramBytes) / 65536);
