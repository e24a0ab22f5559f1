/** Memory that a driver maps by itself. Compare mm/memory.c:remap_pfn_range(), vmf_insert_pfn(), vm_insert_page(). */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  accessRemoteVm,
  allocPages,
  assertKernel,
  type DeviceMemory,
  deviceFileCreate,
  drive,
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOMEM,
  folioRefCount,
  fork,
  freePages,
  GFP_ZERO,
  type HostProcess,
  MADV_DONTNEED,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_MAYMOVE,
  madvise,
  mmap,
  mprotect,
  mremap,
  munmap,
  nrFreePages,
  PROT_READ,
  pageMapcount,
  pageToPfn,
  pteSpecial,
  pteWrite,
} from '#mm';
import { FOLL_WRITE, pinUserPagesUnlocked, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { VM_DONTEXPAND, VM_IO, VM_MIXEDMAP, VM_PFNMAP } from '../../mm/vma/flags.ts';
import { remapPfnRange, vmfInsertMixed, vmfInsertPfn, vmInsertPage } from '../../mm/vma/pfnmap.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  mapAnon,
  pageAt,
  RW,
  type World,
} from './support.ts';

const NR = 4;

interface Device {
  w: World;
  p: HostProcess;
  /** Its memory: NR pages of RAM that a driver has, the first holds 1, the second 2, .. */
  first: number;
  mapping: AddressSpace;
}

const withDevice = (how: DeviceMemory['how']): Device => {
  const w = createWorld();
  const first = allocPages(w.k, 2, GFP_ZERO);
  for (let i = 0; i < NR; i++) w.k.memory.u8[w.k.memory.pageOffset(first + i)] = i + 1;
  const mapping = deviceFileCreate(w.k, NR, { how, firstPfn: pageToPfn(first) });
  return { w, p: createProcess(w), first, mapping };
};

const tryMap = (
  { w, p, mapping }: Device,
  { flags = MAP_SHARED, prot = RW, pgoff = 0, nr = NR } = {},
): number => drive(mmap(w.k, p.mm, { lenBytes: nr * PAGE_SIZE, prot, flags, mapping, pgoff }));

const vmaOf = (p: HostProcess, hva: number) => p.mm.vmas.find(({ start }) => start === hva);

describe('remap_pfn_range()', () => {
  it('maps all of it at once by special entries: no references, no rmap, not resident', () => {
    const d = withDevice('remap');
    const { w, p, first } = d;
    const hva = tryMap(d);
    expect((vmaOf(p, hva)?.flags ?? 0) & (VM_IO | VM_PFNMAP | VM_DONTEXPAND)).toBe(
      VM_IO | VM_PFNMAP | VM_DONTEXPAND,
    );
    const faults = w.k.state.stat.pgfault;
    for (let i = 0; i < NR; i++) expect(p.load8(hva + i * PAGE_SIZE)).toBe(i + 1);
    p.store8(hva + 1, 77);
    expect(w.k.memory.u8[w.k.memory.pageOffset(first) + 1]).toBe(77);
    expect(w.k.state.stat.pgfault).toBe(faults);
    expect(pteSpecial(entryAt(p, hva))).toBe(true);
    expect([folioRefCount(w.k, first), pageMapcount(w.k, first), p.mm.rssFile]).toEqual([1, 0, 0]);
    assertKernel(w.k, { quiescent: true });
    exit(p);
    freePages(w.k, first, 2);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('private: writes go to copies of the frames', () => {
    const d = withDevice('remap');
    const { w, p, first } = d;
    const hva = tryMap(d, { flags: MAP_PRIVATE });
    expect(vmaOf(p, hva)?.pgoff).toBe(pageToPfn(first));
    expect(p.store8(hva + PAGE_SIZE + 1, 9)).toBe(0);
    expect([p.load8(hva + PAGE_SIZE), p.load8(hva + PAGE_SIZE + 1)]).toEqual([2, 9]);
    expect(w.k.memory.u8[w.k.memory.pageOffset(first + 1) + 1]).toBe(0);
    expect(pageAt(p, hva + PAGE_SIZE)).not.toBe(first + 1);
    expect(p.mm.rssAnon).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('private, of a part of the VMA, is -EINVAL', () => {
    const { w, p } = withDevice('remap');
    const hva = mapAnon(p, 4);
    const vma = vmaOf(p, hva);
    if (vma === undefined) throw new Error('no VMA');
    expect(remapPfnRange(w.k, vma, hva, 1, PAGE_SIZE)).toBe(-EINVAL);
    expect(remapPfnRange(w.k, vma, hva + 1, 1, PAGE_SIZE)).toBe(-EINVAL);
  });

  it('is copied by fork: there is no fault that would find the frames again', () => {
    const d = withDevice('remap');
    const { w, p } = d;
    const hva = tryMap(d);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(entryAt(c, hva)).not.toBe(0);
    c.store8(hva, 50);
    expect(p.load8(hva)).toBe(50);
    assertKernel(w.k, { quiescent: true });
  });

  it('private, is write-protected for both by fork', () => {
    const d = withDevice('remap');
    const { w, p } = d;
    const hva = tryMap(d, { flags: MAP_PRIVATE });
    p.store8(hva, 60);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    for (const who of [p, c]) expect(pteWrite(entryAt(who, hva))).toBe(false);
    c.store8(hva, 61);
    expect([p.load8(hva), c.load8(hva), c.load8(hva + PAGE_SIZE)]).toEqual([60, 61, 2]);
    assertKernel(w.k, { quiescent: true });
  });

  it('without memory for a table is -ENOMEM, and nothing is left of the mapping', () => {
    const d = withDevice('remap');
    const { w, p } = d;
    const taken: number[] = [];
    for (let page = 0; page >= 0; ) {
      page = allocPages(w.k, 0, 0);
      if (page >= 0) taken.push(page);
    }
    expect(tryMap(d)).toBe(-ENOMEM);
    expect(p.mm.vmas).toHaveLength(0);
    for (const page of taken) freePages(w.k, page, 0);
    assertKernel(w.k, { quiescent: true });
  });

  it('is not dropped by madvise(), nor made longer', () => {
    const d = withDevice('remap');
    const { w, p } = d;
    const hva = tryMap(d);
    expect(drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED))).toBe(-EINVAL);
    const longer = mremap(w.k, p.mm, hva, NR * PAGE_SIZE, 8 * PAGE_SIZE, MREMAP_MAYMOVE);
    expect(drive(longer)).toBe(-EFAULT);
    expect(drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ))).toBe(0);
    expect(p.store8(hva, 1)).toBe(-EFAULT);
    assertKernel(w.k, { quiescent: true });
  });
});

