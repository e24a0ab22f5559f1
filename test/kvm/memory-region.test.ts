/** KVM_SET_USER_MEMORY_REGION: what it refuses, and slots that come, move and go under a running guest. */
import { describe, expect, test } from 'vitest';
import {
  dirtyPageNumbers,
  GSTAGE_GPA_LIMIT,
  gstagePfn,
  harvestDirtyLog,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  type MemoryRegion,
  setUserMemoryRegion,
} from '#kvm';
import {
  assertKernel,
  drive,
  EEXIST,
  EFAULT,
  EINVAL,
  EPERM,
  mprotect,
  PROT_READ,
  YP_MEMSLOT,
  YP_WAIT,
} from '#mm';
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

const PAGE = 4096;
const MIB = 2 ** 20;
const DATA = GUEST_GPA + 2 * MIB;
const OUT = GUEST_GPA + MIB;
/** Where a second slot is put. */
const HIGH = 2 ** 33;

/** The upper 2 MiB of guest memory, a second time. */
const region = (m: TestMachine, change: Partial<MemoryRegion> = {}): MemoryRegion => ({
  id: 1,
  flags: 0,
  gpa: HIGH,
  lenBytes: 2 * MIB,
  hva: m.hva + 2 * MIB,
  ...change,
});
const set = (m: TestMachine, change: Partial<MemoryRegion> = {}): number =>
  drive(setUserMemoryRegion(m.kvm, m.vm, region(m, change)));
const ids = (m: TestMachine): number[] => m.vm.slots.map(({ id }) => id);

describe('what is refused (compare kvm_set_memory_region())', () => {
  for (const [what, change, error] of [
    ['a size that is not of whole pages', { lenBytes: 100 }, -EINVAL],
    ['a gpa inside a page', { gpa: HIGH + 8 }, -EINVAL],
    ['an hva inside a page', { hva: 8 }, -EINVAL],
    ['an hva of the kernel', { hva: 2 ** 47 }, -EINVAL],
    ['an unknown flag', { flags: 1 << 5 }, -EINVAL],
    ['a slot number that is too large', { id: 40_000 }, -EINVAL],
    ['a negative slot number', { id: -1 }, -EINVAL],
    ['an overlap with another slot', { gpa: GUEST_GPA + 4 * MIB - PAGE }, -EEXIST],
    ['a gpa that no table translates', { gpa: GSTAGE_GPA_LIMIT - 2 * MIB }, -EFAULT],
    ['deleting what is not there', { lenBytes: 0 }, -EINVAL],
  ] as const)
    test(`${what}: ${error}`, () => {
      const m = testMachine();
      expect(set(m, change)).toBe(error);
      expect(ids(m)).toEqual([0]);
      expect(m.vm.slotsLocked).toBe(false);
    });

  test('memory that the process may not write to is for read-only slots', () => {
    const m = testMachine();
    expect(drive(mprotect(m.k, m.mm, m.hva + 3 * MIB, PAGE, PROT_READ))).toBe(0);
    expect(set(m)).toBe(-EPERM);
    expect(set(m, { flags: KVM_MEM_READONLY })).toBe(0);
  });

  test('size, hva and the read-only flag of a slot stay what they are', () => {
    const m = testMachine();
    expect(set(m)).toBe(0);
    for (const change of [
      { lenBytes: MIB },
      { hva: m.hva },
      { flags: KVM_MEM_READONLY },
    ] satisfies Partial<MemoryRegion>[])
      expect(set(m, change)).toBe(-EINVAL);
    expect(set(m)).toBe(0); // nothing to change
  });

  test('memory that is not mapped yet may stand behind a slot; a fault says that there is none', () => {
    const m = testMachine();
    expect(set(m, { hva: 2 ** 40 })).toBe(0);
    expect(touch(m, HIGH, false)).toBe(-EFAULT);
  });
});

