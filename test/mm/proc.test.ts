/** /proc/PID/maps, smaps and pagemap, read by a parser of their own and held against what the process did. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  type HostProcess,
  hugetlbSetPool,
  type Kernel,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  migrateFolio,
  mmap,
  type MmStruct,
  pageToPfn,
  PROT_EXEC,
  PROT_READ,
  procMaps,
  procPagemap,
  procSmaps,
  shmemCreate,
  YP_MIGRATE_UNMAPPED,
} from '#mm';
import { isSwapEntry, swapEntrySlot } from '../../mm/pgtable/swapops.ts';
import { PTE_UFFD_WP, pteClearSoftDirty } from '../../mm/pgtable/pte.ts';
import { setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { VM_SOFTDIRTY } from '../../mm/vma/flags.ts';
import {
  forked,
  createProcess,
  createWorld,
  entryAt,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
} from './support.ts';

const MIB2 = 2 << 20;

let w: World;
let k: Kernel;
let p: HostProcess;
beforeEach(() => {
  w = createWorld(32 << 20);
  k = w.k;
  p = createProcess(w);
});

/** Writes a word to each of `n` pages. */
const touch = (hva: number, n: number, q = p): void => {
  for (let i = 0; i < n; i++) expect(q.store32(hva + i * PAGE_SIZE, i + 1)).toBe(0);
};

const mapShared = (nrPages: number, pgoff = 0): number => {
  const mapping = shmemCreate(k, nrPages + pgoff);
  const request = { lenBytes: nrPages * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping, pgoff };
  return drive(mmap(k, p.mm, request));
};

const forkOf = (parent: HostProcess): HostProcess => forked(w, parent);

describe('/proc/PID/maps — fs/proc/task_mmu.c:show_map_vma()', () => {
  /** start-end rights offset dev inode [name] */
  const LINE =
    /^([0-9a-f]{8,})-([0-9a-f]{8,}) ([r-][w-][x-][sp]) ([0-9a-f]{8,}) ([0-9a-f]{2}):([0-9a-f]{2}) (\d+) (.*)$/;

  it('has a line for each VMA, in order, that says where it is', () => {
    mapAnon(p, 3);
    mapAnon(p, 2, PROT_READ | PROT_EXEC);
    mapShared(4);
    const lines = procMaps(p.mm).trimEnd().split('\n');
    const ranges = lines.map((line) =>
      LINE.exec(`${line} `)!
        .slice(1, 3)
        .map((x) => Number.parseInt(x, 16)),
    );
    expect(ranges).toEqual(p.mm.vmas.map(({ start, end }) => [start, end]));
    expect(ranges).toHaveLength(3);
  });

  it('gives rights, and whether it is shared', () => {
    const rights = (hva: number): string =>
      LINE.exec(
        procMaps(p.mm)
          .split('\n')
          .find((l) => l.startsWith(hva.toString(16)))!,
      )![3]!;
    expect(rights(mapAnon(p, 1))).toBe('rw-p');
    expect(rights(mapAnon(p, 1, PROT_READ))).toBe('r--p');
    expect(rights(mapAnon(p, 1, PROT_READ | PROT_EXEC))).toBe('r-xp');
    expect(rights(mapAnon(p, 1, 0))).toBe('---p');
    expect(rights(mapShared(1))).toBe('rw-s');
  });

  it('of anonymous memory has no offset, device, inode or name, and ends in a space', () => {
    mapAnon(p, 1);
    const line = procMaps(p.mm).split('\n')[0]!;
    expect(line).toMatch(/ 00000000 00:00 0 $/);
  });

  it('of a file: offset in bytes, inode, and a name in the 74th column', () => {
    mapShared(2, 3);
    const line = procMaps(p.mm).split('\n')[0]!;
    const [, , , , offset, , , inode] = LINE.exec(line)!;
    expect(Number.parseInt(offset!, 16)).toBe(3 * PAGE_SIZE);
    expect(Number(inode)).toBe(p.mm.vmas[0]!.mapping!.id);
    expect(line.indexOf('/memfd:')).toBe(73);
    expect(line[72]).toBe(' ');
  });
});

/** A block of smaps: fields in KiB by name, and their order. */
interface Block {
  order: string[];
  kib: Record<string, number>;
  flags: string[];
}

