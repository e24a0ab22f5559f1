/** Contexts, keys and fences of the MMU one by one: what flushes, what does not, and what survives. */
import { beforeEach, describe, expect, it } from 'vitest';
import {
  ATP_MODE_SV39,
  ATP_MODE_SV48,
  MMU_FAULT,
  MMU_MMIO,
  Mmu,
  PAGE_SIZE,
  PhysMemory,
  PRIV_M,
  PRIV_S,
  PRIV_U,
  PTE_A,
  PTE_D,
  PTE_R,
  PTE_U,
  PTE_V,
  PTE_W,
  PTE_X,
  pteHi,
  pteLo,
  RAM_OFFSET,
  RAM_PFN_BASE,
} from '#emu';
import { SPACE_KEY_LIMIT } from '../../../emu/mmu/context.ts';
import { FRAME_CODE, TLB_BASE, TLB_STRIDE } from '../../../emu/layout.ts';
import { accessOffset } from '../../support/mmu-access.ts';

const PAGES = 512;
const LEAF = PTE_V | PTE_R | PTE_W | PTE_X | PTE_A | PTE_D;
const VA = 0x40_0000; // in the first gigabyte, third 2 MiB region
const DATA = 256; // first data page

let memory: PhysMemory;
let mmu: Mmu;
let next: number;

const write = (page: number, index: number, target: number, flags: number): void => {
  const i = (RAM_OFFSET + page * PAGE_SIZE + index * 8) >>> 2;
  memory.i32[i] = pteLo(RAM_PFN_BASE + target, flags);
  memory.i32[i + 1] = pteHi(RAM_PFN_BASE + target);
};

/** A space with one leaf table at VA: page VA + n is mapped to DATA + first + n. Pages of root and leaf table. */
const space = (first: number, flags = LEAF, levels = 3): { root: number; leaf: number } => {
  const root = next++;
  let table = root;
  for (let i = levels - 1; i > 1; i--) {
    write(table, 0, next, PTE_V);
    table = next++;
  }
  const leaf = next++;
  write(table, VA >>> 21, leaf, PTE_V);
  for (let n = 0; n < 8; n++) write(leaf, n, DATA + first + n, flags);
  return { root, leaf };
};

/** G-stage that maps guest physical 0x8000_0000.. to RAM one to one, in 4 KiB pages. */
const guestSpace = (): { root: number; leaf: number } => {
  next = Math.ceil(next / 4) * 4;
  const root = next;
  next += 4;
  write(root, 2, next, PTE_V);
  write(next, 0, next + 1, PTE_V);
  const leaf = next + 1;
  next += 2;
  for (let n = 0; n < PAGES; n++) write(leaf, n, n, LEAF | PTE_U);
  return { root, leaf };
};

const useSatp = (root: number, asid: number, mode = ATP_MODE_SV39): void => {
  const r = mmu.regs;
  r.priv = PRIV_S;
  r.virt = false;
  r.satpMode = mode;
  r.satpAsid = asid;
  r.satpPpn = RAM_PFN_BASE + root;
  mmu.contextChanged();
};

const useGuest = (root: number, asid: number, gRoot: number, vmid: number): void => {
  const r = mmu.regs;
  r.priv = PRIV_S;
  r.virt = true;
  r.vsatpMode = ATP_MODE_SV39;
  r.vsatpAsid = asid;
  r.vsatpPpn = RAM_PFN_BASE + root;
  r.hgatpMode = ATP_MODE_SV39;
  r.hgatpVmid = vmid;
  r.hgatpPpn = RAM_PFN_BASE + gRoot;
  mmu.contextChanged();
};

/** Page of RAM that a load of the n-th page at VA reaches. */
const loads = (n = 0): number =>
  Math.floor((mmu.loadOffset(VA + n * PAGE_SIZE, 0, 8) - RAM_OFFSET) / PAGE_SIZE);

const misses = (): number => mmu.counts().tlbMissRead;

beforeEach(() => {
  memory = new PhysMemory(PAGES * PAGE_SIZE);
  mmu = new Mmu(memory, 0);
  next = 0;
});