describe('vmf_insert_pfn()', () => {
  it('maps a frame at the fault', () => {
    const d = withDevice('insert-pfn');
    const { w, p } = d;
    const hva = tryMap(d, { pgoff: 1, nr: NR - 1 });
    expect(entryAt(p, hva)).toBe(0);
    expect(p.load8(hva + PAGE_SIZE)).toBe(3);
    expect(entryAt(p, hva)).toBe(0);
    expect(pteSpecial(entryAt(p, hva + PAGE_SIZE))).toBe(true);
    assertKernel(w.k, { quiescent: true });
  });

  it('has nothing to do where somebody came first', () => {
    const d = withDevice('insert-pfn');
    const { w, p, first } = d;
    const hva = tryMap(d);
    p.load8(hva);
    const vma = vmaOf(p, hva);
    if (vma === undefined) throw new Error('no VMA');
    expect(vmfInsertPfn(w.k, vma, hva, pageToPfn(first) + 3)).toBe(0);
    expect(p.load8(hva)).toBe(1);
    expect(vmfInsertPfn(w.k, vma, hva + NR * PAGE_SIZE, 1)).toBe(-EFAULT);
  });

  it('is for shared mappings: a private one is refused by the driver', () => {
    expect(tryMap(withDevice('insert-pfn'), { flags: MAP_PRIVATE })).toBe(-EINVAL);
  });

  it('is not for ordinary VMAs', () => {
    const { w, p } = withDevice('insert-pfn');
    const vma = vmaOf(p, mapAnon(p, 1));
    if (vma === undefined) throw new Error('no VMA');
    expect(() => vmfInsertPfn(w.k, vma, vma.start, 1)).toThrow('not for that');
    expect(vmfInsertMixed(w.k, vma, vma.start, 1)).toBe(-EFAULT);
  });

  it('what is unmapped is mapped again by the next fault', () => {
    const d = withDevice('insert-mixed');
    const { w, p } = d;
    const hva = tryMap(d);
    expect(p.load8(hva)).toBe(1);
    expect(drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED))).toBe(0);
    expect(entryAt(p, hva)).toBe(0);
    expect(p.load8(hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });
});

