/**
 * What the files of /proc read page tables with: the entries of an address space with the VMA that
 * each belongs to, and which folios more than one address space maps.
 */
import { visitTables } from '../check/census.ts';
import { folioMapcount, folioOf, folioTestFlags } from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { PG_HUGETLB } from '../frames/table.ts';
import { ptePresent, vmNormalPage } from '../pgtable/pte.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';

/** @param level 0 = last level; 1, 2: the entry of a directory. Any entry that is not none */
export type VmaEntryVisitor = (vma: Vma, hva: number, entry: number, level: number) => void;

/** Visits every entry of an address space that lies in a VMA, in order of address. Compare walk_page_vma(). */
export const visitVmaEntries = (k: Kernel, mm: MmStruct, visit: VmaEntryVisitor): void => {
  const { vmas } = mm;
  let i = 0;
  visitTables(k, mm, {
    onTable: () => {},
    onEntry: (hva, entry, level) => {
      let vma = vmas[i];
      while (vma !== undefined && vma.end <= hva) vma = vmas[++i];
      if (vma !== undefined && vma.start <= hva) visit(vma, hva, entry, level);
    },
  });
};

/**
 * Is a folio mapped by more than one address space? Linux keeps two of the owners of each large folio
 * and may say yes where it is no (folio_maybe_mapped_shared()); here, where the mapcount does not say,
 * all tables are looked at, once.
 */
export const createSharing = (k: Kernel): ((folio: number) => boolean) => {
  let shared: Set<number> | null = null;
  return (folio) => {
    const mapcount = folioMapcount(k, folio);
    if (mapcount <= 1) return false;
    if (!folioTestLarge(k, folio) || folioTestFlags(k, folio, PG_HUGETLB)) return true;
    shared ??= sharedLargeFolios(k);
    return shared.has(folio);
  };
};

const sharedLargeFolios = (k: Kernel): Set<number> => {
  const first = new Map<number, MmStruct>();
  const shared = new Set<number>();
  for (const mm of k.state.mms.values())
    visitTables(k, mm, {
      onTable: () => {},
      onEntry: (_hva, entry) => {
        const page = ptePresent(entry) ? vmNormalPage(entry) : -1;
        if (page < 0 || page >= k.state.frames.nrPages) return;
        const folio = folioOf(k, page);
        if (!folioTestLarge(k, folio)) return;
        const before = first.get(folio);
        if (before === undefined) first.set(folio, mm);
        else if (before !== mm) shared.add(folio);
      },
    });
  return shared;
};
