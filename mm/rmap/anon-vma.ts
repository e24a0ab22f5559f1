/**
 * anon_vma: from an anonymous page to the VMAs that may map it. Compare mm/rmap.c.
 *
 * A page belongs to the anon_vma of the VMA that first wrote it. After fork the child's VMA hangs
 * on all of its parent's anon_vmas (its pages may be there) and gets one of its own for new pages.
 * Linux reuses childless anon_vmas, so that chains stay short; here every fork adds one.
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

const anonVmaAlloc = (k: Kernel): AnonVma => {
  const anonVma: AnonVma = { kind: 'anon', id: newId(k), vmas: [], locked: false };
  mapSet(k.state.mappings, anonVma.id, anonVma);
  return anonVma;
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
  const anonVma = findMergeable(vma) ?? anonVmaAlloc(k);
  setField(vma, 'anonVma', anonVma);
  link(vma, anonVma);
};

/** `to` may have every page that `from` may have: after a split, a merge, or in a fork. */
export const anonVmaClone = (to: Vma, from: Vma): void => {
  for (const anonVma of from.anonChain) link(to, anonVma);
};

/** The child's side of a fork, before any entry is copied. Compare anon_vma_fork(). */
export const anonVmaFork = (k: Kernel, child: Vma, parent: Vma): void => {
  if (parent.anonVma === null) return;
  anonVmaClone(child, parent);
  const anonVma = anonVmaAlloc(k);
  setField(child, 'anonVma', anonVma);
  link(child, anonVma);
};

/** A VMA goes. An anon_vma without VMAs goes with it; pages that outlive it have no rmap then. */
export const unlinkAnonVmas = (k: Kernel, vma: Vma): void => {
  for (const anonVma of vma.anonChain) {
    listRemoveAt(anonVma.vmas, anonVma.vmas.indexOf(vma));
    if (anonVma.vmas.length === 0) mapDelete(k.state.mappings, anonVma.id);
  }
  setField(vma, 'anonChain', []);
  setField(vma, 'anonVma', null);
};
