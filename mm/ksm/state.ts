/** KSM: pages that were merged, and who maps them. Compare mm/ksm.c. */
import type { AnonVma } from '../types.ts';

/** One place that a merged page was put into; after fork the children of the VMA map it as well. */
export interface KsmItem {
  anonVma: AnonVma;
  hva: number;
}

/**
 * A merged page: what its `mapping` column names, beside anon_vmas and files. It holds no reference:
 * when the page is freed it goes. Invariant: every entry that maps the page is found by an item.
 */
export interface KsmNode {
  kind: 'ksm';
  id: number;
  page: number;
  items: KsmItem[];
}

/** Plain data. */
export interface KsmState {
  nodes: KsmNode[];
  pagesScanned: number;
}

export const createKsmState = (): KsmState => ({ nodes: [], pagesScanned: 0 });
