/**
 * Sanitizer: what the page tables of one address space must satisfy, entry by entry, and what it
 * counts of itself: resident pages, swapped pages, those of hugetlb, page-table pages.
 *
 * I1 a writable entry of an anonymous page: the page is exclusive. I3 an exclusive page is mapped by
 * that one entry alone; of a folio that one entry maps whole, the head says it for all. What a VMA
 * and the reverse map must satisfy is in vmas.ts; entries that are not present are in nonpresent.ts.
 */
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_HEAD,
  PG_HUGETLB,
  PG_KSM,
  PG_TABLE,
  PG_TAIL,
} from '../frames/table.ts';
import {
  pteLeaf,
  pteNeedsSoftDirtyWp,
  ptePage,
  ptePresent,
  pteSpecial,
  pteUffdWp,
  pteWrite,
} from '../pgtable/pte.ts';
import { levelPages } from '../pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_HUGETLB, VM_IO, VM_MIXEDMAP, VM_PFNMAP, VM_WRITE } from '../vma/flags.ts';
import { type Census, type TableVisitor, visitTables } from './census.ts';
import { checkWritableEntry } from './dirty.ts';
import { checkNonpresent } from './nonpresent.ts';
import { type MmPass, whereOf } from './pass.ts';
import { checkReverseMap, checkVmas } from './vmas.ts';

/**
 * Checks one address space and adds what it maps to the census.
 * @param settled nobody is between two steps: as many tables are kept back as are needed
 */
export const checkMm = (
  k: Kernel,
  mm: MmStruct,
  census: Census,
  settled: boolean,
  report: string[],
): void => {
  checkVmas(k, mm, report);
  const pass: MmPass = {
    k,
    mm,
    census,
    report,
    vma: undefined,
    nextVma: 0,
    anon: 0,
    file: 0,
    swap: 0,
    hugetlb: 0,
    tables: 0,
    hugeEntries: 0,
  };
  const visitor: TableVisitor = {
    onTable: (page) => checkTable(pass, page),
    onEntry: (hva, entry, level) => {
      const vma = vmaAt(pass, hva);
      if (ptePresent(entry) && (level === 0 || pteLeaf(entry)))
        checkLeaf(pass, vma, hva, entry, level);
      else checkNonpresent(pass, vma, hva, entry, level);
    },
  };
  visitTables(k, mm, visitor);
  for (const page of mm.deposited) checkTable(pass, page);
  checkCounts(pass, settled);
};

const checkCounts = (
  { mm, anon, file, swap, hugetlb, tables, hugeEntries, report }: MmPass,
  settled: boolean,
): void => {
  const who = `mm ${mm.id}`;
  if (tables !== mm.nrTables)
    report.push(`${who}: ${tables} page-table pages, counted ${mm.nrTables}`);
  if (anon !== mm.rssAnon) report.push(`${who}: ${anon} anonymous pages, rss ${mm.rssAnon}`);
  if (file !== mm.rssFile) report.push(`${who}: ${file} file pages, rss ${mm.rssFile}`);
  if (swap !== mm.rssSwap) report.push(`${who}: ${swap} swapped pages, counted ${mm.rssSwap}`);
  if (hugetlb !== mm.hugetlbUsage)
    report.push(`${who}: ${hugetlb} pages of hugetlb, counted ${mm.hugetlbUsage}`);
  const kept = mm.deposited.length;
  if (kept < hugeEntries || (settled && kept !== hugeEntries))
    report.push(`${who}: ${kept} tables kept back for ${hugeEntries} huge entries`);
};

const checkTable = (pass: MmPass, page: number): void => {
  const { k, mm, census, report } = pass;
  pass.tables++;
  census.tables[page] = census.tables[page]! + 1;
  if ((k.state.frames.flags[page]! & PG_TABLE) === 0)
    report.push(`mm ${mm.id}: page table in page ${page}, which is not marked as one`);
};

