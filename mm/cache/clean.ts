/**
 * Cleaning a folio before it is written out: no store may be forgotten, and the next one is to fault.
 * Compare mm/rmap.c:folio_mkclean(), mm/page-writeback.c:folio_clear_dirty_for_io(), and the flag
 * of folios under writeback in mm/filemap.c.
 *
 * Shared mappings alone: what private ones have written is in copies of their own. An entry is cleared
 * and flushed before it comes back without W and D, so that the hardware cannot set D behind our back.
 */
import { PAGE_SIZE } from '#emu';
import { smpMb } from '#cells';
import { EINVAL } from '../errno.ts';
import {
  folioClearFlags,
  folioLock,
  folioMapcount,
  folioMarkDirty,
  folioPut,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
} from '../folio/folio.ts';
import { PG_DIRTY, PG_WRITEBACK } from '../frames/table.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_WAIT } from '../path.ts';
import { pteDirty, pteMkclean, pteWrite, pteWrprotect } from '../pgtable/pte.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import {
  folioVmaMappedPmd,
  pageVmaMapped,
  type RmapPlace,
  rmapPlaces,
  rmapStillLinked,
} from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioUnlockFreeSwap } from '../swap/cache.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_PAGE, type Vma } from '../types.ts';
import { VM_SHARED } from '../vma/flags.ts';

/**
 * Makes every shared mapping of a folio read-only and clean; where an entry was dirty the folio
 * becomes so. Around each VMA the notifiers' start and end, so that secondary entries go read-only as
 * well. The caller holds the folio's lock and a reference.
 * @returns entries changed. Compare folio_mkclean()
 */
export function* folioMkclean(k: Kernel, folio: number): Path<number> {
  if (folioMapcount(k, folio) === 0) return 0;
  let changed = 0;
  let wasDirty = false;
  const seen: RmapPlace[] = [];
  // Listed anew each time: mremap() may move an entry to a VMA behind those that were there.
  for (let place = nextPlace(k, folio, seen); place !== null; place = nextPlace(k, folio, seen)) {
    seen.push(place);
    const { vma, hva, nr } = place;
    if (folioMapcount(k, folio) === 0) break;
    const range = mmHasNotifiers(vma.mm)
      ? notifierRange(vma.mm, hva, hva + nr * PAGE_SIZE, MMU_NOTIFY_PROTECTION_PAGE)
      : null;
    if (range !== null) {
      notifyRangeStart(k, range);
      if (k.watched) yield YP_NOTIFIER_START;
    }
    if (rmapStillLinked(k, folio, place)) {
      for (const was of mkcleanPlace(k, folio, place)) {
        changed++;
        if (pteDirty(was)) wasDirty = true;
      }
    }
    // Before anybody else can come: a dirty entry must not be clean, and its folio clean as well.
    if (wasDirty) folioMarkDirty(k, folio);
    if (range !== null) {
      if (k.watched) yield YP_NOTIFIER_END;
      notifyRangeEnd(k, range);
    }
  }
  return changed;
}

/**
 * The same for whoever holds nothing, and writes nothing out: the folio stays dirty where it was.
 * @param folio a page number: any, also one that is not in use
 * @returns entries changed, or -EINVAL for a free page
 */
export function* folioWriteProtect(k: Kernel, folio: number): Path<number> {
  if (folio < 0 || folio >= k.memory.nrPages || !folioTryGet(k, folio)) return -EINVAL;
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  const changed = yield* folioMkclean(k, folio);
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  return changed;
}

/**
 * Before a folio is written out: its shared mappings are clean and read-only, and so is itself. What
 * is stored from now on faults, or is somebody's who holds the page by GUP. The caller holds the
 * folio's lock and a reference, and looks for pins only afterwards.
 * @returns true: it was dirty, and has to be written. Compare folio_clear_dirty_for_io()
 */
export function* folioClearDirtyForIo(k: Kernel, folio: number): Path<boolean> {
  yield* folioMkclean(k, folio);
  const was = folioClearFlags(k, folio, PG_DIRTY);
  // Pairs with GUP-fast, which counts its pin first and reads the entry again after.
  smpMb();
  return (was & PG_DIRTY) !== 0;
}

/** Its bytes are on their way to the device. The caller holds its lock. Compare folio_start_writeback() */
export const folioStartWriteback = (k: Kernel, folio: number): void => {
  if ((folioSetFlags(k, folio, PG_WRITEBACK) & PG_WRITEBACK) !== 0)
    throw new Error(`folio ${folio} is under writeback already`);
};

/** They have arrived, or not. Compare folio_end_writeback() */
export const folioEndWriteback = (k: Kernel, folio: number): void => {
  if ((folioClearFlags(k, folio, PG_WRITEBACK) & PG_WRITEBACK) === 0)
    throw new Error(`folio ${folio} is not under writeback`);
};

export const folioTestWriteback = (k: Kernel, folio: number): boolean =>
  folioTestFlags(k, folio, PG_WRITEBACK);

/** Waits until nobody writes the folio out. The caller has a reference. Compare folio_wait_writeback() */
export function* folioWaitWriteback(k: Kernel, folio: number): Path<void> {
  while (folioTestWriteback(k, folio)) yield YP_WAIT;
}

/**
 * Before a folio is changed: waits for writeback where the bytes on their way must not change.
 * @param stable the file system's word for it (ExtentFs.stablePages). Compare folio_wait_stable()
 */
export function* folioWaitStable(k: Kernel, folio: number, stable: boolean): Path<void> {
  if (stable) yield* folioWaitWriteback(k, folio);
}

/** The first shared mapping that the walk has not been to; null at the end, and for anonymous memory. */
const nextPlace = (k: Kernel, folio: number, seen: readonly RmapPlace[]): RmapPlace | null => {
  if (folioTestAnon(k, folio)) return null;
  const fresh = ({ vma, hva }: RmapPlace): boolean =>
    (vma.flags & VM_SHARED) !== 0 && !seen.some((place) => place.vma === vma && place.hva === hva);
  return rmapPlaces(k, folio).find(fresh) ?? null;
};

/** Every entry of one VMA, a huge one or those of single pages. @returns what those were that changed */
const mkcleanPlace = (k: Kernel, folio: number, { vma, page, nr, hva }: RmapPlace): number[] => {
  const pmd = folioVmaMappedPmd(k, vma, hva, folio);
  const words = pmd > 0 ? [pmd] : [];
  if (pmd === 0)
    for (let i = 0; i < nr; i++) words.push(pageVmaMapped(k, vma, hva + i * PAGE_SIZE, page + i));
  const changed: number[] = [];
  words.forEach((word, i) => {
    const was = word > 0 ? mkcleanOne(k, vma, hva + i * PAGE_SIZE, word) : 0;
    if (was !== 0) changed.push(was);
  });
  return changed;
};

/** One entry: cleared and flushed first, so that the hardware cannot set D behind our back. @returns what it was, 0 if left alone */
const mkcleanOne = (k: Kernel, vma: Vma, hva: number, word: number): number => {
  const seen = ptepGet(k, word);
  if (!pteDirty(seen) && !pteWrite(seen)) return 0;
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  setPteAt(k, word, pteMkclean(pteWrprotect(pte)));
  countStat(k, 'wrprotect');
  return pte;
};
