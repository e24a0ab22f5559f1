/** Leaves as large as the host's own mapping: when they are made, how they split and come back. */
import { describe, expect, test } from 'vitest';
import {
  dirtyPageNumbers,
  GSTAGE_GPA_LIMIT,
  gstageFlags,
  gstageLevel,
  gstagePfn,
  harvestDirtyLog,
  KVM_MEM_READONLY,
  type MemSlot,
  setDirtyLog,
  setMemSlot,
  setUserMemoryRegion,
} from '#kvm';
import {
  type AddressSpace,
  assertKernel,
  drive,
  HUGETLB_ORDER_1G,
  hugetlbFileSetup,
  hugetlbSetPool,
  MAP_FIXED,
  MAP_SHARED,
  mmap,
  MADV_COLLAPSE,
  MADV_DONTNEED,
  MADV_NOHUGEPAGE,
  madvise,
  MMU_NOTIFY_CLEAR,
  mprotect,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
  nrFreePages,
  PROT_READ,
  PROT_WRITE,
  YP_SECONDARY_PFN,
} from '#mm';
import { PTE_W } from '#emu';
import {
  GUEST_GPA,
  load,
  peek,
  poke,
  run,
  type TestMachine,
  testMachine,
  touch,
} from './machine.ts';
import { SHUTDOWN } from './programs.ts';

const PAGE = 4096;
const HUGE = 2 ** 21;
/** The second 2 MiB of guest memory. */
const DATA = GUEST_GPA + HUGE;

const machine = (): TestMachine => testMachine({ huge: true, ramMib: 64, guestMib: 8 });
const slotOf = (m: TestMachine): MemSlot => m.vm.slots[0]!;
const hvaOf = (m: TestMachine, gpa: number): number => m.hva + (gpa - GUEST_GPA);
const levelAt = (m: TestMachine, gpa: number): number => gstageLevel(m.k, m.vm.gstage, gpa);
const protect = (m: TestMachine, gpa: number, prot: number): void =>
  expect(drive(mprotect(m.k, m.mm, hvaOf(m, gpa), PAGE, prot))).toBe(0);

