/** splice(): pages of files in pipes, which nobody writes through; pages of pipes in files (2.15, 2.18). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  createPipe,
  drive,
  EAGAIN,
  EINVAL,
  EIO,
  ENODATA,
  type AddressSpace,
  folioRefCount,
  type GupApi,
  type HostProcess,
  mappingPut,
  munmap,
  nrFreePages,
  PIPE_BUFFERS,
  type Pipe,
  pipeRead,
  pipeRelease,
  pipeWrite,
  provenanceStart,
  SPLICE_F_GIFT,
  SPLICE_F_MOVE,
  SPLICE_F_NONBLOCK,
  secretmemCreate,
  setPolicyApi,
  shmemCreate,
  shmemRead,
  shmemWrite,
  spliceFileToPipe,
  splicePipeToFile,
  tee,
  vmspliceToPipe,
} from '#mm';
import { folioClearFlags, folioLock, folioSetFlags, folioUnlock } from '../../mm/folio/folio.ts';
import { PG_UPTODATE } from '../../mm/frames/table.ts';
import { pipePush } from '../../mm/pipe/pipe.ts';
import { createProcess, createWorld, mapAnon, pageAt, type World } from './support.ts';

/** A file of shmem with `nrPages` pages, each full of its number, from 1 on. */
const numbered = (w: World, nrPages: number): AddressSpace => {
  const file = shmemCreate(w.k, nrPages);
  for (let i = 0; i < nrPages; i++)
    drive(shmemWrite(w.k, file, i * PAGE_SIZE, new Uint8Array(PAGE_SIZE).fill(i + 1)));
  return file;
};

const toPipe = (w: World, file: AddressSpace, pipe: Pipe, at: number, n: number, flags = 0) =>
  drive(spliceFileToPipe(w.k, file, at, pipe, n, flags));

const toFile = (w: World, pipe: Pipe, file: AddressSpace, at: number, n: number, flags = 0) =>
  drive(splicePipeToFile(w.k, pipe, file, at, n, flags));

const bytesOf = (w: World, file: AddressSpace, at: number, n: number): number[] => {
  const into = new Uint8Array(n);
  shmemRead(w.k, file, at, into);
  return [...into];
};

const readAll = (w: World, pipe: Pipe): number[] => {
  const into = new Uint8Array(PIPE_BUFFERS * PAGE_SIZE);
  return [...into.subarray(0, Math.max(0, pipeRead(w.k, pipe, into)))];
};

