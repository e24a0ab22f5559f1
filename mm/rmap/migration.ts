/**
 * Migration entries: taking every mapping of a folio away, and pointing them at its new frame.
 * Compare mm/rmap.c:try_to_migrate_one(), mm/migrate.c:remove_migration_pte().
 *
 * The caller holds the folio's lock from before the first entry until after the last: whoever
 * faults on one waits for it.
 */
import { PAGE_SIZE } from '#emu';
import { EBUSY } from '../errno.ts';
import {
  folioGet,
  folioMarkDirty,
  folioOf,
  folioPut,
  folioTestAnon,
  folioTestFlags,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { PG_KSM } from '../frames/table.ts';
import type { Path } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteClearSoftDirty,
  pteDirty,
  pteMkdirty,
  pteMksoftDirty,
  pteMkspecial,
  pteMkuffdWp,
  pteMkyoung,
  pteNone,
  ptePresent,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isMigrationEntryDirty,
  isMigrationEntrySoftDirty,
  isMigrationEntryUffdWp,
  isMigrationEntryYoung,
  isReadableMigrationEntry,
  isWritableMigrationEntry,
  makeMigrationEntry,
  migrationEntryPage,
  SWP_MIGRATION_READ,
  SWP_MIGRATION_READ_EXCLUSIVE,
  SWP_MIGRATION_WRITE,
} from '../pgtable/swapops.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt, walkPte } from '../pgtable/walk.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_LOCKED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import {
  folioAddAnonRmap,
  folioAddFileRmap,
  folioRemoveRmap,
  folioTryShareAnonRmap,
  rmapPlaces,
  rmapWait,
} from './rmap.ts';
import { unmapFolio } from './unmap.ts';

/** Rounds over the VMAs before giving up: a fork may add mappings behind the walk. */
export const MIGRATE_ROUNDS = 3;

/**
 * Replaces every entry that maps the folio by a migration entry.
 * The caller holds the folio's lock and a reference.
 * @returns 0; -EBUSY: it may be pinned; -EAGAIN: mappings are left. After an error some entries may
 *   have been replaced: removeMigrationPtes(k, folio, folio) puts them back
 */
export const tryToMigrate = (k: Kernel, folio: number): Path<number> =>
  unmapFolio(k, folio, MIGRATE_ROUNDS, migrateOne);

/** SWP_MIGRATION_*: what the entry allowed, and whether its anonymous page was exclusive. */
export const migrationTypeOf = (pte: number, exclusive: boolean): number => {
  if (pteWrite(pte)) return SWP_MIGRATION_WRITE;
  return exclusive ? SWP_MIGRATION_READ_EXCLUSIVE : SWP_MIGRATION_READ;
};

/** One entry, under its lock: cleared, flushed, the pins looked at, and replaced. @returns 0 or -EBUSY */
const migrateOne = (k: Kernel, page: number, vma: Vma, hva: number, word: number): number => {
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  if (pteDirty(pte)) folioMarkDirty(k, folioOf(k, page));
  const exclusive = folioTestAnon(k, folioOf(k, page)) && pageAnonExclusive(k, page);
  if (exclusive && folioTryShareAnonRmap(k, page) !== 0) {
    setPteAt(k, word, pte);
    return -EBUSY;
  }
  setPteAt(k, word, makeMigrationEntry(page, migrationTypeOf(pte, exclusive), pte));
  folioRemoveRmap(k, page);
  folioPut(k, folioOf(k, page));
  return 0;
};

/**
 * Replaces every migration entry of the folio `from` by an entry for `to`, which has `from`'s
 * mapping, index and size by now (or is `from`, after a failure or a split). The entries of one
 * folio all at once, without a yield in between: one left behind would never go. The caller holds
 * the lock of `to`.
 */
export function* removeMigrationPtes(k: Kernel, from: number, to: number): Path<void> {
  yield* rmapWait(k, to);
  for (const { vma, page, nr, hva } of rmapPlaces(k, to)) {
    for (let i = 0; i < nr; i++) {
      const word = walkPte(k, vma.mm, hva + i * PAGE_SIZE, false);
      if (word > 0) restoreOne(k, vma, word, page + i, from + (page + i - to), false);
    }
  }
}

/**
 * The same for a page that was part of an anonymous folio until it was split. One of nothing but
 * zeros goes: its entries map the zero page instead. Compare try_to_map_unused_to_zeropage().
 */
export function* removeMigrationPtesOfSplit(k: Kernel, page: number): Path<void> {
  yield* rmapWait(k, page);
  const zero = pageIsZero(k, page);
  for (const { vma, hva } of rmapPlaces(k, page)) {
    const word = walkPte(k, vma.mm, hva, false);
    if (word > 0) restoreOne(k, vma, word, page, page, zero);
  }
}

const pageIsZero = (k: Kernel, page: number): boolean => {
  const first = k.memory.pageOffset(page) / 4;
  for (let i = 0; i < PAGE_SIZE / 4; i++) if (k.memory.i32[first + i] !== 0) return false;
  return true;
};

/** The present entry for `page`, or for the folio that it heads, that a migration entry stands for. */
export const unmigratedPte = (vma: Vma, page: number, entry: number): number => {
  let pte = mkPte(page, vmPageProt(vma.flags));
  if (isMigrationEntryYoung(entry)) pte = pteMkyoung(pte);
  if (isMigrationEntryDirty(entry)) pte = pteMkdirty(pte);
  // Dirty and written since the last look are two things: the first says nothing of the second.
  pte = isMigrationEntrySoftDirty(entry) ? pteMksoftDirty(pte) : pteClearSoftDirty(pte);
  if (isWritableMigrationEntry(entry)) return maybeMkwrite(pte, vma.flags);
  return isMigrationEntryUffdWp(entry) ? pteMkuffdWp(pte) : pte;
};

/**
 * One entry: if it is a migration entry of frame `was`, it maps `page` again.
 * @param zero the zero page takes its place where the VMA allows it
 */
const restoreOne = (
  k: Kernel,
  vma: Vma,
  word: number,
  page: number,
  was: number,
  zero: boolean,
): void => {
  const entry = ptepGet(k, word);
  if (pteNone(entry) || ptePresent(entry)) return;
  if (!isMigrationEntry(entry) || migrationEntryPage(entry) !== was) return;
  if (zero && (vma.flags & VM_LOCKED) === 0) {
    let pte = pteMkspecial(mkPte(k.state.zeroPage, vmPageProt(vma.flags)));
    if (isMigrationEntrySoftDirty(entry)) pte = pteMksoftDirty(pte);
    setPteAt(k, word, isMigrationEntryUffdWp(entry) ? pteMkuffdWp(pte) : pte);
    addRss(vma.mm, true, -1);
    return;
  }
  const folio = folioOf(k, page);
  folioGet(k, folio);
  if (folioTestAnon(k, folio) && !folioTestFlags(k, folio, PG_KSM))
    folioAddAnonRmap(k, page, !isReadableMigrationEntry(entry));
  else folioAddFileRmap(k, page);
  setPteAt(k, word, unmigratedPte(vma, page, entry));
};