describe('a leaf is as large as what the host maps by one entry (compare kvm_mmu_hugepage_adjust())', () => {
  test('one fault maps 2 MiB, and the guest writes all of it without another', () => {
    const m = machine();
    load(
      m,
      `li s0, 0x${DATA.toString(16)}
      li s1, 512
      li s2, 4096
    1: sd s0, 0(s0)
      add s0, s0, s2
      addi s1, s1, -1
      bnez s1, 1b
      ${SHUTDOWN}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(levelAt(m, DATA)).toBe(1);
    expect(m.vm.stat.gstageFaultsWrite).toBe(1);
    expect(m.vm.stat.gstageInstalledHuge).toBe(2);
    expect(peek(m, DATA + 511 * PAGE)).toBe(BigInt(DATA + 511 * PAGE));
  });

  test('base pages of the host stay base pages', () => {
    const m = machine();
    expect(drive(madvise(m.k, m.mm, hvaOf(m, DATA), HUGE, MADV_NOHUGEPAGE))).toBe(0);
    expect(touch(m, DATA, true)).toBe(0);
    expect(levelAt(m, DATA)).toBe(0);
    expect(levelAt(m, DATA + PAGE)).toBe(-1);
  });

  test('where gpa and hva are not aligned alike, pages are mapped one by one', () => {
    const m = machine();
    const gpa = 2 ** 32 + PAGE;
    setMemSlot(m.vm, { id: 1, gpa, lenBytes: 3 * HUGE, hva: hvaOf(m, DATA) });
    // The second 2 MiB of the slot: all of them are in it.
    for (const at of [gpa, gpa + HUGE]) {
      expect(touch(m, at, true)).toBe(0);
      expect(levelAt(m, at)).toBe(0);
    }
    poke(m, DATA + HUGE, 66n);
    expect(peek(m, gpa + HUGE)).toBe(66n);
    assertKernel(m.k);
  });

  test('nothing outside the slot is mapped: its ends are base pages', () => {
    const m = machine();
    const gpa = 2 ** 32;
    // 2 MiB and a page, from the middle of one huge page into the next.
    const lenBytes = HUGE + PAGE;
    setMemSlot(m.vm, { id: 1, gpa: gpa + HUGE / 2, lenBytes, hva: hvaOf(m, DATA + HUGE / 2) });
    for (const at of [gpa + HUGE / 2, gpa + HUGE + 5 * PAGE]) {
      expect(touch(m, at, true)).toBe(0);
      expect(levelAt(m, at)).toBe(0);
    }
  });

  test('the huge zero page is mapped by a read-only leaf; the first write replaces it', () => {
    const m = machine();
    expect(touch(m, DATA, false)).toBe(0);
    expect(levelAt(m, DATA)).toBe(1);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_W).toBe(0);
    const zero = gstagePfn(m.k, m.vm.gstage, DATA);
    expect(touch(m, DATA + 7 * PAGE, true)).toBe(0);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).not.toBe(zero);
    expect(gstageFlags(m.k, m.vm.gstage, DATA + 9 * PAGE) & PTE_W).toBe(PTE_W);
    assertKernel(m.k);
  });

  test('a read-only slot has read-only huge leaves', () => {
    const m = machine();
    poke(m, DATA, 1n);
    setMemSlot(m.vm, {
      id: 1,
      gpa: 2 ** 32,
      lenBytes: HUGE,
      hva: hvaOf(m, DATA),
      flags: KVM_MEM_READONLY,
    });
    expect(touch(m, 2 ** 32, false)).toBe(0);
    expect(levelAt(m, 2 ** 32)).toBe(1);
    expect(gstageFlags(m.k, m.vm.gstage, 2 ** 32) & PTE_W).toBe(0);
  });
});

describe('huge leaves split and come back with the host', () => {
  test('a change of one page of the host takes the huge leaf; what comes back is small', () => {
    const m = machine();
    for (let page = 0; page < 512; page++) poke(m, DATA + page * PAGE, BigInt(page));
    expect(touch(m, DATA, true)).toBe(0);
    protect(m, DATA + 3 * PAGE, PROT_READ);
    expect(levelAt(m, DATA + 400 * PAGE)).toBe(-1);
    expect(touch(m, DATA + 400 * PAGE, true)).toBe(0);
    expect(levelAt(m, DATA + 400 * PAGE)).toBe(0);
    for (let page = 0; page < 512; page++) expect(peek(m, DATA + page * PAGE)).toBe(BigInt(page));
    assertKernel(m.k);
  });

  test('a collapse of the host makes huge leaves again, and the table of the small ones is freed', () => {
    const m = machine();
    poke(m, DATA + 5 * PAGE, 55n);
    protect(m, DATA, PROT_READ);
    protect(m, DATA, PROT_READ | PROT_WRITE);
    for (const page of [0, 5, 6]) expect(touch(m, DATA + page * PAGE, true)).toBe(0);
    expect(levelAt(m, DATA + 5 * PAGE)).toBe(0);
    const tables = m.vm.gstage.tables.length;
    expect(drive(madvise(m.k, m.mm, hvaOf(m, DATA), HUGE, MADV_COLLAPSE))).toBe(0);
    expect(levelAt(m, DATA + 5 * PAGE)).toBe(-1);
    expect(touch(m, DATA + 5 * PAGE, true)).toBe(0);
    expect(levelAt(m, DATA)).toBe(1);
    expect(m.vm.gstage.tables.length).toBe(tables - 1);
    expect(m.vm.gstage.detached).toEqual([]);
    expect(peek(m, DATA + 5 * PAGE)).toBe(55n);
    assertKernel(m.k);
  });

  test('nothing is mapped over an invalidation that is open in another part of the huge page', () => {
    const m = machine();
    poke(m, DATA, 1n);
    const at = hvaOf(m, DATA + 100 * PAGE);
    const range = notifierRange(m.mm, at, at + PAGE, MMU_NOTIFY_CLEAR);
    notifyRangeStart(m.k, range);
    expect(touch(m, DATA, true)).toBe(0);
    expect(levelAt(m, DATA)).toBe(0);
    expect(levelAt(m, DATA + 100 * PAGE)).toBe(-1);
    notifyRangeEnd(m.k, range);
  });

  test('a split between lookup and installation makes the fault look again', () => {
    const m = machine();
    poke(m, DATA, 1n);
    load(m, `li s0, 0x${DATA.toString(16)}\nsd s0, 0(s0)\n1: j 1b`);
    const [vcpu] = m.vcpus;
    let exit = vcpu!.run(100);
    while (exit.kind === 'fault' && exit.gpa !== DATA) {
      drive(vcpu!.handleFault());
      exit = vcpu!.run(100);
    }
    m.k.watched = true;
    const path = vcpu!.handleFault();
    let step = path.next();
    while (step.value !== YP_SECONDARY_PFN) step = path.next();
    m.k.watched = false;
    protect(m, DATA + PAGE, PROT_READ);
    expect(path.next().done).toBe(true);
    expect(m.vm.stat.faultRetries).toBe(1);
    expect(levelAt(m, DATA)).toBe(0);
    assertKernel(m.k);
  });

  test('memory that is dropped under a huge leaf reads as zeroes', () => {
    const m = machine();
    poke(m, DATA, 9n);
    touch(m, DATA, true);
    expect(drive(madvise(m.k, m.mm, hvaOf(m, DATA), HUGE, MADV_DONTNEED))).toBe(0);
    expect(levelAt(m, DATA)).toBe(-1);
    expect(peek(m, DATA)).toBe(0n);
  });
});

describe('the dirty log counts pages of 4 KiB', () => {
  test('switched on, huge leaves are read-only; a write splits, and only its page is logged', () => {
    const m = machine();
    touch(m, DATA, true);
    setDirtyLog(m.kvm, m.vm, slotOf(m), true);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_W).toBe(0);
    expect(touch(m, DATA + 3 * PAGE, true)).toBe(0);
    expect(levelAt(m, DATA)).toBe(0);
    const first = (DATA - GUEST_GPA) / PAGE;
    const harvest = (): number[] => dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, slotOf(m))!);
    expect(harvest()).toEqual([first + 3]);
    expect(harvest()).toEqual([]);
    expect(gstageFlags(m.k, m.vm.gstage, DATA + 4 * PAGE) & PTE_W).toBe(0);
  });

  test('switched off, the next fault maps 2 MiB again', () => {
    const m = machine();
    setDirtyLog(m.kvm, m.vm, slotOf(m), true);
    touch(m, DATA, true);
    expect(levelAt(m, DATA)).toBe(0);
    setDirtyLog(m.kvm, m.vm, slotOf(m), false);
    touch(m, DATA, true);
    expect(levelAt(m, DATA)).toBe(1);
  });
});

test('a VM with huge leaves gives every frame back', () => {
  const m = machine();
  const free = nrFreePages(m.k);
  touch(m, DATA, true);
  expect(nrFreePages(m.k)).toBeLessThan(free - 512);
  expect(drive(setUserMemoryRegion(m.kvm, m.vm, { ...slotOf(m), lenBytes: 0 }))).toBe(0);
  expect(m.vm.gstage.nrMapped).toBe(0);
  expect(gstageLevel(m.k, m.vm.gstage, GSTAGE_GPA_LIMIT - PAGE)).toBe(-1);
});

describe('1 GiB (hugetlb)', () => {
  const GIB = 2 ** 30;
  const gpa = 4 * GIB;
  const hva = 16 * GIB;

  const machineWithGiant = (): TestMachine => {
    const m = testMachine({ ramMib: 2304 });
    expect(hugetlbSetPool(m.k, HUGETLB_ORDER_1G, 1)).toBe(1);
    const mapping = hugetlbFileSetup(m.k, HUGETLB_ORDER_1G, GIB / PAGE) as AddressSpace;
    const flags = MAP_SHARED | MAP_FIXED;
    const prot = PROT_READ | PROT_WRITE;
    const request = { hva, lenBytes: GIB, prot, flags, mapping, pgoff: 0 };
    expect(drive(mmap(m.k, m.mm, request))).toBe(hva);
    setMemSlot(m.vm, { id: 1, gpa, lenBytes: GIB, hva });
    return m;
  };

  test('is one leaf of the third level, which the hart walks; the host takes all of it back', () => {
    const m = machineWithGiant();
    const last = gpa + GIB - PAGE;
    expect(touch(m, last, true)).toBe(0);
    expect(levelAt(m, gpa)).toBe(2);
    poke(m, last, 0x1234n);
    load(
      m,
      `li s0, 0x${last.toString(16)}
      ld t0, 0(s0)
      addi t0, t0, 1
      sd t0, 8(s0)
      ${SHUTDOWN}`,
    );
    expect(run(m)).toMatchObject({ kind: 'shutdown' });
    expect(peek(m, last + 8)).toBe(0x1235n);
    expect(m.vm.stat.gstageInstalledHuge).toBe(1);
    const change = mprotect(m.k, m.mm, hva, GIB, PROT_READ);
    expect(drive(change)).toBe(0);
    expect(levelAt(m, last)).toBe(-1);
    expect(m.vm.stat.zaps).toBe(1);
  });

  test('of a slot that is logged a write takes it apart, down to its page', () => {
    const m = machineWithGiant();
    const slot = m.vm.slots[1]!;
    touch(m, gpa, true);
    setDirtyLog(m.kvm, m.vm, slot, true);
    expect(levelAt(m, gpa)).toBe(2);
    const page = 30_000;
    expect(touch(m, gpa + page * PAGE, true)).toBe(0);
    expect(levelAt(m, gpa + page * PAGE)).toBe(0);
    expect(levelAt(m, gpa)).toBe(1);
    expect(dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, slot)!)).toEqual([page]);
  });
});
