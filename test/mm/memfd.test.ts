/** memfd_create(), and what seals take away. Compare mm/memfd.c, man 2 fcntl (File Sealing). */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  EACCES,
  EBUSY,
  EINVAL,
  EPERM,
  F_ALL_SEALS,
  F_SEAL_EXEC,
  F_SEAL_FUTURE_WRITE,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  F_SEAL_WRITE,
  MAP_PRIVATE,
  MAP_SHARED,
  MFD_ALLOW_SEALING,
  MFD_EXEC,
  MFD_HUGETLB,
  MFD_NOEXEC_SEAL,
  memfdAddSeals,
  memfdCreate,
  memfdGetSeals,
  mmap,
  mprotect,
  munmap,
  PROT_READ,
  secretmemCreate,
  shmemCreate,
  shmemWrite,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { type Path, YP_SEAL_WAIT } from '../../mm/path.ts';
import { createHugeWorld, HUGE_NR, settled } from './hugetlb-world.ts';
import { createProcess, createWorld, RW, stepTo, type World } from './support.ts';

const create = (w: World, nrPages: number, flags = MFD_ALLOW_SEALING): AddressSpace => {
  const mapping = memfdCreate(w.k, nrPages, flags);
  if (typeof mapping === 'number') throw new Error(`memfd_create: ${mapping}`);
  return mapping;
};

const seal = (w: World, mapping: AddressSpace, seals: number): number =>
  drive(memfdAddSeals(w.k, mapping, seals));

const map = (w: World, mapping: AddressSpace, flags = MAP_SHARED, prot = RW): number => {
  const p = createProcess(w);
  return drive(mmap(w.k, p.mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot, flags, mapping }));
};

describe('memfd_create()', () => {
  it('makes a file that may be sealed, or not at all', () => {
    const w = createWorld();
    expect(memfdGetSeals(create(w, 1, 0))).toBe(F_SEAL_SEAL);
    expect(memfdGetSeals(create(w, 1, MFD_ALLOW_SEALING))).toBe(0);
    expect(memfdGetSeals(create(w, 1, MFD_NOEXEC_SEAL))).toBe(F_SEAL_EXEC);
    expect(memfdGetSeals(shmemCreate(w.k, 1))).toBe(F_SEAL_SEAL);
    expect(memfdGetSeals(secretmemCreate(w.k, 1))).toBe(-EINVAL);
  });

  it('makes one of huge pages, of a size that there is, rounded up', () => {
    const w = createHugeWorld(1);
    const mapping = create(w, HUGE_NR + 1, MFD_HUGETLB);
    expect([mapping.kind, mapping.hugeOrder, mapping.nrPages]).toEqual([
      'hugetlbfs',
      9,
      2 * HUGE_NR,
    ]);
    expect(create(w, 1, MFD_HUGETLB | (30 << 26)).hugeOrder).toBe(18);
    expect(memfdCreate(w.k, 1, MFD_HUGETLB | (16 << 26))).toBe(-EINVAL);
    settled(w);
  });

  for (const { fact, flags } of [
    { fact: 'an unknown flag', flags: 0x100 },
    { fact: 'a size of page without MFD_HUGETLB', flags: 21 << 26 },
    { fact: 'executable and not executable', flags: MFD_EXEC | MFD_NOEXEC_SEAL },
  ])
    it(`refuses ${fact}`, () => {
      expect(memfdCreate(createWorld().k, 1, flags)).toBe(-EINVAL);
    });
});

describe('a seal', () => {
  it('is added to the others, and stays', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    expect(seal(w, mapping, F_SEAL_SHRINK)).toBe(0);
    expect(seal(w, mapping, F_SEAL_GROW)).toBe(0);
    expect(memfdGetSeals(mapping)).toBe(F_SEAL_SHRINK | F_SEAL_GROW);
  });

  it('is refused after F_SEAL_SEAL, unknown, and for other files', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    expect(seal(w, mapping, F_ALL_SEALS + 1)).toBe(-EINVAL);
    expect(seal(w, mapping, F_SEAL_SEAL | F_SEAL_GROW)).toBe(0);
    expect(seal(w, mapping, F_SEAL_WRITE)).toBe(-EPERM);
    expect(seal(w, secretmemCreate(w.k, 1), F_SEAL_WRITE)).toBe(-EINVAL);
  });

  it('F_SEAL_GROW: a write beyond the end is -EPERM, one within is not', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    seal(w, mapping, F_SEAL_GROW);
    expect(drive(shmemWrite(w.k, mapping, 0, new Uint8Array(PAGE_SIZE)))).toBe(PAGE_SIZE);
    expect(drive(shmemWrite(w.k, mapping, 1, new Uint8Array(PAGE_SIZE)))).toBe(-EPERM);
    expect(mapping.nrPages).toBe(1);
  });

  it('F_SEAL_EXEC of a file that may be executed takes writing and resizing away too', () => {
    const w = createWorld();
    const mapping = create(w, 1, MFD_EXEC | MFD_ALLOW_SEALING);
    seal(w, mapping, F_SEAL_EXEC);
    expect(memfdGetSeals(mapping)).toBe(F_ALL_SEALS & ~F_SEAL_SEAL);
    const other = create(w, 1, MFD_NOEXEC_SEAL);
    seal(w, other, F_SEAL_EXEC);
    expect(memfdGetSeals(other)).toBe(F_SEAL_EXEC);
  });
});

