/**
 * The packed ring: one ring of descriptors that both sides write. virtio 1.2, 2.8.
 *
 *   descriptor area   size x 16   struct pvirtq_desc
 *   driver area       le16 offset:15 wrap:1, le16 flags   when the driver wants to be told
 *   device area       the same                            when the device wants to be told
 *
 * The size need not be a power of two (2.8.10.1). Bits of a chain's descriptors that say available or
 * used are looked at in its first one alone: that one makes the whole chain available (2.8.6).
 */
import { DMA_FAULT, DMA_OK, type DmaPort } from '#emu';
import { clearChain, type VirtioChain } from './chain.ts';
import {
  descAddress,
  indirectCount,
  pushDescriptor,
  putWord16,
  putWord32,
  RING_BROKEN,
  RING_EMPTY,
  RING_TAKEN,
  type RingCursor,
  type RingFormat,
  type RingPlace,
  VIRTQ_DESC_BYTES,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
  word16,
} from './ring.ts';

const RING_EVENT_FLAGS_DISABLE = 1;
const RING_EVENT_FLAGS_DESC = 2;
const RING_EVENT_FLAGS_MASK = 3;
const EVENT_WRAP = 1 << 15;
const EVENT_BYTES = 4;

export class PackedRing implements RingFormat {
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
    const { place, cursor, scratch } = this;
    const { avail, availWrap } = cursor;
    let result = this.readDescriptor(place.descArea, avail);
    if (result !== DMA_OK) return result;
    let flags = word16(scratch, 14);
    const isAvailable = (flags & VIRTQ_DESC_F_AVAIL) !== 0 ? 1 : 0;
    const isUsed = (flags & VIRTQ_DESC_F_USED) !== 0 ? 1 : 0;
    if (isAvailable !== availWrap || isUsed === availWrap) return RING_EMPTY;
    clearChain(chain);
    for (let index = avail; ; ) {
      chain.descriptors++;
      chain.id = word16(scratch, 12);
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // A list is of one kind of descriptors; one table makes all of it (2.8.5).
        if (chain.descriptors > 1 || (flags & VIRTQ_DESC_F_NEXT) !== 0) return RING_BROKEN;
        result = this.readTable(chain);
        if (result !== RING_TAKEN) return result;
        break;
      }
      if (!pushDescriptor(chain, scratch, flags)) return RING_BROKEN;
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) break;
      if (chain.descriptors === place.size) return RING_BROKEN;
      index = index + 1 === place.size ? 0 : index + 1;
      result = this.readDescriptor(place.descArea, index);
      if (result !== DMA_OK) return result;
      flags = word16(scratch, 14);
    }
    this.moveAvail(chain.descriptors);
    return RING_TAKEN;
  }

  untake(chain: VirtioChain): void {
    this.moveAvail(-chain.descriptors);
  }

  put(chain: VirtioChain, writtenBytes: number): number {
    const { place, cursor, port, scratch } = this;
    const desc = place.descArea + cursor.used * VIRTQ_DESC_BYTES;
    putWord32(scratch, 0, writtenBytes);
    putWord16(scratch, 4, chain.id);
    let result = port.write(desc + 8, scratch, 0, 6);
    if (result !== DMA_OK) return result;
    // The flags last: they make the rest visible.
    const mark = cursor.usedWrap === 1 ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
    putWord16(scratch, 0, mark | (writtenBytes > 0 ? VIRTQ_DESC_F_WRITE : 0));
    result = port.write(desc + 14, scratch, 0, 2);
    if (result !== DMA_OK) return result;
    cursor.used += chain.descriptors;
    if (cursor.used >= place.size) {
      cursor.used -= place.size;
      cursor.usedWrap ^= 1;
    }
    return DMA_OK;
  }

  wantsEvent(chain: VirtioChain): boolean {
    const { place, cursor, scratch } = this;
    if (this.port.read(place.driverArea, scratch, 0, EVENT_BYTES) !== DMA_OK) return true;
    const flags = word16(scratch, 2) & RING_EVENT_FLAGS_MASK;
    if (flags === RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS_DESC || !place.eventIdx) return true;
    // Among the entries that the buffer just used has taken? Counted back from the next one.
    const event = word16(scratch, 0);
    const sameLap = ((event & EVENT_WRAP) !== 0) === (cursor.usedWrap === 1);
    const ahead = cursor.used - (event & ~EVENT_WRAP) + (sameLap ? 0 : place.size);
    return ahead > 0 && ahead <= chain.descriptors;
  }

  askForEvent(): number {
    const { place, cursor, port, scratch } = this;
    // Without event indices the driver tells of every buffer: its device area says ENABLE, 0.
    const wanted = cursor.avail | (cursor.availWrap === 1 ? EVENT_WRAP : 0);
    if (!place.eventIdx || cursor.asked === wanted) return DMA_OK;
    putWord16(scratch, 0, wanted);
    putWord16(scratch, 2, RING_EVENT_FLAGS_DESC);
    const result = port.write(place.deviceArea, scratch, 0, EVENT_BYTES);
    if (result === DMA_OK) cursor.asked = wanted;
    return result;
  }

  private readDescriptor(table: number, index: number): number {
    return this.port.read(table + index * VIRTQ_DESC_BYTES, this.scratch, 0, VIRTQ_DESC_BYTES);
  }

  /** The table that the descriptor in `scratch` refers to: one after the other, to its end. */
  private readTable(chain: VirtioChain): number {
    const desc = this.scratch;
    const count = indirectCount(desc, this.place);
    if (count === 0) return RING_BROKEN;
    const table = descAddress(desc);
    if (table >= Number.MAX_SAFE_INTEGER) return DMA_FAULT;
    for (let i = 0; i < count; i++) {
      const result = this.readDescriptor(table, i);
      if (result !== DMA_OK) return result;
      // Flags other than WRITE are reserved there, and ignored (2.8.7).
      if (!pushDescriptor(chain, desc, word16(desc, 14))) return RING_BROKEN;
    }
    return RING_TAKEN;
  }

  private moveAvail(entries: number): void {
    const { place, cursor } = this;
    cursor.avail += entries;
    if (cursor.avail >= place.size) {
      cursor.avail -= place.size;
      cursor.availWrap ^= 1;
    } else if (cursor.avail < 0) {
      cursor.avail += place.size;
      cursor.availWrap ^= 1;
    }
  }
}
