/**
 * Which sizes of folio anonymous memory may have, by what is switched on, by its VMA, and by where
 * an address lies. Compare include/linux/huge_mm.h, thp_vma_allowable_orders(), and
 * thp_vma_suitable_orders().
 */
import { PAGE_SIZE } from '#emu';
import type { Kernel, Vma } from '../types.ts';
import { VM_HUGEPAGE, VM_HUGETLB, VM_NOHUGEPAGE, VM_SPECIAL } from '../vma/flags.ts';
import { HPAGE_PMD_ORDER } from './state.ts';

/** Memory that is not the kernel's to arrange (VM_NO_KHUGEPAGED). */
const VM_NO_KHUGEPAGED = VM_SPECIAL | VM_HUGETLB;

/** An order as a bit of a set of orders. */
export const orderBit = (order: number): number => 1 << order;
export const PMD_ORDER_BIT = 1 << HPAGE_PMD_ORDER;
/** Every order that anonymous memory may have besides single pages: pairs are not made. */
export const THP_ORDERS_ALL_ANON = (1 << (HPAGE_PMD_ORDER + 1)) - 1 - 0b11;

/**
 * Orders of `orders` that a fault in a VMA may use. In anonymous memory: what is switched on for all
 * VMAs, or for those that asked; none where the VMA asked not to. A file has its own switch, and
 * the PMD's order alone.
 * @param orders a set of 1 << order
 */
export const thpAllowableOrders = (k: Kernel, vma: Vma, orders: number): number => {
  if ((vma.flags & VM_NOHUGEPAGE) !== 0) return 0;
  const { always, madvise, shmem } = k.state.thp;
  if (vma.mapping !== null) return shmem ? orders & PMD_ORDER_BIT : 0;
  const on = (vma.flags & VM_HUGEPAGE) !== 0 ? always | madvise : always;
  return orders & THP_ORDERS_ALL_ANON & on;
};

/** Anonymous memory that may be huge by the VMA's flags, whatever is switched on. */
export const thpAllowed = (vma: Vma): boolean =>
  vma.mapping === null &&
  vma.anonVma !== null &&
  (vma.flags & (VM_NO_KHUGEPAGED | VM_NOHUGEPAGE)) === 0;

/**
 * May [hva, hva + 2 MiB) of a VMA be collapsed into one folio?
 * @param forced asked for by MADV_COLLAPSE, whatever is switched on
 */
export const thpCollapsible = (k: Kernel, vma: Vma, hva: number, forced: boolean): boolean =>
  thpAllowed(vma) &&
  thpSuitableOrders(vma, hva, PMD_ORDER_BIT) !== 0 &&
  (forced || thpAllowableOrders(k, vma, PMD_ORDER_BIT) !== 0);

/**
 * Orders of `orders` whose naturally aligned range around `hva` lies in the VMA. A file's offset has
 * to be as aligned as the address.
 */
export const thpSuitableOrders = (vma: Vma, hva: number, orders: number): number => {
  let left = orders;
  for (let order = highestOrder(left); left !== 0; order = highestOrder(left)) {
    const lenBytes = PAGE_SIZE << order;
    const start = hva - (hva % lenBytes);
    const aligned =
      vma.mapping === null || (vma.start / PAGE_SIZE - vma.pgoff) % (1 << order) === 0;
    // What fits a larger range fits a smaller one within it.
    if (aligned && start >= vma.start && start + lenBytes <= vma.end) break;
    left &= ~orderBit(order);
  }
  return left;
};

/** The largest order of a set that is not empty. */
export const highestOrder = (orders: number): number => 31 - Math.clz32(orders);
