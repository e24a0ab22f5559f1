/**
 * KVM_SET_USER_MEMORY_REGION: slots are created, moved, deleted and change their flags under a guest
 * that runs. Compare virt/kvm/kvm_main.c:kvm_set_memory_region(), kvm_set_memslot() and
 * arch/riscv/kvm/mmu.c:kvm_arch_prepare_memory_region().
 *
 *   delete, move    the slot is marked invalid, its entries go, then it goes (and is inserted elsewhere):
 *                   a fault that meets an invalid slot waits for what comes of it
 *   any change      happens while no invalidation is open, so that the end of one finds the slots of its
 *                   start; and under the lock of the slots, one change at a time
 */
import { listRemoveAt, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  EEXIST,
  EFAULT,
  EINVAL,
  EPERM,
  findVma,
  VM_PFNMAP,
  VM_WRITE,
  YP_MEMSLOT,
  YP_WAIT,
} from '#mm';
import type { Path } from '#mm/secondary';
import { setDirtyLog } from './dirty-log.ts';
import { unbindGuestMemfd } from './gmem.ts';
import { GSTAGE_GPA_LIMIT, gstageUnmapRange } from './gstage.ts';
import {
  addMemSlot,
  insertMemSlot,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  type MemSlot,
} from './memslot.ts';
import { flushGStageRange } from './tlb.ts';
import { type Kvm, mmOfVm, type Vm, waitForInvalidations } from './vm.ts';

/** What a VMM asks for. Plain data. Compare struct kvm_userspace_memory_region. */
export interface MemoryRegion {
  id: number;
  /** KVM_MEM_*. */
  flags: number;
  gpa: number;
  /** 0: the slot goes. */
  lenBytes: number;
  hva: number;
}

/** Slots that a VMM may number. Compare KVM_USER_MEM_SLOTS. */
const NR_SLOTS = 32764;
/** First address that is no user's. */
const HVA_LIMIT = 2 ** 47;
const FLAGS = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;

/**
 * Creates, changes, moves or deletes a slot.
 * @returns 0; -EINVAL: not aligned, unknown flags, nothing to delete, or a change of what cannot change
 *   (size, hva, read-only); -EEXIST: meets another slot; -EFAULT: beyond what the tables translate;
 *   -EPERM: writable, over a mapping that is not
 */
export function* setUserMemoryRegion(kvm: Kvm, vm: Vm, region: MemoryRegion): Path<number> {
  const { id, flags, gpa, lenBytes, hva } = region;
  if ((flags & ~FLAGS) !== 0 || id < 0 || id >= NR_SLOTS) return -EINVAL;
  if ([gpa, lenBytes, hva].some((n) => n < 0 || n % PAGE_SIZE !== 0)) return -EINVAL;
  if (hva + lenBytes > HVA_LIMIT || lenBytes / PAGE_SIZE >= 2 ** 31) return -EINVAL;
  while (vm.slotsLocked) yield YP_WAIT;
  setField(vm, 'slotsLocked', true);
  const error = yield* change(kvm, vm, region);
  setField(vm, 'slotsLocked', false);
  return error;
}

/** Under the lock of the slots. */
function* change(kvm: Kvm, vm: Vm, region: MemoryRegion): Path<number> {
  const { id, flags, gpa, lenBytes, hva } = region;
  const old = vm.slots.find((slot) => slot.id === id);
  if (lenBytes === 0) return old === undefined ? -EINVAL : yield* remove(kvm, vm, old);
  if (old === undefined) {
    if (meetsSlot(vm, region)) return -EEXIST;
    const error = mayHave(kvm, vm, region);
    return error === 0 ? yield* create(kvm, vm, region) : error;
  }
  const fixed = old.flags ^ flags;
  // What has a guest_memfd goes, or stays as it is.
  if (old.gmem !== null) return gpa === old.gpa && fixed === 0 && hva === old.hva ? 0 : -EINVAL;
  if (hva !== old.hva || lenBytes !== old.lenBytes || (fixed & KVM_MEM_READONLY) !== 0)
    return -EINVAL;
  if (gpa !== old.gpa) return meetsSlot(vm, region) ? -EEXIST : yield* move(kvm, vm, old, region);
  if (fixed === 0) return 0;
  const error = mayHave(kvm, vm, region);
  if (error !== 0) return error;
  yield* waitForInvalidations(vm);
  setLogging(kvm, vm, old, flags);
  nextGeneration(vm);
  return 0;
}

