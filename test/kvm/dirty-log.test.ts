/** The dirty log by bitmap with manual protection, and by ring: no write is ever in neither of two harvests. */
import { describe, expect, test } from 'vitest';
import {
  clearDirtyLog,
  dirtyPageNumbers,
  dirtyRingFull,
  enableManualDirtyLog,
  gstageFlags,
  harvestDirtyLog,
  harvestDirtyRing,
  KVM_DIRTY_LOG_INITIALLY_SET,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  KVM_MEM_LOG_DIRTY_PAGES,
  markGuestDirty,
  type MemSlot,
  resetDirtyRings,
  setDirtyLog,
} from '#kvm';
import { PTE_W } from '#emu';
import { assertKernel, drive, EINVAL, ENOENT } from '#mm';
import { rng } from '../support/rng.ts';
import { createDirtyRing, DIRTY_RING_RESERVED } from '../../kvm/dirty-ring.ts';
import { GUEST_GPA, load, run, type TestMachine, testMachine, touch } from './machine.ts';

const PAGE = 4096;
const slotOf = (m: TestMachine): MemSlot => m.vm.slots[0]!;
const harvest = (m: TestMachine): number[] =>
  dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, slotOf(m))!);
const write = (m: TestMachine, page: number): void =>
  expect(touch(m, GUEST_GPA + page * PAGE, true)).toBe(0);
const writable = (m: TestMachine, page: number): boolean =>
  (gstageFlags(m.k, m.vm.gstage, GUEST_GPA + page * PAGE) & PTE_W) !== 0;
const bits = (...pages: number[]): Int32Array => {
  const bitmap = new Int32Array(32);
  for (const page of pages) bitmap[page >>> 5]! |= 1 << (page & 31);
  return bitmap;
};

describe('manual protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)', () => {
  const machine = (flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE): TestMachine => {
    const m = testMachine();
    expect(enableManualDirtyLog(m.vm, flags)).toBe(0);
    setDirtyLog(m.kvm, m.vm, slotOf(m), true);
    return m;
  };
  const clear = (m: TestMachine, first: number, nr: number, bitmap: Int32Array): number =>
    clearDirtyLog(m.kvm, m.vm, slotOf(m), first, nr, bitmap);

  test('a harvest only looks; clearing makes pages clean and the next write is seen', () => {
    const m = machine();
    for (const page of [3, 70]) write(m, page);
    expect(harvest(m)).toEqual([3, 70]);
    expect(harvest(m)).toEqual([3, 70]);
    expect(writable(m, 3)).toBe(true);
    expect(clear(m, 0, 64, bits(3))).toBe(0);
    expect(harvest(m)).toEqual([70]);
    expect([writable(m, 3), writable(m, 70)]).toEqual([false, true]);
    write(m, 3);
    expect(harvest(m)).toEqual([3, 70]);
  });

  test('clearing takes the pages that it names, from its first page on, and no others', () => {
    const m = machine();
    for (const page of [64, 65, 100, 130]) write(m, page);
    expect(clear(m, 64, 64, bits(1, 36, 40))).toBe(0);
    expect(harvest(m)).toEqual([64, 130]);
  });

  test('with INITIALLY_SET every page counts as dirty at first, and none is protected for it', () => {
    const m = testMachine();
    const flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    expect(enableManualDirtyLog(m.vm, flags)).toBe(0);
    write(m, 5);
    setDirtyLog(m.kvm, m.vm, slotOf(m), true);
    expect(writable(m, 5)).toBe(true);
    expect(harvest(m)).toHaveLength(slotOf(m).lenBytes / PAGE);
    expect(clear(m, 0, 64, bits(5))).toBe(0);
    expect(writable(m, 5)).toBe(false);
  });

  for (const [what, first, nr] of [
    ['a first page that is no multiple of 64', 32, 64],
    ['a number of pages that is none either, before the end', 0, 65],
    ['pages beyond the end', 960, 128],
    ['a first page beyond the end', 1088, 0],
  ] as const)
    test(`${what} is refused`, () => expect(clear(machine(), first, nr, bits())).toBe(-EINVAL));

  test('a slot that does not log has nothing to clear; flags have to fit together', () => {
    const m = testMachine();
    expect(clear(m, 0, 64, bits(0))).toBe(-ENOENT);
    expect(enableManualDirtyLog(m.vm, KVM_DIRTY_LOG_INITIALLY_SET)).toBe(-EINVAL);
    expect(enableManualDirtyLog(m.vm, 8)).toBe(-EINVAL);
  });
});

