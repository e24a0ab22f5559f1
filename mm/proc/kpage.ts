/**
 * /proc/kpageflags and /proc/kpagecount: a word for each frame. Bits as in
 * include/uapi/linux/kernel-page-flags.h; compare fs/proc/page.c:stable_page_flags().
 *
 * Flags that are a folio's are shown for each of its pages. Both files are indexed by frame number;
 * what lies below RAM has the bit that says so.
 */
import { folioMapcount, folioOf, folioOrder, pageMapcount } from '../folio/folio.ts';
import { isZeroFolio } from '../folio/pin.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_BUDDY,
  PG_DIRTY,
  PG_HEAD,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_KSM,
  PG_LOCKED,
  PG_LRU,
  PG_REFERENCED,
  PG_RESERVED,
  PG_SWAPBACKED,
  PG_SWAPCACHE,
  PG_TABLE,
  PG_UNEVICTABLE,
  PG_UPTODATE,
  PG_WRITEBACK,
  pfnToPage,
} from '../frames/table.ts';
import type { Kernel } from '../types.ts';

/** Bit number and name of what is shown. The names are those that tools/mm/page-types.c prints. */
export const KPAGE_FLAGS = {
  locked: 0,
  referenced: 2,
  uptodate: 3,
  dirty: 4,
  lru: 5,
  active: 6,
  writeback: 8,
  buddy: 10,
  mmap: 11,
  anonymous: 12,
  swapcache: 13,
  swapbacked: 14,
  compound_head: 15,
  compound_tail: 16,
  huge: 17,
  unevictable: 18,
  hwpoison: 19,
  nopage: 20,
  ksm: 21,
  thp: 22,
  zero_page: 24,
  pgtable: 26,
  reserved: 32,
} as const;

type KpageFlag = keyof typeof KPAGE_FLAGS;

/** Flags of the folio that are shown as they are. */
const COPIED: readonly (readonly [number, KpageFlag])[] = [
  [PG_LOCKED, 'locked'],
  [PG_REFERENCED, 'referenced'],
  [PG_UPTODATE, 'uptodate'],
  [PG_DIRTY, 'dirty'],
  [PG_LRU, 'lru'],
  [PG_ACTIVE, 'active'],
  [PG_WRITEBACK, 'writeback'],
  [PG_BUDDY, 'buddy'],
  [PG_ANON, 'anonymous'],
  [PG_KSM, 'ksm'],
  [PG_SWAPBACKED, 'swapbacked'],
  [PG_UNEVICTABLE, 'unevictable'],
  [PG_TABLE, 'pgtable'],
  [PG_RESERVED, 'reserved'],
];

const bit = (name: KpageFlag): bigint => 1n << BigInt(KPAGE_FLAGS[name]);

/** Names of the bits that are set in a word of kpageflags, lowest first. */
export const kpageFlagNames = (word: bigint): string[] =>
  Object.entries(KPAGE_FLAGS).flatMap(([name, at]) =>
    ((word >> BigInt(at)) & 1n) !== 0n ? [name] : [],
  );

const flagsOf = (k: Kernel, page: number): bigint => {
  if (page < 0 || page >= k.state.frames.nrPages) return bit('nopage');
  const { flags } = k.state.frames;
  const folio = folioOf(k, page);
  const own = flags[page]!;
  const word = flags[folio]!;
  let result = 0n;
  for (const [flag, name] of COPIED) if ((word & flag) !== 0) result |= bit(name);
  if (folioMapcount(k, folio) > 0) result |= bit('mmap');
  if (page !== folio) result |= bit('compound_tail');
  else if ((word & PG_HEAD) !== 0) result |= bit('compound_head');
  const zero = isZeroFolio(k, folio);
  if (zero) result |= bit('zero_page');
  if ((word & PG_HUGETLB) !== 0) result |= bit('huge');
  else if (folioOrder(k, folio) > 0) result |= bit('thp');
  if ((word & (PG_SWAPBACKED | PG_SWAPCACHE)) === (PG_SWAPBACKED | PG_SWAPCACHE))
    result |= bit('swapcache');
  // Of hugetlb the head says it, of others the page that broke.
  if ((((word & PG_HUGETLB) !== 0 ? word : own) & PG_HWPOISON) !== 0) result |= bit('hwpoison');
  return result;
};

/** Words of kpageflags for [pfn, pfn + n). */
export const procKpageflags = (k: Kernel, pfn: number, n: number): BigUint64Array =>
  BigUint64Array.from({ length: n }, (_, i) => flagsOf(k, pfnToPage(pfn + i)));

/** Words of kpagecount for [pfn, pfn + n): how many entries map the page. Compare get_kpage_count(). */
export const procKpagecount = (k: Kernel, pfn: number, n: number): BigUint64Array =>
  BigUint64Array.from({ length: n }, (_, i) => {
    const page = pfnToPage(pfn + i);
    return page < 0 || page >= k.state.frames.nrPages ? 0n : BigInt(pageMapcount(k, page));
  });
