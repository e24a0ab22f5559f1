/**
 * Writeback of DAX files: nothing is written, what has been stored is flushed out of the caches. Compare
 * fs/dax.c:dax_writeback_mapping_range(), dax_writeback_one().
 *
 * First the entries of processes become read-only and clean, so that the next store faults and makes the
 * page dirty again; then the lines are written back; then the page is clean. A device that writes through
 * a pin does not fault: under `pinned-writeback=bounce` the page of whoever may be pinned is flushed and
 * stays dirty, so that the next writeback flushes it once more. Linux forgets it.
 */
import { PAGE_SIZE } from '#emu';
import { smpMb } from '#cells';
import { folioMkclean } from '../../cache/clean.ts';
import { folioMaybeDmaPinned } from '../../folio/pin.ts';
import { type Path, YP_WRITEBACK_CLEANED } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { persistPage, pmemOf } from './blocks.ts';
import { clearEntryDirty, daxOf, lockEntry, offsetsIn, unlockEntry } from './entries.ts';

/**
 * What processes have stored to the pages of [startByte, endByte) is durable afterwards, as far as the
 * bytes go: where the file finds them is the journal's (syncMetadata).
 * @returns pages flushed
 */
export function* daxWriteback(
  k: Kernel,
  mapping: AddressSpace,
  startByte = 0,
  endByte = Number.POSITIVE_INFINITY,
): Path<number> {
  const first = Math.floor(startByte / PAGE_SIZE);
  let flushed = 0;
  for (const pgoff of offsetsIn(daxOf(mapping).dirty, first, Math.ceil(endByte / PAGE_SIZE))) {
    yield* lockEntry(mapping, pgoff);
    if (yield* writebackOne(k, mapping, pgoff)) flushed++;
    unlockEntry(mapping, pgoff);
  }
  return flushed;
}

/** The entry is locked. @returns false: it is clean, or gone */
function* writebackOne(k: Kernel, mapping: AddressSpace, pgoff: number): Path<boolean> {
  const { entries, dirty } = daxOf(mapping);
  const page = entries.get(pgoff);
  if (page === undefined || !dirty.has(pgoff)) return false;
  yield* folioMkclean(k, page);
  if (k.watched) yield YP_WRITEBACK_CLEANED;
  persistPage(k, pmemOf(k, mapping), page);
  // Pairs with GUP-fast, which counts its pin first and reads the entry again after.
  smpMb();
  const keeps = k.policy.pinnedWriteback === 'bounce' && folioMaybeDmaPinned(k, page);
  if (!keeps) clearEntryDirty(mapping, pgoff);
  return true;
}