const meetsSlot = (vm: Vm, { id, gpa, lenBytes }: MemoryRegion): boolean =>
  vm.slots.some((o) => o.id !== id && gpa < o.gpa + o.lenBytes && o.gpa < gpa + lenBytes);

/** May the VM have this memory there? What is not mapped yet may be. */
const mayHave = (kvm: Kvm, vm: Vm, { flags, gpa, lenBytes, hva }: MemoryRegion): number => {
  if (gpa + lenBytes >= GSTAGE_GPA_LIMIT) return -EFAULT;
  const mm = mmOfVm(kvm, vm);
  for (let at = hva; at < hva + lenBytes; ) {
    const vma = findVma(mm, at) ?? mm.vmas.find(({ start }) => start > at);
    if (vma === undefined || vma.start >= hva + lenBytes) return 0;
    if ((flags & KVM_MEM_READONLY) === 0 && (vma.flags & VM_WRITE) === 0) return -EPERM;
    if ((vma.flags & VM_PFNMAP) !== 0 && (flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0) return -EINVAL;
    at = vma.end;
  }
  return 0;
};

/** Whoever has cached what a slot said looks again. */
const nextGeneration = (vm: Vm): void => setField(vm, 'slotsGeneration', vm.slotsGeneration + 1);

function* create(kvm: Kvm, vm: Vm, region: MemoryRegion): Path<number> {
  yield* waitForInvalidations(vm);
  const slot = addMemSlot(
    vm.slots,
    { ...region, flags: region.flags & KVM_MEM_READONLY },
    GSTAGE_GPA_LIMIT,
  );
  setLogging(kvm, vm, slot, region.flags);
  nextGeneration(vm);
  return 0;
}

const setLogging = (kvm: Kvm, vm: Vm, slot: MemSlot, flags: number): void => {
  const on = (flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0;
  if (on !== ((slot.flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0)) setDirtyLog(kvm, vm, slot, on);
};

/** No fault makes an entry of the slot any more, and none is left. Compare kvm_invalidate_memslot() */
function* invalidate(kvm: Kvm, vm: Vm, slot: MemSlot): Path<void> {
  yield* waitForInvalidations(vm);
  setField(slot, 'invalid', true);
  nextGeneration(vm);
  const endGpa = slot.gpa + slot.lenBytes;
  if (gstageUnmapRange(kvm.k, vm.gstage, slot.gpa, endGpa) > 0)
    flushGStageRange(kvm, vm, slot.gpa, endGpa);
  if (kvm.k.watched) yield YP_MEMSLOT;
  yield* waitForInvalidations(vm);
}

const take = (vm: Vm, slot: MemSlot): void => {
  listRemoveAt(vm.slots, vm.slots.indexOf(slot));
  nextGeneration(vm);
};

function* remove(kvm: Kvm, vm: Vm, slot: MemSlot): Path<number> {
  yield* invalidate(kvm, vm, slot);
  yield* unbindGuestMemfd(kvm, vm, slot);
  take(vm, slot);
  return 0;
}

/** To another gpa, and perhaps with other flags. The dirty log goes with it. */
function* move(kvm: Kvm, vm: Vm, old: MemSlot, region: MemoryRegion): Path<number> {
  yield* invalidate(kvm, vm, old);
  const error = mayHave(kvm, vm, region);
  if (error !== 0) {
    setField(old, 'invalid', false);
    nextGeneration(vm);
    return error;
  }
  take(vm, old);
  const slot: MemSlot = { ...old, gpa: region.gpa, invalid: false };
  insertMemSlot(vm.slots, slot);
  setLogging(kvm, vm, slot, region.flags);
  return 0;
}
