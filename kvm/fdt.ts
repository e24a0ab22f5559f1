/**
 * Flattened devicetree blobs: the format, and nothing of what a board puts into one.
 *
 * Devicetree Specification 0.4, chapter 5 (format version 17, compatible with 16). Left out: the
 * reading direction, and entries in the memory reservation block, which ends where it begins.
 *
 *   header | reservation block | structure block | strings block
 */

export const FDT_MAGIC = 0xd00dfeed;
export const FDT_VERSION = 17;
export const FDT_LAST_COMPATIBLE = 16;
export const FDT_HEADER_BYTES = 40;
/** The reservation block without entries: one terminating pair of zeroes. */
const RESERVATION_BYTES = 16;

const FDT_BEGIN_NODE = 1;
const FDT_END_NODE = 2;
const FDT_PROP = 3;
const FDT_END = 9;

/** One property: its bytes as they stand in the blob (big-endian, strings ended by NUL). */
export interface FdtProperty {
  name: string;
  value: Uint8Array;
}

export interface FdtNode {
  /** `name@unit-address`; empty for the root. */
  name: string;
  properties: FdtProperty[];
  children: FdtNode[];
}

/** A property of 32-bit cells. Numbers are taken modulo 2^32. */
export const fdtCells = (name: string, ...cells: number[]): FdtProperty => {
  const value = new Uint8Array(cells.length * 4);
  const view = new DataView(value.buffer);
  for (const [i, cell] of cells.entries()) view.setUint32(i * 4, cell >>> 0);
  return { name, value };
};

/** A property of 64-bit numbers (two cells each), every one an integer below 2^53. */
export const fdtCells64 = (name: string, ...numbers: number[]): FdtProperty =>
  fdtCells(name, ...numbers.flatMap((n) => [Math.floor(n / 0x1_0000_0000), n >>> 0]));

/** A property of one string, or a list of strings. */
export const fdtStrings = (name: string, ...strings: string[]): FdtProperty => ({
  name,
  value: asciiBytes(strings.map((s) => `${s}\0`).join('')),
});

/** A property without a value: it is there or it is not. */
export const fdtEmpty = (name: string): FdtProperty => ({ name, value: new Uint8Array(0) });

/**
 * The blob of a tree.
 * @param bootHartId what boot_cpuid_phys says
 * @throws RangeError when a name or a string is not ASCII
 */
export const fdtBlob = (root: FdtNode, bootHartId = 0): Uint8Array => {
  const structure = new Writer();
  const strings = new StringTable();
  writeNode(structure, strings, root);
  structure.u32(FDT_END);
  const structOffset = FDT_HEADER_BYTES + RESERVATION_BYTES;
  const stringsOffset = structOffset + structure.length;
  const stringsBytes = asciiBytes(strings.text);
  const total = align4(stringsOffset + stringsBytes.length);

  const blob = new Uint8Array(total);
  const header = new DataView(blob.buffer);
  const fields = [
    FDT_MAGIC,
    total,
    structOffset,
    stringsOffset,
    FDT_HEADER_BYTES, // the reservation block: 8-byte aligned, 40 is
    FDT_VERSION,
    FDT_LAST_COMPATIBLE,
    bootHartId,
    stringsBytes.length,
    structure.length,
  ];
  for (const [i, field] of fields.entries()) header.setUint32(i * 4, field);
  blob.set(structure.bytes(), structOffset);
  blob.set(stringsBytes, stringsOffset);
  return blob;
};

const align4 = (n: number): number => (n + 3) & ~3;

const asciiBytes = (text: string): Uint8Array =>
  Uint8Array.from(text, (c) => {
    const code = c.charCodeAt(0);
    if (code > 0x7e) throw new RangeError(`devicetree text is not ASCII: ${JSON.stringify(text)}`);
    return code;
  });

/** Names of properties, each once, NUL after each. */
class StringTable {
  text = '';
  private readonly offsets = new Map<string, number>();

  offsetOf(name: string): number {
    const known = this.offsets.get(name);
    if (known !== undefined) return known;
    const offset = this.text.length;
    this.offsets.set(name, offset);
    this.text += `${name}\0`;
    return offset;
  }
}

/** Collects the structure block: everything in it is aligned to 4 bytes. */
class Writer {
  length = 0;
  private readonly parts: Uint8Array[] = [];

  u32(value: number): void {
    const part = new Uint8Array(4);
    new DataView(part.buffer).setUint32(0, value);
    this.parts.push(part);
    this.length += 4;
  }

  padded(bytes: Uint8Array): void {
    const part = new Uint8Array(align4(bytes.length));
    part.set(bytes);
    this.parts.push(part);
    this.length += part.length;
  }

  bytes(): Uint8Array {
    const all = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

const writeNode = (out: Writer, strings: StringTable, node: FdtNode): void => {
  out.u32(FDT_BEGIN_NODE);
  out.padded(asciiBytes(`${node.name}\0`));
  for (const property of node.properties) {
    out.u32(FDT_PROP);
    out.u32(property.value.length);
    out.u32(strings.offsetOf(property.name));
    out.padded(property.value);
  }
  for (const child of node.children) writeNode(out, strings, child);
  out.u32(FDT_END_NODE);
};
