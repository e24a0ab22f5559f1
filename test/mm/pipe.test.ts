/** Pipes, vmsplice and io_uring's fixed buffers: what each way of holding a user's page shows of it later. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  createPipe,
  drive,
  EAGAIN,
  EFAULT,
  EINVAL,
  ENOMEM,
  fixedBufferRead,
  fixedBufferWrite,
  type GupApi,
  type HostProcess,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  type Kernel,
  type MmStruct,
  munmap,
  nrFreePages,
  PIPE_BUFFERS,
  type Pipe,
  pipeRead,
  pipeRelease,
  pipeWrite,
  PROT_READ,
  SPLICE_F_GIFT,
  setPolicyApi,
  tee,
  vmspliceToPipe,
  vmspliceToUser,
} from '#mm';
import {
  forked,
  createProcess,
  createWorld,
  exit,
  mapAnon,
  type World,
  pinsLive,
} from './support.ts';

const worldWith = (vmsplice: GupApi): World => {
  const w = createWorld();
  expect(setPolicyApi(w.k.policy, 'vmsplice', vmsplice)).toBeNull();
  return w;
};

const splice = (p: HostProcess, pipe: Pipe, hva: number, lenBytes: number, flags = 0): number =>
  drive(vmspliceToPipe(p.k, p.mm, pipe, hva, lenBytes, flags));

const readByte = (k: Kernel, pipe: Pipe): number => {
  const byte = new Uint8Array(1);
  expect(pipeRead(k, pipe, byte)).toBe(1);
  return byte[0]!;
};

const APIS = ['get', 'pin-longterm', 'copy'] as const;

describe('pipes', () => {
  it('hold 16 buffers; a write into a full one is -EAGAIN, and so is a read of an empty one', () => {
    const { k } = createWorld();
    const pipe = createPipe(k);
    expect(pipeRead(k, pipe, new Uint8Array(1))).toBe(-EAGAIN);
    const bytes = new Uint8Array((PIPE_BUFFERS + 1) * PAGE_SIZE).map((_, i) => i >> 12);
    expect(pipeWrite(k, pipe, bytes)).toBe(PIPE_BUFFERS * PAGE_SIZE);
    expect(pipeWrite(k, pipe, bytes)).toBe(-EAGAIN);
    const out = new Uint8Array(PIPE_BUFFERS * PAGE_SIZE);
    expect(pipeRead(k, pipe, out)).toBe(out.length);
    expect(out).toEqual(bytes.subarray(0, out.length));
  });

  it('closed with bytes in them, give every page back', () => {
    const { k, freeAtStart } = createWorld();
    const pipe = createPipe(k);
    pipeWrite(k, pipe, new Uint8Array(3 * PAGE_SIZE));
    pipeRelease(k, pipe);
    expect(nrFreePages(k)).toBe(freeAtStart);
    expect(k.state.pipes.size).toBe(0);
  });

  it('tee: the same page in a second pipe, by a reference of its own', () => {
    const w = createWorld();
    const from = createPipe(w.k);
    const to = createPipe(w.k);
    pipeWrite(w.k, from, new Uint8Array([7]));
    expect(tee(w.k, from, to, 10)).toBe(1);
    expect(to.buffers[0]?.page).toBe(from.buffers[0]?.page);
    expect([readByte(w.k, from), readByte(w.k, to)]).toEqual([7, 7]);
    expect(tee(w.k, from, from, 1)).toBe(-EINVAL);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });
});

describe('vmsplice (2.2, 2.18)', () => {
  for (const api of APIS)
    it(`${api}: bytes across pages arrive in order, and everything is given back`, () => {
      const w = worldWith(api);
      const p = createProcess(w);
      const hva = mapAnon(p, 3);
      const bytes = new Uint8Array(2 * PAGE_SIZE).map((_, i) => (i * 7) & 0xff);
      p.copyIn(hva + 100, bytes);
      const pipe = createPipe(w.k);
      expect(splice(p, pipe, hva + 100, bytes.length)).toBe(bytes.length);
      const out = new Uint8Array(bytes.length);
      expect(pipeRead(w.k, pipe, out)).toBe(bytes.length);
      expect(out).toEqual(bytes);
      exit(p);
      pipeRelease(w.k, pipe);
      expect(pinsLive(w.k)).toBe(0);
      expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    });

  for (const { api, reads } of [
    { api: 'get', reads: 2 },
    { api: 'pin-longterm', reads: 2 },
    { api: 'copy', reads: 1 },
  ] as const)
    it(`${api}: what the process writes before the reader reads is ${reads === 2 ? 'what the reader gets, gift or not' : 'not seen'}`, () => {
      const w = worldWith(api);
      const p = createProcess(w);
      const hva = mapAnon(p, 1);
      p.store8(hva, 1);
      const pipe = createPipe(w.k);
      splice(p, pipe, hva, 1, SPLICE_F_GIFT);
      p.store8(hva, 2);
      expect(readByte(w.k, pipe)).toBe(reads);
    });

  for (const api of APIS)
    it(`${api}: a child that spliced a shared page and unmapped it never sees what the parent writes then`, () => {
      const w = worldWith(api);
      const parent = createProcess(w);
      const hva = mapAnon(parent, 1);
      parent.store8(hva, 1);
      const child = forked(w, parent);
      const pipe = createPipe(w.k);
      splice(child, pipe, hva, 1);
      drive(munmap(w.k, child.mm, hva, PAGE_SIZE));
      parent.store8(hva, 2);
      expect(readByte(w.k, pipe)).toBe(1);
    });

  it('get: a read-only page that is shared is taken as it is; the writer leaves it to the pipe', () => {
    const w = worldWith('get');
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store8(hva, 1);
    const child = forked(w, p);
    const pipe = createPipe(w.k);
    splice(p, pipe, hva, 1);
    p.store8(hva, 2);
    // Reader and process have parted: the inconsistency of 2.5 for a plain reference.
    expect(readByte(w.k, pipe)).toBe(1);
    exit(child);
  });

  it('pin-longterm: the page is unshared first, so reader and process stay one', () => {
    const w = worldWith('pin-longterm');
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store8(hva, 1);
    const child = forked(w, p);
    const pipe = createPipe(w.k);
    splice(p, pipe, hva, 1);
    p.store8(hva, 2);
    expect(readByte(w.k, pipe)).toBe(2);
    expect(child.load8(hva)).toBe(1);
  });

  it('stops where the pipe is full; what did not fit is held by nobody', () => {
    for (const api of APIS) {
      const w = worldWith(api);
      const p = createProcess(w);
      const hva = mapAnon(p, PIPE_BUFFERS + 4);
      p.copyIn(hva, new Uint8Array((PIPE_BUFFERS + 4) * PAGE_SIZE).fill(1));
      const pipe = createPipe(w.k);
      pipeWrite(w.k, pipe, new Uint8Array([1]));
      const room = (PIPE_BUFFERS - 1) * PAGE_SIZE;
      expect(splice(p, pipe, hva, (PIPE_BUFFERS + 4) * PAGE_SIZE)).toBe(room);
      expect(splice(p, pipe, hva, 1)).toBe(-EAGAIN);
      expect(pinsLive(w.k)).toBe(api === 'pin-longterm' ? PIPE_BUFFERS - 1 : 0);
      exit(p);
      pipeRelease(w.k, pipe);
      expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    }
  });

  it('memory that is not there is -EFAULT; unknown flags are -EINVAL; nothing stays held', () => {
    for (const api of APIS) {
      const w = worldWith(api);
      const p = createProcess(w);
      const pipe = createPipe(w.k);
      expect(splice(p, pipe, 0x10_0000, 1)).toBe(-EFAULT);
      expect(splice(p, pipe, 0x10_0000, 1, 16)).toBe(-EINVAL);
      const hva = mapAnon(p, 1);
      p.store8(hva, 9);
      // The second page is missing: the first is spliced, and the error is kept back.
      expect(splice(p, pipe, hva, 2 * PAGE_SIZE)).toBe(PAGE_SIZE);
      expect(pinsLive(w.k)).toBe(api === 'pin-longterm' ? 1 : 0);
    }
  });

  it('from the read end it is a copy into the process, under every policy', () => {
    const w = worldWith('get');
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    const pipe = createPipe(w.k);
    pipeWrite(w.k, pipe, new Uint8Array([5, 6]));
    expect(drive(vmspliceToUser(w.k, p.mm, pipe, hva + 10, 100))).toBe(2);
    expect([p.load8(hva + 10), p.load8(hva + 11)]).toEqual([5, 6]);
    expect(drive(vmspliceToUser(w.k, p.mm, pipe, hva, 1))).toBe(-EAGAIN);
  });
});

const register = (k: Kernel, mm: MmStruct, hva: number, lenBytes: number) =>
  drive(ioUringRegisterBuffer(k, mm, hva, lenBytes));

describe('io_uring fixed buffers', () => {
  it('are pinned for writing, so that the process and the buffer stay one through fork', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 2);
    p.store8(hva + PAGE_SIZE, 1);
    const buffer = register(w.k, p.mm, hva + 10, PAGE_SIZE);
    if (typeof buffer === 'number') throw new Error(`register: ${buffer}`);
    expect(p.mm.pinnedVm).toBe(2);
    const child = forked(w, p);
    p.store8(hva + PAGE_SIZE, 2);
    const into = new Uint8Array(1);
    fixedBufferRead(w.k, buffer, PAGE_SIZE - 10, into);
    expect(into[0]).toBe(2);
    fixedBufferWrite(w.k, buffer, PAGE_SIZE - 10, new Uint8Array([3]));
    expect([p.load8(hva + PAGE_SIZE), child.load8(hva + PAGE_SIZE)]).toEqual([3, 1]);
    ioUringUnregisterBuffer(w.k, buffer);
    expect([pinsLive(w.k), p.mm.pinnedVm]).toEqual([0, 0]);
  });

  it('outlive the process that registered them', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store8(hva, 4);
    const buffer = register(w.k, p.mm, hva, 1);
    if (typeof buffer === 'number') throw new Error(`register: ${buffer}`);
    exit(p);
    const into = new Uint8Array(1);
    fixedBufferRead(w.k, buffer, 0, into);
    expect(into[0]).toBe(4);
    ioUringUnregisterBuffer(w.k, buffer);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('that cannot be had whole are not had at all: read-only, missing, over the limit', () => {
    const w = createWorld();
    const p = createProcess(w);
    expect(register(w.k, p.mm, mapAnon(p, 1, PROT_READ), PAGE_SIZE)).toBe(-EFAULT);
    const hva = mapAnon(p, 1);
    expect(register(w.k, p.mm, hva, PAGE_SIZE + 1)).toBe(-EFAULT);
    expect(register(w.k, p.mm, hva, 0)).toBe(-EFAULT);
    p.mm.rlimitMemlock = 0;
    expect(register(w.k, p.mm, hva, 1)).toBe(-ENOMEM);
    expect([pinsLive(w.k), p.mm.pinnedVm, w.k.state.fixedBuffers.size]).toEqual([0, 0, 0]);
  });
});
