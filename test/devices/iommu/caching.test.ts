/**
 * What the IOMMU keeps of tables and directories, and which command makes it forget: RISC-V IOMMU 1.0,
 * "Caching in-memory data structures". Stale entries are used on purpose: that is what a driver with
 * deferred invalidation lives with, and what one that forgets an invalidation finds out.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { DMA_FAULT, RAM_BASE } from '#emu';
import {
  atp,
  type Board,
  boardOf,
  FREE,
  G,
  iodirDdt,
  iodirPdt,
  iotinvalGvma,
  iotinvalVma,
  IOVA,
  LEAF,
  MIDDLE,
  PDT,
  pscid,
  pte,
  ROOT1,
  SECOND,
  TARGET,
  V,
  WRITE,
} from './support.ts';

const OTHER = RAM_BASE + 0x30_0000;

/** Sv39 tables that map two pages at IOVA. */
const mapPages = (b: Board, flags = WRITE): void => {
  b.put(ROOT1 + 8, pte(MIDDLE, V));
  b.put(MIDDLE, pte(LEAF, V));
  b.put(LEAF, pte(TARGET, flags));
  b.put(LEAF + 8, pte(TARGET + 0x1000, flags));
};
/** A second stage that is the identity, in leaves of 1 GiB. */
const identity = (b: Board): void => {
  for (let i = 0; i < 4; i++) b.put(SECOND + i * 8, pte(i * 2 ** 30, WRITE));
};

describe('IOTINVAL.VMA', () => {
  let b: Board;
  const read = (device = 1, iova = IOVA): number => b.iommu.spa(device, -1, iova, false);
  beforeEach(() => {
    b = boardOf();
    mapPages(b);
    b.device(1, { ta: pscid(5), fsc: atp(8, ROOT1) });
    b.device(2, { ta: pscid(6), fsc: atp(8, ROOT1) });
    read();
    read(2);
    b.put(LEAF, pte(OTHER, WRITE));
  });

  it('without it the entry is used, whatever became of the table', () => {
    expect(read()).toBe(TARGET);
    b.put(ROOT1 + 8, 0n);
    b.put(LEAF, 0n);
    expect(read()).toBe(TARGET);
  });

  const NR = { gone: OTHER, kept: TARGET };
  for (const { fact, command, first, second } of [
    { fact: 'all of the host', command: iotinvalVma(), first: 'gone', second: 'gone' },
    { fact: 'one PSCID', command: iotinvalVma({ pscid: 5 }), first: 'gone', second: 'kept' },
    { fact: 'another PSCID', command: iotinvalVma({ pscid: 7 }), first: 'kept', second: 'kept' },
    { fact: 'an address', command: iotinvalVma({ iova: IOVA }), first: 'gone', second: 'gone' },
    {
      fact: 'another address',
      command: iotinvalVma({ iova: IOVA + 0x1000 }),
      first: 'kept',
      second: 'kept',
    },
    {
      fact: 'an address of a PSCID',
      command: iotinvalVma({ pscid: 6, iova: IOVA }),
      first: 'kept',
      second: 'gone',
    },
    { fact: 'all of a guest', command: iotinvalVma({ gscid: 5 }), first: 'kept', second: 'kept' },
    { fact: 'IOTINVAL.GVMA of all', command: iotinvalGvma(), first: 'kept', second: 'kept' },
    { fact: 'IODIR.INVAL_DDT', command: iodirDdt(), first: 'kept', second: 'kept' },
  ] as const)
    it(`${fact}: PSCID 5 is ${first}, PSCID 6 is ${second}`, () => {
      b.command(command);
      expect([read(), read(2)]).toEqual([NR[first], NR[second]]);
    });

  it('a page that was not there is not kept as such: invalid entries are never cached', () => {
    b.put(LEAF + 16, 0n);
    expect(read(1, IOVA + 0x2000)).toBe(DMA_FAULT);
    b.put(LEAF + 16, pte(OTHER, WRITE));
    expect(read(1, IOVA + 0x2000)).toBe(OTHER);
  });

  it('devices with one PSCID share entries', () => {
    b.device(3, { ta: pscid(5), fsc: atp(8, ROOT1) });
    expect(read(3)).toBe(TARGET);
  });

  it('a write through an entry made by a read looks at the table again', () => {
    expect(b.iommu.spa(1, -1, IOVA, true)).toBe(TARGET);
    b.command(iotinvalVma());
    b.put(LEAF, pte(OTHER, WRITE & ~(1 << 7)));
    expect(read()).toBe(OTHER);
    // D is not set, and nobody may set it.
    expect(b.iommu.spa(1, -1, IOVA, true)).toBe(DMA_FAULT);
  });
});

