/**
 * The secondary MMU against a host that moves and protects pages: sequence and retry, zap and flush,
 * the dirty log, and what the bytes show when a rule is taken away.
 */
import { describe, expect, test } from 'vitest';
import {
  dirtyPageNumbers,
  gpaToMemSlot,
  gstageFlags,
  gstagePfn,
  harvestDirtyLog,
  KVM_MEM_LOG_DIRTY_PAGES,
  setDirtyLog,
  setMemSlot,
  setUserMemoryRegion,
  vmWriteGuest,
} from '#kvm';
import { PTE_W } from '#emu';
import {
  assertKernel,
  drive,
  EINVAL,
  folioWriteProtect,
  migrateFolio,
  mprotect,
  munmap,
  pageToPfn,
  pfnToPage,
  PROT_READ,
  PROT_WRITE,
  YP_SECONDARY_PFN,
  YP_MEMSLOT,
  YP_WAIT,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { rng } from '../support/rng.ts';
import { GUEST_GPA, load, peek, run, type TestMachine, testMachine } from './machine.ts';

const PAGE = 4096;
/** The page that moves, and where the guest tells what it has read. */
const DATA = GUEST_GPA + 0x20_0000;
const OUT = GUEST_GPA + 0x10_0000;

/** Reads DATA for ever and stores the last value it has seen to OUT. */
const WATCHER = `
  li s0, 0x${DATA.toString(16)}
  li s1, 0x${OUT.toString(16)}
1: ld t0, 0(s0)
  sd t0, 0(s1)
  j 1b`;

const bytesOf = (value: bigint): Uint8Array => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
};
const poke = (m: TestMachine, gpa: number, value: bigint): void => {
  expect(drive(vmWriteGuest(m.kvm, m.vm, gpa, bytesOf(value)))).toBe(0);
};

/** Frame behind a page of guest memory: what the primary tables say now. */
const pageBehind = (m: TestMachine, gpa: number): number => {
  const pages = new Int32Array(1);
  expect(drive(pinUserPagesFast(m.k, m.mm, m.hva + gpa - GUEST_GPA, 1, 0, pages))).toBe(1);
  unpinUserPages(m.k, pages, 1);
  return pages[0]!;
};
const migrate = (m: TestMachine, gpa: number): number =>
  drive(migrateFolio(m.k, pageBehind(m, gpa)));

const checked = (m: TestMachine): void => assertKernel(m.k);

/** Runs vCPU 0 to its fault at `gpa`, serving those before, and leaves that one to the caller. */
const runToFault = (m: TestMachine, gpa: number): void => {
  const vcpu = m.vcpus[0]!;
  for (;;) {
    const exit = vcpu.run(10_000);
    if (exit.kind !== 'fault') throw new Error(`${exit.kind} before the fault`);
    if (exit.gpa - (exit.gpa % PAGE) === gpa) return;
    expect(drive(vcpu.handleFault())).toBeUndefined();
  }
};

/** Steps the fault to the point where the pfn is known and not yet installed, acts, and finishes it. */
const faultWith = (m: TestMachine, act: () => void): void => {
  m.k.watched = true;
  const path = m.vcpus[0]!.handleFault();
  for (;;) {
    const step = path.next();
    if (step.done === true) throw new Error('never came to YP_SECONDARY_PFN');
    if (step.value === YP_SECONDARY_PFN) break;
  }
  act();
  let step = path.next();
  while (step.done !== true) step = path.next();
  expect(step.value).toBeUndefined();
  m.k.watched = false;
};

