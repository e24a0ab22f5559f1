/**
 * Sanitizer: are as many pages of each pool reserved as reserve maps promise? Only while nobody is in
 * the middle of something: a page may be on its way from a promise to where it was promised.
 */
import type { Hstate } from '../hugetlb/state.ts';
import { hugeIndex } from '../hugetlb/vma.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';

/** Pages that a private mapping was promised and has not had. */
const promisedTo = (vma: Vma): number => {
  if (vma.resv === null) return 0;
  let n = 0;
  for (let index = hugeIndex(vma, vma.start); index < hugeIndex(vma, vma.end); index++)
    if (!vma.resv.pages.has(index)) n++;
  return n;
};

/** Pages that a file's mappings were promised: those it has, and those it does not have yet. */
const promisedBy = ({ resv, pages, vmas }: AddressSpace): number => {
  let n = resv === null ? 0 : resv.pages.size - pages.size;
  for (const vma of vmas) n += promisedTo(vma);
  return n;
};

const checkPool = (k: Kernel, { order, reserved }: Hstate, report: string[]): void => {
  let promised = 0;
  for (const object of k.state.mappings.values())
    if (object.kind === 'hugetlbfs' && object.hugeOrder === order) promised += promisedBy(object);
  if (promised !== reserved)
    report.push(`hugetlb order ${order}: ${reserved} pages are reserved, ${promised} promised`);
};

/** Checks the promises of every pool, and that every page of a file is in its reserve map. */
export const checkReservations = (k: Kernel, report: string[]): void => {
  for (const h of k.state.hugetlb.hstates) checkPool(k, h, report);
  for (const object of k.state.mappings.values()) {
    if (object.kind !== 'hugetlbfs') continue;
    for (const pgoff of object.pages.keys())
      if (object.resv?.pages.has(pgoff / (1 << object.hugeOrder)) !== true)
        report.push(`file ${object.id}: page ${pgoff} is missing from the reserve map`);
  }
};
