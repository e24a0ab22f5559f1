/**
 * ELF64 executables for RISC-V: what of them is needed to load a guest, and nothing that is not.
 *
 * System V ABI (gABI 4.1, ch. 4 and 5) and the RISC-V psABI's e_machine value. Program headers only:
 * sections, symbols, relocations and dynamic linking are left out. Segments are placed at their
 * physical addresses (p_paddr), as firmware loads a kernel.
 */

/** e_ident[EI_CLASS], e_ident[EI_DATA]. */
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2MSB = 2;
/** e_type: the two that have program headers to load. */
const ET_EXEC = 2;
const ET_DYN = 3;
/** p_type. */
const PT_LOAD = 1;
const PT_INTERP = 3;

const EHDR_BYTES = 64;
const PHDR_BYTES = 56;

const EM_RISCV = 243;
/** Names of the machines that a wrong file is most often for. */
const MACHINE_NAMES: ReadonlyMap<number, string> = new Map([
  [3, 'i386'],
  [8, 'mips'],
  [20, 'powerpc'],
  [21, 'powerpc64'],
  [22, 's390x'],
  [40, 'arm'],
  [62, 'x86-64'],
  [183, 'aarch64'],
  [258, 'loongarch'],
]);

/** One part of the image: `bytes` at `pa`, then zeroes up to `memBytes`. */
export interface ElfSegment {
  pa: number;
  bytes: Uint8Array;
  memBytes: number;
}

/** A program, ready to be placed. */
export interface ElfImage {
  /** Physical address of the first instruction. */
  entry: number;
  /** In file order; none empty, none overlapping. */
  segments: ElfSegment[];
}

/** The file is not a program that can be loaded. The message is one line, without the file's name. */
export class ElfError extends Error {
  override name = 'ElfError';
}

/** Where an image goes: RAM, a guest's memory, or a test's list. */
export interface ElfSink {
  contains(pa: number, lenBytes: number): boolean;
  write(pa: number, bytes: Uint8Array): void;
  zero(pa: number, lenBytes: number): void;
}

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/**
 * Reads the headers of an ELF file; the segments' bytes are views of `file`, not copies.
 * @throws ElfError when the file is not a riscv64 executable or contradicts itself
 */
export const parseElf = (file: Uint8Array): ElfImage => {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  checkIdent(file, view);
  const segments = readSegments(file, view);
  const virtualEntry = view.getBigUint64(24, true);
  const entry = segments.entryOf(virtualEntry);
  if (entry === undefined)
    throw new ElfError(`the entry point ${hex(virtualEntry)} is in no loaded segment`);
  return { entry, segments: segments.list };
};

/**
 * Copies an image to where its addresses say, after all of it was found to fit.
 * @throws ElfError when a segment does not; nothing has been written then
 */
export const loadElf = (image: ElfImage, sink: ElfSink): void => {
  image.segments.forEach((segment, i) => {
    if (!sink.contains(segment.pa, segment.memBytes))
      throw new ElfError(
        `segment ${i} at [${hex(segment.pa)}, ${hex(segment.pa + segment.memBytes)}) is outside RAM`,
      );
  });
  for (const segment of image.segments) {
    if (segment.bytes.length > 0) sink.write(segment.pa, segment.bytes);
    const restBytes = segment.memBytes - segment.bytes.length;
    if (restBytes > 0) sink.zero(segment.pa + segment.bytes.length, restBytes);
  }
};

