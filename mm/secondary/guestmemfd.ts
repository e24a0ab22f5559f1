/**
 * guest_memfd's part of the door: a memory slot is bound to pages of a file, is told before they change,
 * and asks the file for them, since no address stands for a private one. Compare
 * virt/kvm/guest_memfd.c:kvm_gmem_bind(), kvm_gmem_get_pfn().
 */
import { listPush, listRemoveAt } from '#cells';
import { downWrite, upWrite } from '../cache/rwsem.ts';
import { EFAULT, EHWPOISON, EINVAL } from '../errno.ts';
import { folioOf, folioPut, folioTestFlags, folioUnlock } from '../folio/folio.ts';
import { PG_HWPOISON, pageToPfn } from '../frames/table.ts';
import { guestMemfdGetFolio } from '../fs/guestmemfd.ts';
import { guestMemfdState } from '../fs/guestmemfd-state.ts';
import { mappingGet, mappingPut } from '../fs/mapping.ts';
import { mayTakeGet } from '../gup/users.ts';
import { type Path, YP_SECONDARY_PFN } from '../path.ts';
import { noteGrabPage } from '../provenance/provenance.ts';
import type { AddressSpace, GuestMemfdBinding, GuestMemfdOps, Kernel } from '../types.ts';
import { clearPfn, type SecondaryPfn } from './fault-in.ts';

/** Makes a kind of VM known that binds files, by name. Once per kernel, also after a restore. */
export const registerGuestMemfdOps = (k: Kernel, ops: string, operations: GuestMemfdOps): void => {
  k.guestMemfdOps.set(ops, operations);
};

/**
 * Binds a new memory slot to a part of a file.
 * @returns 0; -EINVAL: not a guest_memfd, another VM's, beyond its end, or some of it is bound already
 */
export function* guestMemfdBind(
  k: Kernel,
  mapping: AddressSpace,
  binding: GuestMemfdBinding,
): Path<number> {
  if (mapping.kind !== 'gmem' || !k.guestMemfdOps.has(binding.ops)) return -EINVAL;
  const { ops, owner, pgoff, nrPages } = binding;
  if (pgoff < 0 || nrPages <= 0 || pgoff + nrPages > mapping.nrPages) return -EINVAL;
  yield* downWrite(mapping.invalidateLock);
  const { bindings } = guestMemfdState(mapping);
  const refused = bindings.some(
    (b) =>
      b.ops !== ops ||
      b.owner !== owner ||
      (pgoff < b.pgoff + b.nrPages && b.pgoff < pgoff + nrPages),
  );
  if (!refused) listPush(bindings, binding);
  upWrite(mapping.invalidateLock);
  return refused ? -EINVAL : 0;
}

/** The slot goes; its entries have gone before. One that is not bound is no error: the file may have gone first. */
export function* guestMemfdUnbind(
  mapping: AddressSpace,
  ops: string,
  owner: number,
  slot: number,
): Path<void> {
  yield* downWrite(mapping.invalidateLock);
  const { bindings } = guestMemfdState(mapping);
  const at = bindings.findIndex((b) => b.ops === ops && b.owner === owner && b.slot === slot);
  if (at >= 0) listRemoveAt(bindings, at);
  upWrite(mapping.invalidateLock);
}

/** All slots of a VM go at once, with the VM: whoever is in the middle of a change finds nobody to tell. */
export const guestMemfdUnbindAll = (k: Kernel, ops: string, owner: number): void => {
  for (const object of k.state.mappings.values()) {
    if (object.kind !== 'gmem') continue;
    const { bindings } = guestMemfdState(object);
    for (let at = bindings.length - 1; at >= 0; at--)
      if (bindings[at]?.ops === ops && bindings[at]?.owner === owner) listRemoveAt(bindings, at);
  }
};

/**
 * faultInPfn() for a page of a file, private or shared: it is there when this comes back, and writable.
 * Whether it still is, the invalidate sequence says, as it does of addresses; releasePfn() ends it.
 * @returns 0; -EFAULT: the file is gone; -EINVAL beyond the end; -ENOMEM; -EHWPOISON
 */
export function* guestMemfdGetPfn(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  out: SecondaryPfn,
): Path<number> {
  clearPfn(out);
  // The last user may go at any yield: then the file is emptied, and takes no page any more.
  if (mapping.users <= 0) return -EFAULT;
  mappingGet(mapping);
  const error = yield* getPfn(k, mapping, pgoff, out);
  yield* mappingPut(k, mapping);
  if (error === 0 && k.watched) yield YP_SECONDARY_PFN;
  return error;
}

/** The same, with the file held open. */
function* getPfn(k: Kernel, mapping: AddressSpace, pgoff: number, out: SecondaryPfn): Path<number> {
  const page = yield* guestMemfdGetFolio(k, mapping, pgoff);
  if (page < 0) return page;
  const folio = folioOf(k, page);
  const poisoned = folioTestFlags(k, page, PG_HWPOISON);
  if (!poisoned) {
    out.pfn = pageToPfn(page);
    out.writable = true;
    // hasFolio stays false: there is nothing to write back, and nobody asks how young it is.
    out.held = mayTakeGet(k.policy, out.user);
  }
  folioUnlock(k, folio);
  if (out.held) noteGrabPage(k, 'get', 'kvm_gmem_get_pfn()', out.user, page, 1);
  else folioPut(k, folio);
  return poisoned ? -EHWPOISON : 0;
}
