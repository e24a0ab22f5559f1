/**
 * Breaking a layout: before blocks are taken from a DAX file nobody may hold them. Compare
 * fs/dax.c:dax_break_layout(), fs/ext4/inode.c:ext4_break_layouts().
 *
 * A page that GUP holds is the block itself. If the block went to another file, a device would write
 * into that one; so truncation and hole punching unmap first and then wait until every page is idle: no
 * references at all. That is why only holds that end soon are allowed, and FOLL_LONGTERM is refused.
 * Blocks become free afterwards, and not before.
 */
import { readOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { downWrite, upWrite } from '../../cache/rwsem.ts';
import { unmapMappingRange } from '../../cache/unmap.ts';
import { EINTR } from '../../errno.ts';
import { folioMapcount } from '../../folio/folio.ts';
import { type Path, YP_LAYOUT_BREAK, YP_WAIT } from '../../path.ts';
import { holderNames } from '../../provenance/holders.ts';
import { signalPending } from '../../signal.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { daxOf, deleteEntry, lockEntry, offsetsIn, unlockEntry } from './entries.ts';

/** Nobody maps or holds it. Compare dax_page_is_idle() */
const isIdle = (k: Kernel, page: number): boolean => readOnce(k.state.frames.refcount, page) === 0;

/** Somebody holds it who is no entry: those that come back meanwhile are taken away again. */
const isHeld = (k: Kernel, page: number): boolean =>
  readOnce(k.state.frames.refcount, page) > folioMapcount(k, page);

/** A page that the file shows in [first, end) and somebody has, -1 for none. Compare dax_layout_busy_page_range() */
const busyPage = (k: Kernel, mapping: AddressSpace, first: number, end: number): number => {
  for (const [pgoff, page] of daxOf(mapping).entries)
    if (pgoff >= first && pgoff < end && page !== k.state.zeroPage && !isIdle(k, page)) return page;
  return -1;
};

/** Pages that somebody has, and who: for messages, and for whoever waits. */
export const daxBusyPages = (
  k: Kernel,
  mapping: AddressSpace,
): { pgoff: number; page: number; holders: string[] }[] => {
  const busy: { pgoff: number; page: number; holders: string[] }[] = [];
  for (const [pgoff, page] of daxOf(mapping).entries)
    if (page !== k.state.zeroPage && !isIdle(k, page))
      busy.push({ pgoff, page, holders: holderNames(k, page) });
  return busy;
};

/** What the file shows in [first, end) it shows no more. Compare dax_delete_mapping_range() */
function* deleteEntries(k: Kernel, mapping: AddressSpace, first: number, end: number): Path<void> {
  for (const pgoff of offsetsIn(daxOf(mapping).entries, first, end)) {
    // Writeback may be about to flush it: it takes no reference.
    yield* lockEntry(mapping, pgoff);
    deleteEntry(k, mapping, pgoff);
    unlockEntry(mapping, pgoff);
  }
}

/**
 * Waits until nobody maps or holds a whole page of [startByte, endByte) of the file, and forgets these
 * pages: their blocks can be taken away. The caller holds i_rwsem and invalidate_lock for writing; the
 * latter is dropped while it waits, so that whoever holds a page can fault, and held when it comes back.
 * What was mapped again meanwhile is unmapped again, where Linux waits until it is unmapped otherwise.
 * @param endByte Infinity: to the end
 * @returns 0; -EINTR: a signal came first, and nothing has changed but that the pages are not mapped
 */
export function* daxBreakLayouts(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const first = Math.ceil(startByte / PAGE_SIZE);
  const end = Math.floor(endByte / PAGE_SIZE);
  for (;;) {
    yield* unmapMappingRange(k, mapping, first, end - first, false);
    const page = busyPage(k, mapping, first, end);
    if (page < 0) break;
    upWrite(mapping.invalidateLock);
    if (k.watched) yield YP_LAYOUT_BREAK;
    let error = 0;
    while (error === 0 && isHeld(k, page)) {
      if (signalPending(k)) error = -EINTR;
      else yield YP_WAIT;
    }
    yield* downWrite(mapping.invalidateLock);
    if (error !== 0) return error;
  }
  yield* deleteEntries(k, mapping, first, end);
  return 0;
}

/**
 * The file's last user has gone: waits for whoever still holds a page of it, whatever signals come, and
 * forgets them all. Compare dax_break_layout_final()
 */
export function* daxBreakLayoutFinal(k: Kernel, mapping: AddressSpace): Path<void> {
  const end = Number.POSITIVE_INFINITY;
  for (let page = busyPage(k, mapping, 0, end); page >= 0; page = busyPage(k, mapping, 0, end)) {
    if (k.watched) yield YP_LAYOUT_BREAK;
    while (!isIdle(k, page)) yield YP_WAIT;
  }
  yield* deleteEntries(k, mapping, 0, end);
}
