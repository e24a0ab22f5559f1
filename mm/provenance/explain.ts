/**
 * Who holds a frame: every reference of its folio with its reason, and what is left without one.
 *
 * Entries, caches and the kernel's own holders are read from the state as it is; what GUP handed out
 * from the records of provenance, or, where nothing was recorded, from pipes and registered buffers.
 */
import { PAGE_SIZE } from '#emu';
import { visitTables } from '../check/census.ts';
import {
  folioNrPages,
  folioOf,
  folioRefCount,
  folioTestFlags,
  pageMapcount,
} from '../folio/folio.ts';
import { folioHasPincount, folioPinCount, GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import {
  PG_DEVDAX,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_RESERVED,
  PG_SWAPCACHE,
  PG_TABLE,
  pageToPfn,
  pfnToPage,
} from '../frames/table.ts';
import { pteLeaf, ptePage, ptePresent, pteSpecial, pteWrite } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isWritableMigrationEntry,
  migrationEntryPage,
} from '../pgtable/swapops.ts';
import { levelPages } from '../pgtable/walk.ts';
import type { PipeHold } from '../pipe/pipe.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { type LongtermHold, longtermOf } from './longterm.ts';
import type { Hold } from './provenance.ts';

/** An entry that names the page. */
export interface FrameEntry {
  kind: 'present' | 'migration';
  mm: number;
  /** Where the page is, also in the middle of a huge entry. */
  hva: number;
  /** 0 = last level; 1, 2: a huge entry. */
  level: number;
  writable: boolean;
}

/** Everybody who holds a page, or its folio. Plain data. */
export interface FrameHolders {
  pfn: number;
  /** Of the folio's first page, and the folio's pages. */
  folioPfn: number;
  nrPages: number;
  /** Of the folio. */
  refcount: number;
  pins: number;
  /** Of the page. */
  mapcount: number;
  /** Entries that name the page; special ones and those of a migration hold nothing. */
  entries: FrameEntry[];
  /** Entries that map other pages of the folio only. */
  otherEntries: number;
  /** A file's page cache: one reference for each page (hugetlb: for the folio). */
  cache: { mapping: number; kind: AddressSpace['kind']; pgoff: number; references: number } | null;
  /** The swap cache: the slot of the page, one reference for each page of the folio. */
  swapCache: { slot: number; references: number } | null;
  /** The kernel's own reference: 'isolated', 'reserved', 'page table', 'hwpoison', 'device-dax'. */
  kernel: string[];
  pipes: { pipe: number; buffer: number; hold: PipeHold }[];
  fixedBuffers: { buffer: number; mm: number; hva: number }[];
  /** Memory regions of RDMA (by id) and mappings of VFIO (by bus address) that the folio is in. */
  longterm: LongtermHold[];
  /** By GUP, of any page of the folio; always empty where nothing is recorded. */
  holds: (Hold & { pfn: number })[];
  /** Pins and references that nobody above has: a leak, or a path of the kernel that is on its way. */
  unexplained: { pins: number; references: number };
}

/** Lists everybody who holds `page`. Nobody holds a free one. */
export const explainFrame = (k: Kernel, page: number): FrameHolders => {
  const folio = folioOf(k, page);
  const { entries, otherEntries, references } = entriesOf(k, page, folio);
  const holders: FrameHolders = {
    pfn: pageToPfn(page),
    folioPfn: pageToPfn(folio),
    nrPages: folioNrPages(k, folio),
    refcount: folioRefCount(k, folio),
    pins: 0,
    mapcount: pageMapcount(k, page),
    entries,
    otherEntries,
    cache: cacheOf(k, page, folio),
    swapCache: swapCacheOf(k, page, folio),
    kernel: kernelOf(k, folio),
    pipes: pipesOf(k, folio),
    fixedBuffers: buffersOf(k, folio),
    longterm: longtermOf(k, folio),
    holds: holdsOf(k, folio),
    unexplained: { pins: 0, references: 0 },
  };
  settle(k, holders, holders.refcount - references);
  return holders;
};

/** Sorts what the entries leave of the count into pins and references that somebody has, and the rest. */
const settle = (k: Kernel, holders: FrameHolders, references: number): void => {
  const { cache, swapCache, kernel, pipes, fixedBuffers, longterm, holds, unexplained } = holders;
  const recorded = k.state.provenance !== null;
  const held = (kind: Hold['kind']): number =>
    holds.reduce((sum, hold) => sum + (hold.kind === kind ? hold.n : 0), 0);
  const piped = (hold: PipeHold): number => pipes.filter((buffer) => buffer.hold === hold).length;
  const gets = recorded ? held('get') : piped('get');
  const registered = longterm.reduce((sum, region) => sum + region.pins, fixedBuffers.length);
  const pins = recorded ? held('pin') : piped('pin') + registered;
  const others = (cache?.references ?? 0) + (swapCache?.references ?? 0) + kernel.length;
  const rest = references - others - piped('own') - piped('cache') - gets;
  const folio = pfnToPage(holders.folioPfn);
  const large = folioHasPincount(k, folio);
  holders.pins = large
    ? folioPinCount(k, folio)
    : Math.max(pins, Math.floor(rest / GUP_PIN_COUNTING_BIAS));
  unexplained.pins = holders.pins - pins;
  unexplained.references = rest - holders.pins * (large ? 1 : GUP_PIN_COUNTING_BIAS);
};

