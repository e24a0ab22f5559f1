/**
 * /proc/PID/pagemap: a 64-bit word for each page of an address space. Compare
 * Documentation/admin-guide/mm/pagemap.rst and fs/proc/task_mmu.c:pte_to_pagemap_entry().
 *
 *   63 present   62 swapped, or otherwise not present   61 of a file, or shared anonymous
 *   57 userfaultfd write-protects it   56 mapped by this address space alone   55 soft-dirty
 *   54-0  page frame; not present: type in 4-0, and offset, slot or frame, above
 */
import { PAGE_SIZE } from '#emu';
import { folioOf, folioTestFlags } from '../folio/folio.ts';
import { PG_ANON, pageToPfn } from '../frames/table.ts';
import {
  pteLeaf,
  ptePfn,
  ptePresent,
  pteSoftDirty,
  pteUffdWp,
  vmNormalPage,
} from '../pgtable/pte.ts';
import {
  isHwpoisonEntry,
  isMigrationEntry,
  isPteMarker,
  isReadableMigrationEntry,
  isSwapEntry,
  isWritableMigrationEntry,
  migrationEntryPage,
  PTE_SWP_SOFT_DIRTY,
  PTE_SWP_UFFD_WP,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { levelPages } from '../pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_HUGETLB, VM_SOFTDIRTY } from '../vma/flags.ts';
import { createSharing, visitVmaEntries } from './walk.ts';

export const PM_SOFT_DIRTY = 1n << 55n;
export const PM_MMAP_EXCLUSIVE = 1n << 56n;
export const PM_UFFD_WP = 1n << 57n;
export const PM_FILE = 1n << 61n;
export const PM_SWAP = 1n << 62n;
export const PM_PRESENT = 1n << 63n;

/** Bits of the type below the offset; and the types, as a kernel without device-private memory has them. */
const MAX_SWAPFILES_SHIFT = 5n;
const TYPE_SWAP_DEVICE = 0n;
const TYPE_HWPOISON = 27n;
const TYPE_MIGRATION_READ = 28n;
const TYPE_MIGRATION_READ_EXCLUSIVE = 29n;
const TYPE_MIGRATION_WRITE = 30n;
const TYPE_PTE_MARKER = 31n;

/** The words of [hva, hva + nrPages * 4096). */
export const procPagemap = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
): BigUint64Array => {
  const words = new BigUint64Array(nrPages);
  const end = hva + nrPages * PAGE_SIZE;
  // Where nothing is mapped a VMA may still say that it is new.
  for (const vma of mm.vmas)
    if ((vma.flags & VM_SOFTDIRTY) !== 0) {
      const from = Math.max(hva, vma.start);
      const to = Math.min(end, vma.end);
      if (from < to) words.fill(PM_SOFT_DIRTY, (from - hva) / PAGE_SIZE, (to - hva) / PAGE_SIZE);
    }
  const isShared = createSharing(k);
  visitVmaEntries(k, mm, (vma, at, entry, level) => {
    const nr = levelPages(level);
    if (at >= end || at + nr * PAGE_SIZE <= hva) return;
    const word = wordOf(k, vma, entry, level, isShared);
    const step = stepOf(entry, level);
    const first = (at - hva) / PAGE_SIZE;
    for (let i = Math.max(0, -first); i < nr && first + i < nrPages; i++)
      words[first + i] = word + step * BigInt(i);
  });
  return words;
};

const isPresentLeaf = (entry: number, level: number): boolean =>
  ptePresent(entry) && (level === 0 || pteLeaf(entry));

/** From one page of an entry to the next: the frame is one more, in the place where it is. */
const stepOf = (entry: number, level: number): bigint => {
  if (isPresentLeaf(entry, level)) return 1n;
  return isMigrationEntry(entry) ? 1n << MAX_SWAPFILES_SHIFT : 0n;
};

const wordOf = (
  k: Kernel,
  vma: Vma,
  entry: number,
  level: number,
  isShared: (folio: number) => boolean,
): bigint => {
  const dirty = (vma.flags & VM_SOFTDIRTY) !== 0 ? PM_SOFT_DIRTY : 0n;
  if (!isPresentLeaf(entry, level)) return dirty | nonpresentWord(k, vma, entry);
  let word = PM_PRESENT | dirty | BigInt(ptePfn(entry));
  // hugetlb has no soft-dirty bits of its own.
  if (pteSoftDirty(entry) && (vma.flags & VM_HUGETLB) === 0) word |= PM_SOFT_DIRTY;
  if (pteUffdWp(entry)) word |= PM_UFFD_WP;
  const page = vmNormalPage(entry);
  if (page < 0) return word;
  const folio = folioOf(k, page);
  if (!folioTestFlags(k, folio, PG_ANON)) word |= PM_FILE;
  if (!isShared(folio)) word |= PM_MMAP_EXCLUSIVE;
  return word;
};

const nonpresentWord = (k: Kernel, vma: Vma, entry: number): bigint => {
  let word = PM_SWAP;
  if ((entry & PTE_SWP_UFFD_WP) !== 0 && (isSwapEntry(entry) || isPteMarker(entry)))
    word |= PM_UFFD_WP;
  // Of hugetlb nothing more is said.
  if ((vma.flags & VM_HUGETLB) !== 0) return word & ~PM_SWAP;
  if (isSwapEntry(entry)) {
    if ((entry & PTE_SWP_SOFT_DIRTY) !== 0) word |= PM_SOFT_DIRTY;
    return word | TYPE_SWAP_DEVICE | (BigInt(swapEntrySlot(entry)) << MAX_SWAPFILES_SHIFT);
  }
  if (isPteMarker(entry)) return word | TYPE_PTE_MARKER;
  const page = migrationEntryPage(entry);
  if (!folioTestFlags(k, folioOf(k, page), PG_ANON)) word |= PM_FILE;
  return word | typeOf(entry) | (BigInt(pageToPfn(page)) << MAX_SWAPFILES_SHIFT);
};

const typeOf = (entry: number): bigint => {
  if (isHwpoisonEntry(entry)) return TYPE_HWPOISON;
  if (isWritableMigrationEntry(entry)) return TYPE_MIGRATION_WRITE;
  return isReadableMigrationEntry(entry) ? TYPE_MIGRATION_READ : TYPE_MIGRATION_READ_EXCLUSIVE;
};
