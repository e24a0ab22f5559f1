/**
 * memfd_pin_folios(): pins of a file's folios by their place in the file, without a mapping. Compare
 * mm/gup.c. Who gives memory of a guest or a display to a device has a memfd rather than an address.
 *
 * Each folio is pinned once, however many of its pages are meant, and released by unpinFolios(). The
 * pins may last for ever.
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EEXIST, EINVAL } from '../errno.ts';
import { folioNrPages, folioOf, folioPut, folioUnlock } from '../folio/folio.ts';
import { tryGrabFolio } from '../folio/pin.ts';
import { mappingPageAt } from '../fs/mapping.ts';
import { shmemGetPage } from '../fs/shmem.ts';
import { hugetlbAllocHole } from '../hugetlb/file.ts';
import { type Path, YP_GUP_LOOKED_UP } from '../path.ts';
import { noteGrabPage, takeGupUser } from '../provenance/provenance.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { FOLL_PIN } from './flags.ts';
import { allLongtermPinnable, checkAndMigrateMovable, memallocPinScope } from './longterm.ts';
import { unpinFolios } from './unpin.ts';

/** Filled in: where in the first folio the range begins, in bytes. */
export interface FolioOffset {
  offset: number;
}

/** Made for a hole: the folio, unlocked and with a reference; -EEXIST: it was none. Compare memfd_alloc_folio(). */
function* allocHole(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  if (mapping.kind === 'hugetlbfs')
    return yield* hugetlbAllocHole(k, mapping, pgoff - (pgoff % (1 << mapping.hugeOrder)));
  const page = yield* shmemGetPage(k, mapping, pgoff);
  if (page < 0) return page;
  folioUnlock(k, folioOf(k, page));
  return folioOf(k, page);
}

/**
 * Pins the folios that [start, end] of a file lies in, in order; holes are filled. What is where it may
 * not stay moves first (longterm.ts).
 * @param mapping shmem or hugetlbfs
 * @param start offset of the first byte, and `end` that of the last one
 * @param folios filled with at most `maxFolios` folios
 * @param offset filled in: `start` within the first folio
 * @returns folios pinned, fewer than the range has where `maxFolios` are; or -errno, and nothing is
 *   pinned: -EINVAL an empty range, no room, another kind of file, beyond its end, a folio that
 *   cannot be counted; -ENOMEM, also where a folio does not move
 */
export function* memfdPinFolios(
  k: Kernel,
  mapping: AddressSpace | null,
  start: number,
  end: number,
  folios: Int32Array,
  maxFolios: number,
  offset: FolioOffset,
): Path<number> {
  const user = takeGupUser(k);
  if (start < 0 || start > end || maxFolios <= 0 || mapping === null) return -EINVAL;
  if (mapping.kind !== 'shmem' && mapping.kind !== 'hugetlbfs') return -EINVAL;
  if (end >= mapping.nrPages * PAGE_SIZE) return -EINVAL;
  const pinning = pinLongterm(k, user, mapping, start, end, folios, maxFolios, offset);
  return yield* memallocPinScope(k, pinning);
}

function* pinLongterm(
  k: Kernel,
  user: string,
  mapping: AddressSpace,
  start: number,
  end: number,
  folios: Int32Array,
  maxFolios: number,
  offset: FolioOffset,
): Path<number> {
  for (;;) {
    const n = yield* pinRange(k, user, mapping, start, end, folios, maxFolios, offset);
    if (n <= 0 || allLongtermPinnable(k, folios, n)) return n;
    const moved = yield* checkAndMigrateMovable(k, folios, n, unpinFolios);
    if (moved !== -EAGAIN) return moved;
  }
}

/** Pins the folios where they are. */
function* pinRange(
  k: Kernel,
  user: string,
  mapping: AddressSpace,
  start: number,
  end: number,
  folios: Int32Array,
  maxFolios: number,
  offset: FolioOffset,
): Path<number> {
  const last = Math.floor(end / PAGE_SIZE);
  let n = 0;
  let error = 0;
  for (let pgoff = Math.floor(start / PAGE_SIZE); pgoff <= last && n < maxFolios; ) {
    const page = mappingPageAt(mapping, pgoff);
    if (page === undefined) {
      const made = yield* allocHole(k, mapping, pgoff);
      if (made >= 0) folioPut(k, made);
      else if (made !== -EEXIST) error = made;
      if (error !== 0) break;
      continue;
    }
    const folio = folioOf(k, page);
    if (tryGrabFolio(k, folio, 1, FOLL_PIN) !== 0) {
      error = -EINVAL;
      break;
    }
    if (n === 0) offset.offset = start - (pgoff - (page - folio)) * PAGE_SIZE;
    noteGrabPage(k, 'pin', 'memfd_pin_folios', user, folio, 1);
    folios[n++] = folio;
    pgoff += folioNrPages(k, folio) - (page - folio);
    if (k.watched) yield YP_GUP_LOOKED_UP;
  }
  if (error === 0) return n;
  unpinFolios(k, folios, n);
  return error;
}