describe('F_SEAL_WRITE', () => {
  it('leaves write() and new writable shared mappings -EPERM; private ones may', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    drive(shmemWrite(w.k, mapping, 0, Uint8Array.of(5)));
    expect(seal(w, mapping, F_SEAL_WRITE)).toBe(0);
    expect(drive(shmemWrite(w.k, mapping, 0, Uint8Array.of(6)))).toBe(-EPERM);
    expect(map(w, mapping)).toBe(-EPERM);
    const p = createProcess(w);
    const own = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_PRIVATE, mapping }),
    );
    expect(p.store8(own, 7)).toBe(0);
    expect([
      p.load8(own),
      w.k.memory.u8[w.k.memory.pageOffset(mapping.pages.get(0) ?? -1)],
    ]).toEqual([7, 5]);
    settled(w);
  });

  it('a read-only mapping made afterwards can never become writable', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    seal(w, mapping, F_SEAL_WRITE);
    const p = createProcess(w);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: PROT_READ, flags: MAP_SHARED, mapping }),
    );
    expect(drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW))).toBe(-EACCES);
  });

  it('is -EBUSY while a shared mapping may write, or could by mprotect()', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    const p = createProcess(w);
    const lenBytes = PAGE_SIZE;
    for (const prot of [RW, PROT_READ]) {
      const hva = drive(mmap(w.k, p.mm, { lenBytes, prot, flags: MAP_SHARED, mapping }));
      expect(seal(w, mapping, F_SEAL_WRITE)).toBe(-EBUSY);
      expect(memfdGetSeals(mapping)).toBe(0);
      drive(munmap(w.k, p.mm, hva, lenBytes));
    }
    drive(mmap(w.k, p.mm, { lenBytes, prot: RW, flags: MAP_PRIVATE, mapping }));
    expect(seal(w, mapping, F_SEAL_WRITE)).toBe(0);
  });

  for (const kind of ['shmem', 'shmem with huge folios', 'hugetlbfs'])
    it(`is -EBUSY while a pin holds a page of a file, ${kind}`, () => {
      const w = createHugeWorld(2);
      w.k.state.thp.shmem = kind !== 'shmem';
      const flags = kind === 'hugetlbfs' ? MFD_HUGETLB | MFD_ALLOW_SEALING : MFD_ALLOW_SEALING;
      const mapping = create(w, HUGE_NR, flags);
      const p = createProcess(w);
      const lenBytes = HUGE_NR * PAGE_SIZE;
      const hva = drive(mmap(w.k, p.mm, { lenBytes, prot: RW, flags: MAP_SHARED, mapping }));
      const pages = new Int32Array(1);
      expect(drive(pinUserPagesFast(w.k, p.mm, hva + 3 * PAGE_SIZE, 1, FOLL_WRITE, pages))).toBe(1);
      drive(munmap(w.k, p.mm, hva, lenBytes));
      expect(seal(w, mapping, F_SEAL_WRITE)).toBe(-EBUSY);
      expect(memfdGetSeals(mapping)).toBe(0);
      unpinUserPages(w.k, pages, 1);
      expect(seal(w, mapping, F_SEAL_WRITE)).toBe(0);
      settled(w);
    });

  it('waits a while for a pin to go, and keeps new writers out meanwhile', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    const p = createProcess(w);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
    );
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    const sealing: Path<number> = memfdAddSeals(w.k, mapping, F_SEAL_WRITE);
    stepTo(w.k, sealing, YP_SEAL_WAIT);
    expect(map(w, mapping)).toBe(-EPERM);
    unpinUserPages(w.k, pages, 1);
    expect(drive(sealing)).toBe(0);
    expect(memfdGetSeals(mapping)).toBe(F_SEAL_WRITE);
  });
});

describe('F_SEAL_FUTURE_WRITE', () => {
  it('leaves mappings that can write as they are, and allows no more', () => {
    const w = createWorld();
    const mapping = create(w, 1);
    const p = createProcess(w);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
    );
    expect(seal(w, mapping, F_SEAL_FUTURE_WRITE)).toBe(0);
    expect(p.store32(hva, 5)).toBe(0);
    expect(map(w, mapping)).toBe(-EPERM);
    expect(drive(shmemWrite(w.k, mapping, 0, Uint8Array.of(6)))).toBe(-EPERM);
  });
});
