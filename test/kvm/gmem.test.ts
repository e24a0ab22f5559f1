/**
 * Guest memory from a guest_memfd: private pages that no address of the host stands for, shared ones, and
 * conversions under a guest that runs. Compare virt/kvm/guest_memfd.c; facts sheet 1.13 and 2.16.
 */
import { describe, expect, it } from 'vitest';
import {
  bindGuestMemfd,
  createVm,
  destroyVm,
  gpaToMemSlot,
  gstagePfn,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  KVM_MEMORY_ATTRIBUTE_PRIVATE,
  type MemSlot,
  setDirtyLog,
  setMemoryAttributes,
  setMemSlot,
  setUserMemoryRegion,
  type Vm,
} from '#kvm';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  accessRemoteVm,
  assertKernel,
  drive,
  EAGAIN,
  EINVAL,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdCreate,
  guestMemfdFallocate,
  guestMemfdIsPrivate,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mappingPut,
  memoryFailure,
  migrateFolio,
  mmap,
  mmExit,
  pageToPfn,
  PROT_READ,
  PROT_WRITE,
  type PolicyName,
  YP_SECONDARY_PFN,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { rng } from '../support/rng.ts';
import { load, run, type TestMachine, testMachine } from './machine.ts';

/** Where the slot with the file is, and how large. */
const GPA = 0x9000_0000;
const NR_PAGES = 16;
const LEN = NR_PAGES * PAGE_SIZE;
const PRIVATE = KVM_MEMORY_ATTRIBUTE_PRIVATE;
const SHARED_FLAGS = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
const PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

/** Adds one to the first word of each of the 16 pages, one after the other, for ever. */
const COUNTER = `
     li s0, 0x${GPA.toString(16)}
     li s2, 0x1000
  0: mv s1, s0
     li t1, ${NR_PAGES}
  1: ld t0, 0(s1)
     addi t0, t0, 1
     sd t0, 0(s1)
     add s1, s1, s2
     addi t1, t1, -1
     bnez t1, 1b
     j 0b`;

interface GmemMachine extends TestMachine {
  file: AddressSpace;
  slot: MemSlot;
  /** Behind the slot, in the VMM. */
  alias: number;
}

/** A machine with a second slot that has a file; where that can be mapped the VMM has it mapped. */
const gmemMachine = (flags: number, policy: PolicyName = 'target'): GmemMachine => {
  const m = testMachine({ policy });
  const file = guestMemfdCreate(m.k, LEN, flags);
  if (typeof file === 'number') throw new Error(`guestMemfdCreate: ${file}`);
  const mapped = (flags & GUEST_MEMFD_FLAG_MMAP) !== 0;
  const alias = drive(
    mmap(m.k, m.mm, {
      lenBytes: LEN,
      prot: PROT_READ | PROT_WRITE,
      flags: mapped ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
      ...(mapped ? { mapping: file } : {}),
    }),
  );
  const slot = setMemSlot(m.vm, { id: 1, gpa: GPA, lenBytes: LEN, hva: alias });
  expect(drive(bindGuestMemfd(m.kvm, m.vm, slot, file, 0))).toBe(0);
  load(m, COUNTER);
  return { ...m, file, slot, alias };
};

/** Instructions that count every page once. */
const ONE_ROUND = NR_PAGES * 6 + 3;

/** Lets the guest count; the sanitizer looks at the end. */
const count = (m: GmemMachine, rounds = 3): void => {
  expect(run(m, ONE_ROUND * rounds, 50)).toBe('limit');
};

/** A page's count as it is in the file; -1 for a hole. */
const inFile = ({ k, file }: GmemMachine, pgoff: number): number => {
  const page = file.pages.get(pgoff);
  return page === undefined ? -1 : k.memory.i32[k.memory.pageOffset(page) >>> 2]!;
};

/** The same as the VMM sees it by the slot's hva; -1: SIGBUS. */
const atHva = ({ k, mm, alias }: GmemMachine, pgoff: number): number => {
  const bytes = new Uint8Array(4);
  const n = drive(accessRemoteVm(k, mm, alias + pgoff * PAGE_SIZE, bytes, false));
  return n === 4 ? new DataView(bytes.buffer).getInt32(0, true) : -1;
};

const setAttributes = (m: GmemMachine, pgoff: number, nr: number, attributes: number): number =>
  drive(setMemoryAttributes(m.kvm, m.vm, GPA + pgoff * PAGE_SIZE, nr * PAGE_SIZE, attributes));

