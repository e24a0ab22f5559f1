/** What the random driver believes of processes, mappings, files, pins and pipes. */
import { PAGE_SIZE } from '#emu';
import type {
  AddressSpace,
  BlockDevice,
  FixedBuffer,
  GupUserId,
  HostProcess,
  MmStruct,
  Pipe,
  RemoteFile,
  Umem,
} from '#mm';
import type { SecondaryMmu } from '../secondary-mmu.ts';
import type { History } from './history.ts';

/** Offset in its page of the word that is watched. */
export const WORD = 8;

/** A watched word of a mapping: one in every `stride` pages. */
export interface Word {
  history: History;
  /** What it reads as once its page is dropped: the file's word; null: zero, or nothing is lost. */
  origin: History | null;
  /** Its number among the words of the region's file, -1 without a file. */
  inFile: number;
  region: Region;
  /** Changes of its mapping (protection, place, end) under way, and when the last one ended. */
  changing: number;
  changed: number;
}

/** A mapping, or what is left of one. */
export interface Region {
  process: Process;
  hva: number;
  nrPages: number;
  /** Pages from one watched word to the next. */
  stride: number;
  words: Word[];
  /** anon: zeros when dropped; file: the file's bytes again; shared: nothing is lost. */
  kind: 'anon' | 'file' | 'shared';
  /** The file whose words it shows. */
  file: FileModel | null;
  writable: boolean;
  readable: boolean;
  /** Pages of a piece that can be mapped, dropped or protected by itself: 512 of hugetlb. */
  unit: number;
  /** Unmapped, or about to be: accesses may fail. */
  dead: boolean;
}

export interface FileModel {
  name: string;
  mapping: AddressSpace;
  /** One for each watched page. */
  words: History[];
  stride: number;
  unit: number;
  /** Pages that mappings of it have; what lies beyond its end cannot be reached. */
  maxPages: number;
  /** Its length, in pages, begun ones among them. */
  nrPages: number;
  /** Changes of its length under way, and when the last one ended. */
  changing: number;
  changed: number;
  /** write()s under way. */
  writing: number;
  /** The disk that it is on; null: in memory alone. */
  disk: BlockDevice | null;
  /** Never mapped: direct writes, which mappings are not told of, go to such a file. */
  direct: boolean;
}

/** A file that has its full length. */
export const createFileModel = (
  name: string,
  mapping: AddressSpace,
  words: History[],
  { stride = 1, unit = 1, direct = false } = {},
): FileModel => ({
  name,
  mapping,
  words,
  stride,
  unit,
  maxPages: mapping.nrPages,
  nrPages: mapping.nrPages,
  changing: 0,
  changed: -1,
  writing: 0,
  disk: null,
  direct,
});

export interface Process {
  id: number;
  p: HostProcess;
  regions: Region[];
  secondary: SecondaryMmu | null;
  /** Operations under way in it. */
  busy: number;
}

/** Pages held from one operation to a later one. */
export interface Held {
  pages: Int32Array;
  n: number;
  kind: 'write' | 'read' | 'get';
  /** Word of each page that has one, and its epoch before the pin was taken; null: not known any more. */
  words: ({ word: Word; history: History; epoch: number } | null)[];
  buffer: FixedBuffer | null;
  /** A memory region of RDMA, or what VFIO has mapped. */
  umem: Umem | null;
  dma: { mm: MmStruct; iova: number; lenBytes: number } | null;
}

/** A pipe and what its bytes must be, oldest first; null: not known. */
export interface PipeModel {
  pipe: Pipe;
  expected: ({ history: History; epoch: number } | null)[];
  /** A splice into it is under way. */
  busy: boolean;
}

/** A file at a server: direct I/O only. */
export interface RemoteModel {
  user: GupUserId;
  file: RemoteFile;
  /** One for each page. */
  words: History[];
}

export const regionEnd = (region: Region): number => region.hva + region.nrPages * PAGE_SIZE;

/** Address of watched word number `i`. */
export const wordHva = (region: Region, i: number): number =>
  region.hva + i * region.stride * PAGE_SIZE + WORD;

/** A region with words of its own. */
export const createRegion = (
  fields: Omit<Region, 'words' | 'dead'>,
  words: Pick<Word, 'history' | 'origin' | 'inFile'>[],
): Region => {
  const region: Region = { ...fields, words: [], dead: false };
  region.words = words.map((word) => ({ ...word, region, changing: 0, changed: -1 }));
  return region;
};

/**
 * Cuts a region in two at page `at`, a multiple of its stride and unit, strictly inside.
 * @returns the upper part; the region keeps the lower one
 */
export const splitRegion = (region: Region, at: number): Region => {
  const upper: Region = {
    ...region,
    hva: region.hva + at * PAGE_SIZE,
    nrPages: region.nrPages - at,
    words: region.words.splice(at / region.stride),
  };
  for (const word of upper.words) word.region = upper;
  region.nrPages = at;
  const { regions } = region.process;
  regions.splice(regions.indexOf(region) + 1, 0, upper);
  return upper;
};

/**
 * Words whose page an access that asks for writing may turn into a copy: of a private file mapping,
 * the word's own; of huge pages every one that may share its page.
 */
export const brokenWith = (region: Region, histories: History[]): History[] => {
  if (region.kind !== 'file') return [];
  return region.unit > 1 ? region.words.map((word) => word.history) : histories;
};
