/**
 * Migration entries: taking every mapping of a folio away, and pointing them at its new frame.
 * Compare mm/rmap.c:try_to_migrate_one(), mm/migrate.c:remove_migration_pte().
 *
 * The caller holds the folio's lock from before the first entry until after the last: whoever
 * faults on one waits for it.
 */
import { EAGAIN, EBUSY } from '../errno.ts';
import {
  folioGet,
  folioMapcount,
  folioMarkDirty,
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
import {
  maybeMkwrite,
  mkPte,
  pteDirty,
  pteMkdirty,
  pteMkyoung,
  pteNone,
  ptePresent,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isMigrationEntryDirty,
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
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import {
  folioAddAnonRmap,
  folioAddFileRmap,
  folioRemoveRmap,
  folioTryShareAnonRmap,
  pageVmaMapped,
  rmapStillLinked,
  rmapVmaList,
  rmapVmas,
  vmaAddress,
} from './rmap.ts';

/** Rounds over the VMAs before giving up: a fork may add mappings behind the walk. */
const MIGRATE_ROUNDS = 3;

/**
 * Replaces every entry that maps the folio by a migration entry.
 * The caller holds the folio's lock and a reference.
 * @returns 0; -EBUSY: it may be pinned; -EAGAIN: mappings are left. After an error some entries may
 *   have been replaced: removeMigrationPtes(k, folio, folio) puts them back
 */
export function* tryToMigrate(k: Kernel, folio: number): Path<number> {
  for (let round = 0; round < MIGRATE_ROUNDS && folioMapcount(k, folio) > 0; round++) {
    for (const vma of rmapVmas(k, folio)) {
      if (!rmapStillLinked(k, folio, vma)) continue;
      const hva = vmaAddress(k, vma, folio);
      if (hva < 0 || pageVmaMapped(k, vma, hva, folio) === 0) continue;
      const range = mmHasNotifiers(vma.mm)
        ? notifierRange(vma.mm, hva, hva + 4096, MMU_NOTIFY_CLEAR)
        : null;
      if (range !== null) {
        notifyRangeStart(k, range);
        if (k.watched) yield YP_NOTIFIER_START;
      }
      const error = rmapStillLinked(k, folio, vma) ? migrateOne(k, folio, vma, hva) : 0;
      if (range !== null) {
        if (k.watched) yield YP_NOTIFIER_END;
        notifyRangeEnd(k, range);
      }
      if (error !== 0) return error;
    }
  }
  return folioMapcount(k, folio) === 0 ? 0 : -EAGAIN;
}

/** One entry, under its lock: cleared, flushed, the pins looked at, and replaced. @returns 0 or -EBUSY */
const migrateOne = (k: Kernel, page: number, vma: Vma, hva: number): number => {
  const word = pageVmaMapped(k, vma, hva, page);
  if (word === 0) return 0;
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  if (pteDirty(pte)) folioMarkDirty(k, page);
  const exclusive = folioTestAnon(k, page) && pageAnonExclusive(k, page);
  if (exclusive && folioTryShareAnonRmap(k, page) !== 0) {
    setPteAt(k, word, pte);
    return -EBUSY;
  }
  let type = SWP_MIGRATION_READ;
  if (pteWrite(pte)) type = SWP_MIGRATION_WRITE;
  else if (exclusive) type = SWP_MIGRATION_READ_EXCLUSIVE;
  setPteAt(k, word, makeMigrationEntry(page, type, pte));
  folioRemoveRmap(k, page);
  folioPut(k, page);
  return 0;
};

/**
 * Replaces every migration entry of frame `from` by an entry for `to`, which has `from`'s mapping
 * and index by now (or is `from`, after a failure). Without a yield: an entry left behind would
 * never go. The caller holds the lock of `to`.
 */
export const removeMigrationPtes = (k: Kernel, from: number, to: number): void => {
  const anon = folioTestAnon(k, to);
  for (const vma of rmapVmaList(k, to)) {
    const hva = vmaAddress(k, vma, to);
    if (hva < 0) continue;
    const word = walkPte(k, vma.mm, hva, false);
    if (word <= 0) continue;
    const entry = ptepGet(k, word);
    if (pteNone(entry) || ptePresent(entry)) continue;
    if (!isMigrationEntry(entry) || migrationEntryPage(entry) !== from) continue;
    let pte = mkPte(to, vmPageProt(vma.flags));
    if (isMigrationEntryYoung(entry)) pte = pteMkyoung(pte);
    if (isMigrationEntryDirty(entry)) pte = pteMkdirty(pte);
    if (isWritableMigrationEntry(entry)) pte = maybeMkwrite(pte, vma.flags);
    folioGet(k, to);
    if (anon) folioAddAnonRmap(k, to, !isReadableMigrationEntry(entry));
    else folioAddFileRmap(k, to);
    setPteAt(k, word, pte);
  }
};
