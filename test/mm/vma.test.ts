/** mmap, munmap, mprotect and MADV_DONTNEED against a reference that knows pages only. */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  changeProtNuma,
  drive,
  EACCES,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOMEM,
  findVma,
  fork,
  type HostProcess,
  MADV_DONTNEED,
  madvise,
  MAP_ANONYMOUS,
  MAP_FIXED_NOREPLACE,
  MAP_PRIVATE,
  MAP_SHARED,
  type MmStruct,
  mmap,
  mmExit,
  mprotect,
  munmap,
  nrFreePages,
  PROT_EXEC,
  PROT_NONE,
  PROT_READ,
  shmemCreate,
  mappingPut,
  taskSize,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { pteProtnone } from '../../mm/pgtable/pte.ts';
import { VM_ACCESS_FLAGS, VM_MAYWRITE, VM_SHARED } from '../../mm/vma/flags.ts';
import { rng } from '../support/rng.ts';
import { ARENA, ARENA_PAGES, PlainProcess, plainFile } from './plain-process.ts';
import { createProcess, createWorld, entryAt, exit, mapAnon, RW } from './support.ts';

const AT = 0x1000_0000;

describe('VMAs', () => {
  it('say of every page what a page-wise reference says, through 2,000 random calls', () => {
    const w = createWorld();
    const file = plainFile(shmemCreate(w.k, 200));
    const plain = new PlainProcess(createProcess(w));
    const random = rng(7);
    for (let i = 0; i < 2000; i++) {
      drive(plain.randomStep(random, [file]));
      if (i % 100 !== 0) continue;
      for (let at = 0; at < ARENA_PAGES; at++) {
        const vma = findVma(plain.p.mm, ARENA + at * PAGE_SIZE);
        const page = plain.pages.get(at);
        const is = vma === null ? 'none' : `${vma.flags & (VM_ACCESS_FLAGS | VM_SHARED)}`;
        const must = page === undefined ? 'none' : `${page.prot | (page.shared ? VM_SHARED : 0)}`;
        if (is !== must) throw new Error(`page ${at}: ${is}, must be ${must}`);
      }
      assertKernel(w.k, { quiescent: true });
    }
    plain.checkAll();
    exit(plain.p);
    drive(mappingPut(w.k, file.mapping));
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('merge with neighbours of the same kind, also in the middle', () => {
    const p = createProcess(createWorld());
    mapAnon(p, 1, RW, AT);
    mapAnon(p, 1, RW, AT + 2 * PAGE_SIZE);
    expect(p.mm.vmas.length).toBe(2);
    mapAnon(p, 1, RW, AT + PAGE_SIZE);
    expect(p.mm.vmas.length).toBe(1);
  });

  it('are split by mprotect and merged again by its inverse', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 4);
    drive(mprotect(w.k, p.mm, hva + PAGE_SIZE, PAGE_SIZE, PROT_READ));
    expect(p.mm.vmas.length).toBe(3);
    p.store32(hva, 1);
    drive(mprotect(w.k, p.mm, hva + PAGE_SIZE, PAGE_SIZE, RW));
    expect(p.mm.vmas.length).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('that mprotect may once merge share an anon_vma, so that it can', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 2);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW | PROT_EXEC));
    p.store32(hva, 1);
    p.store32(hva + PAGE_SIZE, 2);
    expect(p.mm.vmas[0]?.anonVma).toBe(p.mm.vmas[1]?.anonVma);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
    expect(p.mm.vmas.length).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('a hole in the middle leaves two, and the table of the hole is kept for them', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 3);
    for (let i = 0; i < 3; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
    drive(munmap(w.k, p.mm, hva + PAGE_SIZE, PAGE_SIZE));
    expect(p.mm.vmas.length).toBe(2);
    expect(p.load32(hva)).toBe(1);
    expect(p.load32(hva + PAGE_SIZE)).toBe(-EFAULT);
    expect(p.load32(hva + 2 * PAGE_SIZE)).toBe(3);
  });

  it('munmap of everything gives back every table but the root', () => {
    const w = createWorld();
    const p = createProcess(w);
    for (let i = 0; i < 8; i++) {
      mapAnon(p, 1, RW, AT + i * 2 ** 30);
      p.store32(AT + i * 2 ** 30, 1);
    }
    expect(p.mm.nrTables).toBe(1 + 8 + 8);
    drive(munmap(w.k, p.mm, AT, 8 * 2 ** 30));
    expect(p.mm.nrTables).toBe(1);
  });

  it('mprotect of anonymous pages that are exclusive makes them writable at once', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 5);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ));
    expect(p.store32(hva, 6)).toBe(-EFAULT);
    const faults = w.k.state.stat.pgfault;
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
    expect(p.store32(hva, 7)).toBe(0);
    expect(w.k.state.stat.pgfault).toBe(faults);
  });

  it('PROT_NONE keeps the page and refuses every access', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 5);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_NONE));
    expect(p.load32(hva)).toBe(-EFAULT);
    expect(entryAt(p, hva)).not.toBe(0);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
    expect(p.load32(hva)).toBe(5);
  });
});

