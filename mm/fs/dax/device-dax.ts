/**
 * device-dax: a file that is persistent memory from end to end, with no file system over it. Compare
 * drivers/dax/device.c.
 *
 * Nothing is ever cut off it, so its pages may be pinned for as long as somebody likes. Mappings are
 * shared, and begin and end where the device says. Each page has one reference of the driver's, and one
 * more for each entry.
 */
import { readOnce, setField, writeOnce } from '#cells';
import { unmapMappingRange } from '../../cache/unmap.ts';
import { EFAULT, EINVAL } from '../../errno.ts';
import { folioSetMapping } from '../../folio/folio.ts';
import { PG_DEVDAX, pageToPfn, pfnToPage } from '../../frames/table.ts';
import { type ZoneDevice, zoneDeviceCreate, zoneDeviceRemove } from '../../frames/zone-device.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel, Vma } from '../../types.ts';
import { linearPageIndex, VM_MAYSHARE } from '../../vma/flags.ts';
import { deviceFileCreate } from '../device.ts';
import { insertPageMkwrite } from './insert.ts';

/**
 * A device-dax file of `nrPages` pages; the caller is its first user.
 * @param alignBytes what mappings begin and end at: 4 KiB or 2 MiB
 * @returns the file, or -ENOMEM. Compare devm_create_dev_dax()
 */
export const deviceDaxCreate = (
  k: Kernel,
  nrPages: number,
  alignBytes = 4096,
): AddressSpace | number => {
  const device = zoneDeviceCreate(k, PG_DEVDAX, nrPages);
  if (typeof device === 'number') return device;
  const { firstPage } = device;
  const firstPfn = pageToPfn(firstPage);
  const mapping = deviceFileCreate(k, nrPages, { how: 'dax', firstPfn, alignBytes });
  for (let i = 0; i < device.nrPages; i++) k.memory.zeroPage(firstPage + i);
  return mapping;
};

/** The memory behind the file; undefined once the device is unbound. */
const deviceOf = (k: Kernel, mapping: AddressSpace): ZoneDevice | undefined => {
  const firstPage = mapping.device === null ? -1 : pfnToPage(mapping.device.firstPfn);
  return k.state.zoneDevices.find((known) => known.firstPage === firstPage);
};

/**
 * The device is unbound: nobody maps it any more, faults are SIGBUS, and when nobody holds a page of it
 * either the frames are ordinary memory again. The file stays until its last user goes.
 * @throws Error where it is unbound already. Compare kill_dev_dax()
 */
export function* deviceDaxRemove(k: Kernel, mapping: AddressSpace): Path<void> {
  const device = deviceOf(k, mapping);
  if (device === undefined) throw new Error(`file ${mapping.id}: there is no device-dax behind it`);
  setField(mapping, 'nrPages', 0);
  yield* unmapMappingRange(k, mapping, 0, Number.POSITIVE_INFINITY, true);
  yield* zoneDeviceRemove(k, device);
}

/** What mappings of a driver's file begin and end at, in bytes. Compare dax_get_unmapped_area() */
export const mappingAlignBytes = (mapping: AddressSpace | null): number =>
  mapping?.device?.alignBytes ?? 4096;

/** mmap(): nothing is mapped yet. @returns 0; -EINVAL: private, not aligned, or beyond the end. Compare dax_mmap() */
export const deviceDaxMmap = (vma: Vma, mapping: AddressSpace, alignBytes: number): number => {
  if ((vma.flags & VM_MAYSHARE) === 0) return -EINVAL;
  if (vma.start % alignBytes !== 0 || vma.end % alignBytes !== 0) return -EINVAL;
  return vma.pgoff + (vma.end - vma.start) / 4096 > mapping.nrPages ? -EINVAL : 0;
};

/** First touch, or the next after protection has changed. @returns 0, -EFAULT beyond the end, -ENOMEM. Compare dev_dax_fault() */
export const deviceDaxFault = (k: Kernel, vma: Vma, hva: number, write: boolean): number => {
  const { mapping } = vma;
  const pgoff = linearPageIndex(vma, hva);
  if (mapping === null || mapping.device === null || pgoff >= mapping.nrPages) return -EFAULT;
  const page = pfnToPage(mapping.device.firstPfn) + pgoff;
  // From here on the rmap finds the mappings of the page. Compare dax_set_mapping()
  if (readOnce(k.state.frames.mapping, page) !== mapping.id)
    folioSetMapping(k, page, mapping.id, pgoff);
  return insertPageMkwrite(k, vma, hva, page, write);
};

/** The last user of the file has gone: no page is any file's. Whoever holds one goes on holding it. */
export const deviceDaxRelease = (k: Kernel, mapping: AddressSpace): void => {
  const device = deviceOf(k, mapping);
  if (device === undefined) return;
  for (let i = 0; i < device.nrPages; i++)
    writeOnce(k.state.frames.mapping, device.firstPage + i, 0);
};
