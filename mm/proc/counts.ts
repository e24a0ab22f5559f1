/**
 * The counters behind /proc/meminfo and /proc/vmstat: counted when somebody asks, from the frames
 * themselves. Compare mm/vmstat.c, enum node_stat_item. In pages.
 */
import { folioNrPages } from '../folio/folio.ts';
import { folioEntireMapcount, folioTestLarge } from '../folio/large.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_DIRTY,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_LRU,
  PG_SWAPBACKED,
  PG_SWAPCACHE,
  PG_TABLE,
  PG_TAIL,
  PG_UNEVICTABLE,
  PG_WRITEBACK,
} from '../frames/table.ts';
import { nrFreePages } from '../frames/zone.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_HUGETLB, VM_LOCKED, VM_NORESERVE, VM_SHARED, VM_WRITE } from '../vma/flags.ts';

/** All in pages. */
export interface NodeCounts {
  free: number;
  /** Of them in pageblocks of CMA. */
  freeCma: number;
  activeAnon: number;
  inactiveAnon: number;
  activeFile: number;
  inactiveFile: number;
  unevictable: number;
  mlocked: number;
  isolatedAnon: number;
  isolatedFile: number;
  /** Anonymous pages, and pages of files, that are mapped. */
  anonMapped: number;
  fileMapped: number;
  /** In a page cache; in the swap cache. */
  file: number;
  swapCache: number;
  shmem: number;
  shmemHuge: number;
  shmemPmdMapped: number;
  anonHuge: number;
  /** Of files that are written back. */
  dirty: number;
  writeback: number;
  hwpoison: number;
  /** Of address spaces; and of others: what hypervisors have. */
  pageTables: number;
  secondaryPageTables: number;
  /** Promised by mmap(), and not shared with anybody. */
  committed: number;
  hugetlb: number;
}

/** Counts everything. */
export const countNode = (k: Kernel): NodeCounts => {
  const counts: NodeCounts = {
    free: nrFreePages(k),
    freeCma: k.state.zones.reduce((sum, { nrFreeCma }) => sum + nrFreeCma[0]!, 0),
    activeAnon: 0,
    inactiveAnon: 0,
    activeFile: 0,
    inactiveFile: 0,
    unevictable: 0,
    mlocked: 0,
    isolatedAnon: 0,
    isolatedFile: 0,
    anonMapped: 0,
    fileMapped: 0,
    file: 0,
    swapCache: k.state.swap.cache.size,
    shmem: 0,
    shmemHuge: 0,
    shmemPmdMapped: 0,
    anonHuge: 0,
    dirty: 0,
    writeback: 0,
    hwpoison: 0,
    pageTables: 0,
    secondaryPageTables: 0,
    committed: 0,
    hugetlb: 0,
  };
  const { flags, nrPages } = k.state.frames;
  for (let page = 0; page < nrPages; page++) {
    const word = flags[page]!;
    if ((word & PG_HWPOISON) !== 0) counts.hwpoison++;
    if ((word & PG_TABLE) !== 0) counts.secondaryPageTables++;
    if (word !== 0 && (word & (PG_TAIL | PG_HUGETLB | PG_TABLE)) === 0)
      countFolio(k, page, word, counts);
  }
  countFiles(k, counts);
  for (const { order, nrPages: nr } of k.state.hugetlb.hstates) counts.hugetlb += nr << order;
  for (const mm of k.state.mms.values()) {
    counts.pageTables += mm.nrTables;
    for (const vma of mm.vmas) countVma(vma, counts);
  }
  counts.secondaryPageTables -= counts.pageTables;
  return counts;
};

/** Pages of a folio that something maps: all, where one entry maps it whole. */
const mappedPages = (k: Kernel, folio: number, nr: number): number => {
  const { mapcount } = k.state.frames;
  if (folioTestLarge(k, folio) && folioEntireMapcount(k, folio) > 0) return nr;
  let mapped = 0;
  for (let page = folio; page < folio + nr; page++) if (mapcount[page]! > 0) mapped++;
  return mapped;
};

const countFolio = (k: Kernel, folio: number, word: number, counts: NodeCounts): void => {
  const nr = folioNrPages(k, folio);
  const anon = (word & PG_ANON) !== 0;
  // Shared memory is on the lists of what can only be swapped.
  const swapBacked = (word & (PG_ANON | PG_SWAPBACKED)) !== 0;
  if ((word & PG_LRU) !== 0) {
    if ((word & PG_UNEVICTABLE) !== 0) counts.unevictable += nr;
    else if ((word & PG_ACTIVE) !== 0) counts[swapBacked ? 'activeAnon' : 'activeFile'] += nr;
    else counts[swapBacked ? 'inactiveAnon' : 'inactiveFile'] += nr;
  }
  if ((word & PG_ISOLATED) !== 0) counts[swapBacked ? 'isolatedAnon' : 'isolatedFile'] += nr;
  if ((word & PG_WRITEBACK) !== 0) counts.writeback += nr;
  const mapped = mappedPages(k, folio, nr);
  counts[anon ? 'anonMapped' : 'fileMapped'] += mapped;
  const whole = folioTestLarge(k, folio) && folioEntireMapcount(k, folio) > 0;
  if (whole) counts[anon ? 'anonHuge' : 'shmemPmdMapped'] += nr;
  if (!anon && (word & PG_SWAPCACHE) === 0 && swapBacked && folioTestLarge(k, folio))
    counts.shmemHuge += nr;
};

/** Pages in caches. What hugetlbfs has is the pools'. */
const countFiles = (k: Kernel, counts: NodeCounts): void => {
  for (const object of k.state.mappings.values()) {
    if (object.kind === 'anon' || object.kind === 'ksm' || object.kind === 'hugetlbfs') continue;
    counts.file += object.pages.size;
    if (object.kind === 'shmem') {
      counts.shmem += object.pages.size;
      counts.committed += object.nrPages;
    }
    if (!tracksDirty(object)) continue;
    for (const page of object.pages.values())
      if ((k.state.frames.flags[page]! & PG_DIRTY) !== 0) counts.dirty++;
  }
};

const countVma = ({ flags, start, end }: Vma, counts: NodeCounts): void => {
  const nr = (end - start) / 4096;
  if ((flags & VM_LOCKED) !== 0) counts.mlocked += nr;
  const own = (flags & (VM_WRITE | VM_SHARED | VM_HUGETLB | VM_NORESERVE)) === VM_WRITE;
  if (own) counts.committed += nr;
};