const blocks = (mm: MmStruct): Map<number, Block> => {
  const found = new Map<number, Block>();
  let block: Block | undefined;
  for (const line of procSmaps(k, mm).trimEnd().split('\n')) {
    const start = /^([0-9a-f]{8,})-/.exec(line);
    if (start !== null) {
      block = { order: [], kib: {}, flags: [] };
      found.set(Number.parseInt(start[1]!, 16), block);
      continue;
    }
    const [, name, rest] = /^(\w+):(.*)$/.exec(line)!;
    block!.order.push(name!);
    const number = /^( *\d+)( kB)?$/.exec(rest!);
    if (number === null) block!.flags = rest!.trim().split(' ');
    else block!.kib[name!] = Number(number[1]);
  }
  return found;
};
const blockAt = (hva: number, mm = p.mm): Record<string, number> => blocks(mm).get(hva)!.kib;

describe('/proc/PID/smaps — fs/proc/task_mmu.c:show_smap()', () => {
  it('has the fields of Linux, in its order, the numbers in one column', () => {
    mapAnon(p, 1);
    const [block] = blocks(p.mm).values();
    expect(block!.order).toEqual([
      'Size',
      'KernelPageSize',
      'MMUPageSize',
      'Rss',
      'Pss',
      'Pss_Dirty',
      'Shared_Clean',
      'Shared_Dirty',
      'Private_Clean',
      'Private_Dirty',
      'Referenced',
      'Anonymous',
      'KSM',
      'LazyFree',
      'AnonHugePages',
      'ShmemPmdMapped',
      'FilePmdMapped',
      'Shared_Hugetlb',
      'Private_Hugetlb',
      'Swap',
      'SwapPss',
      'Locked',
      'THPeligible',
      'VmFlags',
    ]);
    const lines = procSmaps(k, p.mm)
      .split('\n')
      .filter((line) => line.endsWith(' kB'));
    expect(new Set(lines.map((line) => line.length))).toEqual(new Set([27]));
  });

  it('what was written is resident, private and dirty; a read of nothing is not resident', () => {
    const hva = mapAnon(p, 8);
    touch(hva, 3);
    p.load32(hva + 5 * PAGE_SIZE);
    expect(blockAt(hva)).toMatchObject({
      Size: 32,
      Rss: 12,
      Pss: 12,
      Private_Dirty: 12,
      Shared_Dirty: 0,
      Anonymous: 12,
      Referenced: 12,
    });
  });

  it('Pss of all processes together is what there is, whoever shares it', () => {
    const hva = mapAnon(p, 6);
    touch(hva, 6);
    const child = forkOf(p);
    const grandchild = forkOf(child);
    touch(hva, 2, child);
    for (const q of [p, child, grandchild]) {
      const { Rss, Shared_Clean, Shared_Dirty, Private_Clean, Private_Dirty } = blockAt(hva, q.mm);
      expect(Shared_Clean! + Shared_Dirty! + Private_Clean! + Private_Dirty!).toBe(Rss);
    }
    expect(blockAt(hva, child.mm)).toMatchObject({ Private_Dirty: 8, Shared_Dirty: 16 });
    // Six pages of the first, two copies of the second. Each Pss is rounded down to KiB.
    const sum = [p, child, grandchild].reduce((n, q) => n + blockAt(hva, q.mm)['Pss']!, 0);
    expect(sum).toBeGreaterThan(8 * 4 - 3);
    expect(sum).toBeLessThanOrEqual(8 * 4);
  });

  it('a file mapped twice is shared, and not anonymous', () => {
    const hva = mapShared(2);
    touch(hva, 2);
    expect(blockAt(hva)).toMatchObject({ Rss: 8, Private_Dirty: 8, Anonymous: 0 });
    const child = forkOf(p);
    child.load32(hva);
    expect(blockAt(hva)).toMatchObject({ Rss: 8, Shared_Dirty: 4, Private_Dirty: 4, Pss: 6 });
  });

  it('swapped pages are in Swap and not in Rss; shared ones are shared in SwapPss', () => {
    swapon(k, 64);
    const hva = mapAnon(p, 4);
    touch(hva, 4);
    drive(madvise(k, p.mm, hva, 3 * PAGE_SIZE, MADV_PAGEOUT));
    expect(blockAt(hva)).toMatchObject({ Rss: 4, Swap: 12, SwapPss: 12 });
    const child = forkOf(p);
    expect(blockAt(hva)).toMatchObject({ Swap: 12, SwapPss: 6 });
    expect(blockAt(hva, child.mm)).toMatchObject({ Swap: 12, SwapPss: 6 });
  });

  it("a file's swapped pages are in Swap, of a private mapping those that it would find there", () => {
    swapon(k, 64);
    const hva = mapShared(4);
    touch(hva, 4);
    const mapping = p.mm.vmas[0]!.mapping!;
    const request = { lenBytes: 4 * PAGE_SIZE, prot: RW, flags: MAP_PRIVATE, mapping, pgoff: 0 };
    const own = drive(mmap(k, p.mm, request));
    p.store32(own, 9);
    drive(madvise(k, p.mm, hva, 3 * PAGE_SIZE, MADV_PAGEOUT));
    expect(mapping.swapped.size).toBe(3);
    expect(blockAt(hva)).toMatchObject({ Rss: 4, Swap: 12, SwapPss: 0 });
    expect(blockAt(own)).toMatchObject({ Rss: 4, Swap: 8 });
  });

  it('a huge folio by one entry is in AnonHugePages, and stays resident when that is split', () => {
    k.state.thp.always = 1 << 9;
    const hva = mapAnon(p, 1024, RW, 0x4000_0000);
    p.store32(hva, 1);
    expect(blockAt(hva)).toMatchObject({
      Rss: 2048,
      AnonHugePages: 2048,
      Anonymous: 2048,
      THPeligible: 1,
    });
    drive(madvise(k, p.mm, hva, PAGE_SIZE, 4));
    expect(blockAt(hva)).toMatchObject({ Rss: 2044, AnonHugePages: 0 });
  });

  it('hugetlb is counted apart: private until it is shared', () => {
    expect(hugetlbSetPool(k, 9, 2)).toBe(2);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    const hva = drive(mmap(k, p.mm, { lenBytes: MIB2, prot: RW, flags }));
    p.store32(hva, 1);
    expect(blockAt(hva)).toMatchObject({
      KernelPageSize: 2048,
      MMUPageSize: 2048,
      Rss: 0,
      Private_Hugetlb: 2048,
      Shared_Hugetlb: 0,
    });
    forkOf(p);
    expect(blockAt(hva)).toMatchObject({ Private_Hugetlb: 0, Shared_Hugetlb: 2048 });
  });

  it('merged pages are in KSM', () => {
    const hva = mapAnon(p, 4);
    for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, 7);
    drive(madvise(k, p.mm, hva, 4 * PAGE_SIZE, 12));
    while (drive(ksmScan(k, p.mm)) > 0);
    expect(blockAt(hva)).toMatchObject({ Rss: 16, KSM: 16, Pss: 4, Shared_Dirty: 16 });
  });

  it('Locked is the share of what must stay', () => {
    const hva = mapAnon(p, 2);
    touch(hva, 2);
    p.mm.vmas[0]!.flags |= 0x2000;
    expect(blockAt(hva)).toMatchObject({ Locked: 8 });
  });

  it('VmFlags names the bits of the VMA', () => {
    const hva = mapAnon(p, 1);
    const { flags } = blocks(p.mm).get(hva)!;
    for (const name of ['rd', 'wr', 'mr', 'mw', 'me']) expect(flags).toContain(name);
    expect(flags).not.toContain('sh');
    expect(flags).not.toContain('??');
    expect(blocks(p.mm).get(hva)!.flags).not.toContain('ex');
    const shared = mapShared(1);
    expect(blocks(p.mm).get(shared)!.flags).toEqual(expect.arrayContaining(['sh', 'ms']));
  });
});

