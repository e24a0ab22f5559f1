/**
 * The split ring: descriptor table, available ring, used ring. virtio 1.2, 2.7.
 *
 *   descriptor area   size x 16   struct virtq_desc
 *   driver area       flags, idx, ring[size], used_event       le16 each
 *   device area       flags, idx, ring[size] of le32 id and le32 len, avail_event
 *
 * Indirect tables may be longer than the ring (up to RingPlace.indirectMax); a chain through them
 * that comes back to a descriptor it had before is found by its length.
 */
import { DMA_FAULT, DMA_OK, type DmaPort } from '#emu';
import { clearChain, type VirtioChain } from './chain.ts';
import {
  descAddress,
  indirectCount,
  pushDescriptor,
  putWord16,
  putWord32,
  readWord16,
  RING_BROKEN,
  RING_EMPTY,
  RING_TAKEN,
  type RingCursor,
  type RingFormat,
  type RingPlace,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  word16,
} from './ring.ts';

const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

/* Offsets in the driver and in the device area. */
const FLAGS = 0;
const IDX = 2;
const RING = 4;
const AVAIL_ELEM_BYTES = 2;
const USED_ELEM_BYTES = 8;

export class SplitRing implements RingFormat {
  private readonly port: DmaPort;
  private readonly place: RingPlace;
  private readonly cursor: RingCursor;
  private readonly scratch: Uint8Array;

  constructor(port: DmaPort, place: RingPlace, cursor: RingCursor) {
    this.port = port;
    this.place = place;
    this.cursor = cursor;
    this.scratch = new Uint8Array(VIRTQ_DESC_BYTES);
  }

  take(chain: VirtioChain): number {
    const { place, cursor, port, scratch } = this;
    const idx = readWord16(port, place.driverArea + IDX, scratch);
    if (idx < 0) return idx;
    if (idx === cursor.avail) return RING_EMPTY;
    // More buffers than the table has descriptors.
    if (((idx - cursor.avail) & 0xffff) > place.size) return RING_BROKEN;
    const slot = cursor.avail & (place.size - 1);
    const head = readWord16(port, place.driverArea + RING + slot * AVAIL_ELEM_BYTES, scratch);
    if (head < 0) return head;
    clearChain(chain);
    chain.id = head;
    chain.descriptors = 1;
    const result = this.walk(chain, place.descArea, place.size, head, true);
    if (result === RING_TAKEN) cursor.avail = (cursor.avail + 1) & 0xffff;
    return result;
  }

  untake(_chain: VirtioChain): void {
    this.cursor.avail = (this.cursor.avail - 1) & 0xffff;
  }

  put(chain: VirtioChain, writtenBytes: number): number {
    const { place, cursor, port, scratch } = this;
    const slot = cursor.used & (place.size - 1);
    putWord32(scratch, 0, chain.id);
    putWord32(scratch, 4, writtenBytes);
    const element = place.deviceArea + RING + slot * USED_ELEM_BYTES;
    let result = port.write(element, scratch, 0, USED_ELEM_BYTES);
    if (result !== DMA_OK) return result;
    // The element before the index: `len` MUST be set by then (2.7.8.2).
    putWord16(scratch, 0, cursor.used + 1);
    result = port.write(place.deviceArea + IDX, scratch, 0, 2);
    if (result === DMA_OK) cursor.used = (cursor.used + 1) & 0xffff;
    return result;
  }

  wantsEvent(_chain: VirtioChain): boolean {
    const { place, cursor, port, scratch } = this;
    if (place.eventIdx) {
      const usedEvent = place.driverArea + RING + place.size * AVAIL_ELEM_BYTES;
      const event = readWord16(port, usedEvent, scratch);
      return event < 0 || event === ((cursor.used - 1) & 0xffff);
    }
    const flags = readWord16(port, place.driverArea + FLAGS, scratch);
    return flags < 0 || (flags & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  askForEvent(): number {
    const { place, cursor, port, scratch } = this;
    // Without event indices the driver tells of every buffer, since `flags` is left at 0.
    if (!place.eventIdx || cursor.asked === cursor.avail) return DMA_OK;
    putWord16(scratch, 0, cursor.avail);
    const availEvent = place.deviceArea + RING + place.size * USED_ELEM_BYTES;
    const result = port.write(availEvent, scratch, 0, 2);
    if (result === DMA_OK) cursor.asked = cursor.avail;
    return result;
  }

  /** Follows a chain of descriptors from `first` in a table of `count`. */
  private walk(
    chain: VirtioChain,
    table: number,
    count: number,
    first: number,
    outer: boolean,
  ): number {
    const desc = this.scratch;
    let index = first;
    for (let steps = 0; steps < count; steps++) {
      if (index >= count) return RING_BROKEN;
      const result = this.port.read(table + index * VIRTQ_DESC_BYTES, desc, 0, VIRTQ_DESC_BYTES);
      if (result !== DMA_OK) return result;
      const flags = word16(desc, 12);
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // One table in a chain, at its end, and none inside a table (2.7.5.3.1).
        const inner =
          outer && (flags & VIRTQ_DESC_F_NEXT) === 0 ? indirectCount(desc, this.place) : 0;
        if (inner === 0) return RING_BROKEN;
        const address = descAddress(desc);
        if (address >= Number.MAX_SAFE_INTEGER) return DMA_FAULT;
        return this.walk(chain, address, inner, 0, false);
      }
      if (!pushDescriptor(chain, desc, flags)) return RING_BROKEN;
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return RING_TAKEN;
      index = word16(desc, 14);
    }
    return RING_BROKEN; // it goes on for longer than its table: a loop
  }
}
