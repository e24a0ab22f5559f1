/**
 * Suite `gup`: what it costs to take and to give back user pages, by mapping size and batch, present
 * or to be faulted in; beside a bare walk of the same page tables, which is the limit.
 */
import { PAGE_SIZE, PhysMemory } from '#emu';
import {
  createKernel,
  createPolicy,
  drive,
  gupTestGetFast,
  gupTestPut,
  type Kernel,
  leafLevel,
  leafPage,
  leafWord,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  type MmStruct,
  madvise,
  mmap,
  mmCreate,
  PROT_READ,
  PROT_WRITE,
  ptePage,
  ptepGet,
  walkLeaf,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { contigSamples } from './contig.ts';
import type { Samples } from './row.ts';
import { storageSamples } from './storage.ts';

const MIB = 2 ** 20;
const HVA = 0x4000_0000;
/** Pages of a pass over present memory, and of one that faults. */
const HIT_PAGES = 8192;
const FAULT_PAGES = 2048;
const BATCHES = [1, 16, 512] as const;
/** Passes before the first that counts; faults take V8 longer to compile. */
const WARM_UP = 3;
const FAULT_WARM_UP = 12;
const HUGE_PASSES = 16;
/** Words of an entry. */
const PTE_WORDS = 2;
const BARE_WALK = 'bare walk';
const SMALL = '4 KiB mapping';
const PMD_ORDER = 9;

/** A process with present memory under entries of one size. */
interface Subject {
  what: string;
  k: Kernel;
  mm: MmStruct;
  huge: boolean;
}

const createSubject = (huge: boolean): Subject => {
  const k = createKernel({
    memory: new PhysMemory(64 * MIB),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  if (huge) k.state.thp.always = 1 << PMD_ORDER;
  const mm = mmCreate(k);
  const at = drive(
    mmap(k, mm, {
      hva: HVA,
      lenBytes: HIT_PAGES * PAGE_SIZE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
    }),
  );
  if (at !== HVA) throw new Error(`mmap: ${at}`);
  const subject = { what: huge ? '2 MiB mapping' : SMALL, k, mm, huge };
  pinAll(subject, viewsOf(new Int32Array(HIT_PAGES), HIT_PAGES, 512));
  if ((leafLevel(walkLeaf(k, mm, HVA)) === 1) !== huge)
    throw new Error(`the memory is not under a ${subject.what}`);
  return subject;
};

/** Nanoseconds of a pass of `pages` pages: of what `take` does, and of what `give` does. */
interface Pass {
  take: number;
  give: number;
}

/** Views of a buffer, one for each batch of a pass. */
const viewsOf = (buffer: Int32Array, pages: number, batch: number): Int32Array[] =>
  Array.from({ length: pages / batch }, (_, i) => buffer.subarray(i * batch, (i + 1) * batch));

/** A mean of several passes: over huge entries a single one is too short to be timed. */
const repeated = (subject: Subject, pass: () => Pass): Pass => {
  const times = subject.huge ? HUGE_PASSES : 1;
  const sum = { take: 0, give: 0 };
  for (let i = 0; i < times; i++) {
    const { take, give } = pass();
    sum.take += take / times;
    sum.give += give / times;
  }
  return sum;
};

/** All of a pass is taken, and then all given back, so that the clock is read three times only. */
const timed = (
  views: Int32Array[],
  take: (hva: number, into: Int32Array) => void,
  give: (from: Int32Array) => void,
): Pass => {
  const start = performance.now();
  let hva = HVA;
  for (const view of views) {
    take(hva, view);
    hva += view.length * PAGE_SIZE;
  }
  const middle = performance.now();
  for (const view of views) give(view);
  const end = performance.now();
  const pages = (hva - HVA) / PAGE_SIZE;
  return { take: ((middle - start) * 1e6) / pages, give: ((end - middle) * 1e6) / pages };
};

/** PIN-fast and unpin. */
const pinAll = ({ k, mm }: Subject, views: Int32Array[]): Pass =>
  timed(
    views,
    (hva, into) => {
      const n = drive(pinUserPagesFast(k, mm, hva, into.length, FOLL_WRITE, into));
      if (n !== into.length) throw new Error(`pinned ${n} of ${into.length}`);
    },
    (from) => unpinUserPages(k, from, from.length),
  );

/** GUP-fast and put. */
const getAll = ({ k, mm }: Subject, views: Int32Array[]): Pass =>
  timed(
    views,
    (hva, into) => {
      const n = drive(gupTestGetFast(k, mm, hva, into.length, FOLL_WRITE, into));
      if (n !== into.length) throw new Error(`got ${n} of ${into.length}`);
    },
    (from) => gupTestPut(k, from, from.length),
  );

/** The same tables read from the root for every batch, entry by entry, and nothing else: ns a page. */
const walkAll = ({ k, mm }: Subject, views: Int32Array[]): Pass =>
  timed(
    views,
    (hva, into) => walkBatch(k, mm, hva, into),
    () => {},
  );

/** The frame of each page of a batch, which lies in one table or one huge entry. */
const walkBatch = (k: Kernel, mm: MmStruct, hva: number, into: Int32Array): void => {
  const leaf = walkLeaf(k, mm, hva);
  const level = leafLevel(leaf);
  const word = leafWord(leaf);
  const first = leafPage(ptepGet(k, word), level, hva);
  for (let i = 0; i < into.length; i++)
    into[i] = level > 0 ? first + i : ptePage(ptepGet(k, word + i * PTE_WORDS));
};

const sample = (name: string, peers: string[]): Samples => ({
  suite: 'gup',
  name,
  unit: 'ns/page',
  better: 'lower',
  samples: [],
  peers: Object.fromEntries(peers.map((peer) => [peer, []])),
});

/** The five figures of one batch size over one mapping. */
interface Figures {
  subject: Subject;
  batch: number;
  pin: Samples;
  unpin: Samples;
  get: Samples;
  put: Samples;
}

/** All of the suite's samples. @param rounds samples of each figure */
export const gupSuite = async (
  rounds: number,
  announce: (what: string) => void,
): Promise<Samples[]> => {
  const subjects = [createSubject(false), createSubject(true)];
  const figures = BATCHES.flatMap((batch) =>
    subjects.map((subject): Figures => {
      const peers = subject.huge ? [BARE_WALK, SMALL] : [BARE_WALK];
      const name = (api: string): string => `${api}, ${batch} at a time, ${subject.what}`;
      return {
        subject,
        batch,
        pin: sample(name('PIN-fast'), peers),
        unpin: sample(name('unpin'), peers),
        get: sample(name('GUP-fast'), peers),
        put: sample(name('put'), peers),
      };
    }),
  );
  const buffer = new Int32Array(HIT_PAGES);
  for (let round = -WARM_UP; round < rounds; round++) {
    announce('gup: present pages');
    for (const batch of BATCHES) {
      const views = viewsOf(buffer, HIT_PAGES, batch);
      let small: { pin: Pass; get: Pass } | null = null;
      for (const f of figures.filter((figure) => figure.batch === batch)) {
        const walk = repeated(f.subject, () => walkAll(f.subject, views)).take;
        const pin = repeated(f.subject, () => pinAll(f.subject, views));
        const get = repeated(f.subject, () => getAll(f.subject, views));
        if (!f.subject.huge) small = { pin, get };
        if (round < 0) continue;
        note(f.pin, pin.take, walk, small?.pin.take);
        note(f.unpin, pin.give, walk, small?.pin.give);
        note(f.get, get.take, walk, small?.get.take);
        note(f.put, get.give, walk, small?.get.give);
      }
    }
  }
  const rows = figures.flatMap(({ pin, unpin, get, put }) => [pin, unpin, get, put]);
  for (const subject of subjects) rows.push(faultSamples(subject, rounds, buffer, announce));
  return [...rows, ...storageSamples(rounds, announce), ...contigSamples(rounds, announce)];
};

const note = (row: Samples, value: number, walk: number, small: number | undefined): void => {
  row.samples.push(value);
  row.peers[BARE_WALK]?.push(walk);
  if (small !== undefined) row.peers[SMALL]?.push(small);
};

/** Pins of memory that was just dropped: every page, or every 2 MiB, has to be faulted in. */
const faultSamples = (
  subject: Subject,
  rounds: number,
  buffer: Int32Array,
  announce: (what: string) => void,
): Samples => {
  const row = sample(`PIN-fast with faults, 512 at a time, ${subject.what}`, [BARE_WALK]);
  const { k, mm } = subject;
  const views = viewsOf(buffer, FAULT_PAGES, 512);
  for (let round = -FAULT_WARM_UP; round < rounds; round++) {
    announce('gup: faults');
    const error = drive(madvise(k, mm, HVA, FAULT_PAGES * PAGE_SIZE, MADV_DONTNEED));
    if (error !== 0) throw new Error(`madvise: ${error}`);
    const pass = pinAll(subject, views);
    const walk = walkAll(subject, views).take;
    if (round >= 0) note(row, pass.take, walk, undefined);
  }
  return row;
};
