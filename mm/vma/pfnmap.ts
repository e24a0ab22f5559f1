/**
 * Mappings that a driver fills by itself: by frame number, without references (special entries), or
 * with pages that are counted. Compare mm/memory.c:remap_pfn_range(), vmf_insert_pfn(),
 * vm_insert_page().
 *
 * The kernel knows no page behind a special entry: it is neither counted nor found by the rmap, and
 * GUP refuses it. access_remote_vm() reaches its bytes all the same (mm/gup/remote.ts).
 */
import { PAGE_SIZE } from '#emu';
import { readOnce, setField } from '#cells';
import { EBUSY, EFAULT, EINVAL, ENOMEM } from '../errno.ts';
import { folioGet, folioOf, folioTestAnon } from '../folio/folio.ts';
import { pfnToPage } from '../frames/table.ts';
import { mkPte, pteMkspecial, pteNone, vmPageProt } from '../pgtable/pte.ts';
import { ptepGet, setPteAt, walkPte } from '../pgtable/walk.ts';
import { folioAddFileRmap } from '../rmap/rmap.ts';
import type { Kernel, Vma } from '../types.ts';
import { isCowMapping, VM_DONTEXPAND, VM_IO, VM_MIXEDMAP, VM_PFNMAP } from './flags.ts';
import { addRss } from './zap.ts';

/** An entry for a frame that nobody counts. */
const specialEntry = (vma: Vma, pfn: number): number =>
  pteMkspecial(mkPte(pfnToPage(pfn), vmPageProt(vma.flags)));

/**
 * Maps contiguous frames, whatever they are: registers of a device, memory of a driver. For mmap():
 * mmap_lock is held for writing, and nothing is mapped there yet. A private mapping, whose writes
 * are to be copies, has to be filled whole: its offset says where its frames are.
 * @returns 0; -EINVAL; -ENOMEM for a table, with a part mapped
 */
export const remapPfnRange = (
  k: Kernel,
  vma: Vma,
  hva: number,
  pfn: number,
  lenBytes: number,
): number => {
  if (hva % PAGE_SIZE !== 0) return -EINVAL;
  const end = hva + Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;
  if (isCowMapping(vma.flags)) {
    if (hva !== vma.start || end !== vma.end) return -EINVAL;
    setField(vma, 'pgoff', pfn);
  }
  setField(vma, 'flags', vma.flags | VM_IO | VM_PFNMAP | VM_DONTEXPAND);
  for (let at = hva; at < end; at += PAGE_SIZE) {
    const word = walkPte(k, vma.mm, at, true);
    if (word < 0) return -ENOMEM;
    if (!pteNone(ptepGet(k, word))) throw new Error(`mm ${vma.mm.id}: hva ${at} is mapped already`);
    setPteAt(k, word, specialEntry(vma, pfn + (at - hva) / PAGE_SIZE));
  }
  return 0;
};

/** One special entry, unless there is one. @returns 0, -EFAULT outside the VMA, -ENOMEM */
const insertPfn = (k: Kernel, vma: Vma, hva: number, pfn: number): number => {
  if (hva < vma.start || hva >= vma.end) return -EFAULT;
  const word = walkPte(k, vma.mm, hva, true);
  if (word < 0) return -ENOMEM;
  if (pteNone(ptepGet(k, word))) setPteAt(k, word, specialEntry(vma, pfn));
  return 0;
};

/**
 * A driver's fault handler maps a frame. Somebody who came first is no error.
 * @returns 0; -EFAULT outside the VMA; -ENOMEM
 * @throws Error for a VMA that is not VM_PFNMAP or VM_MIXEDMAP, or where a write would need a copy
 */
export const vmfInsertPfn = (k: Kernel, vma: Vma, hva: number, pfn: number): number => {
  const kind = vma.flags & (VM_PFNMAP | VM_MIXEDMAP);
  if (kind !== VM_PFNMAP && kind !== VM_MIXEDMAP)
    throw new Error(`mm ${vma.mm.id}: a frame for a VMA that is not for that (${vma.flags})`);
  if (kind === VM_PFNMAP && isCowMapping(vma.flags))
    throw new Error(`mm ${vma.mm.id}: a frame for a private VMA`);
  return insertPfn(k, vma, hva, pfn);
};

/** The same in a VMA that may have counted pages beside. @returns as vmfInsertPfn, -EFAULT also without VM_MIXEDMAP */
export const vmfInsertMixed = (k: Kernel, vma: Vma, hva: number, pfn: number): number =>
  (vma.flags & VM_MIXEDMAP) === 0 ? -EFAULT : insertPfn(k, vma, hva, pfn);

/**
 * Maps a page that is counted: it gets a reference and counts as resident; it need not be a file's.
 * For mmap() and fault handlers; the first one of a VMA needs mmap_lock for writing.
 * @returns 0; -EFAULT outside the VMA; -EINVAL for a page that is free or anonymous; -EBUSY:
 *   something is mapped there; -ENOMEM
 */
export const vmInsertPage = (k: Kernel, vma: Vma, hva: number, page: number): number => {
  if (hva < vma.start || hva >= vma.end) return -EFAULT;
  const folio = folioOf(k, page);
  if (readOnce(k.state.frames.refcount, folio) <= 0 || folioTestAnon(k, folio)) return -EINVAL;
  if ((vma.flags & VM_MIXEDMAP) === 0) {
    if ((vma.flags & VM_PFNMAP) !== 0)
      throw new Error(`mm ${vma.mm.id}: a counted page for a VMA of frames`);
    setField(vma, 'flags', vma.flags | VM_MIXEDMAP);
  }
  const word = walkPte(k, vma.mm, hva, true);
  if (word < 0) return -ENOMEM;
  if (!pteNone(ptepGet(k, word))) return -EBUSY;
  folioGet(k, folio);
  addRss(vma.mm, false, 1);
  folioAddFileRmap(k, page);
  setPteAt(k, word, mkPte(page, vmPageProt(vma.flags)));
  return 0;
};
