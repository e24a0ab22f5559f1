/** A guest_memfd with a process that maps it, and a guest as small as can be that has it for its memory. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  checkKernel,
  createPolicy,
  drive,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdConvert,
  guestMemfdCreate,
  type HostProcess,
  type Kernel,
  MAP_SHARED,
  mmap,
  type Path,
  type PolicyName,
} from '#mm';
import { writePinnedPage } from '#mm/driver-api';
import {
  createInvalidateState,
  createSecondaryPfn,
  guestMemfdBind,
  guestMemfdGetPfn,
  invalidateBegin,
  invalidateEnd,
  invalidateOpen,
  invalidateRetry,
  invalidateSeq,
  pfnToPage,
  registerGuestMemfdOps,
  releasePfn,
} from '#mm/secondary';
import { expect } from 'vitest';
import { createProcess, createWorld, RW, type World } from './support.ts';

export const MMAP = GUEST_MEMFD_FLAG_MMAP;
export const SHARED = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
export const PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

export const createFile = (k: Kernel, nrPages: number, flags: number): AddressSpace => {
  const file = guestMemfdCreate(k, nrPages * PAGE_SIZE, flags);
  if (typeof file === 'number') throw new Error(`guestMemfdCreate: ${file}`);
  return file;
};

export const mapFile = (p: HostProcess, mapping: AddressSpace, flags = MAP_SHARED): number =>
  drive(
    mmap(p.k, p.mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot: RW, flags, mapping, pgoff: 0 }),
  );

/** What a guest has: entries by page of the file, and an invalidate sequence in pages. */
export interface Guest {
  k: Kernel;
  file: AddressSpace;
  entries: Map<number, number>;
  state: ReturnType<typeof createInvalidateState>;
  bound: boolean;
  retries: number;
}

/** A guest whose memory is all of the file. */
export const bindGuest = (k: Kernel, file: AddressSpace): Guest => {
  const guest: Guest = {
    k,
    file,
    entries: new Map(),
    state: createInvalidateState(),
    bound: true,
    retries: 0,
  };
  registerGuestMemfdOps(k, 'guest', {
    invalidateStart: (_binding, first, end) => {
      invalidateBegin(guest.state, first, end);
      for (let pgoff = first; pgoff < end; pgoff++) guest.entries.delete(pgoff);
    },
    invalidateEnd: () => invalidateEnd(guest.state),
    released: () => {
      guest.bound = false;
    },
    visitFileEntries: (visit) => {
      for (const [pgoff, pfn] of guest.entries) visit(file, pgoff, pfn, true);
    },
  });
  expect(drive(guestMemfdBind(k, file, binding(file)))).toBe(0);
  return guest;
};

export const binding = (
  file: AddressSpace,
  over: { pgoff?: number; owner?: number; slot?: number } = {},
) => ({
  ops: 'guest',
  owner: 1,
  slot: 0,
  pgoff: 0,
  nrPages: file.nrPages,
  ...over,
});

/** The guest's fault at a page. @returns 0 or -errno */
export function* guestFault(guest: Guest, pgoff: number): Path<number> {
  const { k, file, state } = guest;
  const out = createSecondaryPfn();
  for (;;) {
    const seq = invalidateSeq(state);
    const error = yield* guestMemfdGetPfn(k, file, pgoff, out);
    if (error !== 0) return error;
    if (invalidateRetry(state, seq, pgoff)) {
      guest.retries++;
      releasePfn(k, out, false, false);
      while (invalidateOpen(state, pgoff)) yield 0;
      continue;
    }
    guest.entries.set(pgoff, out.pfn);
    releasePfn(k, out, true, true);
    return 0;
  }
}

/** Index of the first word of a page as the guest reaches it. @throws Error where it cannot */
export const guestWord = (guest: Guest, pgoff: number): number => {
  if (!guest.entries.has(pgoff)) expect(drive(guestFault(guest, pgoff))).toBe(0);
  return guest.k.memory.pageOffset(pfnToPage(guest.entries.get(pgoff) ?? -1)) >>> 2;
};
export const guestStore = (guest: Guest, pgoff: number, value: number): void => {
  guest.k.memory.i32[guestWord(guest, pgoff)] = value;
};
export const guestLoad = (guest: Guest, pgoff: number): number =>
  guest.k.memory.i32[guestWord(guest, pgoff)]!;

/** A file that a process maps, and a guest that has it for its memory. */
export const withGuest = (flags = SHARED, policy: PolicyName = 'linux-7', nrPages = 4) => {
  const w = createWorld();
  w.k.policy = createPolicy(policy);
  const p = createProcess(w);
  const file = createFile(w.k, nrPages, flags);
  const hva = (flags & MMAP) !== 0 ? mapFile(p, file) : -1;
  return { w, k: w.k, p, file, hva, guest: bindGuest(w.k, file) };
};

export const convert = (
  k: Kernel,
  file: AddressSpace,
  pgoff: number,
  toPrivate: boolean,
  nr = 1,
): number => drive(guestMemfdConvert(k, file, pgoff, nr, toPrivate));

/** A device stores a byte at the beginning of a page that it has pinned. */
export const deviceWrites = (k: Kernel, page: number, value: number): void =>
  writePinnedPage(k, page, 0, Uint8Array.of(value), 0, 1);

export const allIsWell = ({ k }: Pick<World, 'k'>): void =>
  expect(checkKernel(k, { quiescent: true })).toEqual([]);