describe('address spaces — Priv 1.13, 12.1.11 satp', () => {
  it('a write of satp flushes nothing: both spaces hit when they come back', () => {
    const a = space(0);
    const b = space(8);
    useSatp(a.root, 1);
    expect(loads()).toBe(DATA);
    useSatp(b.root, 2);
    expect(loads()).toBe(DATA + 8);
    const before = misses();
    for (let i = 0; i < 1000; i++) {
      useSatp(a.root, 1);
      expect(loads()).toBe(DATA);
      useSatp(b.root, 2);
      expect(loads()).toBe(DATA + 8);
    }
    expect(misses()).toBe(before);
    expect(mmu.counts().flushes).toBe(0);
  });

  it('neither does a trap to HS-mode and a return to the guest', () => {
    const host = space(0);
    const g = guestSpace();
    const guest = space(8);
    useSatp(host.root, 0);
    loads();
    useGuest(guest.root, 0, g.root, 1);
    loads();
    const before = misses();
    for (let i = 0; i < 100; i++) {
      mmu.regs.virt = false;
      mmu.contextChanged();
      expect(loads()).toBe(DATA);
      mmu.regs.virt = true;
      mmu.contextChanged();
      expect(loads()).toBe(DATA + 8);
    }
    expect(misses()).toBe(before);
  });

  it('U-mode and S-mode, SUM and not, share no entry', () => {
    const a = space(0, LEAF | PTE_U);
    useSatp(a.root, 1);
    mmu.regs.sum = true;
    mmu.contextChanged();
    expect(loads()).toBe(DATA);
    mmu.regs.sum = false;
    mmu.contextChanged();
    expect(mmu.loadOffset(VA, 0, 8)).toBe(MMU_FAULT);
    expect(mmu.faultCause).toBe(13);
    mmu.regs.priv = PRIV_U;
    mmu.contextChanged();
    expect(loads()).toBe(DATA);
  });

  it('Sv48 walks one level more, from its own root', () => {
    const a = space(0, LEAF, 4);
    useSatp(a.root, 1, ATP_MODE_SV48);
    const before = mmu.counts().walkSteps;
    expect(loads()).toBe(DATA);
    expect(mmu.counts().walkSteps - before).toBe(4);
    // The second page finds its leaf table in the walk cache.
    expect(loads(1)).toBe(DATA + 1);
    expect(mmu.counts().walkSteps - before).toBe(5);
  });

  it('more than 64 contexts push out the least recently used, which comes back right', () => {
    const spaces = Array.from({ length: 70 }, (_, i) => space(i % 40));
    for (let round = 0; round < 2; round++)
      spaces.forEach((s, i) => {
        useSatp(s.root, i);
        expect(loads()).toBe(DATA + (i % 40));
      });
    expect(mmu.counts().contextsEvicted).toBeGreaterThan(60);
  });

  it('more than 64 guests push out G-stage spaces, with the contexts that go through them', () => {
    const g = [guestSpace(), guestSpace()];
    const guest = space(0);
    // The second one shows other frames.
    for (let n = 0; n < 8; n++) write(g[1]?.leaf ?? 0, DATA + n, DATA + 100 + n, LEAF | PTE_U);
    for (let round = 0; round < 2; round++)
      for (let vmid = 0; vmid < 70; vmid++) {
        useGuest(guest.root, 0, g[vmid & 1]?.root ?? 0, vmid);
        expect(loads()).toBe(DATA + (vmid & 1) * 100);
        expect(loads(1)).toBe(DATA + (vmid & 1) * 100 + 1);
      }
  });
});