interface FolioEntries {
  entries: FrameEntry[];
  otherEntries: number;
  /** References that the folio has by them. */
  references: number;
}

/** Every entry of every address space that names something of the folio. */
const entriesOf = (k: Kernel, page: number, folio: number): FolioEntries => {
  const found: FolioEntries = { entries: [], otherEntries: 0, references: 0 };
  const end = folio + folioNrPages(k, folio);
  for (const mm of k.state.mms.values())
    visitTables(k, mm, {
      onTable: () => {},
      onEntry: (hva, entry, level) => {
        const present = ptePresent(entry) && (level === 0 || pteLeaf(entry));
        if (!present && !isMigrationEntry(entry)) return;
        const first = present ? ptePage(entry) : migrationEntryPage(entry);
        if (first >= end || first + levelPages(level) <= folio) return;
        const counted = present && !pteSpecial(entry);
        if (counted) found.references++;
        if (page < first || page >= first + levelPages(level)) {
          if (counted) found.otherEntries++;
          return;
        }
        found.entries.push({
          kind: present ? 'present' : 'migration',
          mm: mm.id,
          hva: hva + (page - first) * PAGE_SIZE,
          level,
          writable: present ? pteWrite(entry) : isWritableMigrationEntry(entry),
        });
      },
    });
  return found;
};

const cacheOf = (k: Kernel, page: number, folio: number): FrameHolders['cache'] => {
  const file = k.state.mappings.get(k.state.frames.mapping[folio]!);
  if (file === undefined || file.kind === 'anon' || file.kind === 'ksm') return null;
  let pgoff = -1;
  let references = 0;
  const end = folio + folioNrPages(k, folio);
  for (const [at, cached] of file.pages) {
    if (cached < folio || cached >= end) continue;
    references++;
    // hugetlbfs has the first page alone.
    if (cached === page || (file.kind === 'hugetlbfs' && cached === folio))
      pgoff = at + page - cached;
  }
  return references === 0 ? null : { mapping: file.id, kind: file.kind, pgoff, references };
};

const swapCacheOf = (k: Kernel, page: number, folio: number): FrameHolders['swapCache'] => {
  const { cache } = k.state.swap;
  if (!folioTestFlags(k, folio, PG_SWAPCACHE)) return null;
  const first = k.state.frames.swap[folio]!;
  let references = 0;
  for (let i = 0; i < folioNrPages(k, folio); i++)
    if (cache.get(first + i) === folio + i) references++;
  return references === 0 ? null : { slot: first + page - folio, references };
};

/** One reference each. Whoever found a page broken keeps it for ever. */
const kernelOf = (k: Kernel, folio: number): string[] =>
  (
    [
      [PG_ISOLATED, 'isolated'],
      [PG_RESERVED, 'reserved'],
      [PG_TABLE, 'page table'],
      [PG_HWPOISON, 'hwpoison'],
      [PG_DEVDAX, 'device-dax'],
    ] as const
  ).flatMap(([flag, name]) => (folioTestFlags(k, folio, flag) ? [name] : []));

const pipesOf = (k: Kernel, folio: number): FrameHolders['pipes'] =>
  [...k.state.pipes.values()].flatMap(({ id, buffers }) =>
    buffers.flatMap(({ page, hold }, buffer) =>
      folioOf(k, page) === folio ? [{ pipe: id, buffer, hold }] : [],
    ),
  );

const buffersOf = (k: Kernel, folio: number): FrameHolders['fixedBuffers'] =>
  [...k.state.fixedBuffers.values()].flatMap(({ id, mm, hva, pages }) =>
    [...pages].flatMap((page, i) =>
      folioOf(k, page) === folio
        ? [{ buffer: id, mm: mm.id, hva: hva - (hva % PAGE_SIZE) + i * PAGE_SIZE }]
        : [],
    ),
  );

const holdsOf = (k: Kernel, folio: number): FrameHolders['holds'] => {
  const found: FrameHolders['holds'] = [];
  const { provenance } = k.state;
  if (provenance === null) return found;
  for (let page = folio; page < folio + folioNrPages(k, folio); page++)
    for (const hold of provenance.holds.get(page) ?? [])
      found.push({ pfn: pageToPfn(page), ...hold });
  return found;
};
