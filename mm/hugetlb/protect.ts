/** mprotect() of a hugetlb VMA. Compare mm/hugetlb.c:hugetlb_change_protection(). */
import { folioTestAnon } from '../folio/folio.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import { pteModify, pteNone, ptePresent, vmPageProt } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isWritableMigrationEntry,
  migrationEntryAs,
  migrationEntryPage,
  SWP_MIGRATION_READ,
  SWP_MIGRATION_READ_EXCLUSIVE,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { nextMapped, ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_VMA, type Vma } from '../types.ts';
import { hugeLevel, vmaPageSize } from './vma.ts';

/** One entry; nothing becomes writable without a fault, not even a page that is the mapping's own. */
const changeOne = (k: Kernel, vma: Vma, word: number): void => {
  const old = ptepGet(k, word);
  if (ptePresent(old)) {
    setPteAt(k, word, pteModify(ptepGetAndClear(k, word), vmPageProt(vma.flags)));
  } else if (isMigrationEntry(old) && isWritableMigrationEntry(old)) {
    const anon = folioTestAnon(k, migrationEntryPage(old));
    const type = anon ? SWP_MIGRATION_READ_EXCLUSIVE : SWP_MIGRATION_READ;
    setPteAt(k, word, migrationEntryAs(old, type));
  }
};

/** Gives every entry of [start, end) of a hugetlb VMA, whole huge pages, the bits that the VMA's flags ask for. */
export function* hugetlbChangeProtection(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
): Path<void> {
  const { mm } = vma;
  const size = vmaPageSize(vma);
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, start, end, MMU_NOTIFY_PROTECTION_VMA)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  let changed = false;
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const word = walkEntry(k, mm, at, hugeLevel(vma), false);
    if (word > 0 && !pteNone(ptepGet(k, word))) {
      changeOne(k, vma, word);
      changed = true;
    }
    at += size;
  }
  if (changed) {
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, start, end);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
}
