/**
 * Unmapping a part of a file wherever it is mapped: before its pages leave the page cache, and before
 * what is behind them changes. Compare mm/memory.c:unmap_mapping_pages() and unmap_mapping_folio().
 *
 * Nobody's mmap_lock is held. VMAs may be cut, moved and merged meanwhile: what has not been gone
 * over is looked for anew after each of them. Linux holds i_mmap_rwsem instead.
 */
import { PAGE_SIZE } from '#emu';
import { readOnce } from '#cells';
import { folioNrPages } from '../folio/folio.ts';
import type { Path } from '../path.ts';
import { type AddressSpace, type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { zapRange } from '../vma/zap.ts';

/** Offsets in the file, in pages: [first, end). */
interface Range {
  first: number;
  end: number;
}

/** A part of a VMA that has been unmapped. */
interface Unmapped extends Range {
  vma: Vma;
}

/** What of [first, end) a VMA maps. */
const inVma = ({ pgoff, start, end }: Vma, range: Range): Range => ({
  first: Math.max(range.first, pgoff),
  end: Math.min(range.end, pgoff + (end - start) / PAGE_SIZE),
});

/** A VMA that maps something of the range that has not been gone over. */
const nextVma = (mapping: AddressSpace, range: Range, done: readonly Unmapped[]): Vma | undefined =>
  mapping.vmas.find((vma) => {
    const { first, end } = inVma(vma, range);
    const covered = (part: Unmapped): boolean =>
      part.vma === vma && part.first <= first && part.end >= end;
    return first < end && !done.some(covered);
  });

/** @param folio whose entries alone are meant, -1: of any */
function* unmapRange(
  k: Kernel,
  mapping: AddressSpace,
  range: Range,
  evenCows: boolean,
  folio: number,
): Path<void> {
  const done: Unmapped[] = [];
  for (
    let vma = nextVma(mapping, range, done);
    vma !== undefined;
    vma = nextVma(mapping, range, done)
  ) {
    const own = vma;
    const part = inVma(own, range);
    done.push({ vma: own, ...part });
    const start = own.start + (part.first - own.pgoff) * PAGE_SIZE;
    const end = own.start + (part.end - own.pgoff) * PAGE_SIZE;
    const linked = (): boolean => mapping.vmas.includes(own);
    yield* zapRange(k, own, start, end, MMU_NOTIFY_CLEAR, { evenCows, folio, linked });
  }
}

/**
 * Unmaps the pages [pgoff, pgoff + nr) of a file, of hugetlbfs whole huge pages. A's and D's go to the
 * folios. The caller sees to it that nobody maps them again: they are beyond the end of the file, or
 * he has invalidate_lock for writing.
 * @param nr may be Infinity
 * @param evenCows private copies as well: they end with the file. Of hugetlbfs they always do.
 *   Compare unmap_mapping_range()
 */
export const unmapMappingRange = (
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  nr: number,
  evenCows: boolean,
): Path<void> => unmapRange(k, mapping, { first: pgoff, end: pgoff + nr }, evenCows, -1);

/** Unmaps one folio of a file, which the caller has locked. Compare unmap_mapping_folio() */
export const unmapMappingFolio = (k: Kernel, mapping: AddressSpace, folio: number): Path<void> => {
  const first = readOnce(k.state.frames.index, folio);
  const end = first + folioNrPages(k, folio);
  return unmapRange(k, mapping, { first, end }, false, folio);
};
