/**
 * Pins: how FOLL_GET and FOLL_PIN count on a folio. Compare mm/gup.c, try_grab_folio() and
 * try_grab_folio_fast(), and include/linux/mm.h, folio_maybe_dma_pinned().
 *
 *   small folio    GET: refcount + 1    PIN: refcount + 1024
 *   large folio    GET: refcount + 1    PIN: refcount + 1 and pincount + 1, per page pinned
 *   zero folios    GET: refcount + 1    PIN: nothing
 *
 * Of a small folio "pinned" is a guess: 1024 plain references look like one pin. A held pin is
 * never missed. The zero folios are the zero page and the huge zero folio; of the latter Linux
 * counts pins, and here, where it is never freed, nobody would miss them.
 */
import { atomicAdd, atomicAddRelaxed, readOnce, smpMb } from '#cells';
import { ENOMEM, EREMOTEIO } from '../errno.ts';
import { MIGRATE_CMA, pageblockType, pageZoneIndex } from '../frames/pageblock.ts';
import { PG_DEVICE_COHERENT, PG_FSDAX, PG_HEAD, PG_P2PDMA } from '../frames/table.ts';
import { ZONE_MOVABLE } from '../frames/zone.ts';
import { isZoneDevice } from '../frames/zone-device.ts';
import { FOLL_GET, FOLL_LONGTERM, FOLL_PCI_P2PDMA, FOLL_PIN } from '../gup/flags.ts';
import { noteGrabPage, takeGupUser } from '../provenance/provenance.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { folioOf, folioPut, folioTryGet } from './folio.ts';

/** What one pin adds to the reference count of a small folio. */
export const GUP_PIN_COUNTING_BIAS = 1024;

/** A reference count goes no higher by GUP. */
const REFS_MAX = 0x7fff_ffff;

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

/** The zero page and the huge zero folio: GUP pins them without counting. Compare is_zero_folio(). */
export const isZeroFolio = (k: Kernel, folio: number): boolean =>
  folio === k.state.zeroPage || folio === k.state.hugeZeroFolio;

/**
 * May a folio stay where it is for as long as a FOLL_LONGTERM pin likes? Not where pages have to be
 * able to move: in ZONE_MOVABLE, in pageblocks of CMA and those that are isolated; coherent memory of
 * a device has to be movable back, and a block of a DAX file is the file. The zero folios stay, wherever
 * they are. Compare folio_is_longterm_pinnable().
 */
export const folioIsLongtermPinnable = (k: Kernel, folio: number): boolean => {
  const word = readOnce(k.state.frames.flags, folio);
  if ((word & (PG_DEVICE_COHERENT | PG_FSDAX)) !== 0) return false;
  if (pageZoneIndex(k, folio) !== ZONE_MOVABLE && pageblockType(k, folio) < MIGRATE_CMA)
    return true;
  return isZeroFolio(k, folio) || isZoneDevice(word);
};

/** What `n` pages add to the reference count of a folio. */
const refsOf = (k: Kernel, folio: number, n: number, flags: number): number =>
  (flags & FOLL_PIN) !== 0 && !folioHasPincount(k, folio) ? n * GUP_PIN_COUNTING_BIAS : n;

/** True where `refs` more than `count` would not fit: the count would look free, or negative. */
const overflows = (count: number, refs: number): boolean => count <= 0 || count + refs > REFS_MAX;

/**
 * Counts `n` pages of a folio by FOLL_GET, FOLL_PIN or neither. The caller holds the page-table
 * lock over an entry that maps it (or already has a reference), so the folio cannot go away.
 * @returns 0; -ENOMEM when the reference count is not positive, or would not stay so; -EREMOTEIO
 *   for memory of a PCI peer without FOLL_PCI_P2PDMA
 */
export const tryGrabFolio = (k: Kernel, folio: number, n: number, flags: number): number => {
  const { refcount, pincount } = k.state.frames;
  const refs = refsOf(k, folio, n, flags);
  if (overflows(readOnce(refcount, folio), refs)) return -ENOMEM;
  if ((flags & FOLL_PCI_P2PDMA) === 0 && (readOnce(k.state.frames.flags, folio) & PG_P2PDMA) !== 0)
    return -EREMOTEIO;
  if ((flags & FOLL_GET) !== 0) {
    atomicAdd(refcount, folio, n);
  } else if ((flags & FOLL_PIN) !== 0 && !isZeroFolio(k, folio)) {
    atomicAdd(refcount, folio, refs);
    if (folioHasPincount(k, folio)) atomicAdd(pincount, folio, n);
    countStat(k, 'nr_foll_pin_acquired', n);
  }
  return 0;
};

/**
 * The same without any lock: the folio may be free, or another one, by the time it is counted.
 * After a pin there is a full barrier, before the caller reads the page-table entry again; the
 * other side clears the entry, has its barrier, and then looks at the pins (mm/rmap/). Pins are
 * not counted in nr_foll_pin_acquired here: the caller does so, by batches.
 * @returns the folio with its count raised, or -1: the slow path may know more
 */
export const tryGrabFolioFast = (k: Kernel, page: number, n: number, flags: number): number => {
  const { flags: pageFlags, refcount, pincount } = k.state.frames;
  const word = readOnce(pageFlags, page);
  if ((word & PG_P2PDMA) !== 0 && (flags & FOLL_PCI_P2PDMA) === 0) return -1;
  if ((flags & FOLL_GET) !== 0) return tryGetFolio(k, page, n);
  if (page === k.state.zeroPage) return page;
  const folio = tryGetFolio(k, page, n);
  if (folio < 0) return -1;
  if ((flags & FOLL_LONGTERM) !== 0 && !folioIsLongtermPinnable(k, folio)) {
    folioPut(k, folio, n);
    return -1;
  }
  if (folioHasPincount(k, folio)) atomicAddRelaxed(pincount, folio, n);
  else atomicAddRelaxed(refcount, folio, n * (GUP_PIN_COUNTING_BIAS - 1));
  smpMb();
  return folio;
};

/**
 * References from non-zero only, with room for a pin's, and only if the page still belongs to the
 * folio afterwards. Compare try_get_folio().
 */
const tryGetFolio = (k: Kernel, page: number, n: number): number => {
  for (;;) {
    const folio = folioOf(k, page);
    if (readOnce(k.state.frames.refcount, folio) > REFS_MAX - n * GUP_PIN_COUNTING_BIAS) return -1;
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
  } else if (!isZeroFolio(k, folio)) {
    countStat(k, 'nr_foll_pin_released', n);
    dropPins(k, folio, n);
  }
};

/**
 * `n` pins more of a folio that is pinned already: so that what was pinned as a whole
 * (memfd_pin_folios) can be unpinned page by page. Compare folio_add_pin(), which leaves out the
 * statistics, and folio_add_pins().
 * @returns 0, or -ENOMEM as tryGrabFolio
 * @throws Error where `k.checked` and nobody has pinned the folio
 */
export const folioAddPins = (k: Kernel, folio: number, n = 1): number => {
  if (k.checked && !isZeroFolio(k, folio) && !folioMaybeDmaPinned(k, folio))
    throw new Error(`folio ${folio}: pins added, and there was none`);
  const user = takeGupUser(k);
  const error = tryGrabFolio(k, folio, n, FOLL_PIN | FOLL_PCI_P2PDMA);
  if (error === 0) noteGrabPage(k, 'pin', 'folio_add_pins', user, folio, n);
  return error;
};
