/**
 * anon_vma: from an anonymous page to the VMAs that may map it. Compare mm/rmap.c.
 *
 * A page belongs to the anon_vma of the VMA that first wrote it. After fork the child's VMA hangs
 * on all of its parent's anon_vmas (its pages may be there) and gets one of its own for new pages: an
 * ancestor's that no VMA uses any more and that has one child at most, so that the chains of a long
 * line of descendants stay short; else a new one.
 */
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import type { AnonVma, Kernel, Vma } from '../types.ts';
import { VM_ACCESS_FLAGS, VM_SOFTDIRTY } from '../vma/flags.ts';

/** An id that nothing else has had. */
export const newId = (k: Kernel): number => {
  const id = k.state.nextId;
  setField(k.state, 'nextId', id + 1);
  return id;
};

const anonVmaAlloc = (k: Kernel, parent: AnonVma | null): AnonVma => {
  const anonVma: AnonVma = {
    kind: 'anon',
    id: newId(k),
    vmas: [],
    parent,
    numChildren: parent === null ? 1 : 0,
    numActiveVmas: 0,
    locked: false,
  };
  mapSet(k.state.mappings, anonVma.id, anonVma);
  if (parent !== null) setField(parent, 'numChildren', parent.numChildren + 1);
  return anonVma;
};

/** New pages of the VMA belong to the anon_vma from now on. */
const activate = (vma: Vma, anonVma: AnonVma): void => {
  setField(vma, 'anonVma', anonVma);
  setField(anonVma, 'numActiveVmas', anonVma.numActiveVmas + 1);
};

const link = (vma: Vma, anonVma: AnonVma): void => {
  listPush(vma.anonChain, anonVma);
  listPush(anonVma.vmas, vma);
};

/** Neighbours that mprotect may once merge: they share an anon_vma. Compare anon_vma_compatible(). */
const compatible = (low: Vma, high: Vma): boolean =>
  low.end === high.start &&
  low.mapping === high.mapping &&
  ((low.flags ^ high.flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY)) === 0 &&
  high.pgoff === low.pgoff + (low.end - low.start) / 4096;

const findMergeable = (vma: Vma): AnonVma | null => {
  const { vmas } = vma.mm;
  const i = vmas.indexOf(vma);
  const next = vmas[i + 1];
  if (next?.anonVma && next.anonChain.length === 1 && compatible(vma, next)) return next.anonVma;
  const prev = vmas[i - 1];
  if (prev?.anonVma && prev.anonChain.length === 1 && compatible(prev, vma)) return prev.anonVma;
  return null;
};

/** Before the first anonymous page of a VMA. Compare anon_vma_prepare(). */
export const anonVmaPrepare = (k: Kernel, vma: Vma): void => {
  if (vma.anonVma !== null) return;
  const anonVma = findMergeable(vma) ?? anonVmaAlloc(k, null);
  activate(vma, anonVma);
  link(vma, anonVma);
};

/** `to` has every page that `from` may have, and its anon_vma: after a split, a move or a merge. Compare anon_vma_clone(). */
export const anonVmaClone = (to: Vma, from: Vma): void => {
  if (from.anonVma !== null) activate(to, from.anonVma);
  for (const anonVma of from.anonChain) link(to, anonVma);
};

/** One of a parent's anon_vmas that the child may have for its own, or null. */
const reusable = (parent: Vma): AnonVma | null =>
  parent.anonChain.find(
    ({ numChildren, numActiveVmas }) => numChildren < 2 && numActiveVmas === 0,
  ) ?? null;

/** The child's side of a fork, before any entry is copied. Compare anon_vma_fork(). */
export const anonVmaFork = (k: Kernel, child: Vma, parent: Vma): void => {
  if (parent.anonVma === null) return;
  const reused = reusable(parent);
  for (const anonVma of parent.anonChain) link(child, anonVma);
  const anonVma = reused ?? anonVmaAlloc(k, parent.anonVma);
  activate(child, anonVma);
  if (reused === null) link(child, anonVma);
};

/** A VMA goes. An anon_vma without VMAs goes with it; pages that outlive it have no rmap then. */
export const unlinkAnonVmas = (k: Kernel, vma: Vma): void => {
  for (const anonVma of vma.anonChain) {
    listRemoveAt(anonVma.vmas, anonVma.vmas.indexOf(vma));
    if (anonVma.vmas.length > 0) continue;
    mapDelete(k.state.mappings, anonVma.id);
    const { parent } = anonVma;
    if (parent !== null) setField(parent, 'numChildren', parent.numChildren - 1);
  }
  const own = vma.anonVma;
  if (own !== null) setField(own, 'numActiveVmas', own.numActiveVmas - 1);
  setField(vma, 'anonChain', []);
  setField(vma, 'anonVma', null);
};
