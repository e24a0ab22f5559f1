/**
 * /proc/PID/smaps: for each VMA what of it is resident, shared, dirty, swapped. Compare
 * fs/proc/task_mmu.c:show_smap(), smaps_account().
 *
 * Every page is its own share where it is mapped once, and a part of it where more often. There is
 * no lazy freeing and no file system whose folios are large, so those two lines are 0.
 */
import { PAGE_SIZE } from '#emu';
import { folioOf, folioRefCount, folioTestFlags, pageMapcount } from '../folio/folio.ts';
import { PG_ANON, PG_DIRTY, PG_KSM, PG_REFERENCED, PG_SWAPBACKED } from '../frames/table.ts';
import { pteDirty, pteLeaf, pteNone, ptePresent, pteYoung, vmNormalPage } from '../pgtable/pte.ts';
import {
  isHwpoisonEntry,
  isMigrationEntry,
  isSwapEntry,
  migrationEntryPage,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { levelPages, ptepGet, walkPte } from '../pgtable/walk.ts';
import { swapCachePage } from '../swap/cache.ts';
import { swapCount } from '../swap/slots.ts';
import { THP_ORDERS_ALL_ANON, thpAllowableOrders } from '../thp/orders.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_HUGETLB, VM_LOCKED, VM_SHARED, VM_WRITE } from '../vma/flags.ts';
import { kibLine, mapsLine } from './format.ts';
import { createSharing, visitVmaEntries } from './walk.ts';

/** Of one VMA: bytes; proportional ones in bytes and fractions of them. */
interface Stats {
  resident: number;
  pss: number;
  pssDirty: number;
  sharedClean: number;
  sharedDirty: number;
  privateClean: number;
  privateDirty: number;
  referenced: number;
  anonymous: number;
  ksm: number;
  anonHuge: number;
  shmemPmd: number;
  sharedHugetlb: number;
  privateHugetlb: number;
  swap: number;
  swapPss: number;
  locked: number;
}

const createStats = (): Stats => ({
  resident: 0,
  pss: 0,
  pssDirty: 0,
  sharedClean: 0,
  sharedDirty: 0,
  privateClean: 0,
  privateDirty: 0,
  referenced: 0,
  anonymous: 0,
  ksm: 0,
  anonHuge: 0,
  shmemPmd: 0,
  sharedHugetlb: 0,
  privateHugetlb: 0,
  swap: 0,
  swapPss: 0,
  locked: 0,
});

/** The whole file. */
export const procSmaps = (k: Kernel, mm: MmStruct): string => {
  const all = new Map<Vma, Stats>(mm.vmas.map((vma) => [vma, createStats()]));
  const isShared = createSharing(k);
  visitVmaEntries(k, mm, (vma, _hva, entry, level) => {
    const stats = all.get(vma);
    if (stats === undefined) return;
    if ((vma.flags & VM_HUGETLB) !== 0) countHugetlb(k, stats, entry, level, isShared);
    else if (ptePresent(entry) && (level === 0 || pteLeaf(entry)))
      countPresent(k, stats, vma, entry, level);
    else countNonpresent(k, stats, vma, entry);
  });
  for (const [vma, stats] of all) stats.swap += shmemSwapped(k, vma);
  return [...all].map(([vma, stats]) => smapsOf(k, vma, stats)).join('');
};

/**
 * Bytes of a file's pages that are swapped out and that the VMA would find there: all, or in a private
 * mapping that may have copies those that it has no entry for. Compare smap_gather_stats().
 */
const shmemSwapped = (k: Kernel, vma: Vma): number => {
  const { mapping, start, end, pgoff, flags } = vma;
  if (mapping === null || mapping.swapped.size === 0) return 0;
  const copies = (flags & (VM_SHARED | VM_WRITE)) === VM_WRITE;
  let bytes = 0;
  for (const at of mapping.swapped.keys()) {
    const hva = start + (at - pgoff) * PAGE_SIZE;
    if (hva < start || hva >= end) continue;
    const word = copies ? walkPte(k, vma.mm, hva, false) : 0;
    if (word <= 0 || pteNone(ptepGet(k, word))) bytes += PAGE_SIZE;
  }
  return bytes;
};

const countHugetlb = (
  k: Kernel,
  stats: Stats,
  entry: number,
  level: number,
  isShared: (folio: number) => boolean,
): void => {
  const present = ptePresent(entry) && pteLeaf(entry);
  if (!present && !isMigrationEntry(entry) && !isHwpoisonEntry(entry)) return;
  const bytes = levelPages(level) * PAGE_SIZE;
  if (!present || isShared(folioOf(k, vmNormalPage(entry)))) stats.sharedHugetlb += bytes;
  else stats.privateHugetlb += bytes;
};

const countPresent = (k: Kernel, stats: Stats, vma: Vma, entry: number, level: number): void => {
  const page = vmNormalPage(entry);
  if (page < 0) return;
  const nr = levelPages(level);
  if (level > 0) {
    if (folioTestFlags(k, page, PG_ANON)) stats.anonHuge += nr * PAGE_SIZE;
    else if (folioTestFlags(k, page, PG_SWAPBACKED)) stats.shmemPmd += nr * PAGE_SIZE;
  }
  account(k, stats, vma, page, nr, pteYoung(entry), pteDirty(entry), true);
};

/** A swap entry counts as swapped; one that names a frame counts as resident, and as shared nobody knows how. */
const countNonpresent = (k: Kernel, stats: Stats, vma: Vma, entry: number): void => {
  if (isSwapEntry(entry)) {
    const slot = swapEntrySlot(entry);
    const entries = swapCount(k, slot) - (swapCachePage(k, slot) >= 0 ? 1 : 0);
    stats.swap += PAGE_SIZE;
    stats.swapPss += PAGE_SIZE / Math.max(1, entries);
  } else if (isMigrationEntry(entry) || isHwpoisonEntry(entry)) {
    account(k, stats, vma, migrationEntryPage(entry), 1, false, false, false);
  }
};

/** `nr` pages that one entry maps. Compare smaps_account(). */
const account = (
  k: Kernel,
  stats: Stats,
  vma: Vma,
  page: number,
  nr: number,
  young: boolean,
  dirty: boolean,
  present: boolean,
): void => {
  const folio = folioOf(k, page);
  const bytes = nr * PAGE_SIZE;
  if (folioTestFlags(k, folio, PG_ANON)) stats.anonymous += bytes;
  if (folioTestFlags(k, folio, PG_KSM)) stats.ksm += bytes;
  stats.resident += bytes;
  if (young || folioTestFlags(k, folio, PG_REFERENCED)) stats.referenced += bytes;
  const isDirty = dirty || folioTestFlags(k, folio, PG_DIRTY);
  const locked = (vma.flags & VM_LOCKED) !== 0;
  // One reference: it is mapped once, whatever its size.
  if (folioRefCount(k, folio) === 1 || !present) {
    accumulate(stats, bytes, bytes, isDirty, locked, present);
    return;
  }
  for (let i = 0; i < nr; i++) {
    const mapcount = pageMapcount(k, page + i);
    const share = PAGE_SIZE / Math.max(1, mapcount);
    accumulate(stats, PAGE_SIZE, share, isDirty, locked, mapcount < 2);
  }
};

const accumulate = (
  stats: Stats,
  bytes: number,
  share: number,
  dirty: boolean,
  locked: boolean,
  isPrivate: boolean,
): void => {
  stats.pss += share;
  if (locked) stats.locked += share;
  if (dirty) stats.pssDirty += share;
  if (dirty && isPrivate) stats.privateDirty += bytes;
  else if (dirty) stats.sharedDirty += bytes;
  else if (isPrivate) stats.privateClean += bytes;
  else stats.sharedClean += bytes;
};

/** What each bit of a VMA's flags is called. Compare show_smap_vma_flags(). */
const FLAG_NAMES: Record<number, string> = {
  0: 'rd',
  1: 'wr',
  2: 'ex',
  3: 'sh',
  4: 'mr',
  5: 'mw',
  6: 'me',
  7: 'ms',
  9: 'um',
  10: 'pf',
  12: 'uw',
  13: 'lo',
  14: 'io',
  17: 'dc',
  18: 'de',
  21: 'nr',
  22: 'ht',
  27: 'sd',
  28: 'mm',
  29: 'hg',
  30: 'nh',
  31: 'mg',
};

const flagNames = (vmFlags: number): string => {
  let names = '';
  for (let bit = 0; bit < 32; bit++)
    if (((vmFlags >>> bit) & 1) !== 0) names += `${FLAG_NAMES[bit] ?? '??'} `;
  return names;
};

const pageKib = (vma: Vma): number =>
  vma.mapping !== null && (vma.flags & VM_HUGETLB) !== 0 ? 4 << vma.mapping.hugeOrder : 4;

const smapsOf = (k: Kernel, vma: Vma, stats: Stats): string => {
  const line = (name: string, bytes: number, width = 8): string =>
    kibLine(`${name}:`.padEnd(16), Math.floor(bytes / 1024), width);
  const eligible =
    (vma.flags & VM_HUGETLB) === 0 && thpAllowableOrders(k, vma, THP_ORDERS_ALL_ANON) !== 0;
  return [
    mapsLine(vma),
    line('Size', vma.end - vma.start),
    line('KernelPageSize', pageKib(vma) * 1024),
    line('MMUPageSize', pageKib(vma) * 1024),
    line('Rss', stats.resident),
    line('Pss', stats.pss),
    line('Pss_Dirty', stats.pssDirty),
    line('Shared_Clean', stats.sharedClean),
    line('Shared_Dirty', stats.sharedDirty),
    line('Private_Clean', stats.privateClean),
    line('Private_Dirty', stats.privateDirty),
    line('Referenced', stats.referenced),
    line('Anonymous', stats.anonymous),
    line('KSM', stats.ksm),
    line('LazyFree', 0),
    line('AnonHugePages', stats.anonHuge),
    line('ShmemPmdMapped', stats.shmemPmd),
    line('FilePmdMapped', 0),
    line('Shared_Hugetlb', stats.sharedHugetlb),
    // One letter too long for the column, so the number has one less.
    kibLine('Private_Hugetlb: ', Math.floor(stats.privateHugetlb / 1024), 7),
    line('Swap', stats.swap),
    line('SwapPss', stats.swapPss),
    line('Locked', stats.locked),
    `THPeligible:    ${(eligible ? '1' : '0').padStart(8)}\n`,
    `VmFlags: ${flagNames(vma.flags)}\n`,
  ].join('');
};
