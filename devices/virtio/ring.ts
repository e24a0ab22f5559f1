/**
 * What both ring formats have in common: descriptors, and what a queue asks of a ring.
 * virtio 1.2, 2.7 (split) and 2.8 (packed).
 *
 *   struct virtq_desc (split)        struct pvirtq_desc (packed)
 *    0  le64 addr                     0  le64 addr
 *    8  le32 len                      8  le32 len
 *   12  le16 flags                   12  le16 id
 *   14  le16 next                    14  le16 flags
 */
import type { DmaPort } from '#emu';
import { pushSegment, type VirtioChain } from './chain.ts';

export const VIRTQ_DESC_BYTES = 16;
export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
/** Only in packed rings (2.8.1). */
export const VIRTQ_DESC_F_AVAIL = 1 << 7;
export const VIRTQ_DESC_F_USED = 1 << 15;

/** Outcomes of RingFormat.take(), beside DMA_WAIT and DMA_FAULT. */
export const RING_EMPTY = 0;
export const RING_TAKEN = 1;
/** The driver has broken a rule: the queue cannot go on. */
export const RING_BROKEN = -3;

/** Where a ring is and how it is used: what the driver wrote to the registers of its queue. */
export interface RingPlace {
  size: number;
  /** Most descriptors of an indirect table. */
  indirectMax: number;
  descArea: number;
  driverArea: number;
  deviceArea: number;
  /** VIRTIO_F_INDIRECT_DESC and VIRTIO_F_EVENT_IDX have been negotiated. */
  indirect: boolean;
  eventIdx: boolean;
}

/** Where a device is in a ring. Plain data, the same for both formats. */
export interface RingCursor {
  /** Next entry to take: free-running modulo 2^16 (split), index in the ring (packed). */
  avail: number;
  /** Next entry to give back, likewise. */
  used: number;
  /** Wrap counters of a packed ring, 0 or 1. */
  availWrap: number;
  usedWrap: number;
  /** The event the driver was asked for last: `avail` and wrap counter then; -1 = never asked. */
  asked: number;
}

export const createRingCursor = (): RingCursor => ({
  avail: 0,
  used: 0,
  availWrap: 1,
  usedWrap: 1,
  asked: -1,
});

/**
 * One format of a ring in memory. Whatever meets DMA_WAIT has changed neither the cursor nor
 * anything that would be wrong when it is done again.
 */
export interface RingFormat {
  /** The next available buffer into `chain`: RING_TAKEN, RING_EMPTY, RING_BROKEN, DMA_FAULT, DMA_WAIT. */
  take(chain: VirtioChain): number;
  /** Takes back the last take(). */
  untake(chain: VirtioChain): void;
  /** Marks a buffer used: DMA_OK, DMA_FAULT, DMA_WAIT. */
  put(chain: VirtioChain, writtenBytes: number): number;
  /** Does the driver want to be told of the put() just done? Unknown counts as yes. */
  wantsEvent(chain: VirtioChain): boolean;
  /** Asks to be told of the next available buffer: DMA_OK, DMA_FAULT, DMA_WAIT. */
  askForEvent(): number;
}

/** Bytes of a ring on their way, and the words in them. */
export const word16 = (bytes: Uint8Array, at: number): number => bytes[at]! | (bytes[at + 1]! << 8);

export const word32 = (bytes: Uint8Array, at: number): number =>
  (word16(bytes, at) | (word16(bytes, at + 2) << 16)) >>> 0;

export const putWord16 = (bytes: Uint8Array, at: number, value: number): void => {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
};

export const putWord32 = (bytes: Uint8Array, at: number, value: number): void => {
  putWord16(bytes, at, value);
  putWord16(bytes, at + 2, value >>> 16);
};

/** Reads a le16; DMA_FAULT and DMA_WAIT are negative, which it is not. */
export const readWord16 = (port: DmaPort, address: number, scratch: Uint8Array): number => {
  const result = port.read(address, scratch, 0, 2);
  return result < 0 ? result : word16(scratch, 0);
};

/** Adds the segment of a descriptor, whose flags are given apart; false: a broken rule. */
export const pushDescriptor = (chain: VirtioChain, desc: Uint8Array, flags: number): boolean =>
  pushSegment(
    chain,
    word32(desc, 0),
    word32(desc, 4),
    word32(desc, 8),
    (flags & VIRTQ_DESC_F_WRITE) !== 0,
  );

/** How many descriptors the indirect table that `desc` refers to holds; 0: it may not be one. */
export const indirectCount = (desc: Uint8Array, place: RingPlace): number => {
  const lenBytes = word32(desc, 8);
  if (!place.indirect || lenBytes % VIRTQ_DESC_BYTES !== 0) return 0;
  const count = lenBytes / VIRTQ_DESC_BYTES;
  return count > place.indirectMax ? 0 : count;
};

/** The address in a descriptor; beyond 2^53 not exact, and on no bus. */
export const descAddress = (desc: Uint8Array): number =>
  word32(desc, 4) * 2 ** 32 + word32(desc, 0);
