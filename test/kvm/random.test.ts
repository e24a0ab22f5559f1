/**
 * A guest's pages under everything at once: faults, changes of slots and of the dirty log, and what the
 * host does to its memory, all stepped against each other. The guest's loads and stores go through its
 * G-stage leaves as a hart's would, and must always meet the bytes that it has stored last.
 */
import { describe, expect, test } from 'vitest';
import { PTE_W } from '#emu';
import {
  createPfnCache,
  dirtyPageNumbers,
  gpaToMemSlot,
  gstageFlags,
  gstageLevel,
  gstagePfn,
  harvestDirtyLog,
  harvestDirtyRing,
  KVM_MEM_LOG_DIRTY_PAGES,
  mapGuestPage,
  pfnCacheActivate,
  pfnCacheCheck,
  pfnCacheOffset,
  pfnCacheRefresh,
  pfnCacheWrite,
  resetDirtyRings,
  setUserMemoryRegion,
} from '#kvm';
import {
  assertKernel,
  EFAULT,
  EPERM,
  fork,
  folioOf,
  MADV_COLLAPSE,
  MADV_PAGEOUT,
  madvise,
  migrateFolio,
  mmExit,
  type MmStruct,
  mprotect,
  type Path,
  pfnToPage,
  PROT_READ,
  PROT_WRITE,
  swapon,
  YP_WAIT,
} from '#mm';
import { createSecondaryPfn } from '#mm/secondary';
import { type Rng, rng } from '../support/rng.ts';
import { GUEST_GPA, type TestMachine, testMachine } from './machine.ts';

const PAGE = 4096;
const HUGE = 2 ** 21;
/** Pages that are used: some of each of two huge pages. */
const PAGES = Array.from({ length: 24 }, (_, i) => (i < 12 ? 0 : 512) + (i % 12) * 31);
/** Where the slot with the second huge page is, or is moved to. */
const PLACES = [GUEST_GPA + HUGE, 2 ** 33, 2 ** 33 + PAGE] as const;

class World {
  readonly m: TestMachine;
  readonly random: Rng;
  /** The last word stored to each page. */
  readonly words: Map<number, number>;
  /** Pages written since the log was last asked. */
  readonly written: Set<number>;
  logging: boolean;
  child: MmStruct | null;
  stores: number;

  constructor(seed: number) {
    this.m = testMachine({ huge: true, ramMib: 32, guestMib: 4, dirtyRingEntries: 4096 });
    this.random = rng(seed);
    this.words = new Map(PAGES.map((page) => [page, 0]));
    this.written = new Set();
    this.logging = false;
    this.child = null;
    this.stores = 0;
    swapon(this.m.k, 2048);
    const [slot] = this.m.vm.slots;
    if (slot === undefined) throw new Error('no slot');
    // Two slots of 2 MiB, the second of which moves.
    slot.lenBytes = HUGE;
    this.m.vm.slots.push({ ...slot, id: 1, gpa: PLACES[0], hva: slot.hva + HUGE });
  }

  /** Where a page is now; -1: its slot is on its way. */
  gpaOf(page: number): number {
    const id = page < 512 ? 0 : 1;
    const slot = this.m.vm.slots.find((s) => s.id === id && !s.invalid);
    return slot === undefined ? -1 : slot.gpa + (page % 512) * PAGE;
  }

  hvaOf(page: number): number {
    return this.m.hva + page * PAGE;
  }

  /** What the hart does with a leaf that lets it: a load that is checked, or a store. */
  access(page: number, write: boolean): boolean {
    const { k, vm } = this.m;
    const gpa = this.gpaOf(page);
    const flags = gpa < 0 ? 0 : gstageFlags(k, vm.gstage, gpa);
    if (flags === 0 || (write && (flags & PTE_W) === 0)) return false;
    const word = k.memory.pageOffset(pfnToPage(gstagePfn(k, vm.gstage, gpa))) >>> 2;
    expect(k.memory.i32[word]).toBe(this.words.get(page));
    if (!write) return true;
    this.stores++;
    k.memory.i32[word] = this.stores;
    this.words.set(page, this.stores);
    if (this.logging) this.written.add(page);
    return true;
  }

  /** A vCPU's instruction: faults until it is through. */
  *instruction(page: number, write: boolean): Path<void> {
    for (let tries = 0; !this.access(page, write); tries++) {
      expect(tries).toBeLessThan(200);
      const gpa = this.gpaOf(page);
      if (gpa < 0) yield YP_WAIT;
      else {
        const { kvm, vm } = this.m;
        const scratch = createSecondaryPfn();
        const error = yield* mapGuestPage(kvm, vm, gpa, write, scratch, vm.vcpus[0]);
        // Memory that the host keeps read-only for a while: the VMM's handler would wait.
        if (error === -EFAULT) yield YP_WAIT;
        else expect(error).toBe(0);
      }
    }
  }

  /** The hypervisor's own store to a page, through a cache. */
  *cachedStore(page: number): Path<void> {
    const { kvm, vm } = this.m;
    const gpa = this.gpaOf(page);
    if (gpa < 0) return;
    const cache = createPfnCache(vm);
    let error = yield* pfnCacheActivate(kvm, vm, cache, gpa, 4);
    while (error === 0 && !pfnCacheCheck(vm, cache, 4))
      error = yield* pfnCacheRefresh(kvm, vm, cache, 4);
    // The slot may have moved from under the gpa.
    if (error === 0 && this.gpaOf(page) === gpa) {
      const word = pfnCacheOffset(kvm, cache) >>> 2;
      expect(this.m.k.memory.i32[word]).toBe(this.words.get(page));
      this.stores++;
      pfnCacheWrite(kvm, vm, cache, new Uint8Array(Int32Array.of(this.stores).buffer));
      this.words.set(page, this.stores);
      if (this.logging) this.written.add(page);
    }
    vm.pfnCaches.splice(vm.pfnCaches.indexOf(cache), 1);
  }

