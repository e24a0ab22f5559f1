/**
 * What the page tables say of an address, and counting it: one entry, or a run of them.
 * Compare mm/gup.c, follow_page_mask() and what it calls.
 *
 * Nothing here yields: Linux holds the lock of the page table. Each function answers with the
 * number of pages that it has counted and put into `pages`; with none it says why:
 *
 *   0         fault it in, and look again
 *   -EMLINK   the same with FAULT_FLAG_UNSHARE
 *   -EEXIST   there is an entry, and no struct page behind it
 *   -errno    no fault would help
 */
import { PAGE_SIZE, PTE_PPN_SHIFT } from '#emu';
import { readOnce } from '#cells';
import { EEXIST, EFAULT, EMLINK } from '../errno.ts';
import { folioMarkDirty, folioOf, folioTestDirty } from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { tryGrabFolio } from '../folio/pin.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import {
  pteDirty,
  pteLeaf,
  pteMkdirty,
  pteMkyoung,
  pteNone,
  ptePage,
  ptePresent,
  pteProtnone,
  pteSpecial,
  pteWrite,
  vmNormalPage,
} from '../pgtable/pte.ts';
import {
  leafLevel,
  leafPage,
  leafWord,
  levelPages,
  PTE_WORDS,
  PTRS_PER_TABLE,
  ptepGet,
  setPteAt,
  walkLeaf,
  walkPte,
} from '../pgtable/walk.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import type { Kernel, Vma } from '../types.ts';
import { linearPageIndex, VM_ACCESS_FLAGS, VM_HUGETLB, vmaIsAnonymous } from '../vma/flags.ts';
import {
  FOLL_DUMP,
  FOLL_HONOR_NUMA_FAULT,
  FOLL_PIN,
  FOLL_SPLIT_PMD,
  FOLL_TOUCH,
  FOLL_WRITE,
} from './flags.ts';
import { canForceWrite, gupMustUnshare } from './unshare.ts';

/** Level of an entry that maps 2 MiB. */
const PMD_LEVEL = 1;

/** Has the page cache of a hugetlb file the page of this address? Compare hugetlbfs_pagecache_present(). */
const hugetlbPagecachePresent = (vma: Vma, hva: number): boolean => {
  const { mapping } = vma;
  if (mapping === null) return false;
  const index = linearPageIndex(vma, hva);
  return mapping.pages.has(index - (index % (1 << mapping.hugeOrder)));
};

/**
 * Nothing is mapped. A core dump leaves a hole where a fault would only bring zeros, instead of
 * allocating them. Compare no_page_table().
 */
const noPageTable = (vma: Vma, hva: number, flags: number): number => {
  if ((flags & FOLL_DUMP) === 0) return 0;
  if ((vma.flags & VM_HUGETLB) !== 0) return hugetlbPagecachePresent(vma, hva) ? 0 : -EFAULT;
  return vmaIsAnonymous(vma) ? -EFAULT : 0;
};

/**
 * May an entry that nobody can access be followed? Yes, unless the caller wants NUMA hints to fault:
 * then only where the VMA itself is inaccessible, and it is no hint. Compare gup_can_follow_protnone().
 */
const canFollowProtnone = (vma: Vma, flags: number): boolean =>
  (flags & FOLL_HONOR_NUMA_FAULT) === 0 || (vma.flags & VM_ACCESS_FLAGS) === 0;

/** Pages from which on a copy is cheaper than a loop. */
const COPY_FROM = 64;

/** pages[at ..] = `nr` consecutive pages. Compare gup_fill_pages(). */
export const fillPages = (
  k: Kernel,
  pages: Int32Array,
  at: number,
  page: number,
  nr: number,
): void => {
  if (nr >= COPY_FROM) pages.set(k.pageNumbers.subarray(page, page + nr), at);
  else for (let i = 0; i < nr; i++) pages[at + i] = page + i;
};

/** Counts a run of pages of one folio, and marks it as used where asked. @returns 0 or -errno */
const commitRun = (k: Kernel, folio: number, nr: number, dirty: boolean, flags: number): number => {
  const error = tryGrabFolio(k, folio, nr, flags);
  if (error !== 0) return error;
  if ((flags & FOLL_TOUCH) !== 0) {
    if ((flags & FOLL_WRITE) !== 0 && !dirty && !folioTestDirty(k, folio)) folioMarkDirty(k, folio);
    folioMarkAccessed(k, folio);
  }
  return 0;
};

/** A proper entry, and no struct page: marked as used, and nothing to give. Compare follow_pfn_pte(). */
const followPfn = (k: Kernel, word: number, pte: number, flags: number): number => {
  if ((flags & FOLL_TOUCH) !== 0)
    setPteAt(k, word, pteMkyoung((flags & FOLL_WRITE) !== 0 ? pteMkdirty(pte) : pte));
  return -EEXIST;
};

/**
 * The entry of memory without page structs (VM_IO, VM_PFNMAP), which GUP refuses: a present one of
 * 4 KiB, there are no others; 0 = none. The caller holds mmap_lock. Compare follow_pfnmap_start().
 */
export const followPfnmap = (k: Kernel, vma: Vma, hva: number): number => {
  const word = walkPte(k, vma.mm, hva, false);
  const pte = word > 0 ? ptepGet(k, word) : 0;
  return ptePresent(pte) && !pteProtnone(pte) ? pte : 0;
};

