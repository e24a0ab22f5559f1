/**
 * Sanitizer: entries that are not present. A migration entry stands for a page that somebody who
 * holds its lock is moving; a swap entry for a slot; a hwpoison entry and a marker for nothing.
 */
import { PG_ANON, PG_BUDDY, PG_HUGETLB, PG_HWPOISON, PG_LOCKED, PG_TAIL } from '../frames/table.ts';
import {
  isHwpoisonEntry,
  isMigrationEntry,
  isPteMarker,
  isSwapEntry,
  isWritableMigrationEntry,
  migrationEntryPage,
  swapEntryExclusive,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { levelPages } from '../pgtable/walk.ts';
import type { Vma } from '../types.ts';
import { VM_HUGETLB, VM_SHARED, VM_WRITE } from '../vma/flags.ts';
import { type MmPass, whereOf } from './pass.ts';

/** Checks an entry that is not present and counts what it stands for. */
export const checkNonpresent = (
  pass: MmPass,
  vma: Vma | undefined,
  hva: number,
  entry: number,
  level: number,
): void => {
  const { report } = pass;
  if (level > 0 && vma !== undefined && (vma.flags & VM_HUGETLB) === 0)
    report.push(`${whereOf(pass, hva)}: entry 0x${entry.toString(16)} in a directory`);
  if (isMigrationEntry(entry)) checkMigrationEntry(pass, vma, hva, entry, level);
  else if (isSwapEntry(entry)) checkSwapEntry(pass, vma, hva, entry);
  else if (isHwpoisonEntry(entry)) checkPoison(pass, hva, entry);
  else if (!isPteMarker(entry))
    report.push(`${whereOf(pass, hva)}: entry 0x${entry.toString(16)} of no known kind`);
};

/** It counts as resident, and holds neither a reference nor a mapping. */
const checkMigrationEntry = (
  pass: MmPass,
  vma: Vma | undefined,
  hva: number,
  entry: number,
  level: number,
): void => {
  const { k, census, report } = pass;
  const { flags, head, refcount, nrPages } = k.state.frames;
  const page = migrationEntryPage(entry);
  if (page < 0 || page >= nrPages) {
    report.push(`${whereOf(pass, hva)}: migration entry for a page outside RAM`);
    return;
  }
  if (
    isWritableMigrationEntry(entry) &&
    vma !== undefined &&
    (vma.flags & VM_WRITE) === 0 &&
    !vma.mm.mmapLock.writer
  )
    report.push(`${whereOf(pass, hva)}: writable entry in a VMA that is not`);
  const folio = (flags[page]! & PG_TAIL) !== 0 ? head[page]! : page;
  const word = flags[folio]!;
  if (refcount[folio]! <= 0 || (word & PG_BUDDY) !== 0)
    report.push(`${whereOf(pass, hva)}: entry reaches the free page ${page}`);
  else if ((word & PG_LOCKED) === 0)
    report.push(`${whereOf(pass, hva)}: migration entry for page ${page}, which is not locked`);
  census.migrating[page] = census.migrating[page]! + 1;
  if ((word & PG_HUGETLB) !== 0) pass.hugetlb += levelPages(level);
  else if ((word & PG_ANON) !== 0) pass.anon++;
  else pass.file++;
};

const checkSwapEntry = (pass: MmPass, vma: Vma | undefined, hva: number, entry: number): void => {
  const { k, census, report } = pass;
  const slot = swapEntrySlot(entry);
  pass.swap++;
  if (slot < 1 || slot > k.state.swap.nrSlots) {
    report.push(
      `${whereOf(pass, hva)}: swap entry for slot ${slot}, which the device does not have`,
    );
    return;
  }
  if (vma !== undefined && (vma.flags & VM_SHARED) !== 0)
    report.push(`${whereOf(pass, hva)}: swap entry in a shared mapping`);
  census.swapEntries[slot] = census.swapEntries[slot]! + 1;
  if (swapEntryExclusive(entry)) census.swapExclusive[slot] = census.swapExclusive[slot]! + 1;
};

const checkPoison = (pass: MmPass, hva: number, entry: number): void => {
  const { flags, nrPages } = pass.k.state.frames;
  const page = migrationEntryPage(entry);
  if (page < 0 || page >= nrPages || (flags[page]! & PG_HWPOISON) === 0)
    pass.report.push(
      `${whereOf(pass, hva)}: hwpoison entry for page ${page}, which is not poisoned`,
    );
};
