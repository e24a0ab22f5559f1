/**
 * The walk over everything that maps a folio, to replace every entry: by migration entries
 * (migration.ts) or by swap entries (mm/swap/unmap.ts). Compare mm/rmap.c, try_to_migrate() and
 * try_to_unmap().
 *
 * The caller holds the folio's lock and a reference.
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN } from '../errno.ts';
import { folioMapcount } from '../folio/folio.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import { pmdLeafAt } from '../pgtable/walk.ts';
import { splitHugePmdLocked } from '../thp/split-pmd.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import {
  folioVmaMappedPmd,
  pageVmaMapped,
  type RmapPlace,
  rmapPlaces,
  rmapStillLinked,
  rmapWait,
} from './rmap.ts';

/** Replaces the last-level entry `word` at `hva`, which maps `page`, under its lock. @returns 0 or -errno */
export type UnmapOne = (k: Kernel, page: number, vma: Vma, hva: number, word: number) => number;

/**
 * Calls `unmapOne` for every entry, between the notifiers' start and end of each VMA.
 * @param rounds over the VMAs before giving up: a fork may add mappings behind the walk
 * @returns 0; the first error of unmapOne; -EAGAIN: mappings are left
 */
export function* unmapFolio(
  k: Kernel,
  folio: number,
  rounds: number,
  unmapOne: UnmapOne,
): Path<number> {
  for (let round = 0; round < rounds && folioMapcount(k, folio) > 0; round++) {
    for (const place of rmapPlaces(k, folio)) {
      yield* rmapWait(k, folio);
      if (!rmapStillLinked(k, folio, place)) continue;
      const { vma, hva, nr } = place;
      if (!mapsSomething(k, place)) continue;
      const range = mmHasNotifiers(vma.mm)
        ? notifierRange(vma.mm, hva, hva + nr * PAGE_SIZE, MMU_NOTIFY_CLEAR)
        : null;
      if (range !== null) {
        notifyRangeStart(k, range);
        if (k.watched) yield YP_NOTIFIER_START;
      }
      const error = rmapStillLinked(k, folio, place) ? unmapPlace(k, folio, place, unmapOne) : 0;
      if (range !== null) {
        if (k.watched) yield YP_NOTIFIER_END;
        notifyRangeEnd(k, range);
      }
      if (error !== 0) return error;
    }
  }
  return folioMapcount(k, folio) === 0 ? 0 : -EAGAIN;
}

/** Is any page of the place mapped there? */
const mapsSomething = (k: Kernel, { vma, page, nr, hva }: RmapPlace): boolean => {
  if (pmdLeafAt(k, vma.mm, hva) > 0) return true;
  for (let i = 0; i < nr; i++)
    if (pageVmaMapped(k, vma, hva + i * PAGE_SIZE, page + i) > 0) return true;
  return false;
};

/** All entries of one VMA; a huge one is split before, as TTU_SPLIT_HUGE_PMD asks for. */
const unmapPlace = (
  k: Kernel,
  folio: number,
  { vma, page, nr, hva }: RmapPlace,
  unmapOne: UnmapOne,
): number => {
  const pmd = folioVmaMappedPmd(k, vma, hva, folio);
  if (pmd > 0) splitHugePmdLocked(k, vma, hva, pmd);
  for (let i = 0; i < nr; i++) {
    const at = hva + i * PAGE_SIZE;
    const word = pageVmaMapped(k, vma, at, page + i);
    const error = word > 0 ? unmapOne(k, page + i, vma, at, word) : 0;
    if (error !== 0) return error;
  }
  return 0;
};
