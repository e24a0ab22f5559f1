/**
 * Faults on the same page of a file come one after the other: with a pool that has one page left
 * the second must not fail for want of what the first is about to install. Compare
 * mm/hugetlb.c, hugetlb_fault_mutex_table.
 */
import { mapDelete, mapSet } from '#cells';
import { type Path, YP_WAIT } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';

const keyOf = (mapping: AddressSpace, index: number): string => `${mapping.id}:${index}`;

/** Waits until nobody handles a fault on the same page of the file. @param index of the huge page in the file */
export function* hugetlbFaultLock(k: Kernel, mapping: AddressSpace, index: number): Path<void> {
  const { faulting } = k.state.hugetlb;
  const key = keyOf(mapping, index);
  while (faulting.has(key)) yield YP_WAIT;
  mapSet(faulting, key, true);
}

/** Pages of a file, by number, whose faults are being handled. */
export const hugetlbFaultingOf = (k: Kernel, mapping: AddressSpace): number[] => {
  const prefix = keyOf(mapping, 0).slice(0, -1);
  const own = [...k.state.hugetlb.faulting.keys()].filter((key) => key.startsWith(prefix));
  return own.map((key) => Number(key.slice(prefix.length)));
};

export const hugetlbFaultUnlock = (k: Kernel, mapping: AddressSpace, index: number): void => {
  mapDelete(k.state.hugetlb.faulting, keyOf(mapping, index));
};