describe('KVM fault protocol: sequence and retry (compare mmu_invalidate_retry_gfn)', () => {
  test('a migration between lookup and installation makes the fault retry once', () => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 0x1111n);
    runToFault(m, DATA);
    const before = pageBehind(m, DATA);
    faultWith(m, () => expect(migrate(m, DATA)).toBe(0));
    const after = pageBehind(m, DATA);
    expect(after).not.toBe(before);
    expect(m.vm.stat.faultRetries).toBe(1);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(pageToPfn(after));
    checked(m);
    expect(run(m, 200)).toBe('limit');
    expect(peek(m, OUT)).toBe(0x1111n);
  });

  test('without an invalidation there is no retry', () => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 1n);
    runToFault(m, DATA);
    faultWith(m, () => {});
    expect(m.vm.stat.faultRetries).toBe(0);
  });

  test.each(['linux-7', 'linux-6.5'] as const)(
    '%s keeps a FOLL_GET reference across: the migration fails, the fault retries all the same',
    (policy) => {
      const m = testMachine({ policy });
      load(m, WATCHER);
      poke(m, DATA, 0x2222n);
      runToFault(m, DATA);
      const before = pageBehind(m, DATA);
      faultWith(m, () => expect(migrate(m, DATA)).toBeLessThan(0));
      expect(pageBehind(m, DATA)).toBe(before);
      expect(m.vm.stat.faultRetries).toBe(1);
      checked(m);
    },
  );

  test('sabotage faultSkipsRetry: the stale frame gets in, and the guest reads old bytes', () => {
    const m = testMachine();
    m.k.sabotage.faultSkipsRetry = true;
    load(m, WATCHER);
    poke(m, DATA, 0x1111n);
    runToFault(m, DATA);
    const before = pageBehind(m, DATA);
    faultWith(m, () => expect(migrate(m, DATA)).toBe(0));
    expect(m.vm.stat.faultRetries).toBe(0);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(pageToPfn(before));
    poke(m, DATA, 0x3333n);
    for (let i = 0; i < 3; i++) {
      const exit = m.vcpus[0]!.run(100);
      if (exit.kind === 'fault') drive(m.vcpus[0]!.handleFault());
    }
    expect(peek(m, OUT)).not.toBe(0x3333n);
    expect(() => checked(m)).toThrow(/secondary/);
  });

  test('a fault inside an open invalidation waits for its end', () => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 5n);
    runToFault(m, DATA);
    m.k.watched = true;
    // Begin a change of protection and stop it inside start..end.
    const change = mprotect(m.k, m.mm, m.hva + 0x20_0000, PAGE, PROT_READ);
    let steps = 0;
    while (m.vm.openInvalidations === 0 && change.next().done !== true) steps++;
    expect(m.vm.openInvalidations).toBe(1);
    expect(steps).toBeLessThan(100);
    const fault = m.vcpus[0]!.handleFault();
    for (let i = 0; i < 20; i++) expect(fault.next().done).toBe(false);
    expect(gstageFlags(m.k, m.vm.gstage, DATA)).toBe(0);
    while (change.next().done !== true);
    while (fault.next().done !== true);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_W).toBe(0);
    m.k.watched = false;
    checked(m);
  });
});

describe('memory slots of a running VM', () => {
  test("a slot that is deleted takes its entries along, and its pages stay the process's", () => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 7n);
    runToFault(m, DATA);
    drive(m.vcpus[0]!.handleFault());
    const page = pageBehind(m, DATA);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(pageToPfn(page));
    const slot = gpaToMemSlot(m.vm.slots, DATA)!;
    const gone = { ...slot, lenBytes: 0 };
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, gone))).toBe(0);
    expect(drive(setUserMemoryRegion(m.kvm, m.vm, gone))).toBe(-EINVAL);
    expect(gstageFlags(m.k, m.vm.gstage, DATA)).toBe(0);
    expect(m.vcpus[0]!.hart.mmu.holdsPage(page)).toBe(false);
    const exit = m.vcpus[0]!.run(100);
    expect(exit.kind).toBe('error');
    assertKernel(m.k);
  });

  test('slots may not change inside an invalidation; waiting for its end makes it possible', () => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 8n);
    m.k.watched = true;
    const change = mprotect(m.k, m.mm, m.hva + 0x20_0000, PAGE, PROT_READ);
    while (m.vm.openInvalidations === 0 && change.next().done !== true);
    const slot = gpaToMemSlot(m.vm.slots, DATA)!;
    const extra = { id: 9, gpa: 2 ** 40, lenBytes: PAGE, hva: m.hva };
    expect(() => setMemSlot(m.vm, extra)).toThrow(/inside an invalidation/);
    const remove = setUserMemoryRegion(m.kvm, m.vm, { ...slot, lenBytes: 0 });
    expect(remove.next()).toEqual({ done: false, value: YP_WAIT });
    expect(slot.invalid).toBe(false);
    while (change.next().done !== true);
    expect(remove.next()).toEqual({ done: false, value: YP_MEMSLOT });
    expect(slot.invalid).toBe(true);
    expect(remove.next()).toEqual({ done: true, value: 0 });
    expect(m.vm.slots).toEqual([]);
  });
});

