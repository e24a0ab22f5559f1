/**
 * The label area of an NVDIMM: which namespaces its memory is divided into. UEFI 2.10, chapter 13.19
 * (NVDIMM Label Protocol), labels of version 1.2; compare drivers/nvdimm/label.c.
 *
 *   | index block 0 | index block 1 | label | label | ...
 *
 * Of the two index blocks the one with the newer sequence number counts, of those whose checksum is right.
 * Sequence numbers go 1, 2, 3, 1: which of two is the newer one is never in doubt while they are
 * neighbours. An index block has a bit for each label that is free. What is changed is written to free
 * labels first, then to the other index block, so that a loss of power leaves the old state or the new.
 *
 * Left out: labels of regions (CXL), version 1.1, and address abstractions beyond their GUID.
 */

export const LABEL_BYTES = 256;
/** Multiple of an index block's size. */
const INDEX_ALIGN = 256;
const SIGNATURE = 'NAMESPACE_INDEX\0';
/** Labels have 1 << (7 + LABEL_SIZE_SHIFT) bytes. */
const LABEL_SIZE_SHIFT = 1;
const MAJOR = 1;
const MINOR = 2;

/* Fields of an index block. */
const INDEX_LABEL_SIZE = 19;
const INDEX_SEQ = 20;
const INDEX_MY_OFFSET = 24;
const INDEX_MY_SIZE = 32;
const INDEX_OTHER_OFFSET = 40;
const INDEX_LABEL_OFFSET = 48;
const INDEX_NR_SLOTS = 56;
const INDEX_MAJOR = 60;
const INDEX_MINOR = 62;
const INDEX_CHECKSUM = 64;
const INDEX_FREE = 72;

/* Fields of a label. */
const LABEL_UUID = 0;
const LABEL_NAME = 16;
const LABEL_NAME_BYTES = 64;
const LABEL_FLAGS = 80;
const LABEL_NR_LABELS = 84;
const LABEL_POSITION = 86;
const LABEL_COOKIE = 88;
const LABEL_LBA_SIZE = 96;
const LABEL_DPA = 104;
const LABEL_RAW_SIZE = 112;
const LABEL_SLOT = 120;
const LABEL_CHECKSUM = 248;

export const LABEL_FLAG_RO = 1 << 0;
export const LABEL_FLAG_LOCAL = 1 << 1;
export const LABEL_FLAG_UPDATING = 1 << 3;

/** A part of the memory, as its label describes it. */
export interface Namespace {
  /** 32 hexadecimal digits. */
  uuid: string;
  /** At most 63 bytes of ASCII. */
  name: string;
  flags: number;
  /** Device-physical address: from the first byte of the memory. */
  dpa: number;
  rawSize: number;
  /** Of an interleave set: how many labels belong together, which of them this is, and what the set is. */
  nrLabels: number;
  position: number;
  cookie: bigint;
}

/** Words of a label area: whoever reads and writes them. A word is durable when it has been written. */
export interface LabelStore {
  readonly sizeBytes: number;
  /** At a multiple of 4. */
  readWord(at: number): number;
  writeWord(at: number, value: number): void;
}

/** Bytes as a LabelStore. */
export const labelStoreOf = (bytes: Uint8Array): LabelStore => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    sizeBytes: bytes.length,
    readWord: (at) => view.getUint32(at, true),
    writeWord: (at, value) => view.setUint32(at, value, true),
  };
};

/** Fletcher's checksum over 32-bit words, with sums of 32 and 64 bits. Compare nd_fletcher64(). */
export const fletcher64 = (bytes: Uint8Array): bigint => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let low = 0;
  let high = 0;
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    low = (low + view.getUint32(at, true)) >>> 0;
    high = (high + low) >>> 0; // the upper half of its 64 bits is shifted out
  }
  return (BigInt(high) << 32n) | BigInt(low);
};

/** The sequence number after this one. */
export const nextLabelSeq = (seq: number): number => (seq % 3) + 1;

/** Of an index block as it is in memory. */
interface Index {
  which: 0 | 1;
  seq: number;
  nrSlots: number;
  /** A bit for each slot: set where it is free. */
  free: Uint8Array;
}

/** Where things are in an area of this size. @returns undefined where not even one label fits */
const layoutOf = (sizeBytes: number): { indexBytes: number; nrSlots: number } | undefined => {
  // More slots need a larger bitmap; the bitmap for the most that could be is a little too large.
  const most = Math.floor(sizeBytes / LABEL_BYTES);
  const bitmap = Math.ceil(most / 8);
  const indexBytes = Math.ceil((INDEX_FREE + bitmap) / INDEX_ALIGN) * INDEX_ALIGN;
  const nrSlots = Math.floor((sizeBytes - 2 * indexBytes) / LABEL_BYTES);
  return nrSlots < 1 ? undefined : { indexBytes, nrSlots };
};

/** The label area, as a driver sees it. */
export class LabelArea {
  private readonly store: LabelStore;
  private readonly indexBytes: number;
  readonly nrSlots: number;

