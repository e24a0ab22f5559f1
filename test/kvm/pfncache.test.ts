/** Caches of frames for the hypervisor's own accesses, and pages that it maps by a pin (1.13 of kvm_main.c and pfncache.c). */
import { describe, expect, test } from 'vitest';
import { RAM_OFFSET } from '#emu';
import {
  createPfnCache,
  destroyVm,
  dirtyPageNumbers,
  harvestDirtyLog,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  mapVcpuPage,
  type PfnCache,
  pfnCacheActivate,
  pfnCacheCheck,
  pfnCacheDeactivate,
  pfnCacheOffset,
  pfnCacheRefresh,
  pfnCacheWrite,
  setUserMemoryRegion,
  unmapVcpuPage,
  vcpuMapOffset,
  type VcpuMap,
} from '#kvm';
import {
  assertKernel,
  drive,
  EBUSY,
  EFAULT,
  EINVAL,
  folioOf,
  folioPinCount,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  migrateFolio,
  MMU_NOTIFY_CLEAR,
  mmap,
  mmExit,
  mprotect,
  munmap,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
  pfnToPage,
  PROT_READ,
  PROT_WRITE,
  YP_SECONDARY_PFN,
  YP_WAIT,
} from '#mm';
import { GUEST_GPA, peek, poke, type TestMachine, testMachine } from './machine.ts';

const PAGE = 4096;
const DATA = GUEST_GPA + 0x20_0000;
const WORD = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const WORD_VALUE = 0x0807_0605_0403_0201n;

const hva = (m: TestMachine): number => m.hva + (DATA - GUEST_GPA);
const activated = (m: TestMachine): PfnCache => {
  const cache = createPfnCache(m.vm);
  expect(drive(pfnCacheActivate(m.kvm, m.vm, cache, DATA + 16, 8))).toBe(0);
  return cache;
};
const valid = (m: TestMachine, cache: PfnCache): boolean => pfnCacheCheck(m.vm, cache, 8);
const refresh = (m: TestMachine, cache: PfnCache): number =>
  drive(pfnCacheRefresh(m.kvm, m.vm, cache, 8));
const wordAt = (m: TestMachine, offset: number): bigint =>
  new DataView(m.k.memory.u8.buffer).getBigUint64(offset, true);
const migrate = (m: TestMachine, pfn: number): number =>
  drive(migrateFolio(m.k, folioOf(m.k, pfnToPage(pfn))));

