/** Faults on entries that are not present: swap, migration, poison, markers. Compare mm/memory.c:do_swap_page(). */
import { EHWPOISON } from '../errno.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { isHwpoisonEntry, isMigrationEntry } from '../pgtable/swapops.ts';
import { ptepGet } from '../pgtable/walk.ts';
import type { Kernel, Vma } from '../types.ts';

/**
 * @param word the entry, and `entry` what it was
 * @returns 0: try again; -EHWPOISON; -ENOMEM
 */
export function* doSwapPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  entry: number,
  _flags: number,
): Path<number> {
  if (isMigrationEntry(entry)) {
    yield* migrationEntryWait(k, word, entry);
    return 0;
  }
  if (isHwpoisonEntry(entry)) return -EHWPOISON;
  throw new Error(`mm ${vma.mm.id}: hva ${hva}: entry ${entry} of no known kind`);
}

/** Until whoever moves the folio has put entries back. Compare migration_entry_wait(). */
export function* migrationEntryWait(k: Kernel, word: number, entry: number): Path<void> {
  while (ptepGet(k, word) === entry) yield YP_WAIT;
}
