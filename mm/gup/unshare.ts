/**
 * When a read-only pin has to break sharing first, and when FOLL_FORCE may write through a
 * read-only entry. Compare include/linux/mm.h, gup_must_unshare(), and mm/gup.c,
 * can_follow_write_common().
 */
import { readOnce, smpRmb } from '#cells';
import { folioOf, folioTestAnon, pageAnonExclusive } from '../folio/folio.ts';
import { pteNeedsSoftDirtyWp, pteNeedsUffdWp } from '../pgtable/pte.ts';
import type { Kernel, Vma } from '../types.ts';
import { isCowMapping, VM_MAYSHARE, VM_MAYWRITE, VM_SHARED, VM_WRITE } from '../vma/flags.ts';
import { FOLL_FORCE, FOLL_LONGTERM, FOLL_PIN, FOLL_WRITE } from './flags.ts';
import { PG_ANON_EXCLUSIVE } from '../frames/table.ts';

/**
 * Must the page behind a read-only entry be made the process's own before it is pinned? Otherwise
 * a later write of the process would go to a copy, and the pin would keep the old page. A plain
 * reference never asks. A merged page (KSM) is never exclusive, so it is never pinned either.
 * @param vma null in GUP-fast, which does not look VMAs up: then the answer is the careful one
 * @param page the one that carries the exclusive flag: the head where a huge entry maps the folio
 */
export const gupMustUnshare = (
  k: Kernel,
  vma: Vma | null,
  flags: number,
  page: number,
): boolean => {
  if ((flags & (FOLL_WRITE | FOLL_PIN)) !== FOLL_PIN || k.sabotage.neverUnshare) return false;
  if (!folioTestAnon(k, folioOf(k, page))) {
    // Of a file's page only a long pin has to know that it is not about to be replaced.
    if ((flags & FOLL_LONGTERM) === 0) return false;
    return vma === null || isCowMapping(vma.flags);
  }
  // GUP-fast: the pin and the entry's second reading come before the exclusive flag is looked at.
  if (vma === null) smpRmb();
  return (readOnce(k.state.frames.flags, page) & PG_ANON_EXCLUSIVE) === 0;
};

/**
 * A debugger's write through an entry that is read-only: private, not writable by itself, COW broken,
 * and nobody waits for a write fault. Compare can_follow_write_pte(), can_follow_write_pmd().
 * @param pte the entry, of any level
 * @param page as for gupMustUnshare; -1 where the entry has none that is counted
 */
export const canForceWrite = (
  k: Kernel,
  vma: Vma,
  pte: number,
  page: number,
  flags: number,
): boolean =>
  (flags & FOLL_FORCE) !== 0 &&
  (vma.flags & (VM_MAYSHARE | VM_SHARED)) === 0 &&
  (vma.flags & VM_MAYWRITE) !== 0 &&
  (vma.flags & VM_WRITE) === 0 &&
  page >= 0 &&
  folioTestAnon(k, folioOf(k, page)) &&
  pageAnonExclusive(k, page) &&
  !pteNeedsSoftDirtyWp(vma, pte) &&
  !pteNeedsUffdWp(vma, pte);
