/**
 * Migration entries of hugetlb: one entry of a directory stands for a whole huge page of 2 MiB or
 * 1 GiB. Compare mm/rmap.c:try_to_migrate_one(), mm/migrate.c:remove_migration_pte().
 *
 * The caller holds the folio's lock from before the first entry until after the last, as for small
 * pages (migration.ts).
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EBUSY } from '../errno.ts';
import {
  folioGet,
  folioMapcount,
  folioMarkDirty,
  folioNrPages,
  folioOrder,
  folioPut,
  folioTestAnon,
  pageAnonExclusive,
} from '../folio/folio.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import { pteDirty, pteLeaf, pteNone, ptePage, ptePresent } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isReadableMigrationEntry,
  makeMigrationEntry,
  migrationEntryPage,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { MIGRATE_ROUNDS, migrationTypeOf, unmigratedPte } from './migration.ts';
import {
  folioAddAnonRmapPmd,
  folioAddFileRmapPmd,
  folioRemoveRmapPmd,
  folioTryShareAnonRmap,
  type RmapPlace,
  rmapPlaces,
  rmapStillLinked,
} from './rmap.ts';

/** Level of the tables that a hugetlb folio's entries are in: 1 for 2 MiB, 2 for 1 GiB. */
const levelOf = (k: Kernel, folio: number): number => folioOrder(k, folio) / 9;

/** Word of the entry by which a place maps the folio, or 0. */
const mappedWord = (k: Kernel, folio: number, { vma, hva }: RmapPlace): number => {
  const word = walkEntry(k, vma.mm, hva, levelOf(k, folio), false);
  if (word <= 0) return 0;
  const pte = ptepGet(k, word);
  return pteLeaf(pte) && ptePage(pte) === folio ? word : 0;
};

/** One entry, under its lock: cleared, flushed, the pins looked at, and replaced. @returns 0 or -EBUSY */
const migrateOne = (k: Kernel, folio: number, vma: Vma, hva: number, word: number): number => {
  const pte = ptepGetAndClear(k, word);
  flushTlbRange(k, vma.mm, hva, hva + folioNrPages(k, folio) * PAGE_SIZE);
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  const exclusive = folioTestAnon(k, folio) && pageAnonExclusive(k, folio);
  if (exclusive && folioTryShareAnonRmap(k, folio) !== 0) {
    setPteAt(k, word, pte);
    return -EBUSY;
  }
  setPteAt(k, word, makeMigrationEntry(folio, migrationTypeOf(pte, exclusive), pte));
  folioRemoveRmapPmd(k, folio);
  folioPut(k, folio);
  return 0;
};

/**
 * Replaces every entry that maps a hugetlb folio by a migration entry, between the notifiers' start
 * and end of each VMA. The caller holds the folio's lock and a reference.
 * @returns 0; -EBUSY: it may be pinned; -EAGAIN: mappings are left. After an error some entries may
 *   have been replaced: removeHugetlbMigrationPtes(k, folio, folio) puts them back
 */
export function* tryToMigrateHugetlb(k: Kernel, folio: number): Path<number> {
  const lenBytes = folioNrPages(k, folio) * PAGE_SIZE;
  for (let round = 0; round < MIGRATE_ROUNDS && folioMapcount(k, folio) > 0; round++) {
    for (const place of rmapPlaces(k, folio)) {
      const { vma, hva } = place;
      if (!rmapStillLinked(k, folio, place) || mappedWord(k, folio, place) === 0) continue;
      const range = mmHasNotifiers(vma.mm)
        ? notifierRange(vma.mm, hva, hva + lenBytes, MMU_NOTIFY_CLEAR)
        : null;
      if (range !== null) {
        notifyRangeStart(k, range);
        if (k.watched) yield YP_NOTIFIER_START;
      }
      const word = rmapStillLinked(k, folio, place) ? mappedWord(k, folio, place) : 0;
      const error = word > 0 ? migrateOne(k, folio, vma, hva, word) : 0;
      if (range !== null) {
        if (k.watched) yield YP_NOTIFIER_END;
        notifyRangeEnd(k, range);
      }
      if (error !== 0) return error;
    }
  }
  return folioMapcount(k, folio) === 0 ? 0 : -EAGAIN;
}

/**
 * Replaces every migration entry of the hugetlb folio `from` by an entry for `to`, which has `from`'s
 * mapping, index and size by now (or is `from`, after a failure). All at once, without a yield. The
 * caller holds the lock of `to`.
 */
export const removeHugetlbMigrationPtes = (k: Kernel, from: number, to: number): void => {
  for (const { vma, hva } of rmapPlaces(k, to)) {
    const word = walkEntry(k, vma.mm, hva, levelOf(k, to), false);
    const entry = word > 0 ? ptepGet(k, word) : 0;
    if (pteNone(entry) || ptePresent(entry)) continue;
    if (!isMigrationEntry(entry) || migrationEntryPage(entry) !== from) continue;
    folioGet(k, to);
    if (folioTestAnon(k, to)) folioAddAnonRmapPmd(k, to, !isReadableMigrationEntry(entry));
    else folioAddFileRmapPmd(k, to);
    setPteAt(k, word, unmigratedPte(vma, to, entry));
  }
};
