/**
 * mremap(): a mapping shrinks, grows or moves, and what it maps stays what it is. Compare
 * mm/mremap.c, and mm/vma.c:copy_vma().
 *
 * The new VMA has the offsets that the old one had, so that the pages' own idea of where they are
 * stays right and no page is touched. The entries are moved by move-tables.ts.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EFAULT, EINVAL, ENOMEM } from '../errno.ts';
import { vmaPageSize } from '../hugetlb/vma.ts';
import { ksmUnmerge } from '../ksm/unmerge.ts';
import type { Path } from '../path.ts';
import { taskSize } from '../pgtable/walk.ts';
import { anonVmaClone, unlinkAnonVmas } from '../rmap/anon-vma.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import {
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  VM_DONTEXPAND,
  VM_HUGETLB,
  VM_LOCKED,
  VM_MAYSHARE,
  VM_PFNMAP,
  VM_SHARED,
  VM_UFFD_WP,
} from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { mlockFutureOk } from './mlock.ts';
import { munmapLocked } from './mmap.ts';
import { movePageTables } from './move-tables.ts';
import { mmPopulate } from './populate.ts';
import { isFree, pickHva, roundUp } from './unmapped-area.ts';
import { findVma, mergeAround, vmaAlloc, vmaIndexAbove, vmaLink } from './vma.ts';

/** One call, as it is carried out: lengths are whole pages. Compare struct vma_remap_struct. */
interface Remap {
  mm: MmStruct;
  hva: number;
  oldLen: number;
  newLen: number;
  /** MREMAP_*. */
  flags: number;
  newHva: number;
  /** A locked mapping has grown: bytes at its end that are to be faulted in. */
  populate: number;
}

const hasTarget = (r: Remap): boolean => (r.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) !== 0;

/** What can be said without looking at the VMAs. @returns 0 or -EINVAL. Compare check_mremap_params() */
const checkParams = (k: Kernel, r: Remap): number => {
  if ((r.flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) !== 0) return -EINVAL;
  if (r.hva % PAGE_SIZE !== 0 || r.oldLen < 0) return -EINVAL;
  if (r.newLen <= 0 || r.newLen > taskSize(k)) return -EINVAL;
  if (!hasTarget(r)) return 0;
  if (r.newHva < 0 || r.newHva + r.newLen > taskSize(k) || r.newHva % PAGE_SIZE !== 0)
    return -EINVAL;
  if ((r.flags & MREMAP_MAYMOVE) === 0) return -EINVAL;
  if ((r.flags & MREMAP_DONTUNMAP) !== 0 && r.oldLen !== r.newLen) return -EINVAL;
  return r.hva + r.oldLen > r.newHva && r.newHva + r.newLen > r.hva ? -EINVAL : 0;
};

/** hugetlb: whole huge pages, and no more of them than there are. Compare align_hugetlb(). */
const alignHugetlb = (r: Remap, vma: Vma): number => {
  const size = vmaPageSize(vma);
  r.oldLen = roundUp(r.oldLen, size);
  r.newLen = roundUp(r.newLen, size);
  if (r.hva % size !== 0 || (hasTarget(r) && r.newHva % size !== 0)) return -EINVAL;
  return r.newLen > r.oldLen ? -EINVAL : 0;
};

/** May this be done to the VMA at `hva`? @returns 0 or -errno. Compare check_prep_vma() */
const checkVma = (r: Remap, vma: Vma | null): number => {
  if (vma === null) return -EFAULT;
  if ((vma.flags & VM_HUGETLB) !== 0 && alignHugetlb(r, vma) !== 0) return -EINVAL;
  if (r.newLen <= r.oldLen && !hasTarget(r)) return 0;
  // Nothing of the old length: a second mapping of the same shared memory.
  if (r.oldLen === 0 && (vma.flags & (VM_SHARED | VM_MAYSHARE)) === 0) return -EINVAL;
  const unexpandable = (vma.flags & (VM_DONTEXPAND | VM_PFNMAP)) !== 0;
  if ((r.flags & MREMAP_DONTUNMAP) !== 0 && unexpandable) return -EINVAL;
  if (Math.min(r.oldLen, r.newLen) > vma.end - r.hva) return -EFAULT;
  if (r.newLen <= r.oldLen) return 0;
  if (unexpandable) return -EFAULT;
  const grown = r.newLen - r.oldLen;
  if ((vma.flags & VM_LOCKED) === 0) return 0;
  r.populate = grown;
  return mlockFutureOk(r.mm, grown) ? 0 : -EAGAIN;
};

