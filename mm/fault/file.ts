/** First touch of a file's page. Compare mm/memory.c:do_fault() and what it calls. */
import { EFAULT, EHWPOISON, EINVAL } from '../errno.ts';
import {
  folioAlloc,
  folioMarkDirty,
  folioPut,
  folioTestFlags,
  folioUnlock,
} from '../folio/folio.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { PG_HWPOISON } from '../frames/table.ts';
import { shmemGetFolio } from '../fs/shmem.ts';
import { type Path, YP_FAULT_COPIED } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkyoung,
  pteNone,
  vmPageProt,
} from '../pgtable/pte.ts';
import { ptepGet, setPteAt } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddFileRmap } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import type { Kernel, Vma } from '../types.ts';
import { linearPageIndex, VM_SHARED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { installAnon } from './anon.ts';
import { FAULT_FLAG_WRITE } from './flags.ts';

/** First touch of a file's page. Compare do_read_fault(), do_cow_fault(), do_shared_fault(). */
export function* doFileFault(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  const { mapping } = vma;
  if (mapping === null) throw new Error('a file fault without a file');
  const write = (flags & FAULT_FLAG_WRITE) !== 0;
  const shared = (vma.flags & VM_SHARED) !== 0;
  let copy = -1;
  if (write && !shared) {
    anonVmaPrepare(k, vma);
    copy = folioAlloc(k, GFP_KERNEL);
    if (copy < 0) return copy;
  }
  const folio = yield* shmemGetFolio(k, mapping, linearPageIndex(vma, hva));
  if (folio < 0) {
    if (copy >= 0) folioPut(k, copy);
    // Beyond the end of the file: SIGBUS.
    return folio === -EINVAL ? -EFAULT : folio;
  }
  if (folioTestFlags(k, folio, PG_HWPOISON)) {
    folioUnlock(k, folio);
    folioPut(k, folio);
    if (copy >= 0) folioPut(k, copy);
    return -EHWPOISON;
  }
  if (copy >= 0) {
    k.memory.copyPage(copy, folio);
    countStat(k, 'cow_copied');
    if (k.watched) yield YP_FAULT_COPIED;
  }
  if (!pteNone(ptepGet(k, word))) {
    if (copy >= 0) folioPut(k, copy);
  } else if (copy >= 0) {
    installAnon(k, vma, hva, word, copy);
  } else {
    installFile(k, vma, word, folio, write);
    folioUnlock(k, folio);
    // The caller's reference has become the entry's.
    return 0;
  }
  folioUnlock(k, folio);
  folioPut(k, folio);
  return 0;
}

/** Maps a page of the file; it needs no writenotify, so a shared writable VMA gets W at once. */
const installFile = (k: Kernel, vma: Vma, word: number, page: number, write: boolean): void => {
  let pte = pteMkyoung(mkPte(page, vmPageProt(vma.flags)));
  if (write) {
    pte = maybeMkwrite(pteMkdirty(pte), vma.flags);
    folioMarkDirty(k, page);
  }
  folioAddFileRmap(k, page);
  addRss(vma.mm, false, 1);
  setPteAt(k, word, pte);
};