/** The checks that need no more than the ELF header, most telling first. */
const checkIdent = (file: Uint8Array, view: DataView): void => {
  if (file.length === 0) throw new ElfError('empty file');
  const magic = file.length >= 4 && view.getUint32(0, false) === 0x7f45_4c46;
  if (!magic) throw new ElfError('not an ELF file');
  if (file.length < 20)
    throw new ElfError(`truncated: an ELF header cut off at ${file.length} bytes`);
  const bigEndian = file[5] === ELFDATA2MSB;
  const machine = view.getUint16(18, !bigEndian);
  const machineName = MACHINE_NAMES.get(machine) ?? `machine ${machine}`;
  if (machine !== EM_RISCV) throw new ElfError(`an ELF for ${machineName}, not riscv64`);
  if (file[4] === ELFCLASS32) throw new ElfError('a 32-bit ELF, not riscv64');
  if (file[4] !== ELFCLASS64) throw new ElfError(`an ELF of unknown class ${file[4]}`);
  if (bigEndian) throw new ElfError('a big-endian ELF, not riscv64');
  if (file.length < EHDR_BYTES)
    throw new ElfError(`truncated: an ELF header cut off at ${file.length} of ${EHDR_BYTES} bytes`);
  const type = view.getUint16(16, true);
  if (type !== ET_EXEC && type !== ET_DYN)
    throw new ElfError(`not an executable: ELF type ${type}, expected ${ET_EXEC} or ${ET_DYN}`);
};

interface SegmentTable {
  list: ElfSegment[];
  /** Physical address of a virtual one, or undefined. */
  entryOf(va: bigint): number | undefined;
}

const readSegments = (file: Uint8Array, view: DataView): SegmentTable => {
  const tableAt = u64(view, 32, 'the program header table');
  const entryBytes = view.getUint16(54, true);
  const count = view.getUint16(56, true);
  if (count === 0) throw new ElfError('nothing to load: no program headers');
  if (entryBytes < PHDR_BYTES) throw new ElfError(`program headers of ${entryBytes} bytes`);
  if (tableAt + count * entryBytes > file.length)
    throw new ElfError(
      `truncated: the program headers end at byte ${tableAt + count * entryBytes} of ${file.length}`,
    );
  const list: ElfSegment[] = [];
  /** A kernel's virtual addresses may be at the top of the 64-bit space: BigInt. */
  const virtualStarts: bigint[] = [];
  for (let i = 0; i < count; i++) {
    const at = tableAt + i * entryBytes;
    const type = view.getUint32(at, true);
    if (type === PT_INTERP) throw new ElfError('needs a dynamic linker; link it statically');
    if (type !== PT_LOAD) continue;
    const fileAt = u64(view, at + 8, `segment ${i}'s file offset`);
    const pa = u64(view, at + 24, `segment ${i}'s address`);
    const fileBytes = u64(view, at + 32, `segment ${i}'s size`);
    const memBytes = u64(view, at + 40, `segment ${i}'s size`);
    if (memBytes < fileBytes)
      throw new ElfError(
        `segment ${i} has ${fileBytes} bytes in the file but ${memBytes} in memory`,
      );
    if (fileBytes > 0 && fileAt + fileBytes > file.length)
      throw new ElfError(
        `truncated: segment ${i} ends at byte ${fileAt + fileBytes} of ${file.length}`,
      );
    if (memBytes === 0) continue;
    const other = list.findIndex((s) => pa < s.pa + s.memBytes && pa + memBytes > s.pa);
    if (other >= 0) throw new ElfError(`segments ${other} and ${i} overlap at ${hex(pa)}`);
    list.push({ pa, bytes: file.subarray(fileAt, fileAt + fileBytes), memBytes });
    virtualStarts.push(view.getBigUint64(at + 16, true));
  }
  if (list.length === 0) throw new ElfError('nothing to load: no loadable segment');
  const entryOf = (va: bigint): number | undefined => {
    for (const [i, segment] of list.entries()) {
      const offset = va - (virtualStarts[i] ?? 0n);
      if (offset >= 0n && offset < segment.memBytes) return segment.pa + Number(offset);
    }
    return undefined;
  };
  return { list, entryOf };
};

/** A 64-bit field that must be an address or a size: below 2^53, so that a number holds it. */
const u64 = (view: DataView, at: number, what: string): number => {
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    throw new ElfError(`${what} is 0x${value.toString(16)}, beyond any address`);
  return Number(value);
};