const entryOf = ({ k, vm }: GmemMachine, pgoff: number): number =>
  gstagePfn(k, vm.gstage, GPA + pgoff * PAGE_SIZE);

describe('a file that cannot be mapped: private pages from the file, shared ones from the hva', () => {
  for (const policy of ['linux-7', 'target'] as const)
    it(`under ${policy} all of the slot is private at first, and the hva's memory is not touched`, () => {
      const m = gmemMachine(0, policy);
      count(m);
      expect(inFile(m, 0)).toBeGreaterThan(2);
      expect(atHva(m, 0)).toBe(0);
      expect(entryOf(m, 3)).toBe(pageToPfn(m.file.pages.get(3) ?? -1));
      expect(m.vm.stat.gmemFaults).toBe(NR_PAGES);
    });

  it('a page that becomes shared is another one: that of the hva; and back', () => {
    const m = gmemMachine(0);
    count(m);
    const before = inFile(m, 2);
    expect(setAttributes(m, 2, 1, 0)).toBe(0);
    expect(entryOf(m, 2)).toBe(-1);
    count(m, 5);
    expect(inFile(m, 2)).toBe(before);
    expect(atHva(m, 2)).toBeGreaterThan(3);
    expect(atHva(m, 3)).toBe(0);
    expect(setAttributes(m, 0, NR_PAGES, PRIVATE)).toBe(0);
    const shared = atHva(m, 2);
    count(m);
    expect(atHva(m, 2)).toBe(shared);
    expect(inFile(m, 2)).toBeGreaterThan(before);
  });

  it('MMU notifiers of the hva take shared entries only', () => {
    const m = gmemMachine(0);
    setAttributes(m, 4, 2, 0);
    count(m);
    const entries = Array.from({ length: NR_PAGES }, (_, i) => entryOf(m, i));
    drive(madvise(m.k, m.mm, m.alias, LEN, MADV_DONTNEED));
    const kept = entries.map((pfn, i) => (i === 4 || i === 5 ? -1 : pfn));
    expect(Array.from({ length: NR_PAGES }, (_, i) => entryOf(m, i))).toEqual(kept);
    count(m);
    expect(atHva(m, 4)).toBeLessThan(inFile(m, 3));
  });

  it('a fault that has its page when the page changes sides starts again', () => {
    const m = gmemMachine(0);
    const vcpu = m.vcpus[0]!;
    for (;;) {
      const exit = vcpu.run(10_000);
      if (exit.kind !== 'fault') throw new Error(exit.kind);
      if (exit.gpa >= GPA) break;
      drive(vcpu.handleFault());
    }
    m.k.watched = true;
    const fault = vcpu.handleFault();
    while (fault.next().value !== YP_SECONDARY_PFN);
    expect(setAttributes(m, 0, 1, 0)).toBe(0);
    m.k.watched = false;
    drive(fault);
    expect(m.vm.stat.faultRetries).toBe(1);
    count(m, 1);
    expect(atHva(m, 0)).toBeGreaterThan(0);
    expect(inFile(m, 0)).toBe(0);
  });
});