describe('a pfn cache', () => {
  test('leads to the bytes of the guest, for reading and writing, and holds nothing', () => {
    const m = testMachine();
    poke(m, DATA + 16, 0x1234n);
    const cache = activated(m);
    expect(valid(m, cache)).toBe(true);
    expect(wordAt(m, pfnCacheOffset(m.kvm, cache))).toBe(0x1234n);
    pfnCacheWrite(m.kvm, m.vm, cache, WORD);
    expect(peek(m, DATA + 16)).toBe(WORD_VALUE);
    expect(pfnCacheOffset(m.kvm, cache)).toBeGreaterThan(RAM_OFFSET);
    expect(migrate(m, cache.pfn)).toBe(0);
  });

  test('a migration makes it invalid before the page moves; a refresh finds the new frame', () => {
    const m = testMachine();
    const cache = activated(m);
    const before = cache.pfn;
    expect(migrate(m, before)).toBe(0);
    expect(valid(m, cache)).toBe(false);
    expect(m.vm.stat.pfnCacheInvalidations).toBe(1);
    expect(refresh(m, cache)).toBe(0);
    expect(valid(m, cache)).toBe(true);
    expect(cache.pfn).not.toBe(before);
    assertKernel(m.k);
  });

  test('an invalidation elsewhere leaves it alone', () => {
    const m = testMachine();
    const cache = activated(m);
    expect(drive(mprotect(m.k, m.mm, hva(m) + PAGE, PAGE, PROT_READ))).toBe(0);
    expect(valid(m, cache)).toBe(true);
  });

  test('a change of the slots makes it look again, and no slot is -EFAULT', () => {
    const m = testMachine();
    const cache = activated(m);
    const extra = { id: 1, flags: 0, gpa: 2 ** 33, lenBytes: PAGE, hva: m.hva };
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, extra))).toBe(0);
    expect(valid(m, cache)).toBe(false);
    const refreshes = m.vm.stat.pfnCacheRefreshes;
    expect(refresh(m, cache)).toBe(0);
    // The same hva, the same frame: no lookup was needed.
    expect(m.vm.stat.pfnCacheRefreshes).toBe(refreshes);
    const gone = { ...m.vm.slots[0]!, lenBytes: 0 };
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, gone))).toBe(0);
    expect(valid(m, cache)).toBe(false);
    expect(refresh(m, cache)).toBe(-EFAULT);
  });

  test('a slot that moves takes it along to another gpa only by being activated again', () => {
    const m = testMachine();
    const cache = activated(m);
    const moved = { ...m.vm.slots[0]!, gpa: 2 ** 33 };
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, moved))).toBe(0);
    expect(refresh(m, cache)).toBe(-EFAULT);
    expect(drive(pfnCacheActivate(m.kvm, m.vm, cache, 2 ** 33, 8))).toBe(0);
    expect(valid(m, cache)).toBe(true);
  });

  test('what it writes is in the dirty log', () => {
    const m = testMachine({ flags: KVM_MEM_LOG_DIRTY_PAGES });
    const cache = activated(m);
    const harvest = (): number[] => dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, m.vm.slots[0]!)!);
    expect(harvest()).toEqual([]);
    pfnCacheWrite(m.kvm, m.vm, cache, WORD);
    expect(harvest()).toEqual([(DATA - GUEST_GPA) / PAGE]);
  });

  test('a refresh while any invalidation is open waits for its end, though it meets no slot', () => {
    const m = testMachine();
    const cache = activated(m);
    migrate(m, cache.pfn);
    const elsewhere = notifierRange(m.mm, 2 ** 36, 2 ** 36 + PAGE, MMU_NOTIFY_CLEAR);
    notifyRangeStart(m.k, elsewhere);
    expect(m.vm.invalidate.inProgress).toBe(0);
    expect(m.vm.openInvalidations).toBe(1);
    const path = pfnCacheRefresh(m.kvm, m.vm, cache, 8);
    expect(path.next()).toEqual({ done: false, value: YP_WAIT });
    expect(valid(m, cache)).toBe(false);
    notifyRangeEnd(m.k, elsewhere);
    expect(drive(path)).toBe(0);
    expect(valid(m, cache)).toBe(true);
    expect(m.vm.stat.pfnCacheRetries).toBe(1);
  });

  const refreshAcross = (m: TestMachine, cache: PfnCache): void => {
    m.k.watched = true;
    const path = pfnCacheRefresh(m.kvm, m.vm, cache, 8);
    let step = path.next();
    while (step.value !== YP_SECONDARY_PFN) step = path.next();
    m.k.watched = false;
    // The frame is known and not yet in the cache: now the page moves.
    const pages = m.vm.invalidate.seq;
    expect(drive(munmap(m.k, m.mm, hva(m), PAGE))).toBe(0);
    const request = {
      hva: hva(m),
      lenBytes: PAGE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
    };
    expect(drive(mmap(m.k, m.mm, request))).toBe(hva(m));
    expect(m.vm.invalidate.seq).toBeGreaterThan(pages);
    expect(drive(path)).toBe(0);
  };

  test('an invalidation between lookup and use sends the refresh back', () => {
    const m = testMachine();
    poke(m, DATA + 16, 77n);
    const cache = activated(m);
    migrate(m, cache.pfn);
    refreshAcross(m, cache);
    expect(m.vm.stat.pfnCacheRetries).toBe(1);
    expect(wordAt(m, pfnCacheOffset(m.kvm, cache))).toBe(0n);
    assertKernel(m.k);
  });

  test('sabotage faultSkipsRetry: the cache leads to a page that was freed, and the sanitizer says so', () => {
    const m = testMachine();
    const cache = activated(m);
    migrate(m, cache.pfn);
    m.k.sabotage.faultSkipsRetry = true;
    refreshAcross(m, cache);
    expect(() => assertKernel(m.k)).toThrow(/secondary/);
  });

  test('one refresh at a time', () => {
    const m = testMachine();
    const cache = activated(m);
    migrate(m, cache.pfn);
    m.k.watched = true;
    const first = pfnCacheRefresh(m.kvm, m.vm, cache, 8);
    first.next();
    const second = pfnCacheRefresh(m.kvm, m.vm, cache, 8);
    expect(second.next()).toEqual({ done: false, value: YP_WAIT });
    m.k.watched = false;
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
  });

  test('bytes across a page end, no memory and read-only memory are refused', () => {
    const m = testMachine();
    const cache = createPfnCache(m.vm);
    const activate = (gpa: number, lenBytes: number): number =>
      drive(pfnCacheActivate(m.kvm, m.vm, cache, gpa, lenBytes));
    expect(activate(DATA + PAGE - 4, 8)).toBe(-EINVAL);
    expect(activate(0x1000, 8)).toBe(-EFAULT);
    const rom = { id: 1, flags: KVM_MEM_READONLY, gpa: 2 ** 33, lenBytes: PAGE, hva: m.hva };
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, rom))).toBe(0);
    expect(activate(2 ** 33, 8)).toBe(-EFAULT);
    expect(valid(m, cache)).toBe(false);
  });

  test('deactivated it is for nothing any more; with the address space it is invalid', () => {
    const m = testMachine();
    const cache = activated(m);
    const other = activated(m);
    pfnCacheDeactivate(m.vm, cache);
    expect(m.vm.pfnCaches).toEqual([other]);
    expect(refresh(m, cache)).toBe(-EINVAL);
    drive(mmExit(m.k, m.mm));
    expect(valid(m, other)).toBe(false);
    expect(refresh(m, other)).toBe(-EFAULT);
    destroyVm(m.kvm, m.vm);
    assertKernel(m.k);
  });
});

