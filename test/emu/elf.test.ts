/** The ELF loader: what it takes, and the one line it says about everything else (gABI ch. 4 and 5). */
import { describe, expect, it } from 'vitest';
import { ElfError, loadElf, parseElf } from '#emu';

const BASE = 0x8000_0000;

interface Segment {
  pa: number;
  va?: bigint;
  fileBytes: number;
  memBytes?: number;
  type?: number;
}

interface Shape {
  machine?: number;
  class?: number;
  bigEndian?: boolean;
  type?: number;
  entry?: bigint;
  segments?: Segment[];
}

/** Builds an ELF64 file: header, program headers, then the segments' bytes (1, 2, 3, ... each). */
const elfFile = (shape: Shape = {}): Uint8Array => {
  const segments = shape.segments ?? [{ pa: BASE, fileBytes: 16 }];
  const headersBytes = 64 + 56 * segments.length;
  const file = new Uint8Array(headersBytes + segments.reduce((n, s) => n + s.fileBytes, 0));
  const view = new DataView(file.buffer);
  const little = shape.bigEndian !== true;
  file.set([0x7f, 0x45, 0x4c, 0x46, shape.class ?? 2, little ? 1 : 2, 1]);
  view.setUint16(16, shape.type ?? 2, little);
  view.setUint16(18, shape.machine ?? 243, little);
  view.setUint32(20, 1, little);
  view.setBigUint64(24, shape.entry ?? BigInt(segments[0]?.pa ?? 0), little);
  view.setBigUint64(32, 64n, little);
  view.setUint16(52, 64, little);
  view.setUint16(54, 56, little);
  view.setUint16(56, segments.length, little);
  let fileAt = headersBytes;
  segments.forEach((segment, i) => {
    const at = 64 + 56 * i;
    view.setUint32(at, segment.type ?? 1, little);
    view.setBigUint64(at + 8, BigInt(fileAt), little);
    view.setBigUint64(at + 16, segment.va ?? BigInt(segment.pa), little);
    view.setBigUint64(at + 24, BigInt(segment.pa), little);
    view.setBigUint64(at + 32, BigInt(segment.fileBytes), little);
    view.setBigUint64(at + 40, BigInt(segment.memBytes ?? segment.fileBytes), little);
    for (let b = 0; b < segment.fileBytes; b++) file[fileAt++] = b + 1;
  });
  return file;
};

/** A sink over 4 KiB at BASE that remembers what was asked of it. */
const listingSink = () => {
  const log: string[] = [];
  return {
    log,
    contains: (pa: number, lenBytes: number) => pa >= BASE && pa + lenBytes <= BASE + 4096,
    write: (pa: number, bytes: Uint8Array) => {
      log.push(`write 0x${pa.toString(16)} ${bytes.join(' ')}`);
    },
    zero: (pa: number, lenBytes: number) => {
      log.push(`zero 0x${pa.toString(16)} ${lenBytes}`);
    },
  };
};

const saying = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (error instanceof ElfError) return error.message;
    throw error;
  }
  return 'no error';
};

describe('a riscv64 executable', () => {
  it('is placed by physical address, its tail beyond the file zeroed', () => {
    const sink = listingSink();
    const image = parseElf(elfFile({ segments: [{ pa: BASE + 8, fileBytes: 3, memBytes: 10 }] }));
    loadElf(image, sink);
    expect(sink.log).toEqual(['write 0x80000008 1 2 3', 'zero 0x8000000b 7']);
    expect(image.entry).toBe(BASE + 8);
  });

  it('with only zeroes in a segment writes nothing there', () => {
    const sink = listingSink();
    const segments = [
      { pa: BASE, fileBytes: 1 },
      { pa: BASE + 64, fileBytes: 0, memBytes: 8 },
    ];
    loadElf(parseElf(elfFile({ segments })), sink);
    expect(sink.log).toEqual(['write 0x80000000 1', 'zero 0x80000040 8']);
  });

  it('linked at a high virtual address enters at the physical one', () => {
    const va = 0xffff_ffff_8000_0000n;
    const segments = [{ pa: BASE, va, fileBytes: 32 }];
    expect(parseElf(elfFile({ segments, entry: va + 8n })).entry).toBe(BASE + 8);
  });

  it('may have segments that are not loaded, and empty ones', () => {
    const segments = [
      { pa: BASE, fileBytes: 4 },
      { pa: 0, fileBytes: 4, type: 0x7000_0003 },
      { pa: BASE, fileBytes: 0 },
    ];
    expect(parseElf(elfFile({ segments })).segments).toHaveLength(1);
  });

  it('is read from a view into a larger buffer', () => {
    const file = elfFile();
    const padded = new Uint8Array(file.length + 7);
    padded.set(file, 7);
    expect(parseElf(padded.subarray(7)).segments[0]?.bytes[0]).toBe(1);
  });
});

