/**
 * Entries that are not present: migration and swap entries, poison, markers. Compare
 * include/linux/swapops.h.
 *
 *   31            10 9        8  7          6         5 4   1 0
 *  | page frame     |uffd-wp |sd|D         |A        |0|type|0|  migration (sd: soft-dirty)
 *  | swap slot      |uffd-wp |0 |soft-dirty|exclusive|0|type|0|  swap
 *  | page frame     |0       |0 |0         |0        |0|type|0|  hwpoison
 *  | 0              |uffd-wp |0 |0         |0        |0|type|0|  marker
 *
 * A migration entry says which frame is being moved, whether the entry was writable, and whether
 * its anonymous page was exclusive; whoever meets one waits for the lock of that folio.
 */
import { PTE_A, PTE_D, PTE_PPN_SHIFT, PTE_RSW_SHIFT, RAM_PFN_BASE } from '#emu';
import { PTE_UFFD_WP, pteSoftDirty } from './pte.ts';

const SWP_TYPE_SHIFT = 1;
const SWP_TYPE_MASK = 0xf << SWP_TYPE_SHIFT;

export const SWP_MIGRATION_READ = 1 << SWP_TYPE_SHIFT;
export const SWP_MIGRATION_READ_EXCLUSIVE = 2 << SWP_TYPE_SHIFT;
export const SWP_MIGRATION_WRITE = 3 << SWP_TYPE_SHIFT;

export const SWP_SWAP = 4 << SWP_TYPE_SHIFT;
export const SWP_HWPOISON = 5 << SWP_TYPE_SHIFT;
export const SWP_PTE_MARKER = 6 << SWP_TYPE_SHIFT;

/** Bits of a swap entry. A marker has the last one alone. */
export const PTE_SWP_EXCLUSIVE = PTE_A;
export const PTE_SWP_SOFT_DIRTY = PTE_D;
export const PTE_SWP_UFFD_WP = 2 << PTE_RSW_SHIFT;

/** Type of an entry that is neither none nor present. */
export const swpType = (entry: number): number => entry & SWP_TYPE_MASK;

/** Soft-dirty bit of a migration entry. */
const MIGRATION_SOFT_DIRTY = 1 << PTE_RSW_SHIFT;

/** An entry of one of the SWP_MIGRATION_* types, with what the entry that it replaces was: A, D, soft-dirty, uffd-wp. */
export const makeMigrationEntry = (page: number, type: number, pte: number): number =>
  ((page + RAM_PFN_BASE) << PTE_PPN_SHIFT) |
  type |
  (pte & (PTE_A | PTE_D | PTE_UFFD_WP)) |
  (pteSoftDirty(pte) ? MIGRATION_SOFT_DIRTY : 0);

/** True for a migration entry; `pte` is any entry that is not present. */
export const isMigrationEntry = (pte: number): boolean => {
  const type = pte & SWP_TYPE_MASK;
  return type >= SWP_MIGRATION_READ && type <= SWP_MIGRATION_WRITE;
};

export const isWritableMigrationEntry = (entry: number): boolean =>
  swpType(entry) === SWP_MIGRATION_WRITE;
export const isReadableMigrationEntry = (entry: number): boolean =>
  swpType(entry) === SWP_MIGRATION_READ;
export const isReadableExclusiveMigrationEntry = (entry: number): boolean =>
  swpType(entry) === SWP_MIGRATION_READ_EXCLUSIVE;

/** A migration or swap entry whose page counts as written from now on; others as they are. */
export const nonpresentMksoftDirty = (entry: number): number => {
  if (isSwapEntry(entry)) return entry | PTE_SWP_SOFT_DIRTY;
  return isMigrationEntry(entry) ? entry | MIGRATION_SOFT_DIRTY : entry;
};

/** The same, written or not, does not count as written any more. */
export const nonpresentClearSoftDirty = (entry: number): number => {
  if (isSwapEntry(entry)) return entry & ~PTE_SWP_SOFT_DIRTY;
  return isMigrationEntry(entry) ? entry & ~MIGRATION_SOFT_DIRTY : entry;
};

/** The same entry under another SWP_MIGRATION_* type. */
export const migrationEntryAs = (entry: number, type: number): number =>
  (entry & ~SWP_TYPE_MASK) | type;

/** The frame that is being moved. */
export const migrationEntryPage = (entry: number): number =>
  (entry >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
export const isMigrationEntryYoung = (entry: number): boolean => (entry & PTE_A) !== 0;
export const isMigrationEntryDirty = (entry: number): boolean => (entry & PTE_D) !== 0;
export const isMigrationEntrySoftDirty = (entry: number): boolean =>
  (entry & MIGRATION_SOFT_DIRTY) !== 0;
export const isMigrationEntryUffdWp = (entry: number): boolean => (entry & PTE_SWP_UFFD_WP) !== 0;

/** @param bits PTE_SWP_* */
export const makeSwapEntry = (slot: number, bits = 0): number =>
  (slot << PTE_PPN_SHIFT) | SWP_SWAP | bits;
export const isSwapEntry = (entry: number): boolean => swpType(entry) === SWP_SWAP;
/** Slot of a swap entry. */
export const swapEntrySlot = (entry: number): number => entry >>> PTE_PPN_SHIFT;
export const swapEntryExclusive = (entry: number): boolean => (entry & PTE_SWP_EXCLUSIVE) !== 0;
export const swapEntryClearExclusive = (entry: number): number => entry & ~PTE_SWP_EXCLUSIVE;

export const makeHwpoisonEntry = (page: number): number =>
  ((page + RAM_PFN_BASE) << PTE_PPN_SHIFT) | SWP_HWPOISON;
export const isHwpoisonEntry = (entry: number): boolean => swpType(entry) === SWP_HWPOISON;

/** An entry that says only that the page was write-protected by userfaultfd when it went. */
export const makeUffdWpMarker = (): number => SWP_PTE_MARKER | PTE_SWP_UFFD_WP;
export const isPteMarker = (entry: number): boolean => swpType(entry) === SWP_PTE_MARKER;