describe('a page mapped by the hypervisor (compare kvm_vcpu_map())', () => {
  const map = (m: TestMachine, write: boolean): VcpuMap => {
    const got = drive(mapVcpuPage(m.kvm, m.vm, DATA + 8, write));
    if (typeof got === 'number') throw new Error(`errno ${-got}`);
    return got;
  };

  test('is pinned: it cannot move until it is unmapped', () => {
    const m = testMachine();
    poke(m, DATA, 3n);
    const mapped = map(m, true);
    expect(folioPinCount(m.k, folioOf(m.k, mapped.page))).toBe(1);
    expect(drive(migrateFolio(m.k, folioOf(m.k, mapped.page)))).toBe(-EBUSY);
    m.k.memory.setBytes(vcpuMapOffset(m.kvm, mapped), WORD);
    unmapVcpuPage(m.kvm, m.vm, mapped);
    expect(folioPinCount(m.k, folioOf(m.k, mapped.page))).toBe(0);
    expect(drive(migrateFolio(m.k, folioOf(m.k, mapped.page)))).toBe(0);
    expect(peek(m, DATA)).toBe(WORD_VALUE);
    assertKernel(m.k);
  });

  test('counts as written by the guest when it was mapped for writing', () => {
    const m = testMachine({ flags: KVM_MEM_LOG_DIRTY_PAGES });
    const harvest = (): number[] => dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, m.vm.slots[0]!)!);
    poke(m, DATA, 3n);
    for (const write of [false, true]) {
      unmapVcpuPage(m.kvm, m.vm, map(m, write));
      expect(harvest()).toEqual(write ? [(DATA - GUEST_GPA) / PAGE] : []);
    }
  });

  test('outside the slots, and for writing in a read-only one, there is nothing to map', () => {
    const m = testMachine({ flags: KVM_MEM_READONLY });
    expect(drive(mapVcpuPage(m.kvm, m.vm, 0x1000, false))).toBe(-EINVAL);
    expect(drive(mapVcpuPage(m.kvm, m.vm, DATA, true))).toBe(-EINVAL);
    unmapVcpuPage(m.kvm, m.vm, map(m, false));
  });

  test('memory that is not mapped by the process is refused', () => {
    const m = testMachine();
    expect(drive(munmap(m.k, m.mm, hva(m), PAGE))).toBe(0);
    expect(drive(mapVcpuPage(m.kvm, m.vm, DATA, true))).toBe(-EINVAL);
  });
});
