/**
 * Pins: how FOLL_GET and FOLL_PIN count on a folio. Compare mm/gup.c, try_grab_folio() and
 * try_grab_folio_fast(), and include/linux/mm.h, folio_maybe_dma_pinned().
 *
 *   small folio   GET: refcount + 1    PIN: refcount + 1024
 *   large folio   GET: refcount + 1    PIN: refcount + 1 and pincount + 1, per page pinned
 *   zero page     GET: refcount + 1    PIN: nothing
 *
 * Of a small folio "pinned" is a guess: 1024 plain references look like one pin. A held pin is
 * never missed. LONGTERM restricts nothing yet: there are no CMA blocks and no ZONE_MOVABLE.
 */
import { atomicAdd, atomicAddRelaxed, readOnce, smpMb } from '#cells';
import { ENOMEM } from '../errno.ts';
import { PG_HEAD } from '../frames/table.ts';
import { FOLL_GET, FOLL_PIN } from '../gup/flags.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { folioOf, folioPut, folioTryGet } from './folio.ts';

/** What one pin adds to the reference count of a small folio. */
export const GUP_PIN_COUNTING_BIAS = 1024;

/** Pins are counted apart: every large folio, on 64-bit. Compare folio_has_pincount(). */
export const folioHasPincount = (k: Kernel, folio: number): boolean =>
  (readOnce(k.state.frames.flags, folio) & PG_HEAD) !== 0;

/**
 * True where a device may be writing to or reading from the folio at any time. The compare is
 * unsigned, so that a count that has overflowed still says yes.
 */
export const folioMaybeDmaPinned = (k: Kernel, folio: number): boolean =>
  folioHasPincount(k, folio)
    ? readOnce(k.state.frames.pincount, folio) > 0
    : readOnce(k.state.frames.refcount, folio) >>> 0 >= GUP_PIN_COUNTING_BIAS;

/** Pins as far as the counts tell: exact for large folios, refcount / 1024 for small ones. */
export const folioPinCount = (k: Kernel, folio: number): number =>
  folioHasPincount(k, folio)
    ? readOnce(k.state.frames.pincount, folio)
    : Math.floor(readOnce(k.state.frames.refcount, folio) / GUP_PIN_COUNTING_BIAS);

/**
 * Counts `n` pages of a folio by FOLL_GET, FOLL_PIN or neither. The caller holds the page-table
 * lock over an entry that maps it (or already has a reference), so the folio cannot go away.
 * @returns 0, or -ENOMEM when the reference count is not positive
 */
export const tryGrabFolio = (k: Kernel, folio: number, n: number, flags: number): number => {
  const { refcount, pincount } = k.state.frames;
  if (readOnce(refcount, folio) <= 0) return -ENOMEM;
  if ((flags & FOLL_GET) !== 0) {
    atomicAdd(refcount, folio, n);
  } else if ((flags & FOLL_PIN) !== 0) {
    if (folio === k.state.zeroPage) return 0;
    if (folioHasPincount(k, folio)) {
      atomicAdd(refcount, folio, n);
      atomicAdd(pincount, folio, n);
    } else {
      atomicAdd(refcount, folio, n * GUP_PIN_COUNTING_BIAS);
    }
    countStat(k, 'nr_foll_pin_acquired', n);
  }
  return 0;
};

/**
 * The same without any lock: the folio may be free, or another one, by the time it is counted.
 * After a pin there is a full barrier, before the caller reads the page-table entry again; the
 * other side clears the entry, has its barrier, and then looks at the pins (mm/rmap/). Pins are
 * not counted in nr_foll_pin_acquired here: the caller does so, by batches.
 * @returns the folio with its count raised, or -1
 */
export const tryGrabFolioFast = (k: Kernel, page: number, n: number, flags: number): number => {
  const { refcount, pincount } = k.state.frames;
  if ((flags & FOLL_GET) !== 0) return tryGetFolio(k, page, n);
  if (page === k.state.zeroPage) return page;
  const folio = tryGetFolio(k, page, n);
  if (folio < 0) return -1;
  if (folioHasPincount(k, folio)) atomicAddRelaxed(pincount, folio, n);
  else atomicAddRelaxed(refcount, folio, n * (GUP_PIN_COUNTING_BIAS - 1));
  smpMb();
  return folio;
};

/** References from non-zero only, and only if the page still belongs to the folio afterwards. */
const tryGetFolio = (k: Kernel, page: number, n: number): number => {
  for (;;) {
    const folio = folioOf(k, page);
    if (!folioTryGet(k, folio, n)) return -1;
    if (folioOf(k, page) === folio) return folio;
    folioPut(k, folio, n);
  }
};

/** Drops `n` pins of a folio, uncounted: the caller adds to nr_foll_pin_released, by batches. */
export const dropPins = (k: Kernel, folio: number, n: number): void => {
  if (folioHasPincount(k, folio)) {
    atomicAdd(k.state.frames.pincount, folio, -n);
    folioPut(k, folio, n);
  } else {
    folioPut(k, folio, n * GUP_PIN_COUNTING_BIAS);
  }
};

/** Undoes tryGrabFolio with the same `n` and flags. The last reference frees the folio. */
export const gupPutFolio = (k: Kernel, folio: number, n: number, flags: number): void => {
  if ((flags & FOLL_PIN) === 0) {
    folioPut(k, folio, n);
  } else if (folio !== k.state.zeroPage) {
    countStat(k, 'nr_foll_pin_released', n);
    dropPins(k, folio, n);
  }
};