describe('vm_insert_page()', () => {
  it('maps pages that are counted: a reference, a mapping, resident', () => {
    const w = createWorld();
    const pages = [0, 1].map(() => allocPages(w.k, 0, GFP_ZERO));
    const p = createProcess(w);
    const [low, high] = pages.toSorted((a, b) => a - b);
    if (low === undefined || high === undefined || high !== low + 1)
      throw new Error('no neighbours');
    w.k.memory.u8[w.k.memory.pageOffset(low)] = 7;
    const mapping = deviceFileCreate(w.k, 2, { how: 'insert-page', firstPfn: pageToPfn(low) });
    const hva = tryMap({ w, p, first: low, mapping }, { nr: 2 });
    expect(p.load8(hva)).toBe(7);
    expect(pteSpecial(entryAt(p, hva))).toBe(false);
    expect((vmaOf(p, hva)?.flags ?? 0) & (VM_MIXEDMAP | VM_PFNMAP)).toBe(VM_MIXEDMAP);
    expect([folioRefCount(w.k, low), pageMapcount(w.k, low), p.mm.rssFile]).toEqual([2, 1, 2]);
    // The driver's own reference of each is the only one that nobody accounts for.
    assertKernel(w.k, { quiescent: true, gets: 2 });
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    expect(folioRefCount(w.k, low)).toBe(3);
    exit(createProcess(w, child));
    drive(munmap(w.k, p.mm, hva, 2 * PAGE_SIZE));
    expect(folioRefCount(w.k, low)).toBe(1);
    for (const page of pages) freePages(w.k, page, 0);
    assertKernel(w.k, { quiescent: true });
  });

  it('pages mapped so may be had by GUP; special entries may not', () => {
    const counted = withDevice('remap');
    const page = allocPages(counted.w.k, 0, GFP_ZERO);
    const mapping = deviceFileCreate(counted.w.k, 1, {
      how: 'insert-page',
      firstPfn: pageToPfn(page),
    });
    const hva = tryMap({ ...counted, mapping }, { nr: 1 });
    const pages = new Int32Array(1);
    const { k } = counted.w;
    expect(drive(pinUserPagesFast(k, counted.p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect(pages[0]).toBe(page);
    unpinUserPages(k, pages, 1);
    // VM_IO and VM_PFNMAP are refused by the VMA, in a mixed one the entry is.
    const refused = { remap: -EFAULT, 'insert-pfn': -EFAULT, 'insert-mixed': -EEXIST };
    for (const how of ['remap', 'insert-pfn', 'insert-mixed'] as const) {
      const d = withDevice(how);
      const at = tryMap(d);
      d.p.load8(at);
      for (const pin of [pinUserPagesUnlocked, pinUserPagesFast])
        expect(drive(pin(d.w.k, d.p.mm, at, 1, FOLL_WRITE, pages)), how).toBe(refused[how]);
      assertKernel(d.w.k, { quiescent: true });
    }
  });

  it('refuses what is free, anonymous, outside, or in the way', () => {
    const { w, p, first } = withDevice('remap');
    const anon = mapAnon(p, 1);
    p.store8(anon, 1);
    const vma = vmaOf(p, mapAnon(p, 4));
    if (vma === undefined) throw new Error('no VMA');
    const free = allocPages(w.k, 0, GFP_ZERO);
    freePages(w.k, free, 0);
    expect(vmInsertPage(w.k, vma, vma.start, free)).toBe(-EINVAL);
    expect(vmInsertPage(w.k, vma, vma.start, pageAt(p, anon))).toBe(-EINVAL);
    expect(vmInsertPage(w.k, vma, vma.end, first)).toBe(-EFAULT);
    p.store8(vma.start, 1);
    expect(vmInsertPage(w.k, vma, vma.start, first)).toBe(-EBUSY);
  });
});

describe('a debugger', () => {
  it('reaches memory without page structs through what maps it', () => {
    const d = withDevice('remap');
    const { w, p, first } = d;
    const hva = tryMap(d);
    const bytes = new Uint8Array(2 * PAGE_SIZE);
    expect(drive(accessRemoteVm(w.k, p.mm, hva + PAGE_SIZE, bytes, false))).toBe(2 * PAGE_SIZE);
    expect([bytes[0], bytes[PAGE_SIZE]]).toEqual([2, 3]);
    expect(drive(accessRemoteVm(w.k, p.mm, hva, Uint8Array.of(99), true))).toBe(1);
    expect(w.k.memory.u8[w.k.memory.pageOffset(first)]).toBe(99);
  });

  it('does not write what is mapped read-only, nor reach what is not mapped yet', () => {
    const d = withDevice('remap');
    const hva = tryMap(d, { prot: PROT_READ });
    expect(drive(accessRemoteVm(d.w.k, d.p.mm, hva, Uint8Array.of(99), true))).toBe(0);
    const e = withDevice('insert-pfn');
    const at = tryMap(e);
    expect(drive(accessRemoteVm(e.w.k, e.p.mm, at, new Uint8Array(1), false))).toBe(0);
  });
});

describe('a driver’s file', () => {
  it('is mapped only as far as it goes', () => {
    for (const how of ['remap', 'insert-pfn', 'insert-mixed', 'insert-page'] as const) {
      const d = withDevice(how);
      expect(tryMap(d, { nr: NR + 1 }), how).toBe(-EINVAL);
      expect(d.p.mm.vmas).toHaveLength(0);
      assertKernel(d.w.k, { quiescent: true });
    }
  });
});
