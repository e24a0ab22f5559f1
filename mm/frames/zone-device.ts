/**
 * ZONE_DEVICE: frames that are memory of a device, with a frame table like any other. Compare
 * mm/memremap.c, drivers/pci/p2pdma.c.
 *
 * The driver hands its pages out; a page whose last reference goes returns to the driver, never to
 * the buddy allocator. Free pages have no references. Pages of a PCI peer are for whoever says that
 * he can deal with them (FOLL_PCI_P2PDMA); coherent memory of a device may not be pinned for long.
 *
 * Persistent memory is not handed out page by page. A block of a DAX file system has references while
 * entries map it or GUP holds it, and none otherwise: nobody but the file system says whose it is
 * (mm/fs/dax/). A page of device-dax has one reference of its driver besides, always.
 */
import {
  fetchAndNot,
  fetchOr,
  listPush,
  listRemoveAt,
  readOnce,
  setField,
  writeOnce,
} from '#cells';
import { ENOMEM } from '../errno.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel } from '../types.ts';
import { allocPages, freePages, GFP_KERNEL } from './buddy.ts';
import { allocContig, freeContig } from './contig.ts';
import {
  PG_DEVDAX,
  PG_DEVICE_COHERENT,
  PG_DIRTY,
  PG_FSDAX,
  PG_P2PDMA,
  PG_REFERENCED,
} from './table.ts';
import { MAX_PAGE_ORDER } from './zone.ts';

/** Memory of one device. Plain data. */
export interface ZoneDevice {
  id: number;
  /** PG_P2PDMA, PG_DEVICE_COHERENT, PG_FSDAX or PG_DEVDAX: what every page of it says. */
  type: number;
  firstPage: number;
  nrPages: number;
  /** Pages that the driver has not handed out; of persistent memory none is listed. */
  free: number[];
}

const BLOCK_PAGES = 1 << MAX_PAGE_ORDER;
/** What a page of a device may be. */
const ZONE_DEVICE_TYPES = PG_P2PDMA | PG_DEVICE_COHERENT | PG_FSDAX | PG_DEVDAX;

/** Order of a block that holds so many pages. */
const orderOf = (nrPages: number): number => Math.ceil(Math.log2(nrPages));

/**
 * Makes frames memory of a device: they leave the buddy allocator until zoneDeviceRemove().
 * @param type PG_P2PDMA, PG_DEVICE_COHERENT, PG_FSDAX or PG_DEVDAX
 * @param nrPages rounded up: to a power of two, from 4 MiB on to a multiple of that
 * @returns the device's record, or -ENOMEM without a free run. Compare memremap_pages()
 */
export const zoneDeviceCreate = (k: Kernel, type: number, nrPages: number): ZoneDevice | number => {
  const { flags, refcount, private: order } = k.state.frames;
  const small = nrPages <= BLOCK_PAGES;
  const nr = small ? 1 << orderOf(nrPages) : Math.ceil(nrPages / BLOCK_PAGES) * BLOCK_PAGES;
  const firstPage = small
    ? allocPages(k, orderOf(nrPages), GFP_KERNEL)
    : allocContig(k, nr, BLOCK_PAGES);
  if (firstPage === -ENOMEM) return -ENOMEM;
  const free: number[] = [];
  for (let page = firstPage + nr - 1; page >= firstPage; page--) {
    fetchOr(flags, page, type);
    writeOnce(refcount, page, type === PG_DEVDAX ? 1 : 0);
    writeOnce(order, page, 0);
    if ((type & (PG_FSDAX | PG_DEVDAX)) === 0) free.push(page);
  }
  const device: ZoneDevice = { id: newId(k), type, firstPage, nrPages: nr, free };
  listPush(k.state.zoneDevices, device);
  return device;
};

/** The device whose memory a page is. */
const zoneDeviceOf = (k: Kernel, page: number): ZoneDevice => {
  for (const device of k.state.zoneDevices)
    if (page >= device.firstPage && page < device.firstPage + device.nrPages) return device;
  throw new Error(`page ${page} is memory of no device`);
};

/** The driver hands a page out, with one reference. @returns the page, or -ENOMEM. Compare zone_device_page_init() */
export const zoneDeviceAlloc = (k: Kernel, device: ZoneDevice): number => {
  const page = listRemoveAt(device.free, device.free.length - 1);
  if (page === undefined) return -ENOMEM;
  writeOnce(k.state.frames.refcount, page, 1);
  return page;
};

/** The same for one page that it chooses. @returns false: it is in use */
export const zoneDeviceTake = (k: Kernel, page: number): boolean => {
  const { free } = zoneDeviceOf(k, page);
  const i = free.indexOf(page);
  if (i < 0) return false;
  listRemoveAt(free, i);
  writeOnce(k.state.frames.refcount, page, 1);
  return true;
};

/** True for memory of a device, by the flags of a folio. Compare folio_is_zone_device(). */
export const isZoneDevice = (flags: number): boolean => (flags & ZONE_DEVICE_TYPES) !== 0;

/** True for a page of a DAX file system, by its flags. Compare folio_is_fsdax(). */
export const isFsdax = (flags: number): boolean => (flags & PG_FSDAX) !== 0;

/**
 * The last reference has gone: the page is the driver's again. A block of a DAX file stays the file's:
 * it is idle, which is what breaking a layout waits for. Compare free_zone_device_folio().
 */
export const freeZoneDeviceFolio = (k: Kernel, page: number): void => {
  const { flags, mapping, index } = k.state.frames;
  if (isFsdax(readOnce(flags, page))) {
    fetchAndNot(flags, page, PG_DIRTY | PG_REFERENCED);
    return;
  }
  const device = zoneDeviceOf(k, page);
  if (device.type === PG_DEVDAX)
    throw new Error(`page ${page}: device-dax has lost its own reference`);
  writeOnce(flags, page, device.type);
  writeOnce(mapping, page, 0);
  writeOnce(index, page, 0);
  listPush(device.free, page);
};

/** Nobody but its driver refers to any page of the device. */
const isIdle = (k: Kernel, { type, firstPage, nrPages, free }: ZoneDevice): boolean => {
  if ((type & (PG_FSDAX | PG_DEVDAX)) === 0) return free.length === nrPages;
  const own = type === PG_DEVDAX ? 1 : 0;
  for (let page = firstPage; page < firstPage + nrPages; page++)
    if (readOnce(k.state.frames.refcount, page) > own) return false;
  return true;
};

/**
 * The device is unplugged: waits until every page is back, however long somebody pins one, and gives
 * the frames to the buddy allocator. Compare memunmap_pages().
 */
export function* zoneDeviceRemove(k: Kernel, device: ZoneDevice): Path<void> {
  const { firstPage, nrPages } = device;
  while (!isIdle(k, device)) yield YP_WAIT;
  const { zoneDevices } = k.state;
  listRemoveAt(zoneDevices, zoneDevices.indexOf(device));
  setField(device, 'free', []);
  const { flags, refcount, mapping, index } = k.state.frames;
  for (let page = firstPage; page < firstPage + nrPages; page++) {
    writeOnce(flags, page, 0);
    writeOnce(refcount, page, 0);
    writeOnce(mapping, page, 0);
    writeOnce(index, page, 0);
  }
  if (nrPages <= BLOCK_PAGES) freePages(k, firstPage, orderOf(nrPages));
  else freeContig(k, firstPage, nrPages);
}