describe('inside an invalidation that holds no lock of the address space', () => {
  test('a read fault finds the page, retries once, waits, and installs it read-only after the end', () => {
    const m = testMachine({ shared: true });
    load(m, WATCHER);
    poke(m, DATA, 6n);
    runToFault(m, DATA);
    const folio = pageBehind(m, DATA);
    m.k.watched = true;
    const protect = folioWriteProtect(m.k, folio);
    while (m.vm.invalidate.inProgress === 0) expect(protect.next().done).toBe(false);
    expect(m.vm.invalidate).toMatchObject({ rangeStart: DATA, rangeEnd: DATA + PAGE });

    const fault = m.vcpus[0]!.handleFault();
    let waits = 0;
    for (let i = 0; i < 40; i++) {
      const step = fault.next();
      expect(step.done).toBe(false);
      if (step.value === YP_WAIT) waits++;
    }
    expect(waits).toBeGreaterThan(20);
    expect(m.vm.stat.faultRetries).toBe(1);
    expect(gstageFlags(m.k, m.vm.gstage, DATA)).toBe(0);

    while (protect.next().done !== true);
    while (fault.next().done !== true);
    m.k.watched = false;
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(pageToPfn(folio));
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_W).toBe(0);
    checked(m);
  });

  test('a fault elsewhere is not held up', () => {
    const m = testMachine({ shared: true });
    load(m, WATCHER);
    poke(m, DATA, 6n);
    runToFault(m, DATA);
    poke(m, DATA + PAGE, 1n);
    m.k.watched = true;
    const protect = folioWriteProtect(m.k, pageBehind(m, DATA + PAGE));
    while (m.vm.invalidate.inProgress === 0) protect.next();
    const fault = m.vcpus[0]!.handleFault();
    while (fault.next().done !== true);
    expect(m.vm.stat.faultRetries).toBe(0);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(pageToPfn(pageBehind(m, DATA)));
    while (protect.next().done !== true);
    m.k.watched = false;
    checked(m);
  });
});

describe('notifiers: zap and flush (compare kvm_unmap_gfn_range)', () => {
  /** A guest whose TLB holds DATA. */
  const watching = (): TestMachine => {
    const m = testMachine();
    load(m, WATCHER);
    poke(m, DATA, 0x1111n);
    expect(run(m, 2000)).toBe('limit');
    expect(peek(m, OUT)).toBe(0x1111n);
    return m;
  };

  test('a migration under a running guest: entry and TLB go, the next access finds the new frame', () => {
    const m = watching();
    const old = gstagePfn(m.k, m.vm.gstage, DATA);
    expect(m.harts[0]!.mmu.holdsPage(pfnToPage(old))).toBe(true);
    expect(migrate(m, DATA)).toBe(0);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBe(-1);
    expect(m.harts[0]!.mmu.holdsPage(pfnToPage(old))).toBe(false);
    expect(m.vm.stat).toMatchObject({ zaps: 1, zapsInTlb: 1, invalidations: 1 });
    poke(m, DATA, 0x4444n);
    run(m, 2000);
    expect(peek(m, OUT)).toBe(0x4444n);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).not.toBe(old);
  });

  test('sabotage notifierKeepsTlb: the guest goes on reading the freed frame', () => {
    const m = watching();
    m.k.sabotage.notifierKeepsTlb = true;
    expect(migrate(m, DATA)).toBe(0);
    poke(m, DATA, 0x4444n);
    run(m, 2000);
    expect(peek(m, OUT)).not.toBe(0x4444n);
  });

  test('write protection reaches the guest, and its next write goes through the host again', () => {
    const m = testMachine();
    load(
      m,
      `li s0, 0x${DATA.toString(16)}
    1: addi t0, t0, 1
      sd t0, 0(s0)
      j 1b`,
    );
    run(m, 1000);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_W).toBe(PTE_W);
    const hva = m.hva + 0x20_0000;
    expect(drive(mprotect(m.k, m.mm, hva, PAGE, PROT_READ))).toBe(0);
    expect(gstageFlags(m.k, m.vm.gstage, DATA)).toBe(0);
    const error = run(m, 1000);
    expect(error).toMatchObject({ kind: 'error', cause: 23, gpa: DATA });
    expect((error as { message: string }).message).toMatch(/no host memory behind gpa/);
  });

  test('protection taken and given back costs one zap and one fault, and no byte', () => {
    const m = watching();
    const faults = m.vm.stat.exits.fault;
    const hva = m.hva + 0x20_0000;
    expect(drive(mprotect(m.k, m.mm, hva, PAGE, PROT_READ))).toBe(0);
    expect(drive(mprotect(m.k, m.mm, hva, PAGE, PROT_READ | PROT_WRITE))).toBe(0);
    expect(m.vm.stat.zaps).toBe(1);
    poke(m, DATA, 0x7777n);
    run(m, 2000);
    expect(peek(m, OUT)).toBe(0x7777n);
    expect(m.vm.stat.exits.fault).toBe(faults + 1);
  });

  test('unmapped host memory ends the guest with gpa and cause', () => {
    const m = watching();
    expect(drive(munmap(m.k, m.mm, m.hva + 0x20_0000, PAGE))).toBe(0);
    expect(run(m, 2000)).toMatchObject({ kind: 'error', cause: 21, gpa: DATA });
  });

  test('a change outside every slot touches nothing of the VM', () => {
    const m = watching();
    const before = structuredClone(m.vm.stat);
    expect(drive(mprotect(m.k, m.mm, m.hva + 0x30_0000, PAGE, PROT_READ))).toBe(0);
    expect(m.vm.stat.zaps).toBe(before.zaps);
    expect(gstagePfn(m.k, m.vm.gstage, DATA)).toBeGreaterThan(0);
  });
});

