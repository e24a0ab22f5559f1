/**
 * The kernel that scenarios play in: 1 MiB of RAM, one process with one page of its own, and loads and
 * stores of users that walk the page tables each time (no TLB, so that the journal takes it all back).
 */
import { PAGE_SIZE, PhysMemory, PTE_A, PTE_D, RAM_OFFSET } from '#emu';
import { fetchOr, readOnce, writeOnce } from '#cells';
import {
  createKernel,
  createPolicy,
  drive,
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
  type Kernel,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  type MmStruct,
  mmap,
  mmCreate,
  type Path,
  PG_ANON_EXCLUSIVE,
  PROT_READ,
  PROT_WRITE,
  pageAnonExclusive,
  ptePage,
  ptePresent,
  ptepGet,
  pteWrite,
  type Sabotage,
  userFault,
  walkPte,
} from '#mm';
import type { WatchedWord } from './scenario.ts';

const RAM_BYTES = 2 ** 20;

export interface ExploredWorld {
  k: Kernel;
  mm: MmStruct;
  /** Where the process has its page. */
  hva: number;
  /** The page: written, and exclusively the process's. */
  page: number;
  /** Index of its entry in memory.i32. */
  entry: number;
}

/** @param first what the first word of the page is */
export const createExploredWorld = (sabotage: Partial<Sabotage>, first: number): ExploredWorld => {
  const k = createKernel({
    memory: new PhysMemory(RAM_BYTES),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  Object.assign(k.sabotage, sabotage);
  const mm = mmCreate(k);
  const hva = drive(
    mmap(k, mm, {
      lenBytes: PAGE_SIZE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_PRIVATE | MAP_ANONYMOUS,
    }),
  );
  if (drive(storePath(k, mm, hva, first)) !== 0) throw new Error('explore: no memory for a page');
  const entry = walkPte(k, mm, hva, false);
  k.watched = true;
  return { k, mm, hva, page: ptePage(ptepGet(k, entry)), entry };
};

/** What a run may change of the kernel, but RAM. */
export const rootsOf = ({ k }: ExploredWorld): unknown => [k.state, k.task, k.currentUser];

/** A user's store of an aligned word, faults handled. @returns 0 or a negative errno */
export function* storePath(k: Kernel, mm: MmStruct, hva: number, value: number): Path<number> {
  for (;;) {
    const word = walkPte(k, mm, hva, false);
    const pte = word > 0 ? ptepGet(k, word) : 0;
    if (ptePresent(pte) && pteWrite(pte)) {
      fetchOr(k.memory.i32, word, PTE_A | PTE_D);
      writeOnce(k.memory.i32, wordOf(ptePage(pte), hva % PAGE_SIZE), value);
      return 0;
    }
    const error = yield* userFault(k, mm, hva, FAULT_FLAG_USER | FAULT_FLAG_WRITE);
    if (error !== 0) return error;
  }
}

/** A user's load of an aligned word that is mapped; the page stays as it is. @throws Error where it is not */
export const loadMapped = (k: Kernel, mm: MmStruct, hva: number): number => {
  const page = mappedPage(k, mm, hva);
  if (page < 0) throw new Error(`explore: nothing is mapped at hva 0x${hva.toString(16)}`);
  return frameWord(k, page, hva % PAGE_SIZE);
};

/** The page that an address is mapped to, or -1. */
export const mappedPage = (k: Kernel, mm: MmStruct, hva: number): number => {
  const word = walkPte(k, mm, hva, false);
  const pte = word > 0 ? ptepGet(k, word) : 0;
  return ptePresent(pte) ? ptePage(pte) : -1;
};

/** A word of a frame, as a device reads it. */
export const frameWord = (k: Kernel, page: number, offset: number): number =>
  readOnce(k.memory.i32, wordOf(page, offset));

const wordOf = (page: number, offset: number): number =>
  (RAM_OFFSET + page * PAGE_SIZE + offset) >>> 2;

/** I2: what is pinned by FOLL_PIN and anonymous is exclusive. @returns what is wrong, or null */
export const pinnedStaysExclusive = (k: Kernel, page: number): string | null =>
  page < 0 || pageAnonExclusive(k, page) ? null : `I2: page ${page} is pinned and not exclusive`;

/** The words that the scenarios of one page turn on. */
export const watchedOf = ({ k, mm, page, entry }: ExploredWorld): WatchedWord[] => [
  { name: 'entry', words: k.memory.i32, index: entry, show: showEntry },
  { name: 'refcount', words: k.state.frames.refcount, index: page, show: String },
  {
    name: 'exclusive',
    words: k.state.frames.flags,
    index: page,
    show: (flags) => ((flags & PG_ANON_EXCLUSIVE) !== 0 ? 'yes' : 'no'),
  },
  { name: 'fork sequence', words: mm.writeProtectSeq, index: 0, show: String },
];

const showEntry = (pte: number): string => {
  if (pte === 0) return 'none';
  if (!ptePresent(pte)) return 'not present';
  return `page ${ptePage(pte)} ${pteWrite(pte) ? 'rw' : 'ro'}`;
};