describe('slots of a guest that runs', () => {
  test('a created slot is there at once', () => {
    const m = testMachine();
    poke(m, DATA, 7n);
    expect(set(m)).toBe(0);
    expect(peek(m, HIGH)).toBe(7n);
    expect(touch(m, HIGH, true)).toBe(0);
  });

  test('a moved slot loses its entries, and the guest finds its bytes at the new place', () => {
    const m = testMachine();
    expect(set(m)).toBe(0);
    poke(m, HIGH, 9n);
    touch(m, HIGH, true);
    const generation = m.vm.slotsGeneration;
    expect(set(m, { gpa: 2 * HIGH })).toBe(0);
    expect(gstagePfn(m.k, m.vm.gstage, HIGH)).toBe(-1);
    expect(peek(m, 2 * HIGH)).toBe(9n);
    expect(ids(m)).toEqual([0, 1]);
    expect(m.vm.slotsGeneration).toBeGreaterThan(generation);
    assertKernel(m.k);
  });

  test('a move onto another slot is refused, and nothing has moved', () => {
    const m = testMachine();
    set(m);
    touch(m, HIGH, true);
    expect(set(m, { gpa: GUEST_GPA + MIB })).toBe(-EEXIST);
    expect(gstagePfn(m.k, m.vm.gstage, HIGH)).toBeGreaterThan(0);
  });

  test('a move that turns out not to be possible leaves the slot where it was', () => {
    const m = testMachine();
    set(m);
    expect(set(m, { gpa: GSTAGE_GPA_LIMIT - 2 * MIB })).toBe(-EFAULT);
    expect(m.vm.slots[1]).toMatchObject({ gpa: HIGH, invalid: false });
    expect(touch(m, HIGH, true)).toBe(0);
  });

  test('the dirty log moves with its slot', () => {
    const m = testMachine();
    set(m, { flags: KVM_MEM_LOG_DIRTY_PAGES });
    touch(m, HIGH + 3 * PAGE, true);
    set(m, { flags: KVM_MEM_LOG_DIRTY_PAGES, gpa: 2 * HIGH });
    expect(dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, m.vm.slots[1]!)!)).toEqual([3]);
  });

  test('logging is switched on and off by the flags alone', () => {
    const m = testMachine();
    set(m);
    touch(m, HIGH, true);
    expect(set(m, { flags: KVM_MEM_LOG_DIRTY_PAGES })).toBe(0);
    expect(harvestDirtyLog(m.kvm, m.vm, m.vm.slots[1]!)).not.toBeNull();
    expect(set(m, { flags: 0 })).toBe(0);
    expect(harvestDirtyLog(m.kvm, m.vm, m.vm.slots[1]!)).toBeNull();
  });

  test('a fault that meets a slot on its way out waits, and then finds what there is', () => {
    const m = testMachine();
    set(m);
    m.k.watched = true;
    const move = setUserMemoryRegion(m.kvm, m.vm, region(m, { gpa: 2 * HIGH }));
    expect(move.next().value).toBe(YP_MEMSLOT);
    load(m, `li s0, 0x${(2 * HIGH).toString(16)}\nsd s0, 0(s0)\n1: j 1b`);
    // A store to the old place while the slot is invalid: no entry is made.
    load(m, `li s0, 0x${HIGH.toString(16)}\nsd s0, 0(s0)\n1: j 1b`);
    const [vcpu] = m.vcpus;
    let exit = vcpu!.run(100);
    while (exit.kind === 'fault' && exit.gpa !== HIGH) {
      drive(vcpu!.handleFault());
      exit = vcpu!.run(100);
    }
    expect(exit).toMatchObject({ kind: 'fault', gpa: HIGH });
    const fault = vcpu!.handleFault();
    expect(fault.next()).toEqual({ done: false, value: YP_WAIT });
    expect(gstagePfn(m.k, m.vm.gstage, HIGH)).toBe(-1);
    expect(drive(move)).toBe(0);
    expect(fault.next()).toEqual({ done: true, value: undefined });
    expect(vcpu!.run(100)).toMatchObject({ kind: 'error', gpa: HIGH });
  });

  test('two changes at a time: the second waits for the first', () => {
    const m = testMachine();
    m.k.watched = true;
    set(m);
    const first = setUserMemoryRegion(m.kvm, m.vm, region(m, { lenBytes: 0 }));
    first.next();
    const second = setUserMemoryRegion(m.kvm, m.vm, region(m, { gpa: 2 * HIGH }));
    expect(second.next().value).toBe(YP_WAIT);
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
    expect(m.vm.slots[1]).toMatchObject({ gpa: 2 * HIGH });
  });

  test('a store to a read-only slot is an access to registers where the VMM has some there', () => {
    const m = testMachine();
    poke(m, DATA, 5n);
    set(m, { flags: KVM_MEM_READONLY });
    m.vm.mmioRegions.push({ gpa: HIGH, lenBytes: PAGE, name: 'flash' });
    load(
      m,
      `li s0, 0x${HIGH.toString(16)}
      li s1, 0x${OUT.toString(16)}
      ld t0, 0(s0)
      sd t0, 0(s1)
      sw t0, 4(s0)
    1: j 1b`,
    );
    expect(run(m, 200)).toBe('limit');
    expect(peek(m, OUT)).toBe(5n);
    expect(m.mmio).toEqual([{ gpa: HIGH + 4, sizeBytes: 4, write: true, value: 5n }]);
  });
});
