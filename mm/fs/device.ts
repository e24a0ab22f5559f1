/**
 * Files of drivers: a mapping shows frames that the driver names. Compare drivers/char/mem.c,
 * drivers/vfio/pci/vfio_pci_core.c, drivers/pci/p2pdma.c.
 */
import { PAGE_SIZE } from '#emu';
import { readOnce, setField } from '#cells';
import { EFAULT, EINVAL } from '../errno.ts';
import { folioPut } from '../folio/folio.ts';
import { pfnToPage } from '../frames/table.ts';
import { isZoneDevice, zoneDeviceTake } from '../frames/zone-device.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import {
  isCowMapping,
  linearPageIndex,
  VM_DONTEXPAND,
  VM_IO,
  VM_MIXEDMAP,
  VM_PFNMAP,
} from '../vma/flags.ts';
import { remapPfnRange, vmfInsertMixed, vmfInsertPfn, vmInsertPage } from '../vma/pfnmap.ts';
import { deviceDaxFault, deviceDaxMmap } from './dax/device-dax.ts';
import { mappingCreate } from './mapping.ts';

/**
 * What a mapping of a driver's file shows, and how it gets there.
 *
 *   remap         all of it at mmap(), by frame number           remap_pfn_range()   no references
 *   insert-pfn    page by page at faults, by frame number        vmf_insert_pfn()    no references
 *   insert-mixed  the same in a mapping that may have both       vmf_insert_mixed()  no references
 *   insert-page   all of it at mmap(), as pages that are counted vm_insert_page()    one per entry
 *   dax           page by page at faults, as pages               dax/device-dax.ts   one per entry
 */
export interface DeviceMemory {
  how: 'remap' | 'insert-pfn' | 'insert-mixed' | 'insert-page' | 'dax';
  /** Frame number of the file's first page; the others follow. */
  firstPfn: number;
  /** dax: what mappings begin and end at. */
  alignBytes?: number;
}

/** A driver's file of `nrPages` pages; the caller is its first user. */
export const deviceFileCreate = (
  k: Kernel,
  nrPages: number,
  device: DeviceMemory,
): AddressSpace => {
  const mapping = mappingCreate(k, 'device', nrPages);
  setField(mapping, 'device', device);
  return mapping;
};

/** A page of a device comes to life with its first mapping, and lives as long as somebody refers to it. */
const insertPage = (k: Kernel, vma: Vma, hva: number, page: number): number => {
  const flags = readOnce(k.state.frames.flags, page);
  const taken = isZoneDevice(flags) && zoneDeviceTake(k, page);
  const error = vmInsertPage(k, vma, hva, page);
  if (taken) folioPut(k, page);
  return error;
};

/**
 * mmap() of a driver's file: the VMA is linked, and mmap_lock held for writing.
 * @returns 0; -EINVAL: beyond the file, or private where the driver cannot have that; -ENOMEM
 */
export const deviceMmap = (k: Kernel, vma: Vma): number => {
  const { mapping } = vma;
  if (mapping === null || mapping.device === null) throw new Error('a device VMA without a device');
  const { how, firstPfn, alignBytes = PAGE_SIZE } = mapping.device;
  if (how === 'dax') return deviceDaxMmap(vma, mapping, alignBytes);
  const nrPages = (vma.end - vma.start) / PAGE_SIZE;
  if (vma.pgoff + nrPages > mapping.nrPages) return -EINVAL;
  const pfn = firstPfn + vma.pgoff;
  if (how === 'remap') return remapPfnRange(k, vma, vma.start, pfn, vma.end - vma.start);
  if (how === 'insert-page') {
    let error = 0;
    for (let i = 0; i < nrPages && error === 0; i++)
      error = insertPage(k, vma, vma.start + i * PAGE_SIZE, pfnToPage(pfn + i));
    return error;
  }
  if (how === 'insert-pfn' && isCowMapping(vma.flags)) return -EINVAL;
  const special = how === 'insert-pfn' ? VM_IO | VM_PFNMAP : VM_MIXEDMAP;
  setField(vma, 'flags', vma.flags | special | VM_DONTEXPAND);
  return 0;
};

/** A fault where nothing is mapped. @returns 0; -EFAULT: SIGBUS, the driver has nothing there; -ENOMEM */
export const deviceFault = (k: Kernel, vma: Vma, hva: number, write: boolean): number => {
  const device = vma.mapping?.device ?? null;
  if (device?.how === 'dax') return deviceDaxFault(k, vma, hva, write);
  const pgoff = linearPageIndex(vma, hva);
  if (device === null || vma.mapping === null || pgoff >= vma.mapping.nrPages) return -EFAULT;
  if (device.how === 'insert-pfn') return vmfInsertPfn(k, vma, hva, device.firstPfn + pgoff);
  if (device.how === 'insert-mixed') return vmfInsertMixed(k, vma, hva, device.firstPfn + pgoff);
  return -EFAULT;
};