/** The VMA that is to hold what `vma` maps at hva. Nothing is merged before the entries have moved. Compare copy_vma(). */
const copyVma = (r: Remap, vma: Vma): Vma => {
  const untouched = vma.mapping === null && vma.anonVma === null;
  const pgoff = untouched ? r.newHva / PAGE_SIZE : vma.pgoff + (r.hva - vma.start) / PAGE_SIZE;
  // Registrations with userfaultfd stay behind, as without UFFD_FEATURE_EVENT_REMAP.
  const flags = vma.flags & ~VM_UFFD_WP;
  const copy = vmaAlloc(r.mm, r.newHva, r.newHva + r.newLen, flags, vma.mapping, pgoff);
  vmaLink(copy);
  anonVmaClone(copy, vma);
  return copy;
};

const countLocked = (r: Remap, vma: Vma, bytes: number): void => {
  if ((vma.flags & VM_LOCKED) !== 0) setField(r.mm, 'lockedVm', r.mm.lockedVm + bytes / PAGE_SIZE);
};

/** MREMAP_DONTUNMAP: the old VMA stays, empty, not locked, and none of its pages is anywhere else. */
const keepOld = (k: Kernel, r: Remap, vma: Vma): void => {
  countLocked(r, vma, vma.start - vma.end);
  setField(vma, 'flags', vma.flags & ~VM_LOCKED);
  if (vma.start === r.hva && vma.end === r.hva + r.oldLen) unlinkAnonVmas(k, vma);
};

/**
 * Moves [hva, hva + oldLen) of a VMA to newHva, where nothing is mapped, with newLen bytes.
 * @returns newHva, or -ENOMEM with everything as it was. Compare move_vma()
 */
function* moveVma(k: Kernel, r: Remap, vma: Vma): Path<number> {
  const { mm } = r;
  // Merged pages are found by address: they are unmerged before they go elsewhere. Linux does so where
  // the VMA is mergeable; but a page that fork shares is merged where a relative asks for it.
  if (k.state.ksm.nodes.length > 0 && (vma.flags & VM_SHARED) === 0) {
    const error = yield* ksmUnmerge(k, vma, r.hva, r.hva + r.oldLen);
    if (error !== 0) return error;
  }
  const copy = copyVma(r, vma);
  const moved = yield* movePageTables(k, vma, copy, r.hva, r.newHva, r.oldLen);
  countLocked(r, copy, r.newLen);
  if (moved < r.oldLen) {
    // The way back needs no memory: the tables are still there.
    yield* movePageTables(k, copy, vma, r.newHva, r.hva, moved);
    yield* munmapLocked(k, mm, r.newHva, r.newHva + r.newLen);
    return -ENOMEM;
  }
  if ((r.flags & MREMAP_DONTUNMAP) !== 0) keepOld(k, r, vma);
  else if (r.oldLen > 0) yield* munmapLocked(k, mm, r.hva, r.hva + r.oldLen);
  yield* mergeAround(k, mm, vmaIndexAbove(mm, r.newHva));
  return r.newHva;
}

/** To a place that the caller names, or anywhere with MREMAP_DONTUNMAP. Compare mremap_to(). */
function* mremapTo(k: Kernel, r: Remap, vma: Vma): Path<number> {
  const { mm } = r;
  let source: Vma | null = vma;
  if ((r.flags & MREMAP_FIXED) !== 0) {
    const error = yield* munmapLocked(k, mm, r.newHva, r.newHva + r.newLen);
    if (error !== 0) return error;
    source = findVma(mm, r.hva);
  }
  if (r.newLen < r.oldLen) {
    const error = yield* munmapLocked(k, mm, r.hva + r.newLen, r.hva + r.oldLen);
    if (error !== 0) return error;
    r.oldLen = r.newLen;
    source = findVma(mm, r.hva);
  }
  if (source === null) return -EFAULT;
  const error = pickTarget(k, r, source);
  return error !== 0 ? error : yield* moveVma(k, r, source);
}

