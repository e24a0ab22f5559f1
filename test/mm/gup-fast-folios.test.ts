/** Which folios GUP-fast takes, not knowing their VMA: facts sheet 1.4, steps 3, 6 and 7. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../../mm/errno.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { allocPages, GFP_ZERO } from '../../mm/frames/buddy.ts';
import { secretmemCreate } from '../../mm/fs/secretmem.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { drive, YP_WAIT } from '../../mm/path.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MAP_PRIVATE, PROT_NONE } from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { mmapWriteTrylock, mmapWriteUnlock } from '../../mm/vma/lock.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import { vmInsertPage } from '../../mm/vma/pfnmap.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createWorld,
  finish,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(2);

const SHORT = 0;
const WRITE = FOLL_WRITE;
const LONG = FOLL_LONGTERM;
const LONG_WRITE = FOLL_LONGTERM | FOLL_WRITE;

/** How a pin of one page goes while somebody has mmap_lock: by the fast path alone, or only once the lock is free. */
const wayOf = (hva: number, flags: number): string => {
  mmapWriteTrylock(mm);
  const pinning = pinUserPagesFast(k, mm, hva, 1, flags, pages);
  const step = pinning.next();
  mmapWriteUnlock(mm);
  const n = step.done === true ? step.value : finish(pinning);
  if (n === 1) unpinUserPage(k, pages[0]!);
  expect(pinsLive(k)).toBe(0);
  const way = step.value === YP_WAIT ? 'slow' : 'fast';
  return n === 1 ? way : `${way}: ${n}`;
};
const ways = (hva: number): string[] => [SHORT, WRITE, LONG, LONG_WRITE].map((f) => wayOf(hva, f));

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

describe('step 6: the whitelist, by short, short writable, long, and long writable pins', () => {
  it('anonymous memory: always', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    expect(ways(hva)).toEqual(['fast', 'fast', 'fast', 'fast']);
  });

  it('shmem: always, but that a long pin for reading asks for the VMA where the entry is read-only', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 1);
    expect(ways(hva)).toEqual(['fast', 'fast', 'fast', 'fast']);
  });

  it('a page that belongs to no file (any more): not by a long writable pin', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    const vma = findVma(mm, hva);
    if (vma === null) throw new Error('no VMA');
    const page = allocPages(k, 0, GFP_ZERO);
    expect(vmInsertPage(k, vma, hva, page)).toBe(0);
    store(k, mm, hva, 1);
    expect(ways(hva)).toEqual(['fast', 'fast', 'fast', 'slow']);
    folioPut(k, page);
  });

  it('secretmem: never, not even by reference; the slow path refuses it too', () => {
    const hva = mapFile(k, mm, secretmemCreate(k, 1));
    store(k, mm, hva, 1);
    expect(ways(hva)).toEqual(Array(4).fill(`slow: ${-EFAULT}`));
    expect(drive(getUserPagesFastOnly(k, 'kvm', mm, hva, 1, 0, pages))).toBe(0);
  });
});

describe('step 7: a read-only entry, whose VMA is not known', () => {
  it('anonymous and shared: the slow path unshares', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const child = drive(fork(k, mm));
    const shared = pageAt(k, mm, hva);
    expect(wayOf(hva, SHORT)).toBe('slow');
    expect(pageAt(k, mm, hva)).not.toBe(shared);
    // It is exclusive now, though still read-only: nothing more to do.
    expect(wayOf(hva, SHORT)).toBe('fast');
    if (typeof child !== 'number') drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('of a file: a long pin always falls back; shared it is taken there, private it is copied', () => {
    const file = shmemCreate(k, 1);
    const shared = mapFile(k, mm, file);
    store(k, mm, shared, 1);
    const priv = mapFile(k, mm, file, MAP_PRIVATE);
    load(k, mm, priv);
    expect([wayOf(priv, SHORT), wayOf(priv, LONG)]).toEqual(['fast', 'slow']);
    expect(pageAt(k, mm, priv)).not.toBe(file.pages.get(0));
    drive(mprotect(k, mm, shared, PAGE_SIZE, 1));
    expect([wayOf(shared, SHORT), wayOf(shared, LONG)]).toEqual(['fast', 'slow']);
    expect(pageAt(k, mm, shared)).toBe(file.pages.get(0));
    expect(violations(k)).toEqual([]);
  });
});

describe('step 3: what it passes by', () => {
  it('nothing there, PROT_NONE, the zero page, no write bit', () => {
    const hva = mapAnon(k, mm, 1);
    expect(wayOf(hva, SHORT)).toBe('slow');
    const none = mapAnon(k, mm, 1);
    store(k, mm, none, 1);
    drive(mprotect(k, mm, none, PAGE_SIZE, PROT_NONE));
    expect(wayOf(none, SHORT)).toBe(`slow: ${-EFAULT}`);
    const zero = mapAnon(k, mm, 1);
    load(k, mm, zero);
    expect([wayOf(zero, SHORT), wayOf(zero, WRITE)]).toEqual(['slow', 'slow']);
  });
});
