/**
 * The stage that the pictures of docs/gup.md are drawn from: a small kernel, processes, and whoever
 * holds their memory. What is done there goes through the doors of mm/.
 */
import { PAGE_SIZE } from '#emu';
import {
  createPipe,
  createPolicy,
  drive,
  fork,
  HPAGE_PMD_ORDER,
  HUGETLB_ORDER_2M,
  type HostProcess,
  hugetlbSetPool,
  type Kernel,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGETLB,
  MAP_PRIVATE,
  mmap,
  mmCreate,
  mmuNotifierRegister,
  munmap,
  type Path,
  type Pipe,
  type Policy,
  pipeRead,
  swapon,
  vmspliceToPipe,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast } from '#mm/driver-api';
import { errnoName } from '../../testbed/report/errno-names.ts';
import { createSecondaryMmu, type SecondaryMmu, secondaryFault } from '../mm/secondary-mmu.ts';
import { createProcess, createWorld, RW, recordNotifier, type World } from '../mm/support.ts';

/** Where the memory of every picture lies: at a multiple of 2 MiB. */
export const HVA = 0x2_0000_0000;
/** Room for a few pages; for a few times 2 MiB, if that is what there is. */
const SMALL_RAM = 4 * 2 ** 20;
const LARGE_RAM = 20 * 2 ** 20;
const SWAP_SLOTS = 1024;
const POOL_PAGES = 3;

/** By whom the page is held besides the page tables. */
export type Holder = 'pipe' | 'device' | 'VM';

/** A page that somebody reaches by number. */
export interface Held {
  who: string;
  how: 'get' | 'pin';
  page: number;
}

export interface Stage {
  w: World;
  k: Kernel;
  /** The first process, P, whose memory it is. */
  p: HostProcess;
  nrPages: number;
  /** Every process by its letter, in the order of their coming. */
  processes: Map<string, HostProcess>;
  pipe: Pipe | null;
  held: Held[];
  vm: SecondaryMmu | null;
  /** Letters of folios, in the order of their coming; a folio that was drawn as free has none any more. */
  letters: Map<number, string>;
  nrLetters: number;
}

export interface StageOptions {
  policy?: Policy;
  nrPages?: number;
  huge?: 'thp' | 'hugetlb';
  /** Nobody has written to the memory yet. */
  untouched?: boolean;
}

/** A kernel with one process P and its memory, written: each page says 1 in its first word. */
export const createStage = (options: StageOptions = {}): Stage => {
  const { huge, nrPages = 1 } = options;
  const w = createWorld(nrPages > 1 ? LARGE_RAM : SMALL_RAM);
  const { k } = w;
  k.policy = options.policy ?? createPolicy('linux-7');
  k.state.thp.always = huge === 'thp' ? 1 << HPAGE_PMD_ORDER : 0;
  k.state.thp.madvise = 1 << HPAGE_PMD_ORDER;
  swapon(k, SWAP_SLOTS);
  if (huge === 'hugetlb') hugetlbSetPool(k, HUGETLB_ORDER_2M, POOL_PAGES);
  const p = createProcess(w, mmCreate(k));
  mapMemory(p, nrPages, huge === 'hugetlb' ? MAP_HUGETLB : 0);
  if (options.untouched !== true) fill(p, nrPages);
  return {
    w,
    k,
    p,
    nrPages,
    processes: new Map([['P', p]]),
    pipe: null,
    held: [],
    vm: null,
    letters: new Map(),
    nrLetters: 0,
  };
};

const mapMemory = (p: HostProcess, nrPages: number, flags: number): void => {
  const all = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags;
  const request = { hva: HVA, lenBytes: nrPages * PAGE_SIZE, prot: RW, flags: all };
  must(drive(mmap(p.k, p.mm, request)));
};

const fill = (p: HostProcess, nrPages: number): void => {
  for (let i = 0; i < nrPages; i++) must(p.store32(HVA + i * PAGE_SIZE, 1));
};

