/**
 * Another process's memory through its page tables, holding nothing: what access_remote_vm() could be.
 *
 * Under the lock of the page table the entry is writable, the bytes go in, and the entry is dirty, as
 * if the process itself had stored them. So the file system has been asked before (page_mkwrite()),
 * and whoever takes the write bit away afterwards finds the entry dirty: there is no window between
 * lookup and copy, and nobody's reference to wait for.
 */
import { PAGE_SIZE } from '#emu';
import { handleMmFault } from '../fault/fault.ts';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_WRITE } from '../fault/flags.ts';
import type { Path } from '../path.ts';
import { pteMkdirty, pteMkyoung } from '../pgtable/pte.ts';
import { leafWord, ptepGet, setPteAt, walkLeaf } from '../pgtable/walk.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { findVma } from '../vma/vma.ts';
import { FOLL_WRITE } from './flags.ts';
import { followPageMask } from './follow.ts';
import { checkVmaFlags } from './vma-check.ts';

/** The entry of `hva` has been used, as the hardware notes it. */
const touchEntry = (k: Kernel, mm: MmStruct, hva: number, write: boolean): void => {
  const word = leafWord(walkLeaf(k, mm, hva));
  const pte = pteMkyoung(ptepGet(k, word));
  setPteAt(k, word, write ? pteMkdirty(pte) : pte);
};

/**
 * Finds the page of `hva` as FOLL_WRITE and FOLL_FORCE in `flags` ask for it, and copies within it
 * before anybody else can come. The caller holds mmap_lock, and keeps it.
 * @param copy gets the page's number; must not yield
 * @returns true: copied; false: there is no such memory, or a fatal signal came
 */
export function* accessThroughTables(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  flags: number,
  copy: (page: number) => void,
): Path<boolean> {
  const at = hva - (hva % PAGE_SIZE);
  const write = (flags & FOLL_WRITE) !== 0;
  const found = new Int32Array(1);
  for (;;) {
    const vma = findVma(mm, at);
    if (vma === null || checkVmaFlags(k, vma, flags) !== 0 || fatalSignalPending(k)) return false;
    const n = followPageMask(k, vma, at, 1, flags, found, 0);
    if (n === 1) {
      copy(found[0]!);
      touchEntry(k, mm, at, write);
      return true;
    }
    if (n !== 0) return false;
    const fault = FAULT_FLAG_REMOTE | (write ? FAULT_FLAG_WRITE : 0);
    if ((yield* handleMmFault(k, mm, at, fault)) !== 0) return false;
  }
}