describe('fences — Priv 1.13, 12.2.1 SFENCE.VMA and 15.3.2 HFENCE', () => {
  it('with an address: that page is walked again, its neighbour is not', () => {
    const a = space(0);
    useSatp(a.root, 1);
    loads(0);
    loads(1);
    write(a.leaf, 0, DATA + 50, LEAF);
    write(a.leaf, 1, DATA + 51, LEAF);
    mmu.sfenceVma(VA, 0);
    expect(loads(0)).toBe(DATA + 50);
    expect(loads(1)).toBe(DATA + 1); // stale, as it may be
    mmu.sfenceVma();
    expect(loads(1)).toBe(DATA + 51);
  });

  it('with an address in a superpage: all pieces of it are walked again', () => {
    const root = next++;
    const middle = next++;
    write(root, 0, middle, PTE_V);
    write(middle, VA >>> 21, 0, LEAF);
    useSatp(root, 1);
    expect(loads(3)).toBe(3);
    expect(loads(5)).toBe(5);
    write(middle, VA >>> 21, 0, 0);
    mmu.sfenceVma(VA + 5 * PAGE_SIZE, 0);
    expect(mmu.loadOffset(VA + 3 * PAGE_SIZE, 0, 8)).toBe(MMU_FAULT);
    expect(mmu.loadOffset(VA + 5 * PAGE_SIZE, 0, 8)).toBe(MMU_FAULT);
  });

  it('with an ASID: reaches a space that is not current, and leaves the others', () => {
    const a = space(0);
    const b = space(8);
    useSatp(a.root, 1);
    loads();
    useSatp(b.root, 2);
    loads();
    write(a.leaf, 0, DATA + 50, LEAF);
    const before = misses();
    mmu.sfenceVma(undefined, undefined, 1);
    expect(loads()).toBe(DATA + 8);
    expect(misses()).toBe(before);
    useSatp(a.root, 1);
    expect(loads()).toBe(DATA + 50);
  });

  it('SFENCE.VMA with V=1 leaves HS-mode alone, and the host kernel can fence while V=1', () => {
    const a = space(0);
    const g = guestSpace();
    const guest = space(8);
    useSatp(a.root, 1);
    loads();
    useGuest(guest.root, 1, g.root, 1);
    loads();
    write(a.leaf, 0, DATA + 50, LEAF);
    mmu.sfenceVma();
    useSatp(a.root, 1);
    expect(loads()).toBe(DATA);
    useGuest(guest.root, 1, g.root, 1);
    mmu.hostSfenceVma(VA);
    useSatp(a.root, 1);
    expect(loads()).toBe(DATA + 50);
  });

  it('HFENCE.VVMA is for the VMID in hgatp only', () => {
    const g = guestSpace();
    const guest = space(8);
    useGuest(guest.root, 1, g.root, 1);
    loads();
    useGuest(guest.root, 1, g.root, 2);
    loads();
    write(guest.leaf, 0, DATA + 50, LEAF);
    mmu.hfenceVvma(VA, 0);
    expect(loads()).toBe(DATA + 50);
    useGuest(guest.root, 1, g.root, 1);
    expect(loads()).toBe(DATA + 8); // stale, as it may be
  });

  it('HFENCE.GVMA with an address: the guest sees the new frame, and the GPA cache keeps the other pages', () => {
    const g = guestSpace();
    const guest = space(8);
    useGuest(guest.root, 1, g.root, 1);
    loads(0);
    loads(1);
    write(g.leaf, DATA + 8, DATA + 60, LEAF | PTE_U);
    write(g.leaf, DATA + 9, DATA + 61, LEAF | PTE_U);
    mmu.hfenceGvma(0x8000_0000 + (DATA + 8) * PAGE_SIZE, 1);
    expect(loads(0)).toBe(DATA + 60);
    expect(loads(1)).toBe(DATA + 9); // from the GPA cache
    mmu.hfenceGvma(undefined, 1);
    expect(loads(1)).toBe(DATA + 61);
  });

  it('with an address in a G-stage superpage: all pieces of it', () => {
    const g = guestSpace();
    const guest = space(8);
    const middle = g.root + 4;
    write(middle, 0, 0, LEAF | PTE_U);
    useGuest(guest.root, 1, g.root, 1);
    loads(0);
    loads(1);
    // Another megapage is out of RAM here: MMIO.
    write(middle, 0, 512, LEAF | PTE_U);
    mmu.hfenceGvma(0x8000_0000 + (DATA + 9) * PAGE_SIZE, 1);
    expect(mmu.loadOffset(VA, 0, 8)).toBe(MMU_FAULT); // the guest's own tables are not RAM any more
    expect(mmu.faultCause).toBe(5);
  });

  it('a full flush is a new key, and 511 keys later the arrays are cleared', () => {
    const a = space(0);
    useSatp(a.root, 1);
    for (let i = 0; i < 1200; i++) {
      write(a.leaf, 0, DATA + (i % 100), LEAF);
      mmu.sfenceVma();
      expect(loads()).toBe(DATA + (i % 100));
    }
    expect(mmu.counts().rollovers).toBe(2);
    expect(mmu.counts().flushes).toBe(1200);
  });

  it('G-stage generations start again in the same way', () => {
    const g = guestSpace();
    const guest = space(8);
    useGuest(guest.root, 1, g.root, 1);
    loads();
    const state = mmu.save();
    state.table.nextSpaceKey = SPACE_KEY_LIMIT - 2;
    mmu.restore(state);
    for (let i = 0; i < 6; i++) {
      write(g.leaf, DATA + 8, DATA + 60 + i, LEAF | PTE_U);
      mmu.hfenceGvma();
      expect(loads()).toBe(DATA + 60 + i);
    }
    expect(mmu.counts().rollovers).toBe(1);
  });
});

