/** memfd_secret(): what reaches memory by frame does not reach it. Compare mm/secretmem.c. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  accessRemoteVm,
  assertKernel,
  drive,
  EBUSY,
  EFAULT,
  EINVAL,
  fork,
  type HostProcess,
  MAP_PRIVATE,
  MAP_SHARED,
  migrateFolio,
  mmap,
  nrFreePages,
  secretmemCreate,
  mappingPut,
  shmemRead,
  shmemWrite,
} from '#mm';
import {
  FOLL_FORCE,
  FOLL_LONGTERM,
  FOLL_WRITE,
  pinUserPagesUnlocked,
  pinUserPagesFast,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { vmaIsSecretmem } from '../../mm/fs/secretmem.ts';
import { VM_LOCKED } from '../../mm/vma/flags.ts';
import { createProcess, createWorld, exit, pageAt, RW, type World } from './support.ts';

interface Secret {
  w: World;
  p: HostProcess;
  mapping: AddressSpace;
  hva: number;
}

/** A process that maps a secret file of four pages and has written to the first. */
const withSecret = (): Secret => {
  const w = createWorld();
  const p = createProcess(w);
  const mapping = secretmemCreate(w.k, 4);
  const hva = drive(
    mmap(w.k, p.mm, { lenBytes: 4 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
  );
  p.store32(hva, 0x5ec7e7);
  return { w, p, mapping, hva };
};

describe('secret memory', () => {
  it('is read and written by who maps it, and shared with a child', () => {
    const { w, p, hva } = withSecret();
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(c.load32(hva)).toBe(0x5ec7e7);
    c.store32(hva + PAGE_SIZE, 2);
    expect(p.load32(hva + PAGE_SIZE)).toBe(2);
    expect(p.load32(hva + 2 * PAGE_SIZE)).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });

  it('is mapped shared only, counts as locked, and ends with the file', () => {
    const { w, p, mapping, hva } = withSecret();
    const map = (lenBytes: number, flags: number): number =>
      drive(mmap(w.k, p.mm, { lenBytes, prot: RW, flags, mapping }));
    expect(map(PAGE_SIZE, MAP_PRIVATE)).toBe(-EINVAL);
    const vma = p.mm.vmas.find(({ start }) => start === hva);
    expect(vma !== undefined && vmaIsSecretmem(vma)).toBe(true);
    expect((vma?.flags ?? 0) & VM_LOCKED).toBe(VM_LOCKED);
    expect(p.mm.lockedVm).toBe(4);
    const longer = map(5 * PAGE_SIZE, MAP_SHARED);
    expect(p.load32(longer + 4 * PAGE_SIZE)).toBe(-EFAULT);
  });

  for (const { fact, fast, flags } of [
    { fact: 'read', fast: false, flags: 0 },
    { fact: 'write', fast: false, flags: FOLL_WRITE },
    { fact: 'write, whatever the permissions', fast: false, flags: FOLL_WRITE | FOLL_FORCE },
    { fact: 'read, without a lock', fast: true, flags: 0 },
    { fact: 'write, without a lock', fast: true, flags: FOLL_WRITE },
    { fact: 'write, for long, without a lock', fast: true, flags: FOLL_WRITE | FOLL_LONGTERM },
  ])
    it(`is refused by GUP: -EFAULT (1.2, 1.4 step 6), to ${fact}`, () => {
      const { w, p, hva } = withSecret();
      const pages = new Int32Array(1);
      const pin = fast ? pinUserPagesFast : pinUserPagesUnlocked;
      expect(drive(pin(w.k, p.mm, hva, 1, flags, pages))).toBe(-EFAULT);
      assertKernel(w.k, { quiescent: true });
    });

  it('is out of reach for a debugger, read() and write()', () => {
    const { w, p, mapping, hva } = withSecret();
    const bytes = new Uint8Array(4).fill(9);
    expect(drive(accessRemoteVm(w.k, p.mm, hva, bytes, false))).toBe(0);
    expect(drive(accessRemoteVm(w.k, p.mm, hva, bytes, true))).toBe(0);
    expect(shmemRead(w.k, mapping, 0, bytes)).toBe(-EINVAL);
    expect(drive(shmemWrite(w.k, mapping, 0, bytes))).toBe(-EINVAL);
    expect([...bytes]).toEqual([9, 9, 9, 9]);
    expect(p.load32(hva)).toBe(0x5ec7e7);
  });

  it('does not move', () => {
    const { w, p, hva } = withSecret();
    const page = pageAt(p, hva);
    expect(drive(migrateFolio(w.k, page))).toBe(-EBUSY);
    assertKernel(w.k, { quiescent: true });
  });

  it('is gone before its frames are anybody else’s', () => {
    const { w, p, mapping, hva } = withSecret();
    const page = pageAt(p, hva);
    exit(p);
    const word = w.k.memory.pageOffset(page) / 4;
    expect(w.k.memory.i32[word]).toBe(0x5ec7e7);
    drive(mappingPut(w.k, mapping));
    expect(w.k.memory.i32[word]).toBe(0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    assertKernel(w.k, { quiescent: true });
  });
});