describe('anything else is refused with one line', () => {
  const whole = elfFile();
  const text = new TextEncoder().encode('#!/bin/sh\necho hello\n');
  for (const { name, file, message } of [
    { name: 'an empty file', file: new Uint8Array(0), message: 'empty file' },
    { name: 'a text file', file: text, message: 'not an ELF file' },
    { name: 'three bytes', file: whole.slice(0, 3), message: 'not an ELF file' },
    {
      name: 'an x86-64 ELF',
      file: elfFile({ machine: 62 }),
      message: 'an ELF for x86-64, not riscv64',
    },
    {
      name: 'a machine without a name here',
      file: elfFile({ machine: 999 }),
      message: 'an ELF for machine 999, not riscv64',
    },
    {
      name: 'a 32-bit RISC-V ELF',
      file: elfFile({ class: 1 }),
      message: 'a 32-bit ELF, not riscv64',
    },
    { name: 'an unknown class', file: elfFile({ class: 7 }), message: 'an ELF of unknown class 7' },
    {
      name: 'a big-endian ELF',
      file: elfFile({ bigEndian: true }),
      message: 'a big-endian ELF, not riscv64',
    },
    {
      name: 'an object file',
      file: elfFile({ type: 1 }),
      message: 'not an executable: ELF type 1, expected 2 or 3',
    },
    {
      name: 'an identification cut off',
      file: whole.slice(0, 12),
      message: 'truncated: an ELF header cut off at 12 bytes',
    },
    {
      name: 'a header cut off',
      file: whole.slice(0, 40),
      message: 'truncated: an ELF header cut off at 40 of 64 bytes',
    },
    {
      name: 'program headers cut off',
      file: whole.slice(0, 100),
      message: 'truncated: the program headers end at byte 120 of 100',
    },
    {
      name: 'a segment cut off',
      file: whole.slice(0, 130),
      message: 'truncated: segment 0 ends at byte 136 of 130',
    },
    {
      name: 'no program headers',
      file: elfFile({ segments: [] }),
      message: 'nothing to load: no program headers',
    },
    {
      name: 'no loadable segment',
      file: elfFile({ segments: [{ pa: BASE, fileBytes: 4, type: 4 }] }),
      message: 'nothing to load: no loadable segment',
    },
    {
      name: 'a dynamic executable',
      file: elfFile({ segments: [{ pa: BASE, fileBytes: 4, type: 3 }] }),
      message: 'needs a dynamic linker; link it statically',
    },
    {
      name: 'more bytes in the file than in memory',
      file: elfFile({ segments: [{ pa: BASE, fileBytes: 8, memBytes: 4 }] }),
      message: 'segment 0 has 8 bytes in the file but 4 in memory',
    },
    {
      name: 'overlapping segments',
      file: elfFile({
        segments: [
          { pa: BASE, fileBytes: 8 },
          { pa: BASE + 4, fileBytes: 8 },
        ],
      }),
      message: 'segments 0 and 1 overlap at 0x80000004',
    },
    {
      name: 'an entry outside every segment',
      file: elfFile({ entry: 0x9000_0000n }),
      message: 'the entry point 0x90000000 is in no loaded segment',
    },
  ])
    it(name, () => expect(saying(() => parseElf(file))).toBe(message));

  it('an address of 2^63 is refused, not rounded', () => {
    const file = elfFile();
    new DataView(file.buffer).setBigUint64(64 + 24, 1n << 63n, true);
    expect(saying(() => parseElf(file))).toBe(
      "segment 0's address is 0x8000000000000000, beyond any address",
    );
  });

  it('a segment outside memory is refused before anything is written', () => {
    const sink = listingSink();
    const segments = [
      { pa: BASE, fileBytes: 8 },
      { pa: BASE + 4090, fileBytes: 8 },
    ];
    const image = parseElf(elfFile({ segments }));
    expect(saying(() => loadElf(image, sink))).toBe(
      'segment 1 at [0x80000ffa, 0x80001002) is outside RAM',
    );
    expect(sink.log).toEqual([]);
  });

  it('every truncation of a good file is refused or loads the same', () => {
    for (let cut = 0; cut < whole.length; cut++)
      expect(saying(() => parseElf(whole.slice(0, cut)))).not.toBe('no error');
  });
});
