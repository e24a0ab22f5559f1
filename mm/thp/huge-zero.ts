/**
 * The huge zero folio: 2 MiB of zeros that every read fault of huge anonymous memory maps. Compare
 * mm/huge_memory.c:get_huge_zero_folio(). Linux lets it go when nobody maps it; here it stays.
 */
import { setField } from '#cells';
import { folioSetFlags } from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { GFP_ZERO } from '../frames/buddy.ts';
import { PG_RESERVED, PG_UPTODATE } from '../frames/table.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { HPAGE_PMD_ORDER } from './state.ts';

/** The folio, made when it is first asked for. @returns the folio, or -ENOMEM */
export const getHugeZeroFolio = (k: Kernel): number => {
  if (k.state.hugeZeroFolio >= 0) return k.state.hugeZeroFolio;
  const folio = folioAllocOrder(k, HPAGE_PMD_ORDER, GFP_ZERO);
  if (folio < 0) return folio;
  folioSetFlags(k, folio, PG_RESERVED | PG_UPTODATE);
  setField(k.state, 'hugeZeroFolio', folio);
  countStat(k, 'thp_zero_page_alloc');
  return folio;
};
