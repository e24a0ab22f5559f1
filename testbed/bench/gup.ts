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
  levelPages,
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
  ptepGet,
  walkLeaf,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import type { Samples } from './row.ts';

const MIB = 2 ** 20;
const HVA = 0x4000_0000;
/** Pages of a pass over present memory, and of one that faults. */
const HIT_PAGES = 8192;
const FAULT_PAGES = 2048;
const BATCHES = [1, 16, 512] as const;
/** Passes before the first that counts; faults take V8 longer to compile. */
const WARM_UP = 3;
const FAULT_WARM_UP = 12;
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
  pinAll(subject, 512, HIT_PAGES, new Int32Array(512));
  if ((leafLevel(walkLeaf(k, mm, HVA)) === 1) !== huge)
    throw new Error(`the memory is not under a ${subject.what}`);
  return subject;
};

/** Nanoseconds of a pass of `pages` pages: of what `take` does, and of what `give` does. */
interface Pass {
  take: number;
  give: number;
}

const timed = (
  pages: number,
  batch: number,
  take: (hva: number) => void,
  give: () => void,
): Pass => {
  const pass = { take: 0, give: 0 };
  for (let page = 0; page < pages; page += CHUNK) {
    const start = performance.now();
    for (let i = 0; i < CHUNK; i += batch) take(HVA + (page + i) * PAGE_SIZE);
    const middle = performance.now();
    give();
    pass.give += performance.now() - middle;
    pass.take += middle - start;
  }
  return { take: (pass.take * 1e6) / pages, give: (pass.give * 1e6) / pages };
};

/** Pages between two looks at the clock: a chunk is taken as a whole, and then given back. */
const CHUNK = 512;

/** PIN-fast and unpin. @param pages of 4 KiB, from the start of the mapping */
const pinAll = ({ k, mm }: Subject, batch: number, pages: number, buffer: Int32Array): Pass => {
  const views = Array.from({ length: CHUNK / batch }, (_, i) =>
    buffer.subarray(i * batch, (i + 1) * batch),
  );
  let next = 0;
  return timed(
    pages,
    batch,
    (hva) => {
      const into = views[next++ % views.length] ?? buffer;
      const n = drive(pinUserPagesFast(k, mm, hva, batch, FOLL_WRITE, into));
      if (n !== batch) throw new Error(`pinned ${n} of ${batch}`);
    },
    () => {
      for (const view of views) unpinUserPages(k, view, batch);
    },
  );
};

/** GUP-fast and put. */
const getAll = ({ k, mm }: Subject, batch: number, pages: number, buffer: Int32Array): Pass => {
  const views = Array.from({ length: CHUNK / batch }, (_, i) =>
    buffer.subarray(i * batch, (i + 1) * batch),
  );
  let next = 0;
  return timed(
    pages,
    batch,
    (hva) => {
      const into = views[next++ % views.length] ?? buffer;
      const n = drive(gupTestGetFast(k, mm, hva, batch, FOLL_WRITE, into));
      if (n !== batch) throw new Error(`got ${n} of ${batch}`);
    },
    () => {
      for (const view of views) gupTestPut(k, view, batch);
    },
  );
};

/** The same tables read from the root for every batch, entry by entry, and nothing else: ns a page. */
const walkAll = ({ k, mm }: Subject, batch: number, pages: number, buffer: Int32Array): number =>
  timed(
    pages,
    batch,
    (hva) => {
      for (let i = 0; i < batch; ) {
        const leaf = walkLeaf(k, mm, hva + i * PAGE_SIZE);
        const level = leafLevel(leaf);
        const word = leafWord(leaf);
        const first = leafPage(ptepGet(k, word), level, hva + i * PAGE_SIZE);
        const nr = level === 0 ? 1 : Math.min(batch - i, levelPages(level));
        if (level === 0) {
          // The rest of the table follows entry by entry.
          for (let j = 0; i < batch; j++, i++) buffer[i] = ptepGet(k, word + 2 * j) >>> 10;
        } else {
          for (let j = 0; j < nr; j++) buffer[i + j] = first + j;
          i += nr;
        }
      }
    },
    () => {},
  ).take;

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
  const buffer = new Int32Array(CHUNK);
  for (let round = -WARM_UP; round < rounds; round++) {
    announce('gup: present pages');
    for (const batch of BATCHES) {
      let small: { pin: Pass; get: Pass } | null = null;
      for (const f of figures.filter((figure) => figure.batch === batch)) {
        const walk = walkAll(f.subject, batch, HIT_PAGES, buffer);
        const pin = pinAll(f.subject, batch, HIT_PAGES, buffer);
        const get = getAll(f.subject, batch, HIT_PAGES, buffer);
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
  return rows;
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
  for (let round = -FAULT_WARM_UP; round < rounds; round++) {
    announce('gup: faults');
    const error = drive(madvise(k, mm, HVA, FAULT_PAGES * PAGE_SIZE, MADV_DONTNEED));
    if (error !== 0) throw new Error(`madvise: ${error}`);
    const pass = pinAll(subject, 512, FAULT_PAGES, buffer);
    const walk = walkAll(subject, 512, FAULT_PAGES, buffer);
    if (round >= 0) note(row, pass.take, walk, undefined);
  }
  return row;
};
