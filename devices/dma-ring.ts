/**
 * In-memory structures of the DMA engine: descriptors and scatter-gather lists (dma-engine.ts).
 *
 *   descriptor, 32 bytes, 32-byte aligned      scatter-gather entry, 16 bytes
 *    0  u64 source                              0  u64 address
 *    8  u64 destination                         8  u32 length, 1 byte at least
 *   16  u32 length, 1 .. 1 MiB                 12  u32 flags: bit 0 last entry
 *   20  u32 flags: bit 0 interrupt when done
 *           bit 1 source is a list, bit 2 destination is a list
 *   24  u32 status, written by the device: 1 done, 2 bus error, 3 bad descriptor
 *   28  u32 reserved
 *
 * All little endian. A list is read until its entries cover the descriptor's length; what is left of
 * the last entry is not used. Addresses are the engine's bus addresses.
 */

export const DMA_DESC_BYTES = 32;
export const DMA_DESC_STATUS = 24;
export const DMA_SG_BYTES = 16;
/** Most bytes that one descriptor moves. */
export const DMA_MAX_BYTES = 1 << 20;
/** Most entries of one list: a longer one is a bad descriptor, so that no list is endless. */
export const DMA_MAX_SEGMENTS = 1024;

export const DMA_FLAG_IRQ = 1 << 0;
export const DMA_FLAG_SRC_SG = 1 << 1;
export const DMA_FLAG_DST_SG = 1 << 2;
export const DMA_SG_LAST = 1 << 0;

export const DMA_STATUS_DONE = 1;
export const DMA_STATUS_BUS_ERROR = 2;
export const DMA_STATUS_BAD_DESCRIPTOR = 3;

/**
 * A 64-bit address as a number. From 2^53 on it is not exact, which does no harm: nothing is there.
 */
export const dmaAddress = (bytes: Uint8Array, at: number): number =>
  dmaWord(bytes, at + 4) * 2 ** 32 + dmaWord(bytes, at);

/** A 32-bit word, unsigned. */
export const dmaWord = (bytes: Uint8Array, at: number): number =>
  (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;

export const putDmaWord = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
};

/** One side of a transfer, as a list of contiguous pieces. Plain data, allocated once. */
export interface DmaSegments {
  address: Float64Array;
  lenBytes: Int32Array;
  count: number;
}

export const createDmaSegments = (): DmaSegments => ({
  address: new Float64Array(DMA_MAX_SEGMENTS),
  lenBytes: new Int32Array(DMA_MAX_SEGMENTS),
  count: 0,
});

/** Appends a piece. Returns false when there is no room. */
export const pushDmaSegment = (list: DmaSegments, address: number, lenBytes: number): boolean => {
  if (list.count === DMA_MAX_SEGMENTS) return false;
  list.address[list.count] = address;
  list.lenBytes[list.count] = lenBytes;
  list.count++;
  return true;
};

/** A copy of the used part, for a saved machine. */
export const saveDmaSegments = (list: DmaSegments): DmaSegments => ({
  address: list.address.slice(0, list.count),
  lenBytes: list.lenBytes.slice(0, list.count),
  count: list.count,
});

export const restoreDmaSegments = (list: DmaSegments, state: DmaSegments): void => {
  list.address.set(state.address);
  list.lenBytes.set(state.lenBytes);
  list.count = state.count;
};