/** Where the new VMA goes, into newHva. @returns 0 or -errno. Compare vrm_set_new_addr() */
const pickTarget = (k: Kernel, r: Remap, vma: Vma): number => {
  const hva = pickHva(k, r.mm, {
    hva: hasTarget(r) ? r.newHva : 0,
    lenBytes: r.newLen,
    fixed: (r.flags & MREMAP_FIXED) !== 0,
    alignBytes: vmaPageSize(vma),
  });
  if (hva < 0) return hva;
  r.newHva = hva;
  return 0;
};

/** Grows a mapping: at its end if it ends there and there is room, else elsewhere. Compare expand_vma(). */
function* expandVma(k: Kernel, r: Remap, vma: Vma): Path<number> {
  const { mm } = r;
  const end = r.hva + r.newLen;
  if (vma.end === r.hva + r.oldLen && end <= taskSize(k) && isFree(mm, vma.end, end)) {
    countLocked(r, vma, end - vma.end);
    setField(vma, 'end', end);
    yield* mergeAround(k, mm, vmaIndexAbove(mm, r.hva));
    return r.hva;
  }
  if ((r.flags & MREMAP_MAYMOVE) === 0) return -ENOMEM;
  const error = pickTarget(k, r, vma);
  return error !== 0 ? error : yield* moveVma(k, r, vma);
}

/** One VMA's part of the call. @returns where it is now, or -errno */
function* mremapVma(k: Kernel, r: Remap): Path<number> {
  const vma = findVma(r.mm, r.hva);
  const error = checkVma(r, vma);
  if (error !== 0 || vma === null) return error;
  if (hasTarget(r)) return yield* mremapTo(k, r, vma);
  if (r.newLen === r.oldLen) return r.hva;
  if (r.newLen > r.oldLen) return yield* expandVma(k, r, vma);
  const shrunk = yield* munmapLocked(k, r.mm, r.hva + r.newLen, r.hva + r.oldLen);
  return shrunk !== 0 ? shrunk : r.hva;
}

/** A move that changes no length may go over several VMAs, and the holes between them. Compare remap_move(). */
function* moveSeveral(k: Kernel, r: Remap): Path<number> {
  const { mm, hva, newHva } = r;
  const end = hva + r.oldLen;
  if (findVma(mm, hva) === null) return -EFAULT;
  for (let at = hva; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) break;
    // A registration with userfaultfd would have to be told of each.
    if ((vma.flags & VM_UFFD_WP) !== 0 && (vma.start > hva || vma.end < end)) return -EFAULT;
    r.hva = Math.max(at, vma.start);
    r.newHva = newHva + (r.hva - hva);
    at = Math.min(vma.end, end);
    r.oldLen = at - r.hva;
    r.newLen = r.oldLen;
    const moved = yield* mremapVma(k, r);
    if (moved < 0) return moved;
  }
  return newHva;
}

/**
 * Changes length or place of the mapping [hva, hva + oldLen), and keeps what it contains.
 * @param flags MREMAP_MAYMOVE; with it MREMAP_FIXED: to newHva, whatever is mapped there goes; or
 *   MREMAP_DONTUNMAP: the old mapping stays, empty
 * @returns hva of the mapping; -EINVAL: flags, alignment, lengths, places that overlap, a private
 *   mapping of no length; -EFAULT: not one mapping, or one that cannot grow; -ENOMEM: no room, or no
 *   memory for tables (all is as it was); -EAGAIN: locked, and RLIMIT_MEMLOCK does not allow more
 */
export function* mremap(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  oldLen: number,
  newLen: number,
  flags: number,
  newHva = 0,
): Path<number> {
  const r: Remap = {
    mm,
    hva,
    oldLen: roundUp(oldLen, PAGE_SIZE),
    newLen: roundUp(newLen, PAGE_SIZE),
    flags,
    newHva,
    populate: 0,
  };
  const error = checkParams(k, r);
  if (error !== 0) return error;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const moveOnly = (flags & MREMAP_FIXED) !== 0 && r.oldLen === r.newLen;
  const at = moveOnly ? yield* moveSeveral(k, r) : yield* mremapVma(k, r);
  mmapWriteUnlock(mm);
  if (at >= 0 && r.populate > 0)
    yield* mmPopulate(k, mm, at + r.oldLen, at + r.oldLen + r.populate, true);
  return at;
}
