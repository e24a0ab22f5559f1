/**
 * What a change of protection asks for (MM_CP_*), and what it makes of entries that are not present.
 * Compare include/linux/mm.h, and mm/mprotect.c:change_pte_range().
 */
import { folioOf, folioTestAnon } from '../folio/folio.ts';
import {
  isMigrationEntry,
  isPteMarker,
  isSwapEntry,
  isWritableMigrationEntry,
  makeUffdWpMarker,
  migrationEntryAs,
  migrationEntryPage,
  PTE_SWP_UFFD_WP,
  SWP_MIGRATION_READ,
  SWP_MIGRATION_READ_EXCLUSIVE,
} from '../pgtable/swapops.ts';
import type { Kernel } from '../types.ts';

/** Entries may become writable where no write fault is needed. */
export const MM_CP_TRY_CHANGE_WRITABLE = 1 << 0;
/** NUMA hinting: nobody may access the page, so that the next access says who does. */
export const MM_CP_PROT_NUMA = 1 << 1;
/** userfaultfd wants to know of writes, or not any more. */
export const MM_CP_UFFD_WP = 1 << 2;
export const MM_CP_UFFD_WP_RESOLVE = 1 << 3;

/**
 * What a migration or swap entry, or a marker, is to be; 0 = none. Poison stays as it is, and what a
 * migration entry was allowed is asked for again by a fault.
 * @param cp MM_CP_*
 */
export const changedNonpresent = (k: Kernel, old: number, cp: number): number => {
  if (isPteMarker(old))
    return (cp & MM_CP_UFFD_WP_RESOLVE) !== 0 && old === makeUffdWpMarker() ? 0 : old;
  let entry = old;
  if (isMigrationEntry(old)) {
    if (isWritableMigrationEntry(old)) {
      const anon = folioTestAnon(k, folioOf(k, migrationEntryPage(old)));
      entry = migrationEntryAs(old, anon ? SWP_MIGRATION_READ_EXCLUSIVE : SWP_MIGRATION_READ);
    }
  } else if (!isSwapEntry(old)) return old;
  if ((cp & MM_CP_UFFD_WP) !== 0) return entry | PTE_SWP_UFFD_WP;
  return (cp & MM_CP_UFFD_WP_RESOLVE) !== 0 ? entry & ~PTE_SWP_UFFD_WP : entry;
};