/** The folio that the pictures call A, as long as nobody has drawn it as free. */
export const folioA = (s: Stage): number => {
  for (const [folio, letter] of s.letters) if (letter === 'A') return folio;
  throw new Error('nothing has been drawn yet');
};

/** @throws Error for a negative errno */
export const must = (result: number): number => {
  if (result < 0) throw new Error(`this was not to fail: ${errnoName(result)}`);
  return result;
};

/** What was done, and what came of it. */
export const done = (what: string, result: number): string => `${what} = ${errnoName(result)}`;

/** A path, driven; what came of it after its name. */
export const doing = (what: string, path: Path<number>): string => done(what, drive(path));

/** Another process, Q, with memory of the same bytes at the same place. */
export const addStranger = (s: Stage): HostProcess => {
  const q = createProcess(s.w, mmCreate(s.k));
  s.processes.set('Q', q);
  mapMemory(q, s.nrPages, 0);
  fill(q, s.nrPages);
  return q;
};

/** P forks: C. */
export const addChild = (s: Stage): HostProcess => {
  const child = drive(fork(s.k, s.p.mm));
  if (typeof child === 'number') throw new Error(`fork: ${errnoName(child)}`);
  const c = createProcess(s.w, child);
  s.processes.set('C', c);
  return c;
};

export const unmap = (s: Stage, p: HostProcess): void => {
  must(drive(munmap(s.k, p.mm, HVA, s.nrPages * PAGE_SIZE)));
};

/** vmsplice() of the first page of a process into a new pipe. */
export const splice = (s: Stage, p: HostProcess): void => {
  s.pipe = createPipe(s.k);
  must(drive(vmspliceToPipe(s.k, p.mm, s.pipe, HVA, PAGE_SIZE, 0)));
};

/** First word of what the pipe has. Reads it. */
export const readWord = (s: Stage): number => {
  if (s.pipe === null) throw new Error('nobody has put anything into a pipe');
  const bytes = new Uint8Array(4);
  must(pipeRead(s.k, s.pipe, bytes));
  return new DataView(bytes.buffer).getUint32(0, true);
};

/** Somebody reads all that the pipe has. @returns bytes */
export const drainPipe = (s: Stage): number => {
  if (s.pipe === null) throw new Error('there is no pipe');
  return pipeRead(s.k, s.pipe, new Uint8Array(PAGE_SIZE));
};

/** A driver pins the first `n` pages of a process for its device. @returns pages, or -errno */
export const pin = (s: Stage, p: HostProcess, n = 1, flags = FOLL_WRITE): number => {
  const pages = new Int32Array(n);
  const got = drive(pinUserPagesFast(s.k, p.mm, HVA, n, flags, pages));
  for (const page of pages.subarray(0, Math.max(0, got)))
    s.held.push({ who: 'device', how: 'pin', page });
  return got;
};

/** A secondary MMU follows P's tables from now on, and has an entry for the first page. */
const follow = (s: Stage): void => {
  s.vm = createSecondaryMmu(s.k, s.p.mm);
  recordNotifier(s.w, 'picture');
  must(mmuNotifierRegister(s.k, s.p.mm, 'picture', 1));
  must(ask(s, true));
};

/** The VM touches the page. @returns 0 or -errno */
export const ask = (s: Stage, write: boolean): number => {
  if (s.vm === null) throw new Error('there is no VM');
  return drive(secondaryFault(s.k, s.vm, HVA, write));
};

/** Lets one of them have P's first page. */
export const hold = (s: Stage, holder: Holder): void => {
  if (holder === 'pipe') splice(s, s.p);
  if (holder === 'device') must(pin(s, s.p));
  if (holder === 'VM') follow(s);
};

/** What the VM has been told since the last time it was asked for. */
export const told = (s: Stage): string => {
  const calls = s.w.log.flatMap((line) => {
    if (line === 'release') return ['RELEASE'];
    const [, event] = /^start (\w+) \d+$/.exec(line) ?? [];
    return event === undefined ? [] : [event];
  });
  s.w.log.length = 0;
  return calls.length > 0 ? calls.join(', ') : 'nothing';
};
