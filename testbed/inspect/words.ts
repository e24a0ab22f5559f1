/** `gupbed inspect FILE pagemap` and `kpageflags`: words of 64 bits, and what their bits say. */
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import {
  type Kernel,
  kpageFlagNames,
  type MmStruct,
  procKpagecount,
  procKpageflags,
  procPagemap,
} from '#mm';
import { hex } from '../report/numbers.ts';
import { alignRows } from '../report/table.ts';

/** One page of an address space. */
export interface PagemapRow {
  hva: string;
  /** As in the file. */
  word: string;
  /** Of a page that is present; otherwise of what it says instead. */
  pfn: number | null;
  swap: { type: number; offset: number } | null;
  /** Names of its bits. */
  bits: string[];
}

const PAGEMAP_BITS = [
  [63n, 'present'],
  [62n, 'swapped'],
  [61n, 'file'],
  [57n, 'uffd-wp'],
  [56n, 'exclusive'],
  [55n, 'soft-dirty'],
] as const;
const FRAME_MASK = (1n << 55n) - 1n;

const wordHex = (word: bigint): string => `0x${word.toString(16).padStart(16, '0')}`;

const pagemapRow = (hva: number, word: bigint): PagemapRow => {
  const bits = PAGEMAP_BITS.flatMap(([bit, name]) => (((word >> bit) & 1n) !== 0n ? [name] : []));
  const frame = word & FRAME_MASK;
  const swapped = bits.includes('swapped');
  return {
    hva: hex(hva),
    word: wordHex(word),
    pfn: bits.includes('present') ? Number(frame) : null,
    swap: swapped ? { type: Number(frame & 31n), offset: Number(frame >> 5n) } : null,
    bits,
  };
};

/** The pages of [hva, hva + nrPages * 4096). */
export const pagemapRange = (k: Kernel, mm: MmStruct, hva: number, nrPages: number): PagemapRow[] =>
  [...procPagemap(k, mm, hva, nrPages)].map((word, i) => pagemapRow(hva + i * PAGE_SIZE, word));

/** Every page of every VMA that is present, or was swapped out. */
export const pagemapMapped = (k: Kernel, mm: MmStruct): PagemapRow[] =>
  mm.vmas.flatMap(({ start, end }) =>
    pagemapRange(k, mm, start, (end - start) / PAGE_SIZE).filter(
      ({ pfn, swap }) => pfn !== null || swap !== null,
    ),
  );

export const pagemapTable = (rows: PagemapRow[]): string =>
  withNames(
    rows.map(({ hva, word, pfn, swap }) => {
      const at = swap === null ? '-' : `type ${swap.type} offset ${swap.offset}`;
      return [hva, word, pfn === null ? at : `pfn ${hex(pfn)}`];
    }),
    rows.map(({ bits }) => bits),
  );

/** Rows in columns, and behind each a list of names. */
const withNames = (rows: string[][], names: string[][]): string =>
  alignRows(rows)
    .map((line, i) => `${line}  ${names[i]!.length === 0 ? '-' : names[i]!.join(',')}\n`)
    .join('');

/** One frame. */
export interface FrameRow {
  pfn: string;
  flags: string;
  mapcount: number;
  names: string[];
}

/** The frames of [pfn, pfn + n). */
export const frameRows = (k: Kernel, pfn: number, n: number): FrameRow[] => {
  const counts = procKpagecount(k, pfn, n);
  return [...procKpageflags(k, pfn, n)].map((word, i) => ({
    pfn: hex(pfn + i),
    flags: wordHex(word),
    mapcount: Number(counts[i]!),
    names: kpageFlagNames(word),
  }));
};

export const frameTable = (rows: FrameRow[]): string =>
  withNames(
    rows.map(({ pfn, flags, mapcount }) => [pfn, flags, `mapcount ${mapcount}`]),
    rows.map(({ names }) => names),
  );

/** Frames that have the same flags. */
export interface FlagsRow {
  flags: string;
  frames: number;
  names: string[];
}

/** All of RAM by flags, the most frequent first: what page-types prints. */
export const flagsRows = (k: Kernel): FlagsRow[] => {
  const frames = new Map<bigint, number>();
  for (const word of procKpageflags(k, RAM_PFN_BASE, k.memory.nrPages))
    frames.set(word, (frames.get(word) ?? 0) + 1);
  return [...frames]
    .toSorted(([a, nrA], [b, nrB]) => nrB - nrA || Number(a - b))
    .map(([word, n]) => ({ flags: wordHex(word), frames: n, names: kpageFlagNames(word) }));
};

export const flagsTable = (rows: FlagsRow[]): string =>
  withNames(
    [
      ['flags', 'page-count', 'MB'],
      ...rows.map(({ flags, frames }) => [
        flags,
        String(frames),
        String(Math.floor((frames * PAGE_SIZE) / 2 ** 20)),
      ]),
    ],
    [['names'], ...rows.map(({ names }) => names)],
  );