describe('a file that can be mapped: all pages from the file (KVM_MEMSLOT_GMEM_ONLY)', () => {
  for (const policy of ['linux-7', 'target'] as const)
    it(`under ${policy} guest and VMM see the same bytes`, () => {
      const m = gmemMachine(SHARED_FLAGS, policy);
      count(m);
      for (let i = 0; i < NR_PAGES; i++) expect(atHva(m, i)).toBe(inFile(m, i));
      expect(inFile(m, 0)).toBeGreaterThan(2);
    });

  it('a page that becomes private keeps its bytes, and the VMM loses it', () => {
    const m = gmemMachine(SHARED_FLAGS);
    count(m);
    expect(atHva(m, 7)).toBeGreaterThan(2);
    expect(setAttributes(m, 7, 1, PRIVATE)).toBe(0);
    expect(guestMemfdIsPrivate(m.file, 7)).toBe(true);
    const before = inFile(m, 7);
    count(m);
    expect(inFile(m, 7)).toBeGreaterThan(before);
    expect([atHva(m, 7), atHva(m, 8)]).toEqual([-1, inFile(m, 8)]);
    expect(setAttributes(m, 7, 1, 0)).toBe(0);
    expect(atHva(m, 7)).toBe(inFile(m, 7));
  });

  it('not while a device of the VMM has the page pinned (2.16)', () => {
    const m = gmemMachine(SHARED_FLAGS);
    count(m);
    const pages = new Int32Array(1);
    const hva = m.alias + 3 * PAGE_SIZE;
    expect(drive(pinUserPagesFast(m.k, m.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect(setAttributes(m, 0, 8, PRIVATE)).toBe(-EAGAIN);
    count(m);
    expect(atHva(m, 3)).toBe(inFile(m, 3));
    unpinUserPages(m.k, pages, 1);
    expect(setAttributes(m, 0, 8, PRIVATE)).toBe(0);
    expect(drive(pinUserPagesFast(m.k, m.mm, hva, 1, FOLL_WRITE, pages))).toBeLessThan(0);
  });

  it('its pages are migrated under the guest, and no count is lost', () => {
    const m = gmemMachine(SHARED_FLAGS);
    count(m);
    for (let i = 0; i < NR_PAGES; i++) {
      const before = inFile(m, i);
      expect(drive(migrateFolio(m.k, m.file.pages.get(i) ?? -1))).toBe(0);
      expect(entryOf(m, i)).toBe(-1);
      expect(inFile(m, i)).toBe(before);
      count(m, 1);
    }
    const counts = Array.from({ length: NR_PAGES }, (_, i) => inFile(m, i));
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
    expect(counts[0]).toBeGreaterThan(NR_PAGES);
  });

  it('what the VMM does to the addresses alone changes nothing for the guest', () => {
    const m = gmemMachine(SHARED_FLAGS);
    count(m);
    const entry = entryOf(m, 0);
    drive(madvise(m.k, m.mm, m.alias, LEN, MADV_DONTNEED));
    expect(entryOf(m, 0)).toBe(entry);
    count(m);
    expect(atHva(m, 0)).toBe(inFile(m, 0));
  });
});

describe('the file', () => {
  for (const flags of [0, SHARED_FLAGS])
    it(`a hole begins at zero again for the guest (${flags === 0 ? 'private' : 'shared'})`, () => {
      const m = gmemMachine(flags);
      count(m, 10);
      expect(drive(guestMemfdFallocate(m.k, m.file, PUNCH, PAGE_SIZE, PAGE_SIZE))).toBe(0);
      expect([entryOf(m, 1), inFile(m, 1)]).toEqual([-1, -1]);
      count(m, 2);
      expect(inFile(m, 1)).toBeLessThan(4);
      expect(inFile(m, 0)).toBeGreaterThan(9);
      expect(m.vm.stat.gmemInvalidations).toBe(1);
    });

  it('a page that has gone bad ends the guest that touches it', () => {
    const m = gmemMachine(0);
    count(m);
    expect(drive(memoryFailure(m.k, m.file.pages.get(0) ?? -1))).toBe(0);
    const end = run(m, 10 * ONE_ROUND, 50);
    expect(typeof end === 'string' ? end : end.kind).toBe('error');
  });

  it('that is closed leaves a slot that shows nothing: the guest ends there', () => {
    const m = gmemMachine(0);
    count(m);
    drive(mappingPut(m.k, m.file));
    expect(entryOf(m, 0)).toBe(-1);
    expect(m.slot.gmem?.fileId).toBe(0);
    const end = run(m, ONE_ROUND, 50);
    expect(typeof end === 'string' ? end : end.kind).toBe('error');
    assertKernel(m.k);
  });

  it('outlives the VM, whose slots it does not know any more', () => {
    const m = gmemMachine(SHARED_FLAGS);
    count(m);
    const before = inFile(m, 0);
    destroyVm(m.kvm, m.vm);
    expect(m.file.gmem?.bindings).toEqual([]);
    expect(atHva(m, 0)).toBe(before);
    expect(drive(guestMemfdFallocate(m.k, m.file, PUNCH, 0, LEN))).toBe(0);
    drive(mmExit(m.k, m.mm));
    drive(mappingPut(m.k, m.file));
    assertKernel(m.k, { quiescent: true });
  });
});

describe('slots with a file — kvm_gmem_bind(), kvm_set_memory_region()', () => {
  it('neither log nor are read-only, do not move, and end the binding with them', () => {
    const m = gmemMachine(0);
    const region = { id: 1, gpa: GPA, lenBytes: LEN, hva: m.alias, flags: 0 };
    const set = (over: Partial<typeof region>) =>
      drive(setUserMemoryRegion(m.kvm, m.vm, { ...region, ...over }));
    expect(set({ flags: KVM_MEM_LOG_DIRTY_PAGES })).toBe(-EINVAL);
    expect(set({ gpa: GPA + LEN })).toBe(-EINVAL);
    expect(set({})).toBe(0);
    expect(m.file.gmem?.bindings.length).toBe(1);
    expect(set({ lenBytes: 0 })).toBe(0);
    expect(m.file.gmem?.bindings).toEqual([]);
    expect(gpaToMemSlot(m.vm.slots, GPA)).toBeUndefined();
    for (const flags of [KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES]) {
      const slot = setMemSlot(m.vm, { id: flags, gpa: GPA, lenBytes: LEN, hva: m.alias, flags });
      if (flags === KVM_MEM_LOG_DIRTY_PAGES) setDirtyLog(m.kvm, m.vm, slot, true);
      expect(drive(bindGuestMemfd(m.kvm, m.vm, slot, m.file, 0))).toBe(-EINVAL);
      drive(setUserMemoryRegion(m.kvm, m.vm, { ...region, id: flags, flags, lenBytes: 0 }));
    }
  });

  it('a file is of one VM, and a page of it in one slot', () => {
    const m = gmemMachine(0);
    const at = (vm: Vm, id: number, gpa: number, offset: number): number => {
      const slot = setMemSlot(vm, { id, gpa, lenBytes: PAGE_SIZE, hva: m.alias });
      return drive(bindGuestMemfd(m.kvm, vm, slot, m.file, offset));
    };
    expect(at(m.vm, 2, GPA + LEN, 0)).toBe(-EINVAL);
    expect(at(m.vm, 3, GPA + 2 * LEN, 5)).toBe(-EINVAL);
    const other = createVm(m.kvm, m.mm, { vmid: 8, nrVcpus: 1 }) as Vm;
    expect(at(other, 0, GPA, 0)).toBe(-EINVAL);
    destroyVm(m.kvm, other);
  });

  it('attributes want whole pages in slots that have a file', () => {
    const m = gmemMachine(0);
    const set = (gpa: number, lenBytes: number, attributes = PRIVATE) =>
      drive(setMemoryAttributes(m.kvm, m.vm, gpa, lenBytes, attributes));
    expect(set(GPA, LEN, 1)).toBe(-EINVAL);
    expect(set(GPA + 1, PAGE_SIZE)).toBe(-EINVAL);
    expect(set(GPA, 0)).toBe(-EINVAL);
    expect(set(GPA, LEN + PAGE_SIZE)).toBe(-EINVAL);
    expect(set(0x8000_0000, PAGE_SIZE)).toBe(-EINVAL);
    expect(set(GPA, LEN)).toBe(0);
    expect(m.vm.slotsLocked).toBe(false);
  });
});

describe('a guest that counts, while everything happens to its memory', () => {
  for (const seed of [1, 2, 3, 4])
    it(`seed ${seed}: every page has all of its counts`, () => {
      const random = rng(seed);
      const m = gmemMachine(SHARED_FLAGS, seed % 2 === 0 ? 'target' : 'linux-7');
      let rounds = 0;
      let converted = 0;
      const pages = new Int32Array(1);
      for (let i = 0; i < 120; i++) {
        count(m, 2);
        rounds += 2;
        const pgoff = random.below(NR_PAGES);
        const page = m.file.pages.get(pgoff) ?? -1;
        const hva = m.alias + pgoff * PAGE_SIZE;
        switch (random.below(5)) {
          case 0:
            if (setAttributes(m, pgoff, 1, PRIVATE) === 0) converted++;
            break;
          case 1:
            expect(setAttributes(m, pgoff, 1, 0)).toBe(0);
            break;
          case 2:
            drive(migrateFolio(m.k, page));
            break;
          case 3:
            drive(madvise(m.k, m.mm, hva, PAGE_SIZE, MADV_DONTNEED));
            break;
          default: {
            const got = drive(pinUserPagesFast(m.k, m.mm, hva, 1, FOLL_WRITE, pages));
            expect(got === 1).toBe(!guestMemfdIsPrivate(m.file, pgoff));
            if (got !== 1) break;
            expect(setAttributes(m, pgoff, 1, PRIVATE)).toBe(-EAGAIN);
            unpinUserPages(m.k, pages, 1);
          }
        }
      }
      expect(converted).toBeGreaterThan(5);
      const counts = Array.from({ length: NR_PAGES }, (_, i) => inFile(m, i));
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
      expect(Math.abs((counts[0] ?? 0) - rounds)).toBeLessThan(rounds / 10);
      assertKernel(m.k, { quiescent: true });
    });
});