  /** Every page that was written since the last time is in the ring, or the bitmap beside. */
  harvest(): void {
    const { kvm, vm } = this.m;
    const found = new Set<number>();
    const note = (slot: number, page: number): void => {
      found.add(slot * 512 + page);
    };
    harvestDirtyRing(vm.vcpus[0]!.dirtyRing!, note);
    resetDirtyRings(kvm, vm);
    for (const slot of vm.slots)
      for (const page of dirtyPageNumbers(harvestDirtyLog(kvm, vm, slot) ?? new Int32Array(0)))
        note(slot.id, page);
    if (this.logging) for (const page of this.written) expect(found).toContain(page);
    this.written.clear();
  }

  *setRegion(id: number, gpa: number, logging: boolean): Path<void> {
    const { kvm, vm, hva } = this.m;
    const flags = logging ? KVM_MEM_LOG_DIRTY_PAGES : 0;
    const region = { id, flags, gpa, lenBytes: HUGE, hva: hva + id * HUGE };
    let error = yield* setUserMemoryRegion(kvm, vm, region);
    // Some of the memory is read-only for the moment.
    for (; error === -EPERM; error = yield* setUserMemoryRegion(kvm, vm, region)) yield YP_WAIT;
    expect(error).toBe(0);
  }

  /** On for both slots, or off; what was written between the two does not count. */
  *toggleLog(): Path<void> {
    const on = !this.logging;
    this.logging = false;
    for (const slot of [...this.m.vm.slots]) yield* this.setRegion(slot.id, slot.gpa, on);
    this.harvest();
    this.logging = on;
  }

  *protect(page: number): Path<void> {
    const { k, mm } = this.m;
    const hva = this.hvaOf(page);
    const RW = PROT_READ | PROT_WRITE;
    expect(yield* mprotect(k, mm, hva, PAGE, PROT_READ)).toBe(0);
    expect(yield* mprotect(k, mm, hva, PAGE, RW)).toBe(0);
  }

  *migrate(page: number): Path<void> {
    const gpa = this.gpaOf(page);
    const pfn = gpa < 0 ? -1 : gstagePfn(this.m.k, this.m.vm.gstage, gpa);
    if (pfn >= 0) yield* migrateFolio(this.m.k, folioOf(this.m.k, pfnToPage(pfn)));
  }

  *forkOrExit(): Path<void> {
    const { k, mm } = this.m;
    if (this.child !== null) {
      const { child } = this;
      this.child = null;
      yield* mmExit(k, child);
      return;
    }
    const child = yield* fork(k, mm);
    if (typeof child !== 'number') this.child = child;
  }

  /** Something happens. */
  begin(): Path<unknown> {
    const { m, random } = this;
    const page = random.pick(PAGES);
    const block = this.hvaOf(page - (page % 512));
    switch (random.below(16)) {
      case 0:
        return this.protect(page);
      case 1:
        return this.migrate(page);
      case 2:
        return madvise(m.k, m.mm, block, HUGE, MADV_COLLAPSE);
      case 3:
        return madvise(m.k, m.mm, this.hvaOf(page), PAGE, MADV_PAGEOUT);
      case 4:
        return this.forkOrExit();
      case 5:
        return this.cachedStore(page);
      default:
        return this.instruction(page, random.chance(0.6));
    }
  }

  /** What needs the slots for itself: one at a time. */
  beginSlots(): Path<unknown> {
    return this.random.chance(0.5)
      ? this.toggleLog()
      : this.setRegion(1, this.random.pick(PLACES), this.logging);
  }
}

/** @returns how many leaves of each size were seen */
const play = (seed: number, steps: number): number[] => {
  const w = new World(seed);
  const { m, random } = w;
  const levels = [0, 0];
  m.k.watched = true;
  const paths: Path<unknown>[] = [];
  let slots: Path<unknown> | null = null;
  let waits = 0;
  for (let i = 0; i < steps || paths.length > 0 || slots !== null; i++) {
    if (i < steps && paths.length < 4 && random.chance(0.3)) paths.push(w.begin());
    if (i < steps && slots === null && random.chance(0.01)) slots = w.beginSlots();
    const candidates: Path<unknown>[] = slots === null ? paths : [...paths, slots];
    if (candidates.length === 0) continue;
    const path = random.pick(candidates);
    const step = path.next();
    waits = step.value === YP_WAIT && step.done !== true ? waits + 1 : 0;
    expect(waits).toBeLessThan(5000);
    if (step.done === true) {
      if (path === slots) slots = null;
      const at = paths.indexOf(path);
      if (at >= 0) paths.splice(at, 1);
      if (random.chance(0.02) && slots === null) w.harvest();
    }
    const page = random.pick(PAGES);
    w.access(page, random.chance(0.5));
    const gpa = w.gpaOf(page);
    const level = gpa < 0 ? -1 : gstageLevel(m.k, m.vm.gstage, gpa);
    if (level >= 0) levels[level]!++;
    if (paths.length === 0 && slots === null && random.chance(0.1)) assertKernel(m.k);
  }
  m.k.watched = false;
  assertKernel(m.k);
  expect(gpaToMemSlot(m.vm.slots, GUEST_GPA)).toBeDefined();
  return levels;
};

describe('everything at once', () => {
  for (let seed = 1; seed <= 4; seed++)
    test(`seed ${seed}: the guest finds what it has stored, and the log every page`, () => {
      const [small, huge] = play(seed, 6000);
      expect(small).toBeGreaterThan(200);
      expect(huge).toBeGreaterThan(0);
    });
});