  /** @throws RangeError for a store without room for a label */
  constructor(store: LabelStore) {
    const layout = layoutOf(store.sizeBytes);
    if (layout === undefined || store.sizeBytes % 4 !== 0)
      throw new RangeError(`${store.sizeBytes} bytes are no label area`);
    this.store = store;
    this.indexBytes = layout.indexBytes;
    this.nrSlots = layout.nrSlots;
  }

  /** Is there a valid index block? Otherwise the area has no labels, and format() makes it. */
  get formatted(): boolean {
    return this.current() !== undefined;
  }

  /** Makes an area without labels. Power may fail at any word: until the last one nothing is valid that was not. */
  format(): void {
    const free = new Uint8Array(Math.ceil(this.nrSlots / 8)).fill(0xff);
    const spare = free.length * 8 - this.nrSlots;
    if (spare > 0) free[free.length - 1] = 0xff >>> spare;
    // An index of an older life must not be the newer one of a pair; the one that counts goes last.
    const last = this.current()?.which ?? 1;
    for (const which of [1 - last, last]) this.store.writeWord(which * this.indexBytes, 0);
    this.writeIndex({ which: 0, seq: 1, nrSlots: this.nrSlots, free });
    this.writeIndex({ which: 1, seq: 2, nrSlots: this.nrSlots, free });
  }

  /** Every namespace whose label is right; one of an interrupted update (UPDATING) is not listed. */
  namespaces(): Namespace[] {
    const index = this.current();
    if (index === undefined) return [];
    const found: Namespace[] = [];
    for (let slot = 0; slot < this.nrSlots; slot++) {
      if (isFree(index.free, slot)) continue;
      const namespace = this.readLabel(slot);
      if (namespace !== undefined && (namespace.flags & LABEL_FLAG_UPDATING) === 0)
        found.push(namespace);
    }
    return found;
  }

  /**
   * Adds a namespace, or changes the one with the same uuid.
   * @returns false when no label is free, or the area has not been formatted
   */
  put(namespace: Namespace): boolean {
    const index = this.current();
    if (index === undefined) return false;
    let slot = 0;
    while (slot < this.nrSlots && !isFree(index.free, slot)) slot++;
    if (slot === this.nrSlots) return false;
    this.writeLabel(slot, namespace);
    const free = index.free.slice();
    setFree(free, slot, false);
    for (const old of this.slotsOf(index, namespace.uuid)) setFree(free, old, true);
    this.advance(index, free);
    return true;
  }

  /** @returns false when there is none with this uuid */
  remove(uuid: string): boolean {
    const index = this.current();
    const slots = index === undefined ? [] : this.slotsOf(index, uuid);
    if (index === undefined || slots.length === 0) return false;
    const free = index.free.slice();
    for (const slot of slots) setFree(free, slot, true);
    this.advance(index, free);
    return true;
  }

  /** Labels that are in use: of the valid index block. */
  get nrUsed(): number {
    const index = this.current();
    if (index === undefined) return 0;
    let used = 0;
    for (let slot = 0; slot < this.nrSlots; slot++) if (!isFree(index.free, slot)) used++;
    return used;
  }

