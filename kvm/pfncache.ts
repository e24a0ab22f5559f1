/**
 * A cache of one guest page's frame for the hypervisor's own loads and stores: what it reads and writes
 * again and again, without a walk each time. Compare virt/kvm/pfncache.c.
 *
 * No reference and no pin keeps the frame: the notifier does, which makes the cache invalid before
 * anything else of an invalidation happens. So a refresh may believe what it has looked up only while
 * no invalidation at all is open, and none has ended since: the count of open ones is raised before the
 * caches are looked at, and dropped after the sequence has moved.
 *
 *   users       pfnCacheCheck() -> access, without a yield in between; if false pfnCacheRefresh()
 */
import { listPush, listRemoveAt, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  createSecondaryPfn,
  EFAULT,
  EINVAL,
  faultInPfn,
  invalidateSeq,
  type Path,
  pfnToPage,
  releasePfn,
  type SecondaryPfn,
  YP_WAIT,
} from '#mm/secondary';
import { markPageDirty } from './dirty-ring.ts';
import { gpaToHva, gpaToMemSlot, slotReadOnly } from './memslot.ts';
import { countVm } from './stat.ts';
import { type Kvm, mmOfVm, type Vm } from './vm.ts';

/** One cache. Plain data, kept with its VM. */
export interface PfnCache {
  active: boolean;
  /** `pfn` may be used. Invariant: no invalidation that covers `hva` is open or has been since the lookup. */
  valid: boolean;
  gpa: number;
  /** Of the slots that `hva` was taken from. */
  generation: number;
  /** Page behind the gpa, in the VM's mm; -1: none. */
  hva: number;
  pfn: number;
  /** Somebody refreshes it (refresh_lock). */
  refreshing: boolean;
}

/** Makes a cache of a VM, for nothing yet. Compare kvm_gpc_init() */
export const createPfnCache = (vm: Vm): PfnCache => {
  const cache: PfnCache = {
    active: false,
    valid: false,
    gpa: -1,
    generation: -1,
    hva: -1,
    pfn: -1,
    refreshing: false,
  };
  listPush(vm.pfnCaches, cache);
  return cache;
};

/**
 * The cache is for the page of `gpa` from now on. @param lenBytes does not cross the page's end
 * @returns 0; -EINVAL; -EFAULT: no memory of the guest's, or none behind it. Compare kvm_gpc_activate()
 */
export function* pfnCacheActivate(
  kvm: Kvm,
  vm: Vm,
  cache: PfnCache,
  gpa: number,
  lenBytes: number,
): Path<number> {
  if (!fitsPage(gpa, lenBytes)) return -EINVAL;
  setField(cache, 'active', true);
  setField(cache, 'valid', false);
  setField(cache, 'gpa', gpa);
  return yield* pfnCacheRefresh(kvm, vm, cache, lenBytes);
}

/** It is for nothing any more. Compare kvm_gpc_deactivate() */
export const pfnCacheDeactivate = (vm: Vm, cache: PfnCache): void => {
  setField(cache, 'active', false);
  setField(cache, 'valid', false);
  setField(cache, 'pfn', -1);
  const at = vm.pfnCaches.indexOf(cache);
  if (at >= 0) listRemoveAt(vm.pfnCaches, at);
};

const fitsPage = (gpa: number, lenBytes: number): boolean =>
  lenBytes > 0 && (gpa % PAGE_SIZE) + lenBytes <= PAGE_SIZE;

/** May the frame be used until the next yield? Compare kvm_gpc_check() */
export const pfnCacheCheck = (vm: Vm, cache: PfnCache, lenBytes: number): boolean =>
  cache.active &&
  cache.valid &&
  cache.generation === vm.slotsGeneration &&
  fitsPage(cache.gpa, lenBytes);

/** Byte of the machine's memory that the cached gpa is at. The cache was checked since the last yield. */
export const pfnCacheOffset = (kvm: Kvm, cache: PfnCache): number =>
  kvm.memory.pageOffset(pfnToPage(cache.pfn)) + (cache.gpa % PAGE_SIZE);