describe('dirty log (compare kvm_get_dirty_log_protect)', () => {
  /** Adds one to the first word of each page whose number it is given, then stops in WFI. */
  const writer = (pages: readonly number[]): string => `
    li s0, 0x${DATA.toString(16)}
    la s1, list
    li s2, ${pages.length}
    beqz s2, read
  1: lw t0, 0(s1)
    slli t0, t0, 12
    add t0, t0, s0
    lw t1, 0(t0)
    addi t1, t1, 1
    sw t1, 0(t0)
    addi s1, s1, 4
    addi s2, s2, -1
    bnez s2, 1b
  read:
    li s2, 200
    li t2, 4096
  2: lw t1, 0(s0)
    add s0, s0, t2
    addi s2, s2, -1
    bnez s2, 2b
  3: wfi
    j 3b
    .align 3
  list: ${pages.map((p) => `.word ${p}`).join('\n')}
    nop`;
  const FIRST = (DATA - GUEST_GPA) / PAGE;
  const slotOf = (m: TestMachine) => {
    const slot = gpaToMemSlot(m.vm.slots, GUEST_GPA);
    if (slot === undefined) throw new Error('no slot');
    return slot;
  };
  const harvest = (m: TestMachine): number[] =>
    dirtyPageNumbers(harvestDirtyLog(m.kvm, m.vm, slotOf(m)) as Int32Array).map((p) => p - FIRST);

  test('every page written since the last harvest, and only those, while it reads 200', () => {
    const random = rng(7);
    const m = testMachine({ flags: KVM_MEM_LOG_DIRTY_PAGES });
    for (let round = 0; round < 8; round++) {
      const pages = [...new Set(Array.from({ length: round * 5 }, () => random.below(200)))];
      load(m, writer(pages));
      expect(run(m, 20_000)).toBe('idle');
      expect(harvest(m)).toEqual(pages.sort((a, b) => a - b));
      expect(harvest(m)).toEqual([]);
    }
  });

  test('a page the guest goes on writing is in every harvest, though its TLB held it writable', () => {
    const m = testMachine({ flags: KVM_MEM_LOG_DIRTY_PAGES });
    load(
      m,
      `li s0, 0x${DATA.toString(16)}
    1: addi t0, t0, 1
      sd t0, 0(s0)
      j 1b`,
    );
    for (let i = 0; i < 5; i++) {
      expect(run(m, 500)).toBe('limit');
      expect(harvest(m)).toEqual([0]);
    }
  });

  test('switched on late, it starts clean and misses nothing from then on', () => {
    const m = testMachine();
    load(m, writer([1, 2, 3]));
    expect(run(m, 20_000)).toBe('idle');
    expect(harvestDirtyLog(m.kvm, m.vm, slotOf(m))).toBeNull();
    setDirtyLog(m.kvm, m.vm, slotOf(m), true);
    expect(harvest(m)).toEqual([]);
    load(m, writer([3, 9]));
    expect(run(m, 20_000)).toBe('idle');
    expect(harvest(m)).toEqual([3, 9]);
  });
});
