/**
 * Sanitizer, first half: what the page tables and VMAs must satisfy, entry by entry.
 *
 * I1 a writable entry of an anonymous page: the page is exclusive. I3 an exclusive anonymous page is
 * mapped once, in one address space. Besides: no entry outside the VMAs or beyond their rights, the
 * file's page in a shared mapping, the reverse map leads back to every entry, resident counts.
 */
import { readOnce } from '#cells';
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_LOCKED,
  PG_TABLE,
  type FrameTable,
} from '../frames/table.ts';
import { ptePage, ptePresent, pteSpecial, pteWrite } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isWritableMigrationEntry,
  migrationEntryPage,
} from '../pgtable/swapops.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { linearPageIndex, VM_SHARED, VM_WRITE } from '../vma/flags.ts';
import { type Census, visitTables } from './census.ts';

const hex = (n: number): string => `0x${n.toString(16)}`;

/** Checks one address space and adds what it maps to the census. */
export const checkMm = (k: Kernel, mm: MmStruct, census: Census, report: string[]): void => {
  checkVmas(mm, report);
  let anon = 0;
  let file = 0;
  let tables = 0;
  visitTables(
    k,
    mm,
    (_mm, page) => {
      tables++;
      census.tables[page] = census.tables[page]! + 1;
      if ((readOnce(k.state.frames.flags, page) & PG_TABLE) === 0)
        report.push(`mm ${mm.id}: page table in page ${page}, which is not marked as one`);
    },
    (_mm, hva, entry) => {
      const page = checkEntry(k, mm, hva, entry, census, report);
      if (page < 0) return;
      if ((readOnce(k.state.frames.flags, page) & PG_ANON) !== 0) anon++;
      else file++;
    },
  );
  if (tables !== mm.nrTables)
    report.push(`mm ${mm.id}: ${tables} page-table pages, counted ${mm.nrTables}`);
  if (anon !== mm.rssAnon) report.push(`mm ${mm.id}: ${anon} anonymous pages, rss ${mm.rssAnon}`);
  if (file !== mm.rssFile) report.push(`mm ${mm.id}: ${file} file pages, rss ${mm.rssFile}`);
};

const checkVmas = (mm: MmStruct, report: string[]): void => {
  let end = 0;
  for (const vma of mm.vmas) {
    const where = `mm ${mm.id}: VMA [${hex(vma.start)}, ${hex(vma.end)})`;
    if (vma.start >= vma.end || vma.start < end) report.push(`${where} is empty or overlaps`);
    end = vma.end;
    if (vma.mm !== mm) report.push(`${where} belongs to mm ${vma.mm.id}`);
    if (vma.mapping !== null && !vma.mapping.vmas.includes(vma))
      report.push(`${where} is missing from mapping ${vma.mapping.id}`);
    for (const anonVma of vma.anonChain)
      if (!anonVma.vmas.includes(vma))
        report.push(`${where} is missing from anon_vma ${anonVma.id}`);
    if (vma.anonVma !== null && !vma.anonChain.includes(vma.anonVma))
      report.push(`${where}: its anon_vma is not in its chain`);
  }
};

const vmaOf = (mm: MmStruct, hva: number): Vma | undefined =>
  mm.vmas.find((vma) => hva >= vma.start && hva < vma.end);

/** @returns the page that counts as resident, -1 for none */
const checkEntry = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  entry: number,
  census: Census,
  report: string[],
): number => {
  const { frames } = k.state;
  const where = `mm ${mm.id}: hva ${hex(hva)}`;
  const vma = vmaOf(mm, hva);
  // munmap takes the VMAs away first, and then the entries, under the lock.
  if (vma === undefined && !mm.mmapLock.writer) report.push(`${where}: entry outside every VMA`);
  const present = ptePresent(entry);
  const page = present ? ptePage(entry) : migrationEntryPage(entry);
  if (page < 0 || page >= frames.nrPages) {
    report.push(`${where}: entry ${hex(entry)} is outside RAM`);
    return -1;
  }
  const writable = present ? pteWrite(entry) : isWritableMigrationEntry(entry);
  if (writable && vma !== undefined && (vma.flags & VM_WRITE) === 0)
    report.push(`${where}: writable entry in a VMA that is not`);
  if (present && pteSpecial(entry)) {
    if (page !== k.state.zeroPage) report.push(`${where}: special entry for page ${page}`);
    if (writable) report.push(`${where}: the zero page is writable`);
    return -1;
  }
  const flags = readOnce(frames.flags, page);
  if (readOnce(frames.refcount, page) <= 0 || (flags & PG_BUDDY) !== 0) {
    report.push(`${where}: entry reaches the free page ${page}`);
    return page;
  }
  if (!present) {
    if (!isMigrationEntry(entry)) report.push(`${where}: entry ${hex(entry)} of no known kind`);
    if ((flags & PG_LOCKED) === 0)
      report.push(`${where}: migration entry for page ${page}, which is not locked`);
    census.migrating[page] = census.migrating[page]! + 1;
    return page;
  }
  if (vma !== undefined) checkMapped(frames, vma, hva, page, where, report);
  if ((flags & PG_ANON) !== 0) {
    const exclusive = (flags & PG_ANON_EXCLUSIVE) !== 0;
    if (writable && !exclusive)
      report.push(`I1 ${where}: anonymous page ${page} is writable and not exclusive`);
    if (exclusive && census.mapcount[page]! > 0)
      report.push(
        `I3 ${where}: exclusive page ${page} is mapped in mm ${census.firstMm[page]!} as well`,
      );
  }
  census.mapcount[page] = census.mapcount[page]! + 1;
  if (census.firstMm[page] === 0) census.firstMm[page] = mm.id;
  return page;
};

/** Would the reverse map find this entry, and is it the right page of the file? */
const checkMapped = (
  frames: FrameTable,
  vma: Vma,
  hva: number,
  page: number,
  where: string,
  report: string[],
): void => {
  const id = readOnce(frames.mapping, page);
  const index = linearPageIndex(vma, hva);
  if (readOnce(frames.index, page) !== (index | 0))
    report.push(
      `rmap ${where}: page ${page} has index ${readOnce(frames.index, page)}, not ${index}`,
    );
  if ((readOnce(frames.flags, page) & PG_ANON) !== 0) {
    if ((vma.flags & VM_SHARED) !== 0)
      report.push(`${where}: anonymous page ${page} in a shared mapping`);
    if (!vma.anonChain.some((anonVma) => anonVma.id === id))
      report.push(`rmap ${where}: page ${page} belongs to anon_vma ${id}, not in the VMA's chain`);
  } else if (vma.mapping === null || vma.mapping.id !== id) {
    report.push(`rmap ${where}: page ${page} belongs to mapping ${id}, not the VMA's`);
  } else if (vma.mapping.pages.get(index) !== page) {
    report.push(`${where}: page ${page} is not the file's page ${index}`);
  }
};
