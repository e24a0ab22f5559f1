/**
 * Sanitizer: what secondary MMUs have, of every user of the door (mm/secondary.ts) by its own account.
 *
 * P1  At the end of an invalidation nobody who was told of it has an entry in it: what was there went at
 *     the start, and what is made is made after the end.
 * P2  An entry that may write stands for a primary entry that may (I9).
 * P3  No entry reaches a page that was freed; nor any page but the one that the primary has there (I10).
 *
 * P1 is looked at where a range ends, and kept until the next pass. Between two yields the others hold
 * always: the entries of a range are away before its primary entries change. For a user whose hardware
 * walks the primary tables and caches what it finds, told after the change, they hold outside of ranges.
 */
import { listPush } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioOf, folioRefCount } from '../folio/folio.ts';
import { pageToPfn, pfnToPage } from '../frames/table.ts';
import { ptePresent, pteWrite } from '../pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, levelPages, walkLeaf } from '../pgtable/walk.ts';
import type { AddressSpace, Kernel, MmStruct, NotifierRange } from '../types.ts';

/** Most faults that are kept: one is enough to fail a run. */
const FAULTS_MAX = 32;

const where = (ops: string, mm: MmStruct, hva: number): string =>
  `secondary entry of ${ops} for mm ${mm.id} hva 0x${hva.toString(16)}`;

const whereInFile = (ops: string, { id }: AddressSpace, pgoff: number): string =>
  `secondary entry of ${ops} for file ${id} page ${pgoff}`;

/** P1, to be called where a range ends, before its users are told. */
export const checkRangeEnd = (k: Kernel, range: NotifierRange): void => {
  const { mm, start, end } = range;
  const faults = k.state.secondaryFaults;
  for (const [ops, { visitEntries, walksPrimary }] of k.secondaryUsers) {
    if (walksPrimary) continue;
    visitEntries((ofMm, hva, pfn, _writable, order = 0) => {
      const meets = ofMm === mm && hva < end && hva + PAGE_SIZE * 2 ** order > start;
      if (meets && faults.length < FAULTS_MAX)
        listPush(faults, `P1 ${where(ops, mm, hva)}: reaches pfn ${pfn} as its invalidation ends`);
    }, range);
  }
};

/** The same of pages of a guest_memfd. */
export const checkFileRangeEnd = (
  k: Kernel,
  mapping: AddressSpace,
  first: number,
  end: number,
): void => {
  const faults = k.state.secondaryFaults;
  for (const [ops, { visitFileEntries }] of k.guestMemfdOps)
    visitFileEntries(
      (ofFile, pgoff, pfn) => {
        const meets = ofFile === mapping && pgoff >= first && pgoff < end;
        if (meets && faults.length < FAULTS_MAX)
          listPush(
            faults,
            `P1 ${whereInFile(ops, mapping, pgoff)}: reaches pfn ${pfn} as its invalidation ends`,
          );
      },
      { mapping, first, end },
    );
};

/**
 * P1 as it was found, P2, P3: of all users, and nothing else of the kernel.
 * @param report gets a line for each that is broken
 */
export const checkSecondary = (k: Kernel, report: string[]): void => {
  report.push(...k.state.secondaryFaults);
  for (const [ops, { visitEntries, walksPrimary }] of k.secondaryUsers)
    visitEntries((mm, hva, pfn, writable, order = 0) => {
      const end = hva + PAGE_SIZE * 2 ** order;
      if (walksPrimary && mm.openRanges.some((r) => hva < r.end && end > r.start)) return;
      checkEntry(k, ops, mm, hva, pfn, writable, end, report);
    });
  for (const [ops, { visitFileEntries }] of k.guestMemfdOps)
    visitFileEntries((mapping, pgoff, pfn) => {
      const page = mapping.pages.get(pgoff) ?? -1;
      if (page === pfnToPage(pfn)) return;
      const free = freeNote(k, pfn);
      const has = page < 0 ? 'the file has no page there' : `the file has pfn ${pageToPfn(page)}`;
      report.push(`I10 ${whereInFile(ops, mapping, pgoff)}: reaches pfn ${pfn}${free}; ${has}`);
    });
};

/** One entry, by as many primary entries as it stands for: they are of any size. */
const checkEntry = (
  k: Kernel,
  ops: string,
  mm: MmStruct,
  hva: number,
  pfn: number,
  writable: boolean,
  end: number,
  report: string[],
): void => {
  for (let at = hva; at < end; ) {
    const expected = pfn + (at - hva) / PAGE_SIZE;
    const leaf = mm.exited ? 0 : walkLeaf(k, mm, at);
    const level = leafLevel(leaf);
    const pte = leaf > 0 ? k.memory.i32[leafWord(leaf)]! : 0;
    const reached = ptePresent(pte) ? pageToPfn(leafPage(pte, level, at)) : -1;
    if (reached !== expected) {
      const free = freeNote(k, expected);
      const primary = reached < 0 ? 'the primary has no page there' : `the primary ${reached}`;
      report.push(`I10 ${where(ops, mm, at)}: reaches pfn ${expected}${free}; ${primary}`);
      return;
    }
    if (writable && !pteWrite(pte)) {
      report.push(`I9 ${where(ops, mm, at)}: writable, the primary is not (P2)`);
      return;
    }
    const bytes = (level > 0 ? levelPages(level) : 1) * PAGE_SIZE;
    at += bytes - (at % bytes);
  }
};

/** For messages: P3, where the frame has been freed. */
const freeNote = (k: Kernel, pfn: number): string => {
  const page = pfnToPage(pfn);
  const isFrame = page >= 0 && page < k.state.frames.nrPages;
  return isFrame && folioRefCount(k, folioOf(k, page)) === 0 ? ', which is free (P3)' : '';
};