/** May this present last-level entry be taken as it is? @returns 1: yes, -errno, or 0 */
const checkPte = (k: Kernel, vma: Vma, word: number, pte: number, flags: number): number => {
  if (pteProtnone(pte) && !canFollowProtnone(vma, flags)) return 0;
  const page = vmNormalPage(pte);
  if ((flags & FOLL_WRITE) !== 0 && !pteWrite(pte) && !canForceWrite(k, vma, pte, page, flags))
    return 0;
  if (page < 0) {
    if ((flags & FOLL_DUMP) !== 0) return -EFAULT;
    if (ptePage(pte) !== k.state.zeroPage) return followPfn(k, word, pte, flags);
  }
  return !pteWrite(pte) && gupMustUnshare(k, vma, flags, ptePage(pte)) ? -EMLINK : 1;
};

/** An entry apart from the bits that hardware sets. */
const settled = (pte: number): number => pteMkyoung(pteMkdirty(pte));

/**
 * How many entries from `word` on map consecutive pages of one large folio with the same rights. A
 * read-only run is taken page by page where exclusiveness matters, because each page has its own.
 */
const runOfFolio = (
  k: Kernel,
  word: number,
  pte: number,
  folio: number,
  max: number,
  flags: number,
): number => {
  if (!folioTestLarge(k, folio)) return 1;
  if (!pteWrite(pte) && (flags & (FOLL_WRITE | FOLL_PIN)) !== 0) return 1;
  let n = 1;
  while (
    n < max &&
    settled(ptepGet(k, word + n * PTE_WORDS)) === settled(pte) + (n << PTE_PPN_SHIFT) &&
    folioOf(k, ptePage(pte) + n) === folio
  )
    n++;
  return n;
};

const anyDirty = (k: Kernel, word: number, nr: number): boolean => {
  for (let i = 0; i < nr; i++) if (pteDirty(ptepGet(k, word + i * PTE_WORDS))) return true;
  return false;
};

/** The entries of one table from `word` on, up to the first that cannot be taken. Compare follow_page_pte(). */
const followPtes = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  at: number,
): number => {
  const { i32 } = k.memory;
  const inTable = PTRS_PER_TABLE - (Math.floor(hva / PAGE_SIZE) % PTRS_PER_TABLE);
  const end = Math.min(nrPages, inTable, (vma.end - hva) / PAGE_SIZE);
  for (let n = 0; n < end; ) {
    const ptep = word + n * PTE_WORDS;
    const pte = readOnce(i32, ptep);
    let outcome = 0;
    if (ptePresent(pte)) outcome = checkPte(k, vma, ptep, pte, flags);
    else if (pteNone(pte)) outcome = n > 0 ? 0 : noPageTable(vma, hva, flags);
    if (outcome <= 0) return n > 0 ? n : outcome;
    const page = ptePage(pte);
    const folio = folioOf(k, page);
    const nr = runOfFolio(k, ptep, pte, folio, end - n, flags);
    const dirty = nr > 1 ? anyDirty(k, ptep, nr) : pteDirty(pte);
    const error = commitRun(k, folio, nr, dirty, flags);
    if (error !== 0) return n > 0 ? n : error;
    if (pages !== null) fillPages(k, pages, at + n, page, nr);
    n += nr;
  }
  return end;
};

/**
 * An entry of a directory that maps 2 MiB or 1 GiB: all of it that was asked for, at once. Whether
 * the folio is exclusive its head says. Compare follow_huge_pmd(), follow_huge_pud().
 */
const followHuge = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  level: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  at: number,
): number => {
  const entry = ptepGet(k, word);
  const head = ptePage(entry);
  const counted = vmNormalPage(entry);
  if (
    (flags & FOLL_WRITE) !== 0 &&
    !pteWrite(entry) &&
    !canForceWrite(k, vma, entry, counted, flags)
  )
    return 0;
  if ((flags & FOLL_DUMP) !== 0 && pteSpecial(entry)) return -EFAULT;
  if (!pteWrite(entry) && gupMustUnshare(k, vma, flags, head)) return -EMLINK;
  const first = leafPage(entry, level, hva);
  const nr = Math.min(levelPages(level) - (first - head), nrPages);
  const error = tryGrabFolio(k, folioOf(k, head), nr, flags);
  if (error !== 0) return error;
  if (level === PMD_LEVEL && (flags & FOLL_TOUCH) !== 0)
    setPteAt(k, word, pteMkyoung((flags & FOLL_WRITE) !== 0 ? pteMkdirty(entry) : entry));
  if (pages !== null) fillPages(k, pages, at, first, nr);
  return nr;
};

/**
 * Looks up [hva, hva + nrPages * 4096) as far as one page table or one huge entry, and the VMA, reach.
 * The caller holds mmap_lock.
 * @param hva page-aligned, inside of the VMA
 * @param flags from gupArgs; with neither FOLL_GET nor FOLL_PIN nothing is counted
 * @param pages null: only looked up
 * @param at where in `pages` the first goes
 * @returns pages taken; 0, -EMLINK, -EEXIST or -errno as said above
 */
export const followPageMask = (
  k: Kernel,
  vma: Vma,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  at: number,
): number => {
  const leaf = walkLeaf(k, vma.mm, hva);
  const level = leafLevel(leaf);
  if (level === 0) return followPtes(k, vma, hva, leafWord(leaf), nrPages, flags, pages, at);
  const entry = ptepGet(k, leafWord(leaf));
  if (!pteLeaf(entry)) return noPageTable(vma, hva, flags);
  if (pteProtnone(entry) && !canFollowProtnone(vma, flags)) return noPageTable(vma, hva, flags);
  if (level === PMD_LEVEL && (flags & FOLL_SPLIT_PMD) !== 0) {
    splitHugePmd(k, vma, hva);
    // A file's entry is gone now: a table, which the pages are found again for by faults.
    const word = walkPte(k, vma.mm, hva, true);
    return word < 0 ? word : followPtes(k, vma, hva, word, nrPages, flags, pages, at);
  }
  return followHuge(k, vma, hva, leafWord(leaf), level, nrPages, flags, pages, at);
};
