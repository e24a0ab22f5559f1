/** What the functions that empty ranges of memory say they have done. Plain data. */
import { ENOMEM } from '../errno.ts';
import { type HeldPage, heldPage } from '../provenance/holders.ts';
import type { Kernel } from '../types.ts';

export type { HeldPage };

/** One attempt to empty a range, or several in a row. */
export interface MoveReport {
  /** 0, or -errno. */
  error: number;
  /** Pages that were moved out of the way. */
  moved: number;
  /** Passes of migration: over one batch of folios each. */
  rounds: number;
  /** Pages that could not be moved, each with who holds it, as of when it was given up. */
  held: HeldPage[];
}

export const createMoveReport = (): MoveReport => ({ error: 0, moved: 0, rounds: 0, held: [] });

/** Folios that migration has given up. */
export const reportFailed = (
  k: Kernel,
  report: MoveReport,
  failed: readonly { folio: number; error: number }[],
): void => {
  for (const { folio, error } of failed)
    report.held.push(heldPage(k, folio, error === -ENOMEM ? 'no memory to move it to' : undefined));
};