describe('the dirty ring (KVM_CAP_DIRTY_LOG_RING_ACQ_REL)', () => {
  const machine = (entries = 128): TestMachine =>
    testMachine({ dirtyRingEntries: entries, flags: KVM_MEM_LOG_DIRTY_PAGES });
  const ringOf = (m: TestMachine) => m.vm.vcpus[0]!.dirtyRing!;
  const ringPages = (m: TestMachine): number[] => {
    const pages: number[] = [];
    harvestDirtyRing(ringOf(m), (slot, page) => {
      expect(slot).toBe(0);
      pages.push(page);
    });
    return pages;
  };

  test('pages come in the order of their first writes, once until they are reset', () => {
    const m = machine();
    for (const page of [9, 2, 9, 700]) write(m, page);
    expect(ringPages(m)).toEqual([9, 2, 700]);
    expect(ringPages(m)).toEqual([]);
    write(m, 2);
    expect(ringPages(m)).toEqual([]); // still writable
    expect(resetDirtyRings(m.kvm, m.vm)).toBe(3);
    expect(writable(m, 2)).toBe(false);
    write(m, 2);
    expect(ringPages(m)).toEqual([2]);
  });

  test('entries that the VMM has not read are not reset', () => {
    const m = machine();
    write(m, 1);
    expect(resetDirtyRings(m.kvm, m.vm)).toBe(0);
    expect(writable(m, 1)).toBe(true);
    expect(ringPages(m)).toEqual([1]);
  });

  test('who writes without a vCPU is in the bitmap beside', () => {
    const m = machine();
    markGuestDirty(m.vm, GUEST_GPA + 8 * PAGE, 2 * PAGE);
    expect(ringPages(m)).toEqual([]);
    expect(harvest(m)).toEqual([8, 9]);
  });

  test('a vCPU with a full ring does not run before entries were reset', () => {
    const m = machine();
    load(
      m,
      `li s0, 0x${(GUEST_GPA + 0x10_0000).toString(16)}
      li s1, 4096
    1: sd s0, 0(s0)
      add s0, s0, s1
      j 1b`,
    );
    expect(run(m, 5_000)).toBe('idle');
    expect(dirtyRingFull(ringOf(m))).toBe(true);
    const [vcpu] = m.vcpus;
    expect(vcpu!.runnable).toBe(false);
    expect(vcpu!.run(10)).toMatchObject({ kind: 'dirtyRing', retired: 0 });
    const pages = ringPages(m);
    expect(pages).toHaveLength(128 - DIRTY_RING_RESERVED);
    expect(vcpu!.runnable).toBe(false); // read, and not yet reset
    resetDirtyRings(m.kvm, m.vm);
    expect(vcpu!.runnable).toBe(true);
    run(m, 20);
    // The store that filled the ring has not been done: its page is the first again.
    expect(ringPages(m)[0]).toBe(pages.at(-1)!);
  });

  test('a slot that has gone meanwhile does not stop the reset', () => {
    const m = machine();
    write(m, 4);
    expect(ringPages(m)).toEqual([4]);
    m.vm.slots[0]!.invalid = true;
    expect(resetDirtyRings(m.kvm, m.vm)).toBe(1);
    expect(writable(m, 4)).toBe(true);
  });

  test('a guest that writes at random: each write since a page was reset is in a later harvest', () => {
    const m = machine(1024);
    const random = rng(3);
    const seen = new Set<number>();
    for (let round = 0; round < 40; round++) {
      const written = new Set<number>();
      for (let i = 0; i < 20; i++) {
        const page = random.below(200);
        // As the hart: an entry that is writable takes the store without a fault.
        if (!writable(m, page)) {
          write(m, page);
          written.add(page);
        }
      }
      for (const page of ringPages(m)) {
        expect(written.delete(page)).toBe(true);
        seen.add(page);
      }
      expect(written.size).toBe(0);
      resetDirtyRings(m.kvm, m.vm);
      for (const page of seen) expect(writable(m, page)).toBe(false);
    }
    expect(seen.size).toBeGreaterThan(150);
  });

  test.each([0.5, 64, 100, 131_072])('%s entries are no ring', (entries) => {
    expect(() => createDirtyRing(entries)).toThrow(/dirty ring/);
  });
});

describe('a write to a logged page asks the host, also where its entry is read-only for the log alone', () => {
  /** A page that the guest has read and not written: the host has its zero page there. */
  const machine = (): TestMachine => {
    const m = testMachine({ flags: KVM_MEM_LOG_DIRTY_PAGES });
    expect(touch(m, GUEST_GPA + 3 * PAGE, false)).toBe(0);
    return m;
  };
  const store = (m: TestMachine): void => {
    load(m, `li s0, 0x${(GUEST_GPA + 3 * PAGE).toString(16)}\nsd s0, 0(s0)\n1: j 1b`);
    for (let i = 0; i < 5; i++) {
      const exit = m.vcpus[0]!.run(20);
      if (exit.kind === 'fault') drive(m.vcpus[0]!.handleFault());
    }
  };
  const zeroPageWord = (m: TestMachine): number =>
    m.k.memory.i32[m.k.memory.pageOffset(m.k.state.zeroPage) >>> 2]!;

  test('so the guest gets a page of its own', () => {
    const m = machine();
    store(m);
    expect(zeroPageWord(m)).toBe(0);
    expect(harvest(m)).toContain(3);
    assertKernel(m.k);
  });

  test('sabotage logWritesUnasked: the guest writes to the zero page of the host (P2)', () => {
    // As kvm_riscv_mmu_dirty_log_write_fault_fast() of the newest tree that was read.
    const m = machine();
    m.k.sabotage.logWritesUnasked = true;
    store(m);
    expect(zeroPageWord(m)).not.toBe(0);
    expect(() => assertKernel(m.k)).toThrow(/secondary/);
  });
});