/**
 * Bytes for the guest, through the cache, which was checked since the last yield: as a store of the
 * guest they are in its dirty log. Compare kvm_gpc_mark_dirty_in_slot()
 */
export const pfnCacheWrite = (kvm: Kvm, vm: Vm, cache: PfnCache, bytes: Uint8Array): void => {
  kvm.memory.setBytes(pfnCacheOffset(kvm, cache), bytes);
  const slot = gpaToMemSlot(vm.slots, cache.gpa);
  if (slot !== undefined) markPageDirty(slot, cache.gpa - (cache.gpa % PAGE_SIZE), null);
};

/**
 * Looks the frame up again, if that is needed. Sleeps; one at a time refreshes a cache.
 * @returns 0: valid, until the next yield at least; -EINVAL: not active; -EFAULT. Compare __kvm_gpc_refresh()
 */
export function* pfnCacheRefresh(
  kvm: Kvm,
  vm: Vm,
  cache: PfnCache,
  lenBytes: number,
): Path<number> {
  while (cache.refreshing) yield YP_WAIT;
  if (!cache.active || !fitsPage(cache.gpa, lenBytes)) return -EINVAL;
  setField(cache, 'refreshing', true);
  const error = yield* refresh(kvm, vm, cache);
  setField(cache, 'refreshing', false);
  if (error === 0) return 0;
  setField(cache, 'valid', false);
  setField(cache, 'pfn', -1);
  return error;
}

function* refresh(kvm: Kvm, vm: Vm, cache: PfnCache): Path<number> {
  if (cache.generation !== vm.slotsGeneration || cache.hva < 0 || !cache.valid) {
    const slot = gpaToMemSlot(vm.slots, cache.gpa);
    const hva = slot === undefined || slotReadOnly(slot) ? -1 : gpaToHva(slot, cache.gpa);
    const page = hva - (hva % PAGE_SIZE);
    const moved = page !== cache.hva;
    setField(cache, 'generation', vm.slotsGeneration);
    setField(cache, 'hva', hva < 0 ? -1 : page);
    if (hva < 0) return -EFAULT;
    if (cache.valid && !moved) return 0;
  }
  return yield* lookUp(kvm, vm, cache);
}

/** Compare hva_to_pfn_retry(). */
function* lookUp(kvm: Kvm, vm: Vm, cache: PfnCache): Path<number> {
  const { k } = kvm;
  const found: SecondaryPfn = createSecondaryPfn();
  // Before the first yield: nobody may use the old frame as the one of the new hva.
  setField(cache, 'valid', false);
  for (;;) {
    if (vm.released || !cache.active) return -EFAULT;
    const seq = invalidateSeq(vm.invalidate);
    const error = yield* faultInPfn(k, mmOfVm(kvm, vm), cache.hva, true, found);
    if (error < 0) return -EFAULT;
    // From here on nothing yields: with the lock of the cache held.
    const stale = vm.openInvalidations > 0 || vm.invalidate.seq !== seq;
    if (!stale || k.sabotage.faultSkipsRetry) break;
    releasePfn(k, found, false, false);
    countVm(vm.stat, 'pfnCacheRetries');
    while (vm.openInvalidations > 0) yield YP_WAIT;
  }
  setField(cache, 'pfn', found.pfn);
  setField(cache, 'valid', true);
  countVm(vm.stat, 'pfnCacheRefreshes');
  // Dirty from here on, as an entry that may be written to: when it goes nobody can say any more.
  releasePfn(k, found, true, true);
  return 0;
}

/** The address space goes: no frame of it is anybody's to use any more. */
export const dropPfnCaches = (vm: Vm): void => invalidatePfnCaches(vm, 0, Number.POSITIVE_INFINITY);

/**
 * An invalidation of [startHva, endHva) begins: before anything else happens to the range, and after
 * the count of open invalidations was raised. Compare gfn_to_pfn_cache_invalidate_start()
 */
export const invalidatePfnCaches = (vm: Vm, startHva: number, endHva: number): void => {
  for (const cache of vm.pfnCaches)
    if (cache.valid && cache.hva >= startHva && cache.hva < endHva) {
      setField(cache, 'valid', false);
      countVm(vm.stat, 'pfnCacheInvalidations');
    }
};