/** The VMA that an entry is in. Entries come in order, so it is this one or one further up. */
const vmaAt = (pass: MmPass, hva: number): Vma | undefined => {
  const { vmas } = pass.mm;
  let { vma } = pass;
  while ((vma === undefined || vma.end <= hva) && pass.nextVma < vmas.length) {
    vma = vmas[pass.nextVma++];
    pass.vma = vma;
  }
  if (vma !== undefined && hva >= vma.start && hva < vma.end) return vma;
  // munmap takes the VMAs away first, and then the entries, under the lock.
  if (!pass.mm.mmapLock.writer) pass.report.push(`${whereOf(pass, hva)}: entry outside every VMA`);
  return undefined;
};

/** Somebody is changing the VMA, and then its entries. */
const mmLocked = ({ mm }: Vma): boolean => mm.mmapLock.writer;

/** A present entry. */
const checkLeaf = (
  pass: MmPass,
  vma: Vma | undefined,
  hva: number,
  entry: number,
  level: number,
): void => {
  const { k, report } = pass;
  const nr = levelPages(level);
  if (pteWrite(entry)) {
    // mprotect changes the VMA first, and then the entries, under the lock.
    if (vma !== undefined && (vma.flags & VM_WRITE) === 0 && !mmLocked(vma))
      report.push(`${whereOf(pass, hva)}: writable entry in a VMA that is not`);
    if (pteUffdWp(entry))
      report.push(`${whereOf(pass, hva)}: writable entry that userfaultfd has protected`);
    // clear_refs changes the VMA first as well.
    const tracked =
      vma !== undefined && (vma.flags & (VM_PFNMAP | VM_HUGETLB)) === 0 && !mmLocked(vma);
    if (tracked && pteNeedsSoftDirtyWp(vma, entry))
      report.push(`${whereOf(pass, hva)}: writable entry that does not count as written`);
  }
  if (vma !== undefined && level > 0 && hva + nr * 4096 > vma.end)
    report.push(`${whereOf(pass, hva)}: huge entry reaches beyond its VMA`);
  if (pteSpecial(entry)) {
    checkSpecial(pass, vma, hva, entry, level);
    return;
  }
  const page = ptePage(entry);
  if (page < 0 || page + nr > k.state.frames.nrPages) {
    report.push(`${whereOf(pass, hva)}: entry 0x${entry.toString(16)} is outside RAM`);
    return;
  }
  if (vma !== undefined && level === 0) checkWritableEntry(pass, vma, hva, entry);
  checkFolioEntry(pass, vma, hva, page, pteWrite(entry), level);
};

/** An entry whose page is not counted: the zero pages, and what a driver has mapped by frame number. */
const checkSpecial = (
  pass: MmPass,
  vma: Vma | undefined,
  hva: number,
  entry: number,
  level: number,
): void => {
  const { k, report } = pass;
  const page = ptePage(entry);
  if (level > 0) pass.hugeEntries++;
  const zero = level === 0 ? k.state.zeroPage : k.state.hugeZeroFolio;
  if (page === zero) {
    if (pteWrite(entry)) report.push(`${whereOf(pass, hva)}: the zero page is writable`);
  } else if (vma !== undefined && (vma.flags & (VM_PFNMAP | VM_MIXEDMAP | VM_IO)) === 0) {
    report.push(`${whereOf(pass, hva)}: special entry for page ${page}`);
  }
};

/** An entry that maps a counted page, or a whole folio. */
const checkFolioEntry = (
  pass: MmPass,
  vma: Vma | undefined,
  hva: number,
  page: number,
  writable: boolean,
  level: number,
): void => {
  const { k, mm, census, report } = pass;
  const { flags, refcount, head } = k.state.frames;
  const own = flags[page]!;
  const folio = (own & PG_TAIL) !== 0 ? head[page]! : page;
  const word = flags[folio]!;
  if (refcount[folio]! <= 0 || (word & PG_BUDDY) !== 0) {
    report.push(`${whereOf(pass, hva)}: entry reaches the free page ${page}`);
    countEntry(census, mm.id, page, folio, level);
    return;
  }
  const anon = (word & PG_ANON) !== 0;
  const hugetlb = (word & PG_HUGETLB) !== 0;
  if (level > 0) checkHugeLeaf(pass, hva, page, folio, level);
  if (vma !== undefined) {
    if (hugetlb !== ((vma.flags & VM_HUGETLB) !== 0))
      report.push(
        `${whereOf(pass, hva)}: page ${page} of ${hugetlb ? 'a' : 'no'} hugetlb pool in a VMA that is not for it`,
      );
    checkReverseMap(pass, vma, hva, page, folio, level);
  }
  if (anon) checkAnonEntry(pass, hva, page, folio, writable, level);
  countEntry(census, mm.id, page, folio, level);
  const nr = levelPages(level);
  if (hugetlb) {
    pass.hugetlb += nr;
    return;
  }
  if (anon) pass.anon += nr;
  else pass.file += nr;
  if (anon && level > 0) pass.hugeEntries++;
};

