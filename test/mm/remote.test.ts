/** access_remote_vm(), ptrace and /proc/PID/mem: facts sheet 1.6, 1.12, and Dirty COW (2.1) stepped. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { EIO } from '../../mm/errno.ts';
import { folioMaybeDmaPinned } from '../../mm/folio/pin.ts';
import { PG_DIRTY, PG_LOCKED } from '../../mm/frames/table.ts';
import { secretmemCreate } from '../../mm/fs/secretmem.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { FOLL_FORCE, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { procMemRead, procMemWrite, ptracePeek, ptracePoke } from '../../mm/gup/proc-mem.ts';
import { accessRemoteVm, accessRemoteVmFlags } from '../../mm/gup/remote.ts';
import { drive, type Path, YP_FAULT_DONE, YP_GUP_LOOKED_UP, YP_WAIT } from '../../mm/path.ts';
import { ptePage, pteWrite } from '../../mm/pgtable/pte.ts';
import { createPolicy } from '../../mm/policy.ts';
import { sendSignal, SIGNAL_FATAL } from '../../mm/signal.ts';
import type { AddressSpace, Kernel, MmStruct } from '../../mm/types.ts';
import {
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  VM_IO,
  VM_PFNMAP,
} from '../../mm/vma/flags.ts';
import { mmapWriteTrylock, mmapWriteUnlock } from '../../mm/vma/lock.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  byteOf,
  createWorld,
  entryAt,
  finish,
  load,
  mapAnon,
  mapFile,
  pageAt,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const MADV_DONTNEED = 4;

const dirty = (page: number): boolean => (k.state.frames.flags[page]! & PG_DIRTY) !== 0;
const read = (hva: number, n: number): number[] => {
  const into = new Uint8Array(n);
  const done = drive(accessRemoteVm(k, mm, hva, into, false));
  return [...into.subarray(0, done)];
};
const write = (hva: number, ...bytes: number[]): number =>
  drive(accessRemoteVm(k, mm, hva, Uint8Array.from(bytes), true));

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

describe('access_remote_vm — 1.12', () => {
  it('writes and reads across pages; written folios become dirty', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 2));
    load(k, mm, hva);
    load(k, mm, hva + PAGE_SIZE);
    expect(dirty(pageAt(k, mm, hva))).toBe(false);
    expect(write(hva + PAGE_SIZE - 3, 1, 2, 3, 4, 5, 6)).toBe(6);
    expect(read(hva + PAGE_SIZE - 3, 6)).toEqual([1, 2, 3, 4, 5, 6]);
    expect([dirty(pageAt(k, mm, hva)), dirty(pageAt(k, mm, hva + PAGE_SIZE))]).toEqual([
      true,
      true,
    ]);
    expect(violations(k)).toEqual([]);
  });

  it('errors are swallowed: bytes done', () => {
    const hva = mapAnon(k, mm, 2);
    drive(munmap(k, mm, hva + PAGE_SIZE, PAGE_SIZE));
    expect(read(hva + PAGE_SIZE - 3, 9)).toEqual([0, 0, 0]);
    expect(write(0x1_0000, 1)).toBe(0);
  });

  it('killed before it has mmap_lock: 0 bytes', () => {
    const hva = mapAnon(k, mm, 1);
    mmapWriteTrylock(mm);
    const reading = accessRemoteVm(k, mm, hva, new Uint8Array(1), false);
    expect(reading.next().value).toBe(YP_WAIT);
    sendSignal(k, SIGNAL_FATAL);
    expect(finish(reading)).toBe(0);
    mmapWriteUnlock(mm);
  });

  it('takes a reference and no pin, and marks the folio dirty under its lock', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    load(k, mm, hva);
    const page = pageAt(k, mm, hva);
    const refs = k.state.frames.refcount[page]!;
    k.state.frames.flags[page]! |= PG_LOCKED;
    const writing = accessRemoteVm(k, mm, hva, Uint8Array.of(7), true);
    expect(writing.next().value).toBe(YP_WAIT);
    expect(byteOf(k, page)).toBe(7);
    expect([k.state.frames.refcount[page], folioMaybeDmaPinned(k, page)]).toEqual([
      refs + 1,
      false,
    ]);
    k.state.frames.flags[page]! &= ~PG_LOCKED;
    expect(finish(writing)).toBe(1);
    expect([k.state.frames.refcount[page], dirty(page)]).toEqual([refs, true]);
  });

  it('the tiny race: writeback comes between lookup and copy, and the folio is dirty without a fault', () => {
    const file = shmemCreate(k, 1);
    const hva = mapFile(k, mm, file);
    store(k, mm, hva, 1);
    const page = pageAt(k, mm, hva);
    const writing = accessRemoteVm(k, mm, hva, Uint8Array.of(2), true);
    stepTo(k, writing, YP_GUP_LOOKED_UP);
    expect(drive(folioWriteProtect(k, page))).toBe(1);
    k.state.frames.flags[page]! &= ~PG_DIRTY;
    const faults = k.state.stat.pgfault;
    expect(finish(writing)).toBe(1);
    expect([byteOf(k, page), dirty(page), k.state.stat.pgfault]).toEqual([2, true, faults]);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(false);
  });

  it('is refused by a policy without its row', () => {
    k.policy = createPolicy('target');
    k.policy.apis['access-remote-vm'] = 'secondary';
    const hva = mapAnon(k, mm, 1);
    expect(() => read(hva, 1)).toThrow(/access-remote-vm/);
    expect(violations(k)).toEqual([]);
  });

  it('memory without page structs goes through vm_ops->access', () => {
    for (const bits of [VM_IO, VM_PFNMAP]) {
      const hva = mapFile(k, mm, shmemCreate(k, 2));
      store(k, mm, hva + 5, 55);
      const vma = findVma(mm, hva);
      if (vma === null) throw new Error('no VMA');
      vma.flags |= bits;
      expect(read(hva + 5, 1)).toEqual([55]);
      expect(write(hva + PAGE_SIZE - 2, 8, 9, 10)).toBe(2);
      expect(byteOf(k, pageAt(k, mm, hva), PAGE_SIZE - 1)).toBe(9);
      // Nothing is mapped in its second page, and nobody faults it in.
      expect(read(hva + PAGE_SIZE, 1)).toEqual([]);
    }
  });

  it('... and no further than the entry allows', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1), MAP_SHARED, PROT_READ);
    load(k, mm, hva);
    const vma = findVma(mm, hva);
    if (vma === null) throw new Error('no VMA');
    vma.flags |= VM_IO;
    expect(read(hva, 1)).toEqual([0]);
    expect(write(hva, 1)).toBe(0);
  });

  it('secretmem is not reached, though its entry is there', () => {
    const hva = mapFile(k, mm, secretmemCreate(k, 1));
    store(k, mm, hva, 77);
    expect(read(hva, 1)).toEqual([]);
    expect(write(hva, 1)).toBe(0);
    expect(load(k, mm, hva)).toBe(77);
  });
});

describe('FOLL_FORCE of debuggers — 1.6', () => {
  it('breaks COW of a private read-only mapping and leaves the file alone', () => {
    const file = shmemCreate(k, 1);
    const shared = mapFile(k, mm, file, MAP_SHARED);
    store(k, mm, shared, 11);
    const hva = mapFile(k, mm, file, MAP_PRIVATE, PROT_READ);
    expect(write(hva, 99)).toBe(1);
    expect([load(k, mm, hva), load(k, mm, shared)]).toEqual([99, 11]);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(false);
    expect(violations(k)).toEqual([]);
  });

  it('does not write to a shared mapping without VM_WRITE', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1), MAP_SHARED, PROT_READ);
    expect(write(hva, 99)).toBe(0);
    expect(load(k, mm, hva)).toBe(0);
  });

  it('a second write finds the exclusive page and needs no fault', () => {
    const hva = mapAnon(k, mm, 1, PROT_READ);
    write(hva, 1);
    const page = pageAt(k, mm, hva);
    const faults = k.state.stat.pgfault;
    write(hva, 2);
    expect([pageAt(k, mm, hva), k.state.stat.pgfault]).toEqual([page, faults]);
    expect(load(k, mm, hva)).toBe(2);
  });

  it('reads what may not be read, writes what may not be written', () => {
    const none = mapAnon(k, mm, 1, PROT_NONE);
    expect(write(none, 4)).toBe(1);
    expect(read(none, 1)).toEqual([4]);
    const without = accessRemoteVmFlags(k, mm, none, new Uint8Array(1), 0);
    expect(drive(without)).toBe(0);
  });

  it('ptrace: a word or -EIO', () => {
    const hva = mapAnon(k, mm, 1, PROT_READ);
    const word = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    expect(drive(ptracePoke(k, mm, hva + PAGE_SIZE - 8, word))).toBe(0);
    const back = new Uint8Array(8);
    expect(drive(ptracePeek(k, mm, hva + PAGE_SIZE - 8, back))).toBe(0);
    expect([...back]).toEqual([...word]);
    expect(drive(ptracePeek(k, mm, hva + PAGE_SIZE - 4, back))).toBe(-EIO);
    expect(drive(ptracePoke(k, mm, hva + PAGE_SIZE - 4, word))).toBe(-EIO);
  });
});

describe('/proc/PID/mem', () => {
  const memWrite = (hva: number, tracer: boolean): number =>
    drive(procMemWrite(k, mm, hva, Uint8Array.of(5), tracer));
  const memRead = (hva: number, tracer: boolean): number =>
    drive(procMemRead(k, mm, hva, new Uint8Array(1), tracer));

  for (const { force, anybody, tracer } of [
    { force: 'always', anybody: 1, tracer: 1 },
    { force: 'ptrace', anybody: -EIO, tracer: 1 },
    { force: 'never', anybody: -EIO, tracer: -EIO },
  ] as const)
    it(`proc_mem.force_override=${force}: who may override permissions`, () => {
      k.procMemForce = force;
      const hva = mapAnon(k, mm, 1, PROT_NONE);
      expect([memWrite(hva, false), memRead(hva, false)]).toEqual([anybody, anybody]);
      expect([memWrite(hva, true), memRead(hva, true)]).toEqual([tracer, tracer]);
      expect(memWrite(mapAnon(k, mm, 1), false)).toBe(1);
    });

  it('short at the end of memory, -EIO where there is none, 0 of a process that is gone', () => {
    const hva = mapAnon(k, mm, 1);
    expect(drive(procMemRead(k, mm, hva + PAGE_SIZE - 3, new Uint8Array(9)))).toBe(3);
    expect(memRead(0x1_0000, false)).toBe(-EIO);
    const gone = mmCreate(k);
    drive(mmExit(k, gone));
    expect(drive(procMemRead(k, gone, hva, new Uint8Array(1)))).toBe(0);
  });
});

describe('Dirty COW — 2.1', () => {
  let file: AddressSpace;
  let hva: number;

  beforeEach(() => {
    file = shmemCreate(k, 1);
    store(k, mm, mapFile(k, mm, file, MAP_SHARED), 11);
    hva = mapFile(k, mm, file, MAP_PRIVATE, PROT_READ);
  });

  const writing = (): Path<number> => accessRemoteVm(k, mm, hva, Uint8Array.of(99), true);
  const drop = (): number => drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
  const fileByte = (): number => byteOf(k, file.pages.get(0) ?? -1);

  it('the copy is dropped between fault and lookup: the walk faults again, the file is untouched', () => {
    const path = writing();
    stepTo(k, path, YP_FAULT_DONE);
    expect(pageAt(k, mm, hva)).not.toBe(file.pages.get(0));
    expect(drop()).toBe(0);
    // What the weak rule did: read again, and take what a read fault would map.
    load(k, mm, hva);
    expect(pageAt(k, mm, hva)).toBe(file.pages.get(0));
    expect(finish(path)).toBe(1);
    expect([fileByte(), load(k, mm, hva)]).toEqual([11, 99]);
    expect(violations(k)).toEqual([]);
  });

  it('dropped again and again: it never writes to the page of the file', () => {
    const path = writing();
    for (let i = 0; i < 10; i++) {
      stepTo(k, path, YP_FAULT_DONE);
      drop();
      load(k, mm, hva);
    }
    expect(finish(path)).toBe(1);
    expect([fileByte(), load(k, mm, hva)]).toEqual([11, 99]);
    expect(k.state.stat.cow_copied).toBeGreaterThanOrEqual(11);
    expect(violations(k)).toEqual([]);
  });

  it("dropped after the lookup: the write goes to the copy, which is nobody else's any more", () => {
    const path = writing();
    stepTo(k, path, YP_GUP_LOOKED_UP);
    drop();
    expect(finish(path)).toBe(1);
    expect([fileByte(), load(k, mm, hva)]).toEqual([11, 11]);
    expect(violations(k)).toEqual([]);
  });

  it('the variant with shared memory (CVE-2022-2590): a dirty entry of the file is no sign of a broken COW', () => {
    const path = writing();
    stepTo(k, path, YP_FAULT_DONE);
    drop();
    load(k, mm, hva);
    // As UFFDIO_CONTINUE put it there: the page of the file, dirty and read-only.
    const entry = entryAt(k, mm, hva);
    expect([ptePage(entry), pteWrite(entry)]).toEqual([file.pages.get(0), false]);
    k.state.frames.flags[ptePage(entry)]! |= PG_DIRTY;
    expect(finish(path)).toBe(1);
    expect([fileByte(), load(k, mm, hva)]).toEqual([11, 99]);
  });

  it('without FORCE it never begins', () => {
    const refused = accessRemoteVmFlags(k, mm, hva, Uint8Array.of(9), FOLL_WRITE);
    expect(drive(refused)).toBe(0);
    const forced = accessRemoteVmFlags(k, mm, hva, Uint8Array.of(9), FOLL_WRITE | FOLL_FORCE);
    expect(drive(forced)).toBe(1);
  });
});