describe('entries', () => {
  it('a store sets D before it may hit; a page with D clear is not in the WRITE array', () => {
    const a = space(0, LEAF & ~PTE_D);
    useSatp(a.root, 1);
    loads();
    expect(mmu.storeOffset(VA, 0, 8)).toBe(MMU_FAULT);
    expect(mmu.faultCause).toBe(15);
    mmu.regs.adueHs = true;
    mmu.contextChanged();
    expect(mmu.storeOffset(VA, 0, 8)).toBe(RAM_OFFSET + DATA * PAGE_SIZE);
    expect(memory.i32[(RAM_OFFSET + a.leaf * PAGE_SIZE) >>> 2]! & PTE_D).toBe(PTE_D);
  });

  it('a frame with decoded instructions has no write entry', () => {
    const a = space(0);
    useSatp(a.root, 1);
    mmu.storeOffset(VA, 0, 8);
    memory.flagFrames(DATA, 1, FRAME_CODE);
    const before = mmu.counts().tlbMissWrite;
    for (let i = 0; i < 3; i++)
      expect(mmu.storeOffset(VA, 0, 8)).toBe(RAM_OFFSET + DATA * PAGE_SIZE);
    expect(mmu.counts().tlbMissWrite).toBe(before + 3);
  });

  it('holdsPage() knows frames that live entries reach, and no others', () => {
    const a = space(0);
    useSatp(a.root, 1);
    loads();
    expect(mmu.holdsPage(DATA)).toBe(true);
    expect(mmu.holdsPage(DATA + 1)).toBe(false);
    mmu.sfenceVma();
    expect(mmu.holdsPage(DATA)).toBe(false);
    accessOffset(mmu, BigInt(VA), 'fetch', 2);
    expect(mmu.holdsPage(DATA)).toBe(true);
  });

  it('a misaligned load is not a hit, and reaches its bytes', () => {
    const a = space(0);
    useSatp(a.root, 1);
    loads();
    const before = misses();
    expect(mmu.loadOffset(VA + 3, 0, 4)).toBe(RAM_OFFSET + DATA * PAGE_SIZE + 3);
    expect(mmu.loadOffset(VA + 3, 0, 1)).toBe(RAM_OFFSET + DATA * PAGE_SIZE + 3);
    expect(misses()).toBe(before + 1);
  });

  it('addresses that are not RAM are handed back as physical ones, without an entry', () => {
    mmu.regs.priv = PRIV_M;
    mmu.contextChanged();
    expect(mmu.loadOffset(0x1000_0005, 0, 1)).toBe(MMU_MMIO);
    expect(mmu.pa).toBe(0x1000_0005);
    expect(mmu.storeOffset(0x200_0000, 0, 4)).toBe(MMU_MMIO);
    expect(mmu.loadOffset(0, 0x100_0000, 4)).toBe(MMU_FAULT); // bit 56 and up: no physical address
    expect(mmu.faultCause).toBe(5);
  });

  it('two harts in one memory share nothing', () => {
    const a = space(0);
    const other = new Mmu(memory, 1);
    useSatp(a.root, 1);
    loads();
    expect(other.counts().tlbMissRead).toBe(0);
    expect(other.holdsPage(DATA)).toBe(false);
    other.flushAll();
    const before = misses();
    loads();
    expect(misses()).toBe(before);
  });
});

describe('save and restore', () => {
  it('goes on with the same hits, misses, keys and counters', () => {
    const g = guestSpace();
    const guest = space(8);
    const host = space(0);
    const steps = (m: Mmu, from: number): number[] => {
      mmu = m;
      memory = m.memory;
      const seen: number[] = [];
      for (let i = from; i < from + 400; i++) {
        if (i % 7 === 0) useSatp(host.root, i % 3);
        if (i % 7 === 3) useGuest(guest.root, i % 5, g.root, 1 + (i % 2));
        if (i % 11 === 0) mmu.sfenceVma(VA + (i % 8) * PAGE_SIZE, 0);
        if (i % 13 === 0) mmu.hfenceGvma(0x8000_0000 + (DATA + 8) * PAGE_SIZE);
        if (i % 17 === 0) mmu.sfenceVma();
        seen.push(loads(i % 8));
      }
      return seen;
    };
    const first = mmu;
    steps(first, 0);
    const second = new Mmu(new PhysMemory(PAGES * PAGE_SIZE), 0);
    second.memory.u8.set(first.memory.u8);
    second.restore(structuredClone(first.save()));
    expect(steps(second, 400)).toEqual(steps(first, 400));
    expect(second.counts()).toEqual(first.counts());
    expect(second.save()).toEqual(first.save());
    const tlb = (m: Mmu) => m.memory.u8.slice(TLB_BASE, TLB_BASE + TLB_STRIDE);
    expect(Buffer.compare(tlb(second), tlb(first))).toBe(0);
  });
});
