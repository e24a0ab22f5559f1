/** VMAs of hugetlb: the size of their pages, and what may be asked of them. Compare include/linux/hugetlb.h. */
import { PAGE_SIZE } from '#emu';
import { EINVAL } from '../errno.ts';
import { mappingAlignBytes } from '../fs/dax/device-dax.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { linearPageIndex, VM_HUGETLB } from '../vma/flags.ts';
import { hstateOfOrder } from './pool.ts';
import type { Hstate } from './state.ts';

/** True for a VMA that huge pages of a pool back. */
const vmaIsHugetlb = (vma: Vma): boolean => (vma.flags & VM_HUGETLB) !== 0;

/** The hugetlbfs file behind a hugetlb VMA: private memory has one as well. */
export const vmaHugetlbFile = (vma: Vma): AddressSpace => {
  if (vma.mapping === null) throw new Error(`mm ${vma.mm.id}: a hugetlb VMA without a file`);
  return vma.mapping;
};

/** The pool of a hugetlbfs file. */
export const fileHstate = (k: Kernel, mapping: AddressSpace): Hstate => {
  const h = hstateOfOrder(k, mapping.hugeOrder);
  if (h === null) throw new Error(`file ${mapping.id}: no pool of order ${mapping.hugeOrder}`);
  return h;
};

export const vmaHstate = (k: Kernel, vma: Vma): Hstate => fileHstate(k, vmaHugetlbFile(vma));

/** Bytes that one entry of the VMA maps: 4 KiB unless it is hugetlb. Compare vma_kernel_pagesize(). */
export const vmaPageSize = (vma: Vma): number =>
  vmaIsHugetlb(vma) ? PAGE_SIZE * (1 << vmaHugetlbFile(vma).hugeOrder) : PAGE_SIZE;

/** Level of the tables that the entries of a hugetlb VMA are in: 1 for 2 MiB, 2 for 1 GiB. */
export const hugeLevel = (vma: Vma): number => vmaHugetlbFile(vma).hugeOrder / 9;

/** Number of the huge page at `hva` in the file. Compare vma_hugecache_offset(). */
export const hugeIndex = (vma: Vma, hva: number): number =>
  Math.floor(linearPageIndex(vma, hva) / (1 << vmaHugetlbFile(vma).hugeOrder));

/**
 * May a VMA be cut at `hva`? Not inside of a huge page, nor where a driver's file has to be aligned.
 * @returns 0 or -EINVAL. Compare hugetlb_vm_op_split(), dev_dax_may_split()
 */
export const vmaMaySplit = (vma: Vma, hva: number): number =>
  hva % Math.max(vmaPageSize(vma), mappingAlignBytes(vma.mapping)) === 0 ? 0 : -EINVAL;