  private slotsOf(index: Index, uuid: string): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.nrSlots; slot++)
      if (!isFree(index.free, slot) && this.readLabel(slot)?.uuid === uuid) slots.push(slot);
    return slots;
  }

  /** The index block that counts. */
  private current(): Index | undefined {
    const [first, second] = [this.readIndex(0), this.readIndex(1)];
    if (first === undefined || second === undefined) return first ?? second;
    // Two of the same age: the first one, as Linux has it.
    return second.seq === nextLabelSeq(first.seq) ? second : first;
  }

  private advance(index: Index, free: Uint8Array): void {
    const which = index.which === 0 ? 1 : 0;
    this.writeIndex({ which, seq: nextLabelSeq(index.seq), nrSlots: index.nrSlots, free });
  }

  private readIndex(which: 0 | 1): Index | undefined {
    const offset = which * this.indexBytes;
    const bytes = this.readBytes(offset, this.indexBytes);
    const view = new DataView(bytes.buffer);
    if (String.fromCharCode(...bytes.subarray(0, SIGNATURE.length)) !== SIGNATURE) return undefined;
    const sum = view.getBigUint64(INDEX_CHECKSUM, true);
    view.setBigUint64(INDEX_CHECKSUM, 0n, true);
    const seq = view.getUint32(INDEX_SEQ, true);
    const right =
      fletcher64(bytes) === sum &&
      seq >= 1 &&
      seq <= 3 &&
      bytes[INDEX_LABEL_SIZE] === LABEL_SIZE_SHIFT &&
      view.getBigUint64(INDEX_MY_OFFSET, true) === BigInt(offset) &&
      view.getBigUint64(INDEX_MY_SIZE, true) === BigInt(this.indexBytes) &&
      view.getBigUint64(INDEX_OTHER_OFFSET, true) === BigInt((1 - which) * this.indexBytes) &&
      view.getBigUint64(INDEX_LABEL_OFFSET, true) === BigInt(2 * this.indexBytes) &&
      view.getUint32(INDEX_NR_SLOTS, true) === this.nrSlots;
    if (!right) return undefined;
    const free = bytes.slice(INDEX_FREE, INDEX_FREE + Math.ceil(this.nrSlots / 8));
    return { which, seq, nrSlots: this.nrSlots, free };
  }

  private writeIndex({ which, seq, nrSlots, free }: Index): void {
    const bytes = new Uint8Array(this.indexBytes);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < SIGNATURE.length; i++) bytes[i] = SIGNATURE.charCodeAt(i);
    bytes[INDEX_LABEL_SIZE] = LABEL_SIZE_SHIFT;
    view.setUint32(INDEX_SEQ, seq, true);
    view.setBigUint64(INDEX_MY_OFFSET, BigInt(which * this.indexBytes), true);
    view.setBigUint64(INDEX_MY_SIZE, BigInt(this.indexBytes), true);
    view.setBigUint64(INDEX_OTHER_OFFSET, BigInt((1 - which) * this.indexBytes), true);
    view.setBigUint64(INDEX_LABEL_OFFSET, BigInt(2 * this.indexBytes), true);
    view.setUint32(INDEX_NR_SLOTS, nrSlots, true);
    view.setUint16(INDEX_MAJOR, MAJOR, true);
    view.setUint16(INDEX_MINOR, MINOR, true);
    bytes.set(free, INDEX_FREE);
    view.setBigUint64(INDEX_CHECKSUM, fletcher64(bytes), true);
    // Its first word goes first and comes last: in between there is no index block, by no chance either.
    const offset = which * this.indexBytes;
    this.store.writeWord(offset, 0);
    this.writeBytes(offset + 4, bytes.subarray(4));
    this.store.writeWord(offset, view.getUint32(0, true));
  }

  private labelAt(slot: number): number {
    return 2 * this.indexBytes + slot * LABEL_BYTES;
  }

  private readLabel(slot: number): Namespace | undefined {
    const bytes = this.readBytes(this.labelAt(slot), LABEL_BYTES);
    const view = new DataView(bytes.buffer);
    const sum = view.getBigUint64(LABEL_CHECKSUM, true);
    view.setBigUint64(LABEL_CHECKSUM, 0n, true);
    if (fletcher64(bytes) !== sum || view.getUint32(LABEL_SLOT, true) !== slot) return undefined;
    const name = bytes.subarray(LABEL_NAME, LABEL_NAME + LABEL_NAME_BYTES);
    const end = name.indexOf(0);
    return {
      uuid: hexOf(bytes.subarray(LABEL_UUID, LABEL_NAME)),
      name: String.fromCharCode(...name.subarray(0, end < 0 ? LABEL_NAME_BYTES : end)),
      flags: view.getUint32(LABEL_FLAGS, true),
      dpa: Number(view.getBigUint64(LABEL_DPA, true)),
      rawSize: Number(view.getBigUint64(LABEL_RAW_SIZE, true)),
      nrLabels: view.getUint16(LABEL_NR_LABELS, true),
      position: view.getUint16(LABEL_POSITION, true),
      cookie: view.getBigUint64(LABEL_COOKIE, true),
    };
  }

  private writeLabel(slot: number, namespace: Namespace): void {
    const bytes = new Uint8Array(LABEL_BYTES);
    const view = new DataView(bytes.buffer);
    bytes.set(bytesOfHex(namespace.uuid), LABEL_UUID);
    for (let i = 0; i < Math.min(namespace.name.length, LABEL_NAME_BYTES - 1); i++)
      bytes[LABEL_NAME + i] = namespace.name.charCodeAt(i);
    view.setUint32(LABEL_FLAGS, namespace.flags, true);
    view.setUint16(LABEL_NR_LABELS, namespace.nrLabels, true);
    view.setUint16(LABEL_POSITION, namespace.position, true);
    view.setBigUint64(LABEL_COOKIE, namespace.cookie, true);
    view.setBigUint64(LABEL_LBA_SIZE, 512n, true);
    view.setBigUint64(LABEL_DPA, BigInt(namespace.dpa), true);
    view.setBigUint64(LABEL_RAW_SIZE, BigInt(namespace.rawSize), true);
    view.setUint32(LABEL_SLOT, slot, true);
    view.setBigUint64(LABEL_CHECKSUM, fletcher64(bytes), true);
    this.writeBytes(this.labelAt(slot), bytes);
  }

  private readBytes(at: number, lenBytes: number): Uint8Array {
    const bytes = new Uint8Array(lenBytes);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < lenBytes; i += 4) view.setUint32(i, this.store.readWord(at + i), true);
    return bytes;
  }

  private writeBytes(at: number, bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let i = 0; i < bytes.length; i += 4) this.store.writeWord(at + i, view.getUint32(i, true));
  }
}

const isFree = (free: Uint8Array, slot: number): boolean =>
  ((free[slot >>> 3]! >>> (slot & 7)) & 1) === 1;

const setFree = (free: Uint8Array, slot: number, isNow: boolean): void => {
  const bit = 1 << (slot & 7);
  free[slot >>> 3] = isNow ? free[slot >>> 3]! | bit : free[slot >>> 3]! & ~bit;
};

const hexOf = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

const bytesOfHex = (hex: string): Uint8Array =>
  Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16) || 0);
