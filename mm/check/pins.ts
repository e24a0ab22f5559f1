/**
 * Sanitizer, with provenance on: what a pin promises, page by page, between two paths.
 *
 * I2 a pinned anonymous page is exclusive, also where the counts are a large folio's. I4 the page that
 * was pinned through a private mapping is the page that is mapped there, unless it was unmapped
 * since; a short pin for reading of a file's page makes no such promise. I13 what a device writes for
 * one address space no other one sees.
 */
import { FOLL_LONGTERM, FOLL_WRITE } from '../gup/flags.ts';
import { folioEntireMapcount, folioTestLarge } from '../folio/large.ts';
import { folioMapcount, folioOf } from '../folio/folio.ts';
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_HUGETLB, PG_HWPOISON } from '../frames/table.ts';
import { pteNone, ptePresent } from '../pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, ptepGet, walkLeaf } from '../pgtable/walk.ts';
import type { Hold } from '../provenance/provenance.ts';
import type { Kernel } from '../types.ts';
import { isCowMapping, VM_HUGETLB } from '../vma/flags.ts';
import { findVma } from '../vma/vma.ts';
import type { Census } from './census.ts';

/** Checks every pin on record. For a kernel at rest. */
export const checkPins = (k: Kernel, census: Census, report: string[]): void => {
  if (k.state.provenance === null) return;
  for (const [page, holds] of k.state.provenance.holds)
    for (const hold of holds) {
      if (hold.kind !== 'pin' || hold.mm < 0) continue;
      checkExclusive(k, page, hold, report);
      checkPlace(k, page, hold, report);
      checkWriter(k, census, page, hold, report);
    }
};

const who = ({ user, api, since }: Hold): string =>
  `${user === '' ? 'somebody' : user} (${api}(), call ${since})`;

const isAnon = (k: Kernel, page: number): boolean =>
  (k.state.frames.flags[folioOf(k, page)]! & PG_ANON) !== 0;

/** I2. The head says it for all pages while one entry maps the folio, and after the last such is gone. */
const checkExclusive = (k: Kernel, page: number, hold: Hold, report: string[]): void => {
  const { flags } = k.state.frames;
  if (!isAnon(k, page) || (flags[page]! & PG_ANON_EXCLUSIVE) !== 0) return;
  const folio = folioOf(k, page);
  const byHead =
    (flags[folio]! & PG_HUGETLB) !== 0 ||
    folioMapcount(k, folio) === 0 ||
    (folioTestLarge(k, folio) && folioEntireMapcount(k, folio) > 0);
  if (byHead && (flags[folio]! & PG_ANON_EXCLUSIVE) !== 0) return;
  report.push(`I2 page ${page}: pinned by ${who(hold)} and not exclusive`);
};

/** I4. */
const checkPlace = (k: Kernel, page: number, hold: Hold, report: string[]): void => {
  const mm = k.state.mms.get(hold.mm);
  if (mm === undefined || hold.zapped) return;
  const vma = findVma(mm, hold.hva);
  if (vma === null || !isCowMapping(vma.flags)) return;
  const shortRead = (hold.flags & (FOLL_WRITE | FOLL_LONGTERM)) === 0;
  if (shortRead && !isAnon(k, page)) return;
  // Nobody can keep memory from breaking.
  if ((k.state.frames.flags[folioOf(k, page)]! & PG_HWPOISON) !== 0) return;
  const leaf = walkLeaf(k, mm, hold.hva);
  const entry = ptepGet(k, leafWord(leaf));
  // Taken back by the owner of the reservation: it does not come again.
  if (pteNone(entry) && (vma.flags & VM_HUGETLB) !== 0) return;
  if (ptePresent(entry) && leafPage(entry, leafLevel(leaf), hold.hva) === page) return;
  report.push(
    `I4 mm ${mm.id}: hva 0x${hold.hva.toString(16)}: page ${page}, pinned by ${who(hold)}, is not mapped there any more`,
  );
};

/** I13. */
const checkWriter = (
  k: Kernel,
  census: Census,
  page: number,
  hold: Hold,
  report: string[],
): void => {
  if ((hold.flags & FOLL_WRITE) === 0 || !isAnon(k, page)) return;
  const folio = folioOf(k, page);
  const mms = [census.firstMm[page]!, census.entire[folio]! > 0 ? census.firstMm[folio]! : 0];
  for (const mm of mms)
    if (mm !== 0 && mm !== hold.mm)
      report.push(
        `I13 page ${page}: ${who(hold)} writes it for mm ${hold.mm}, and mm ${mm} sees it`,
      );
};
