/**
 * What a guest_memfd file is beside its pages: which of them are private, and which memory slots of a
 * VM show them. Compare virt/kvm/guest_memfd.c.
 *
 * There is no address by which a private page could be found, so a file has notifiers of its own: a
 * bound slot is told before pages go, move or change sides, and after, as by MMU notifiers.
 */
import { fetchAndNot, fetchOr, listRemoveAt, readOnce } from '#cells';
import { checkFileRangeEnd } from '../check/secondary.ts';
import type { AddressSpace, GuestMemfdBinding, GuestMemfdOps, Kernel } from '../types.ts';

/** Flags of KVM_CREATE_GUEST_MEMFD, as include/uapi/linux/kvm.h has them. */
export const GUEST_MEMFD_FLAG_MMAP = 1 << 0;
export const GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1;

/** Plain data. */
export interface GuestMemfdState {
  /** GUEST_MEMFD_FLAG_*. */
  flags: number;
  /** A bit a page: only the guest may reach it. */
  private: Int32Array;
  /** Slots that show parts of the file; all of one VM, and not overlapping. */
  bindings: GuestMemfdBinding[];
}

/** All private, or all shared. */
export const createGuestMemfdState = (nrPages: number, flags: number): GuestMemfdState => {
  const words = new Int32Array(Math.ceil(nrPages / 32));
  if ((flags & GUEST_MEMFD_FLAG_INIT_SHARED) === 0) words.fill(-1);
  return { flags, private: words, bindings: [] };
};

/** @throws Error for a file of another kind */
export const guestMemfdState = (mapping: AddressSpace): GuestMemfdState => {
  if (mapping.gmem === null) throw new Error(`file ${mapping.id} is not a guest_memfd`);
  return mapping.gmem;
};

/** May nobody but the guest reach the page? */
export const guestMemfdIsPrivate = (mapping: AddressSpace, pgoff: number): boolean =>
  (readOnce(guestMemfdState(mapping).private, pgoff >>> 5) & (1 << (pgoff & 31))) !== 0;

export const guestMemfdSetPrivate = (mapping: AddressSpace, pgoff: number, to: boolean): void => {
  const words = guestMemfdState(mapping).private;
  if (to) fetchOr(words, pgoff >>> 5, 1 << (pgoff & 31));
  else fetchAndNot(words, pgoff >>> 5, 1 << (pgoff & 31));
};

const opsOf = (k: Kernel, name: string): GuestMemfdOps => {
  const ops = k.guestMemfdOps.get(name);
  if (ops === undefined) throw new Error(`no guest_memfd operations are named ${name}`);
  return ops;
};

/** Bindings that show any page of [first, end), with that part. */
const eachBound = (
  mapping: AddressSpace,
  first: number,
  end: number,
  tell: (binding: GuestMemfdBinding, from: number, to: number) => void,
): void => {
  for (const binding of guestMemfdState(mapping).bindings) {
    const from = Math.max(first, binding.pgoff);
    const to = Math.min(end, binding.pgoff + binding.nrPages);
    if (from < to) tell(binding, from, to);
  }
};

/**
 * Pages [first, end) are about to go, move, or change sides: nobody has an entry for them after this, or
 * makes one before the end. The caller holds invalidate_lock until then, so that the bindings stay.
 */
export const guestMemfdInvalidateStart = (
  k: Kernel,
  mapping: AddressSpace,
  first: number,
  end: number,
): void =>
  eachBound(mapping, first, end, (binding, from, to) =>
    opsOf(k, binding.ops).invalidateStart(binding, from, to),
  );

export const guestMemfdInvalidateEnd = (
  k: Kernel,
  mapping: AddressSpace,
  first: number,
  end: number,
): void => {
  if (k.checked) checkFileRangeEnd(k, mapping, first, end);
  eachBound(mapping, first, end, (binding, from, to) =>
    opsOf(k, binding.ops).invalidateEnd(binding, from, to),
  );
};

/** The last user of the file has gone: slots that showed it show nothing. Compare kvm_gmem_release(). */
export const guestMemfdRelease = (k: Kernel, mapping: AddressSpace): void => {
  const { bindings } = guestMemfdState(mapping);
  guestMemfdInvalidateStart(k, mapping, 0, mapping.nrPages);
  guestMemfdInvalidateEnd(k, mapping, 0, mapping.nrPages);
  for (;;) {
    const binding = listRemoveAt(bindings, 0);
    if (binding === undefined) return;
    opsOf(k, binding.ops).released(binding);
  }
};