describe('NUMA hints (change_prot_numa, prot_numa_skip)', () => {
  const hinted = (p: HostProcess, hva: number): boolean => pteProtnone(entryAt(p, hva));

  it('take every access from the pages of accessible mappings, and from no others', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 2, RW, AT);
    p.store32(hva, 1);
    p.load32(hva + PAGE_SIZE);
    drive(changeProtNuma(w.k, p.mm, 0, taskSize(w.k)));
    // The zero page is everybody's: where it is used from says nothing.
    expect([hinted(p, hva), hinted(p, hva + PAGE_SIZE)]).toEqual([true, false]);
    expect(p.load32(hva)).toBe(1);
    expect(hinted(p, hva)).toBe(false);
    assertKernel(w.k, { quiescent: true });
  });

  it('pass over private pages that a fork shares, or that may be pinned', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 2, RW, AT);
    p.store32(hva, 1);
    p.store32(hva + PAGE_SIZE, 2);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, 0, pages));
    drive(changeProtNuma(w.k, p.mm, hva, hva + 2 * PAGE_SIZE));
    expect([hinted(p, hva), hinted(p, hva + PAGE_SIZE)]).toEqual([false, true]);
    unpinUserPages(w.k, pages, 1);
    const child = drive(fork(w.k, p.mm)) as MmStruct;
    p.load32(hva + PAGE_SIZE);
    drive(changeProtNuma(w.k, p.mm, hva, hva + 2 * PAGE_SIZE));
    expect([hinted(p, hva), hinted(p, hva + PAGE_SIZE)]).toEqual([false, false]);
    drive(mmExit(w.k, child));
    assertKernel(w.k, { quiescent: true });
  });
});

describe('errors of the mapping calls', () => {
  const w = createWorld();
  const p = createProcess(w);
  const { k } = w;
  const hva = mapAnon(p, 4, RW, AT);
  const anon = MAP_PRIVATE | MAP_ANONYMOUS;
  for (const { fact, call, expected } of [
    {
      fact: 'mmap of nothing is -EINVAL',
      call: () => mmap(k, p.mm, { lenBytes: 0, prot: RW, flags: anon }),
      expected: -EINVAL,
    },
    {
      fact: 'mmap both shared and private is -EINVAL',
      call: () => mmap(k, p.mm, { lenBytes: 1, prot: RW, flags: anon | MAP_SHARED }),
      expected: -EINVAL,
    },
    {
      fact: 'mmap of a file without a file is -EINVAL',
      call: () => mmap(k, p.mm, { lenBytes: 1, prot: RW, flags: MAP_SHARED }),
      expected: -EINVAL,
    },
    {
      fact: 'mmap larger than user space is -ENOMEM',
      call: () => mmap(k, p.mm, { lenBytes: taskSize(k) + 1, prot: RW, flags: anon }),
      expected: -ENOMEM,
    },
    {
      fact: 'MAP_FIXED_NOREPLACE over a mapping is -EEXIST',
      call: () => mmap(k, p.mm, { hva, lenBytes: 1, prot: RW, flags: anon | MAP_FIXED_NOREPLACE }),
      expected: -EEXIST,
    },
    {
      fact: 'munmap of an odd address is -EINVAL',
      call: () => munmap(k, p.mm, hva + 1, PAGE_SIZE),
      expected: -EINVAL,
    },
    {
      fact: 'munmap of a hole is 0',
      call: () => munmap(k, p.mm, 0x5000_0000, PAGE_SIZE),
      expected: 0,
    },
    {
      fact: 'mprotect of a hole is -ENOMEM',
      call: () => mprotect(k, p.mm, 0x5000_0000, PAGE_SIZE, PROT_READ),
      expected: -ENOMEM,
    },
    {
      fact: 'mprotect of an odd address is -EINVAL',
      call: () => mprotect(k, p.mm, hva + 8, PAGE_SIZE, PROT_READ),
      expected: -EINVAL,
    },
    {
      fact: 'MADV_DONTNEED across a hole does the rest and is -ENOMEM',
      call: () => madvise(k, p.mm, hva, 8 * PAGE_SIZE, MADV_DONTNEED),
      expected: -ENOMEM,
    },
  ])
    it(fact, () => expect(drive<number>(call())).toBe(expected));

  it('mprotect to more than the VMA may have is -EACCES', () => {
    const vma = findVma(p.mm, hva);
    if (vma === null) throw new Error('no VMA');
    vma.flags &= ~VM_MAYWRITE;
    drive(mprotect(k, p.mm, hva, PAGE_SIZE, PROT_READ));
    expect(drive(mprotect(k, p.mm, hva, PAGE_SIZE, RW))).toBe(-EACCES);
  });
});
