/**
 * GUP-fast: page tables walked without a lock and without a VMA, with the slow path behind it.
 * Compare mm/gup.c, gup_fast_fallback() and gup_fast_pte_range().
 *
 * Each page is counted first, and its entry read again afterwards; whoever takes an entry away
 * clears it first, and looks at the counts afterwards. One of the two sees the other. Against fork,
 * which shares pages by write-protecting many entries, pins are bracketed by write_protect_seq.
 *
 * Linux keeps page tables from being freed meanwhile by disabling interrupts. Here nothing can come
 * between but at a yield, so after a yield the way down from the root is walked again instead. What
 * was counted may be anything by then, a page-table page too: whoever frees one that has been
 * counted leaves it to the last reference (frames/buddy.ts).
 */
import {
  ATP_MODE_SV39,
  PAGE_SIZE,
  PTE_PPN_SHIFT,
  PTE_R,
  PTE_U,
  PTE_V,
  PTE_W,
  RAM_OFFSET,
  RAM_PFN_BASE,
} from '#emu';
import { readOnce, setBits, setField, smpRmb } from '#cells';
import { gupPutFolio, tryGrabFolioFast } from '../folio/pin.ts';
import { PG_ANON, PG_HEAD, PG_HUGETLB, PG_REFERENCED, PG_SWAPBACKED } from '../frames/table.ts';
import {
  type Path,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_GUP_FAST_SEQ,
} from '../path.ts';
import { PTE_SPECIAL, pteLeaf, pteTable } from '../pgtable/pte.ts';
import {
  LEAF_LEVELS,
  leafLevel,
  leafWord,
  levelPages,
  PTE_WORDS,
  PTRS_PER_TABLE,
} from '../pgtable/walk.ts';
import { noteGrab, takeGupUser } from '../provenance/provenance.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct } from '../types.ts';
import {
  FOLL_FAST_ONLY,
  FOLL_GET,
  FOLL_LONGTERM,
  FOLL_PIN,
  FOLL_TOUCH,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from './flags.ts';
import { fillPages } from './follow.ts';
import { gupArgs, gupFastRange } from './legality.ts';
import { gupFastUnpinUserPages, sanityCheckPinnedPages } from './unpin.ts';
import { gupMustUnshare } from './unshare.ts';
import { checkGetUser, type GupUserId } from './users.ts';
import { gupLongtermLocked } from './walk.ts';

const WORDS_PER_PAGE = PAGE_SIZE / 4;
/** Pages that one entry of a table of each level is for. */
const PAGES_BELOW = Float64Array.of(1, 2 ** 9, 2 ** 18, 2 ** 27);

/**
 * The way down as far as the directories go: the entry of a last-level directory (Linux's pmd) or a
 * larger leaf. @returns word and level in one number, as walkLeaf(); 0 where the way ends before
 */
const directoryLockless = (k: Kernel, mm: MmStruct, vpn: number): number => {
  const { i32 } = k.memory;
  let table = mm.pgd;
  for (let level = k.satpMode === ATP_MODE_SV39 ? 2 : 3; ; level--) {
    const index = Math.floor(vpn / PAGES_BELOW[level]!) % PTRS_PER_TABLE;
    const word = RAM_OFFSET / 4 + table * WORDS_PER_PAGE + index * PTE_WORDS;
    if (level === 1) return word * LEAF_LEVELS + level;
    const entry = readOnce(i32, word);
    if (pteLeaf(entry)) return word * LEAF_LEVELS + level;
    if (!pteTable(entry)) return 0;
    table = (entry >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
  }
};

/**
 * May this pin take the folio? Without the VMA only what is known to be harmless. Secretmem never
 * is; a long writable pin leaves everything but anonymous memory, shmem and hugetlb to the slow
 * path, and what has been truncated too: nobody can tell what it was. Compare
 * gup_fast_folio_allowed().
 */
const folioAllowed = (k: Kernel, folio: number, flags: number): boolean => {
  const careful = FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE;
  const rejectFile = (flags & careful) === careful;
  const { frames, mappings } = k.state;
  const word = readOnce(frames.flags, folio);
  // Secret pages are always single ones.
  if (!rejectFile && (word & PG_HEAD) !== 0) return true;
  if ((word & PG_HUGETLB) !== 0) return true;
  const id = readOnce(frames.mapping, folio);
  if (id === 0) return !rejectFile;
  // Anonymous memory and shmem can be swapped; secretmem and files with storage never.
  if ((word & (PG_ANON | PG_SWAPBACKED)) !== 0) return true;
  return !rejectFile && mappings.get(id)?.kind !== 'secretmem';
};

/** The lockless part. @returns how many pages, from the first, could be had: 0 is no error */
function* gupFast(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  const pin = (flags & FOLL_PIN) !== 0;
  const { gupFastSkipsSeq, gupFastSkipsRecheck } = k.sabotage;
  const seq = readOnce(mm.writeProtectSeq, 0);
  smpRmb();
  if (pin && (seq & 1) !== 0 && !gupFastSkipsSeq) return 0;
  if (k.watched) yield YP_GUP_FAST_SEQ;

  const { i32 } = k.memory;
  const pageFlags = k.state.frames.flags;
  const wanted = (flags & FOLL_WRITE) !== 0 ? PTE_V | PTE_U | PTE_R | PTE_W : PTE_V | PTE_U | PTE_R;
  let acquired = 0;
  let n = 0;
  walk: while (n < nrPages) {
    const firstVpn = hva / PAGE_SIZE + n;
    const way = directoryLockless(k, mm, firstVpn);
    if (way === 0) break;
    const pmdp = leafWord(way);
    const pmd = readOnce(i32, pmdp);
    // A table, whose entries map a page each; or a huge entry, the only one there is to look at.
    const huge = pteLeaf(pmd);
    if (!huge && !pteTable(pmd)) break;
    const span = huge ? levelPages(leafLevel(way)) : PTRS_PER_TABLE;
    const first = firstVpn % span;
    const end = Math.min(nrPages, n + span - first);
    const table = (pmd >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
    let ptep = huge ? pmdp : RAM_OFFSET / 4 + table * WORDS_PER_PAGE + first * PTE_WORDS;
    for (; n < end; ptep += PTE_WORDS) {
      const pte = readOnce(i32, ptep);
      if ((pte & (wanted | PTE_SPECIAL)) !== wanted) break walk;
      if (k.watched) yield YP_GUP_FAST_READ;
      const mapped = (pte >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
      const page = huge ? mapped + first : mapped;
      const nr = huge ? end - n : 1;
      const folio = tryGrabFolioFast(k, page, nr, flags);
      if (folio < 0) break walk;
      if (pin) acquired += nr;
      let gone = false;
      if (k.watched) {
        countStat(k, 'nr_foll_pin_acquired', acquired);
        acquired = 0;
        yield YP_GUP_FAST_PINNED;
        gone = directoryLockless(k, mm, hva / PAGE_SIZE + n) !== way;
      }
      if (
        (!gupFastSkipsRecheck &&
          (gone || readOnce(i32, pmdp) !== pmd || readOnce(i32, ptep) !== pte)) ||
        !folioAllowed(k, folio, flags) ||
        ((pte & PTE_W) === 0 && gupMustUnshare(k, null, flags, mapped))
      ) {
        gupPutFolio(k, folio, nr, flags);
        break walk;
      }
      setBits(pageFlags, folio, PG_REFERENCED);
      if (huge) fillPages(k, pages, n, page, nr);
      else pages[n] = page;
      n += nr;
    }
  }
  if (acquired > 0) countStat(k, 'nr_foll_pin_acquired', acquired);

  if (pin && !gupFastSkipsSeq) {
    if (k.watched) yield YP_GUP_FAST_DONE;
    smpRmb();
    if (readOnce(mm.writeProtectSeq, 0) !== seq) {
      gupFastUnpinUserPages(k, pages, n);
      return 0;
    }
    sanityCheckPinnedPages(k, pages, n);
  }
  return n;
}

/**
 * Fast, then slow for the rest.
 * @param flags from gupArgs: an error is the result
 * @param user whose call it is, for the records
 */
function* gupFastFallback(
  k: Kernel,
  api: string,
  user: string,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  if (flags < 0) return flags;
  const start = hva - (hva % PAGE_SIZE);
  const error = gupFastRange(k, flags, start, nrPages);
  if (error !== 0) return error;
  if (nrPages <= 0) return 0;
  const pin = (flags & FOLL_PIN) !== 0;
  // Before the first pin: a fork that does not see the pin must see that there may be one.
  const marks = pin && !mm.hasPinned;
  const { gupFastMarksLate } = k.sabotage;
  if (marks && !gupFastMarksLate) setField(mm, 'hasPinned', true);

  let n = yield* gupFast(k, mm, start, nrPages, flags, pages);
  if (marks && gupFastMarksLate) {
    if (k.watched) yield YP_GUP_FAST_DONE;
    setField(mm, 'hasPinned', true);
  }
  if (n < nrPages && (flags & FOLL_FAST_ONLY) === 0) {
    const nrSlow = yield* gupLongtermLocked(
      k,
      mm,
      start + n * PAGE_SIZE,
      nrPages - n,
      flags | FOLL_TOUCH | FOLL_UNLOCKABLE,
      n === 0 ? pages : pages.subarray(n),
      { locked: 0 },
    );
    // With pages in hand an error is kept back: the caller has to be told about those.
    if (nrSlow >= 0) n += nrSlow;
    else if (n === 0) return nrSlow;
  }
  return noteGrab(k, flags, api, user, mm, start, pages, n);
}

/**
 * pin_user_pages_fast(): pins the pages of [hva, hva + nrPages * 4096).
 * @param flags FOLL_WRITE, FOLL_LONGTERM, FOLL_NOFAULT, ... (flags.ts, FOLL_FAST_ALLOWED)
 * @param pages filled with page numbers, in order of address; released by unpinUserPages*()
 * @returns pages pinned, possibly fewer than asked for; or -errno when there is none:
 *   -EINVAL flags, -EOVERFLOW, -EFAULT no user space, or as gupLongtermLocked (walk.ts)
 */
export const pinUserPagesFast = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> => {
  const all = gupArgs(flags, FOLL_PIN, pages);
  const user = takeGupUser(k);
  return gupFastFallback(k, 'pin_user_pages_fast', user, mm, hva, nrPages, all, pages);
};

/**
 * get_user_pages_fast(): the same with plain references, released by folioPut.
 * @param user row of the users table (users.ts)
 * @throws Error when the policy does not give that user FOLL_GET
 */
export const getUserPagesFast = (
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> => {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_GET, pages);
  return gupFastFallback(k, 'get_user_pages_fast', user, mm, hva, nrPages, all, pages);
};

/**
 * get_user_pages_fast_only(): the lockless part alone. Without FOLL_WRITE the page may be one that a
 * COW is just replacing. @returns pages referenced; 0 is no error
 */
export const getUserPagesFastOnly = (
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> => {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_GET | FOLL_FAST_ONLY, pages);
  return gupFastFallback(k, 'get_user_pages_fast_only', user, mm, hva, nrPages, all, pages);
};