describe('IOTINVAL.VMA and global mappings', () => {
  it('stay when a PSCID is named, and go when none is', () => {
    const b = boardOf();
    mapPages(b, WRITE | G);
    b.device(1, { ta: pscid(5), fsc: atp(8, ROOT1) });
    const read = (): number => b.iommu.spa(1, -1, IOVA, false);
    read();
    b.put(LEAF, pte(OTHER, WRITE | G));
    b.command(iotinvalVma({ pscid: 5 }), iotinvalVma({ pscid: 5, iova: IOVA }));
    expect(read()).toBe(TARGET);
    b.command(iotinvalVma({ iova: IOVA }));
    expect(read()).toBe(OTHER);
  });

  it('G of an entry above the leaf is that of the leaf', () => {
    const b = boardOf();
    mapPages(b);
    b.put(MIDDLE, pte(LEAF, V | G));
    b.device(1, { ta: pscid(5), fsc: atp(8, ROOT1) });
    b.iommu.spa(1, -1, IOVA, false);
    b.put(LEAF, pte(OTHER, WRITE));
    b.command(iotinvalVma({ pscid: 5 }));
    expect(b.iommu.spa(1, -1, IOVA, false)).toBe(TARGET);
  });
});

describe('IOTINVAL and large pages', () => {
  it('any address of a 2 MiB page names its entry', () => {
    const b = boardOf({ ramBytes: 8 << 20 });
    mapPages(b);
    b.put(MIDDLE, pte(TARGET, WRITE));
    b.device(1, { ta: pscid(5), fsc: atp(8, ROOT1) });
    expect(b.iommu.spa(1, -1, IOVA + 0x12_3456, false)).toBe(TARGET + 0x12_3456);
    b.put(MIDDLE, 0n);
    expect(b.iommu.spa(1, -1, IOVA + 0x1f_ffff, false)).toBe(TARGET + 0x1f_ffff);
    b.command(iotinvalVma({ pscid: 5, iova: IOVA + 0x20_0000 }));
    expect(b.iommu.spa(1, -1, IOVA, false)).toBe(TARGET);
    b.command(iotinvalVma({ pscid: 5, iova: IOVA + 0x7_0000 }));
    expect(b.iommu.spa(1, -1, IOVA, false)).toBe(DMA_FAULT);
  });

  it('pieces of a large first-stage page go together, whichever is named', () => {
    const b = boardOf({ ramBytes: 8 << 20 });
    mapPages(b);
    b.put(MIDDLE, pte(TARGET, WRITE));
    // A second stage of 4 KiB pages, below the same root.
    const [below, leaves] = [FREE + 0x10000, FREE + 0x11000];
    b.put(SECOND + 16, pte(below, V));
    for (let i = 0; i < 4; i++) b.put(below + i * 8, pte(leaves + i * 4096, V));
    for (let i = 0; i < 4 * 512; i++) b.put(leaves + i * 8, pte(RAM_BASE + i * 4096, WRITE));
    b.device(1, { iohgatp: atp(8, SECOND, 9), ta: pscid(5), fsc: atp(8, ROOT1) });
    const read = (offset: number): number => b.iommu.spa(1, -1, IOVA + offset, false);
    expect([read(0), read(0x5000)]).toEqual([TARGET, TARGET + 0x5000]);
    b.put(MIDDLE, 0n);
    b.command(iotinvalVma({ gscid: 9, pscid: 5, iova: IOVA + 0x9000 }));
    expect([read(0), read(0x5000)]).toEqual([DMA_FAULT, DMA_FAULT]);
  });
});