const countEntry = (
  census: Census,
  mm: number,
  page: number,
  folio: number,
  level: number,
): void => {
  if (level === 0) census.mapcount[page] = census.mapcount[page]! + 1;
  else census.entire[folio] = census.entire[folio]! + 1;
  census.entries[folio] = census.entries[folio]! + 1;
  if (census.firstMm[page] === 0) census.firstMm[page] = mm;
};

/** The entry of a directory maps one whole folio: 2 MiB, or what hugetlb has of that size. */
const checkHugeLeaf = (
  pass: MmPass,
  hva: number,
  page: number,
  folio: number,
  level: number,
): void => {
  const { flags, private: order } = pass.k.state.frames;
  const nr = levelPages(level);
  const whole = (flags[folio]! & PG_HEAD) !== 0 && 1 << order[folio]! === nr;
  if (folio !== page || !whole || page % nr !== 0)
    pass.report.push(`${whereOf(pass, hva)}: huge entry for page ${page}, no folio of ${nr} pages`);
  if (level > 1 && (flags[folio]! & PG_HUGETLB) === 0)
    pass.report.push(`${whereOf(pass, hva)}: 1 GiB of page ${page}, which is no hugetlb`);
};

/** I1, I3. */
const checkAnonEntry = (
  pass: MmPass,
  hva: number,
  page: number,
  folio: number,
  writable: boolean,
  level: number,
): void => {
  const { k, census, report } = pass;
  const { flags } = k.state.frames;
  const exclusive = (flags[page]! & PG_ANON_EXCLUSIVE) !== 0;
  if (writable && !exclusive)
    report.push(`I1 ${whereOf(pass, hva)}: anonymous page ${page} is writable and not exclusive`);
  if (exclusive && (flags[folio]! & PG_KSM) !== 0)
    report.push(`I1 ${whereOf(pass, hva)}: merged page ${page} is exclusive`);
  if (census.entries[folio] === 0) return;
  if (level === 0) {
    // Mapped whole as well: then what the head says goes for this page.
    const whole = census.entire[folio]! > 0;
    const headExclusive = whole && (flags[folio]! & PG_ANON_EXCLUSIVE) !== 0;
    if ((exclusive && (whole || census.mapcount[page]! > 0)) || headExclusive)
      reportShared(pass, hva, page, whole ? folio : page);
  } else if (exclusive) {
    reportShared(pass, hva, page, firstMapped(pass, folio, 0));
  } else {
    const other = firstMapped(pass, folio, PG_ANON_EXCLUSIVE);
    if (other >= 0) reportShared(pass, hva, other, other);
  }
};

/** The first page of a folio that the census has met with these flags, or -1. */
const firstMapped = ({ k, census }: MmPass, folio: number, bits: number): number => {
  const { flags, private: order } = k.state.frames;
  if (census.entire[folio]! > 0 && bits === 0) return folio;
  for (let page = folio; page < folio + (1 << order[folio]!); page++)
    if (census.mapcount[page]! > 0 && (flags[page]! & bits) === bits) return page;
  return -1;
};

const reportShared = (pass: MmPass, hva: number, page: number, met: number): void => {
  pass.report.push(
    `I3 ${whereOf(pass, hva)}: exclusive page ${page} is mapped in mm ${pass.census.firstMm[met] ?? 0} as well`,
  );
};
