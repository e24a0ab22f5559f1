/**
 * Watermarks: how many free pages of a zone are few. Compare mm/page_alloc.c, __setup_per_zone_wmarks()
 * and calculate_min_free_kbytes().
 *
 * The allocator hands out the last page: nothing is kept back for those who cannot wait. Below `low`
 * a machine would wake kswapd, which goes on up to `high` (balanceZones() in reclaim.ts).
 */
import type { Zone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';

const KIB_PER_PAGE = 4;
const MIN_FREE_KIB = 128;
const MAX_FREE_KIB = 262_144;

/** In pages. */
interface Watermarks {
  min: number;
  low: number;
  high: number;
}

/** Square root of 16 times what all zones have, in KiB. Compare min_free_kbytes. */
const minFreePages = (k: Kernel): number => {
  let managed = 0;
  for (const zone of k.state.zones) managed += zone.managedPages;
  const kib = Math.floor(Math.sqrt(managed * KIB_PER_PAGE * 16));
  return Math.min(Math.max(kib, MIN_FREE_KIB), MAX_FREE_KIB) / KIB_PER_PAGE;
};

/** Those of one zone: its share by size, a quarter and a half more. */
export const zoneWatermarks = (k: Kernel, zone: Zone): Watermarks => {
  let managed = 0;
  for (const other of k.state.zones) managed += other.managedPages;
  const share = managed === 0 ? 0 : zone.managedPages / managed;
  const min = Math.floor(minFreePages(k) * share);
  return { min, low: min + (min >> 2), high: min + (min >> 1) };
};