describe('IOTINVAL.GVMA', () => {
  let b: Board;
  const read = (device: number): number => b.iommu.spa(device, -1, IOVA, false);
  beforeEach(() => {
    b = boardOf();
    mapPages(b);
    identity(b);
    b.device(1, { iohgatp: atp(8, SECOND, 9), ta: pscid(5), fsc: atp(8, ROOT1) });
    b.device(2, { iohgatp: atp(8, SECOND, 9), ta: pscid(6), fsc: atp(8, ROOT1) });
    expect([read(1), read(2)]).toEqual([TARGET, TARGET]);
    b.put(SECOND + 16, 0n);
  });
  const gone = (device: number): boolean => read(device) === DMA_FAULT;

  for (const { fact, command, want } of [
    { fact: 'all guests', command: iotinvalGvma(), want: true },
    { fact: 'the guest', command: iotinvalGvma({ gscid: 9 }), want: true },
    { fact: 'another guest', command: iotinvalGvma({ gscid: 8 }), want: false },
    {
      fact: 'an address of the leaf, of 1 GiB',
      command: iotinvalGvma({ gscid: 9, gpa: RAM_BASE + 0x1000_0000 }),
      want: true,
    },
    {
      fact: 'an address of another leaf',
      command: iotinvalGvma({ gscid: 9, gpa: RAM_BASE + 2 ** 30 }),
      want: false,
    },
    { fact: 'IOTINVAL.VMA of the host', command: iotinvalVma(), want: false },
    { fact: 'IOTINVAL.VMA of the guest', command: iotinvalVma({ gscid: 9 }), want: true },
  ])
    it(`${fact}: entries made through the second stage ${want ? 'go' : 'stay'}`, () => {
      b.command(command);
      expect([gone(1), gone(2)]).toEqual([want, want]);
    });

  it('IOTINVAL.VMA does not touch a device that has a second stage only', () => {
    b.put(SECOND + 16, pte(2 ** 31, WRITE));
    b.device(3, { iohgatp: atp(8, SECOND, 9) });
    const straight = (): number => b.iommu.spa(3, -1, TARGET, false);
    expect(straight()).toBe(TARGET);
    b.put(SECOND + 16, 0n);
    b.command(iotinvalVma({ gscid: 9 }));
    expect(straight()).toBe(TARGET);
    b.command(iotinvalGvma({ gscid: 9, gpa: TARGET }));
    expect(straight()).toBe(DMA_FAULT);
  });
});

describe('IODIR: the directory caches', () => {
  it('a device context is used until INVAL_DDT names its device, or all', () => {
    const b = boardOf();
    mapPages(b);
    for (const id of [1, 2]) b.device(id, { ta: pscid(5), fsc: atp(8, ROOT1) });
    const read = (id: number): number => b.iommu.spa(id, -1, IOVA, false);
    expect([read(1), read(2)]).toEqual([TARGET, TARGET]);
    for (const id of [1, 2]) b.device(id, { tc: 0n });
    expect([read(1), read(2)]).toEqual([TARGET, TARGET]);
    b.command(iodirDdt(2));
    expect([read(1), read(2)]).toEqual([TARGET, DMA_FAULT]);
    b.command(iodirDdt());
    expect(read(1)).toBe(DMA_FAULT);
  });

  it('a process context until INVAL_PDT names it, or INVAL_DDT its device', () => {
    const b = boardOf();
    mapPages(b);
    b.device(1, { tc: 1n | (1n << 5n), fsc: atp(1, PDT) });
    for (const pid of [3, 4]) {
      b.put(PDT + pid * 16, 1n | pscid(pid));
      b.put(PDT + pid * 16 + 8, atp(8, ROOT1));
    }
    const read = (pid: number): number => b.iommu.spa(1, pid, IOVA, false);
    expect([read(3), read(4)]).toEqual([TARGET, TARGET]);
    for (const pid of [3, 4]) b.put(PDT + pid * 16, 0n);
    b.command(iotinvalVma());
    expect([read(3), read(4)]).toEqual([TARGET, TARGET]);
    b.command(iodirPdt(1, 3));
    expect([read(3), read(4)]).toEqual([DMA_FAULT, TARGET]);
    b.command(iodirDdt(1));
    expect(read(4)).toBe(DMA_FAULT);
    expect(b.faults().map(({ cause }) => cause)).toEqual([266, 266]);
  });
});
