/**
 * First touch of anonymous memory. Compare mm/memory.c:do_anonymous_page().
 *
 * Which folio sizes are tried is in mm/thp/state.ts; 2 MiB by one entry is mm/fault/huge.ts.
 */
import { folioAddLru, folioAlloc, folioPut, folioSetFlags } from '../folio/folio.ts';
import { GFP_ZERO } from '../frames/buddy.ts';
import { PG_UPTODATE } from '../frames/table.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkspecial,
  pteMkyoung,
  pteNone,
  vmPageProt,
} from '../pgtable/pte.ts';
import { ptepGet, setPteAt } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddNewAnonRmap } from '../rmap/rmap.ts';
import type { Kernel, Vma } from '../types.ts';
import { addRss } from '../vma/zap.ts';
import { FAULT_FLAG_WRITE } from './flags.ts';

/** First touch of anonymous memory: a read maps the zero page, a write a page of its own. */
export function* doAnonymousPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  const prot = vmPageProt(vma.flags);
  if ((flags & FAULT_FLAG_WRITE) === 0) {
    // Also for UNSHARE, as in Linux: the walk that asked for it looks again and faults again.
    setPteAt(k, word, pteMkyoung(pteMkspecial(mkPte(k.state.zeroPage, prot))));
    return 0;
  }
  anonVmaPrepare(k, vma);
  const page = folioAlloc(k, GFP_ZERO);
  if (page < 0) return page;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  if (!pteNone(ptepGet(k, word))) folioPut(k, page);
  else installAnon(k, vma, hva, word, page);
  return 0;
}

/** Maps a new anonymous page, for writing where the VMA allows it. */
export const installAnon = (k: Kernel, vma: Vma, hva: number, word: number, page: number): void => {
  folioSetFlags(k, page, PG_UPTODATE);
  folioAddNewAnonRmap(k, page, vma, hva);
  folioAddLru(k, page);
  addRss(vma.mm, true, 1);
  const pte = pteMkyoung(pteMkdirty(mkPte(page, vmPageProt(vma.flags))));
  setPteAt(k, word, maybeMkwrite(pte, vma.flags));
};
