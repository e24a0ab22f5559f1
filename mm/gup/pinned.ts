/**
 * Bytes of pages that a driver has pinned, by page number: what kmap_local_page() gives it, and what
 * a device reaches by bus address. With `k.checked` a page that is not pinned is refused.
 */
import { PAGE_SIZE } from '#emu';
import type { Kernel } from '../types.ts';
import { folioMaybeDmaPinned, isZeroFolio } from '../folio/pin.ts';
import { folioOf } from '../folio/folio.ts';

const checkPinned = (k: Kernel, page: number, offset: number, lenBytes: number): void => {
  if (offset < 0 || lenBytes < 0 || offset + lenBytes > PAGE_SIZE)
    throw new Error(`pinned page ${page}: [${offset}, +${lenBytes}) leaves the page`);
  if (!k.checked) return;
  const folio = folioOf(k, page);
  if (!isZeroFolio(k, folio) && !folioMaybeDmaPinned(k, folio))
    throw new Error(`page ${page} is not pinned`);
};

/** Offset of the page's first byte in the machine's memory. Whoever writes there calls memory.wrote(). */
export const pinnedPageOffset = (k: Kernel, page: number): number => {
  checkPinned(k, page, 0, PAGE_SIZE);
  return k.memory.pageOffset(page);
};

/** Page -> into[intoOffset ..]. The bytes must not leave the page. @throws Error otherwise */
export const readPinnedPage = (
  k: Kernel,
  page: number,
  offset: number,
  into: Uint8Array,
  intoOffset: number,
  lenBytes: number,
): void => {
  checkPinned(k, page, offset, lenBytes);
  const from = k.memory.pageOffset(page) + offset;
  into.set(k.memory.u8.subarray(from, from + lenBytes), intoOffset);
};

/** from[fromOffset ..] -> page. The bytes must not leave the page. @throws Error otherwise */
export const writePinnedPage = (
  k: Kernel,
  page: number,
  offset: number,
  from: Uint8Array,
  fromOffset: number,
  lenBytes: number,
): void => {
  checkPinned(k, page, offset, lenBytes);
  const bytes = from.subarray(fromOffset, fromOffset + lenBytes);
  k.memory.setBytes(k.memory.pageOffset(page) + offset, bytes);
};