describe('splice() from a file to a pipe', () => {
  it('the pipe has the pages of the cache themselves, by one reference each', () => {
    const w = createWorld();
    const file = numbered(w, 2);
    const pipe = createPipe(w.k);
    expect(toPipe(w, file, pipe, 100, PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(pipe.buffers.map(({ page }) => page)).toEqual([file.pages.get(0), file.pages.get(1)]);
    expect(folioRefCount(w.k, file.pages.get(0) ?? -1)).toBe(2);
    assertKernel(w.k);
    expect(readAll(w, pipe)).toEqual([
      ...new Array(PAGE_SIZE - 100).fill(1),
      ...new Array(100).fill(2),
    ]);
    expect(folioRefCount(w.k, file.pages.get(0) ?? -1)).toBe(1);
    drive(mappingPut(w.k, file));
    pipeRelease(w.k, pipe);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('what is written to the file before the pipe is read, the reader sees', () => {
    const w = createWorld();
    const file = numbered(w, 1);
    const pipe = createPipe(w.k);
    toPipe(w, file, pipe, 0, 1);
    drive(shmemWrite(w.k, file, 0, Uint8Array.of(9)));
    expect(readAll(w, pipe)).toEqual([9]);
  });

  it('a hole of shmem is the zero page, and stays a hole', () => {
    const w = createWorld();
    const file = shmemCreate(w.k, 1);
    const pipe = createPipe(w.k);
    expect(toPipe(w, file, pipe, 0, 3)).toBe(3);
    expect(pipe.buffers[0]?.page).toBe(w.k.state.zeroPage);
    assertKernel(w.k);
    expect(readAll(w, pipe)).toEqual([0, 0, 0]);
    expect(file.pages.size).toBe(0);
  });

  it('ends with the file, and where the pipe is full', () => {
    const w = createWorld();
    const file = numbered(w, PIPE_BUFFERS + 1);
    const pipe = createPipe(w.k);
    const all = (PIPE_BUFFERS + 1) * PAGE_SIZE;
    expect(toPipe(w, file, pipe, all - 5, 100)).toBe(5);
    expect(toPipe(w, file, pipe, all, 100)).toBe(0);
    expect(toPipe(w, file, pipe, 0, all)).toBe((PIPE_BUFFERS - 1) * PAGE_SIZE);
    expect(toPipe(w, file, pipe, 0, 1)).toBe(-EAGAIN);
    pipeRelease(w.k, pipe);
    assertKernel(w.k);
  });

  it('of secret memory there is none, nor with flags that nobody knows', () => {
    const w = createWorld();
    const pipe = createPipe(w.k);
    expect(toPipe(w, secretmemCreate(w.k, 1), pipe, 0, 1)).toBe(-EINVAL);
    expect(toPipe(w, numbered(w, 1), pipe, 0, 1, 16)).toBe(-EINVAL);
    expect(toPipe(w, numbered(w, 1), pipe, -1, 1)).toBe(-EINVAL);
  });

  it('a page that is not up to date is confirmed when the pipe is read: -EAGAIN, -EIO, -ENODATA', () => {
    const w = createWorld();
    const file = numbered(w, 2);
    const second = file.pages.get(1) ?? -1;
    folioClearFlags(w.k, second, PG_UPTODATE);
    expect(toPipe(w, file, createPipe(w.k), PAGE_SIZE, 1, SPLICE_F_NONBLOCK)).toBe(-EAGAIN);
    const pipe = createPipe(w.k);
    expect(toPipe(w, file, pipe, 0, 2 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    const into = new Uint8Array(PAGE_SIZE);
    expect(pipeRead(w.k, pipe, into)).toBe(PAGE_SIZE);
    drive(folioLock(w.k, second));
    expect(pipeRead(w.k, pipe, into)).toBe(-EAGAIN);
    folioUnlock(w.k, second);
    expect(pipeRead(w.k, pipe, into)).toBe(-EIO);
    expect(toFile(w, pipe, file, 0, 1)).toBe(-EIO);
    // The last user of the file has gone, and the page with it.
    drive(mappingPut(w.k, file));
    expect(pipeRead(w.k, pipe, into)).toBe(-ENODATA);
    folioSetFlags(w.k, second, PG_UPTODATE);
    expect(pipeRead(w.k, pipe, into)).toBe(PAGE_SIZE);
  });
});

describe('nobody writes through a buffer that is a page of a file (2.15)', () => {
  it('write() appends to a page of the pipe and to no other', () => {
    const w = createWorld();
    const pipe = createPipe(w.k);
    pipeWrite(w.k, pipe, Uint8Array.of(1));
    pipeWrite(w.k, pipe, Uint8Array.of(2));
    expect(pipe.buffers.length).toBe(1);
    const file = numbered(w, 1);
    toPipe(w, file, pipe, 0, 1);
    pipeWrite(w.k, pipe, Uint8Array.of(7, 8));
    expect(pipe.buffers.map(({ hold }) => hold)).toEqual(['own', 'cache', 'own']);
    expect(readAll(w, pipe)).toEqual([1, 2, 1, 7, 8]);
    expect(bytesOf(w, file, 0, 3)).toEqual([1, 1, 1]);
  });

  it('nor through a copy of the buffer that tee() has made, of whatever page', () => {
    const w = createWorld();
    const from = createPipe(w.k);
    const to = createPipe(w.k);
    pipeWrite(w.k, from, Uint8Array.of(1));
    expect(tee(w.k, from, to, 1)).toBe(1);
    pipeWrite(w.k, to, Uint8Array.of(2));
    pipeWrite(w.k, from, Uint8Array.of(3));
    expect(readAll(w, from)).toEqual([1, 3]);
    expect(readAll(w, to)).toEqual([1, 2]);
  });

  it('tee() of a file page is one more reference to it', () => {
    const w = createWorld();
    const file = numbered(w, 1);
    const from = createPipe(w.k);
    const to = createPipe(w.k);
    toPipe(w, file, from, 0, 2);
    expect(tee(w.k, from, to, 2)).toBe(2);
    expect(folioRefCount(w.k, file.pages.get(0) ?? -1)).toBe(3);
    assertKernel(w.k);
    pipeRelease(w.k, from);
    expect(readAll(w, to)).toEqual([1, 1]);
    assertKernel(w.k);
  });

  it('a flag that is left from the buffer before (CVE-2022-0847) gives every reader of a file its pen', () => {
    const w = createWorld();
    w.k.sabotage.spliceKeepsMerge = true;
    const file = numbered(w, 1);
    const pipe = createPipe(w.k);
    toPipe(w, file, pipe, 0, 1);
    pipeWrite(w.k, pipe, Uint8Array.of(7));
    expect(bytesOf(w, file, 0, 3)).toEqual([1, 7, 1]);
    w.k.sabotage.spliceKeepsMerge = false;
    const [stale] = pipe.buffers;
    if (stale === undefined) throw new Error('no buffer');
    expect(() => pipePush(w.k, createPipe(w.k), stale)).toThrow(/held by cache/);
  });
});

/** A process whose one page, full of fives, is a gift to a pipe. */
const gift = (api: GupApi): { w: World; p: HostProcess; hva: number; pipe: Pipe; page: number } => {
  const w = createWorld();
  provenanceStart(w.k);
  expect(setPolicyApi(w.k.policy, 'vmsplice', api)).toBeNull();
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(5));
  const page = pageAt(p, hva);
  const pipe = createPipe(w.k);
  drive(vmspliceToPipe(w.k, p.mm, pipe, hva, PAGE_SIZE, SPLICE_F_GIFT));
  return { w, p, hva, pipe, page };
};

describe('splice() from a pipe to a file', () => {
  it('copies; the file grows', () => {
    const w = createWorld();
    const file = shmemCreate(w.k, 1);
    const pipe = createPipe(w.k);
    pipeWrite(w.k, pipe, new Uint8Array(PAGE_SIZE + 3).fill(4));
    expect(toFile(w, pipe, file, PAGE_SIZE - 1, 10_000)).toBe(PAGE_SIZE + 3);
    expect(file.nrPages).toBe(3);
    expect(bytesOf(w, file, PAGE_SIZE - 2, 3)).toEqual([0, 4, 4]);
    expect(toFile(w, pipe, file, 0, 1)).toBe(-EAGAIN);
  });

  it('from file to file: the target has bytes of its own', () => {
    const w = createWorld();
    const from = numbered(w, 1);
    const to = shmemCreate(w.k, 1);
    const pipe = createPipe(w.k);
    toPipe(w, from, pipe, 0, PAGE_SIZE);
    expect(toFile(w, pipe, to, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
    expect(to.pages.get(0)).not.toBe(from.pages.get(0));
    drive(shmemWrite(w.k, from, 0, Uint8Array.of(9)));
    expect(bytesOf(w, to, 0, 1)).toEqual([1]);
  });

  it("a page of the pipe's own moves into a hole of the file", () => {
    const w = createWorld();
    const file = shmemCreate(w.k, 1);
    const pipe = createPipe(w.k);
    pipeWrite(w.k, pipe, new Uint8Array(PAGE_SIZE).fill(6));
    const page = pipe.buffers[0]?.page;
    expect(toFile(w, pipe, file, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
    expect(file.pages.get(0)).toBe(page);
    assertKernel(w.k);
    expect(bytesOf(w, file, PAGE_SIZE - 1, 1)).toEqual([6]);
    drive(mappingPut(w.k, file));
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  for (const api of ['get', 'pin-longterm'] as const) {
    it(`${api}: a gift that the giver has unmapped is stolen, and is the file's page`, () => {
      const { w, p, hva, pipe, page } = gift(api);
      drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
      const file = shmemCreate(w.k, 1);
      expect(toFile(w, pipe, file, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
      expect(file.pages.get(0)).toBe(page);
      expect(folioRefCount(w.k, page)).toBe(1);
      expect(w.k.state.provenance?.holds.size).toBe(0);
      assertKernel(w.k);
      expect(bytesOf(w, file, 0, 1)).toEqual([5]);
    });

    it(`${api}: one that is still mapped is copied, whatever was promised`, () => {
      const { w, p, hva, pipe, page } = gift(api);
      const file = shmemCreate(w.k, 1);
      expect(toFile(w, pipe, file, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
      expect(file.pages.get(0)).not.toBe(page);
      p.store8(hva, 9);
      expect(bytesOf(w, file, 0, 1)).toEqual([5]);
      assertKernel(w.k);
    });
  }

  it('what is no gift, is a gift twice, or is asked for without SPLICE_F_MOVE stays where it is', () => {
    const { w, p, hva, pipe, page } = gift('get');
    const other = createPipe(w.k);
    expect(tee(w.k, pipe, other, PAGE_SIZE)).toBe(PAGE_SIZE);
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    const file = shmemCreate(w.k, 3);
    expect(toFile(w, pipe, file, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
    expect(toFile(w, other, file, PAGE_SIZE, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
    expect([...file.pages.values()]).not.toContain(page);
    const { w: w2, p: p2, hva: hva2, pipe: pipe2, page: page2 } = gift('get');
    drive(munmap(w2.k, p2.mm, hva2, PAGE_SIZE));
    const file2 = shmemCreate(w2.k, 1);
    expect(toFile(w2, pipe2, file2, 0, PAGE_SIZE)).toBe(PAGE_SIZE);
    expect(file2.pages.get(0)).not.toBe(page2);
  });

  it('where the file has a page already it keeps it', () => {
    const { w, p, hva, pipe } = gift('get');
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    const file = numbered(w, 1);
    const had = file.pages.get(0);
    expect(toFile(w, pipe, file, 0, PAGE_SIZE, SPLICE_F_MOVE)).toBe(PAGE_SIZE);
    expect(file.pages.get(0)).toBe(had);
    expect(bytesOf(w, file, 7, 1)).toEqual([5]);
    assertKernel(w.k);
  });
});

describe('a gift is a promise that nobody checks (2.18)', () => {
  for (const { api, reads } of [
    { api: 'get', reads: 6 },
    { api: 'pin-longterm', reads: 6 },
    { api: 'copy', reads: 5 },
  ] as const)
    it(`${api}: the giver writes before the reader reads: the reader sees ${reads === 6 ? 'that' : 'what was given'}`, () => {
      const { w, p, hva, pipe } = gift(api);
      p.store8(hva, 6);
      expect(readAll(w, pipe)[0]).toBe(reads);
    });
});