describe('/proc/PID/pagemap — admin-guide/mm/pagemap.rst', () => {
  const BIT = (n: number): bigint => 1n << BigInt(n);
  const PFN_MASK = BIT(55) - 1n;
  const wordAt = (hva: number, mm = p.mm): bigint => procPagemap(k, mm, hva, 1)[0]!;
  const has = (word: bigint, bit: number): boolean => (word & BIT(bit)) !== 0n;
  /** What lies on the bits above, without soft-dirty. */
  const bits = (word: bigint): number[] => [56, 57, 58, 61, 62, 63].filter((n) => has(word, n));

  it('of a hole and of what was never touched is 0, but for soft-dirty', () => {
    const hva = mapAnon(p, 1);
    expect(wordAt(hva - PAGE_SIZE)).toBe(0n);
    expect(wordAt(hva)).toBe(BIT(55));
    p.mm.vmas[0]!.flags &= ~VM_SOFTDIRTY;
    expect(wordAt(hva)).toBe(0n);
  });

  it('of a page: bit 63, its frame, and bit 56 while nobody else maps it', () => {
    const hva = mapAnon(p, 3);
    touch(hva, 3);
    const words = procPagemap(k, p.mm, hva, 3);
    for (const [i, word] of words.entries()) {
      expect(bits(word)).toEqual([56, 63]);
      expect(Number(word & PFN_MASK)).toBe(pageToPfn(pageAt(p, hva + i * PAGE_SIZE)));
    }
    const child = forkOf(p);
    expect(bits(wordAt(hva))).toEqual([63]);
    expect(bits(wordAt(hva, child.mm))).toEqual([63]);
  });

  it('of the zero page: present, and nothing else', () => {
    const hva = mapAnon(p, 1);
    p.load32(hva);
    expect(bits(wordAt(hva))).toEqual([63]);
    expect(Number(wordAt(hva) & PFN_MASK)).toBe(pageToPfn(k.state.zeroPage));
  });

  it('of a file: bit 61, in a shared mapping and in a private one that was not written', () => {
    const hva = mapShared(1);
    touch(hva, 1);
    expect(bits(wordAt(hva))).toEqual([56, 61, 63]);
    const mapping = p.mm.vmas[0]!.mapping!;
    const request = { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_PRIVATE, mapping, pgoff: 0 };
    const own = drive(mmap(k, p.mm, request));
    p.load32(own);
    expect(bits(wordAt(own))).toEqual([61, 63]);
    p.store32(own, 1);
    expect(bits(wordAt(own))).toEqual([56, 63]);
  });

  it('bit 55 is soft-dirty: of the entry, or of a VMA that is new', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    expect(has(wordAt(hva), 55)).toBe(true);
    p.mm.vmas[0]!.flags &= ~VM_SOFTDIRTY;
    setPteAt(k, walkPte(k, p.mm, hva, false), pteClearSoftDirty(entryAt(p, hva)));
    expect(has(wordAt(hva), 55)).toBe(false);
  });

  it('bit 57: userfaultfd write-protects the page', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    setPteAt(k, walkPte(k, p.mm, hva, false), (entryAt(p, hva) & ~4) | PTE_UFFD_WP);
    expect(bits(wordAt(hva))).toEqual([56, 57, 63]);
  });

  it('of a swapped page: bit 62, the type in bits 4-0, the slot above', () => {
    swapon(k, 64);
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    drive(madvise(k, p.mm, hva, PAGE_SIZE, MADV_PAGEOUT));
    const word = wordAt(hva);
    const entry = entryAt(p, hva);
    expect(isSwapEntry(entry)).toBe(true);
    expect(bits(word)).toEqual([62]);
    expect(word & 0x1fn).toBe(0n);
    expect(Number((word & PFN_MASK) >> 5n)).toBe(swapEntrySlot(entry));
  });

  it('of a page on the move: bit 62, a migration type, and the frame it comes from', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    const page = pageAt(p, hva);
    const path = migrateFolio(k, page);
    stepTo(k, path, YP_MIGRATE_UNMAPPED);
    const word = wordAt(hva);
    expect(bits(word)).toEqual([62]);
    expect(Number(word & 0x1fn)).toBe(30); // of a writable entry
    expect(Number((word & PFN_MASK) >> 5n)).toBe(pageToPfn(page));
    drive(path);
    expect(bits(wordAt(hva))).toEqual([56, 63]);
  });

  it('of a huge page: one frame after the other, from whatever place in it the read begins', () => {
    k.state.thp.always = 1 << 9;
    const hva = mapAnon(p, 512, RW, 0x4000_0000);
    p.store32(hva, 1);
    const words = procPagemap(k, p.mm, hva + 5 * PAGE_SIZE, 4);
    const first = Number(wordAt(hva) & PFN_MASK);
    expect([...words].map((word) => Number(word & PFN_MASK) - first)).toEqual([5, 6, 7, 8]);
    expect(bits(words[0]!)).toEqual([56, 63]);
    expect(first % 512).toBe(0);
  });
});
