/**
 * Benchmark of address translation as TypeScript calls it: a TLB hit and a miss with one stage and with
 * two, and a switch of contexts, each beside a plain typed-array access of the same round.
 *
 * All page tables are built in the machine's RAM: a guest of 256 MiB in 4 KiB pages, in both stages.
 */
import { performance } from 'node:perf_hooks';
import {
  ATP_MODE_SV39,
  Mmu,
  PAGE_SIZE,
  PhysMemory,
  PRIV_S,
  PRIV_U,
  PTE_A,
  PTE_D,
  PTE_R,
  PTE_U,
  PTE_V,
  PTE_W,
  PTE_X,
  pteHi,
  pteLo,
  RAM_OFFSET,
  RAM_PFN_BASE,
} from '#emu';
import { PLAIN_ACCESS, type Samples, translateSamples } from './row.ts';

const PAGES = 65_536;
const TABLES_BASE_PAGE = PAGES;
const LEAF = PTE_V | PTE_R | PTE_W | PTE_X | PTE_A | PTE_D;
const RAM_BYTES = (PAGES + 1024) * PAGE_SIZE;
/** A virtual address range whose pages map to the guest's pages one to one. */
const GVA_BASE = 0x1000_0000;
/** The guest's RAM in its physical address space: as on the virt board. */
const GPA_PAGE_BASE = 0x8_0000;

/** The machine of this benchmark. */
interface Bed {
  memory: PhysMemory;
  mmu: Mmu;
  /** Next free page of the table area. */
  nextPage: number;
}

const writePte = (m: PhysMemory, tablePage: number, index: number, pfn: number, flags: number) => {
  const i = (RAM_OFFSET + (tablePage + (index >>> 9)) * PAGE_SIZE + (index & 511) * 8) >>> 2;
  m.i32[i] = pteLo(pfn, flags);
  m.i32[i + 1] = pteHi(pfn);
};

/**
 * Three levels that map `PAGES` pages from page number `from` on to page frames from `toPfn` on.
 * @returns page of the root, in RAM
 */
const buildTables = (
  bed: Bed,
  from: number,
  toPfn: number,
  tablePfnBase: number,
  flags: number,
  rootPages: number,
): number => {
  const root = Math.ceil(bed.nextPage / rootPages) * rootPages;
  bed.nextPage = root + rootPages;
  let middle = 0;
  for (let n = 0; n < PAGES; n += 512) {
    const page = from + n;
    const gigabyte = Math.floor(page / 0x4_0000);
    if (n === 0 || page % 0x4_0000 === 0) {
      middle = bed.nextPage++;
      writePte(bed.memory, root, gigabyte, tablePfnBase + middle, PTE_V);
    }
    const leaf = bed.nextPage++;
    writePte(bed.memory, middle, (page >>> 9) & 511, tablePfnBase + leaf, PTE_V);
    for (let i = 0; i < 512; i++) writePte(bed.memory, leaf, i, toPfn + n + i, flags);
  }
  return root;
};

const createBed = (): Bed => {
  const memory = new PhysMemory(RAM_BYTES);
  return { memory, mmu: new Mmu(memory, 0), nextPage: TABLES_BASE_PAGE };
};

/** One stage: a user address space over all pages. */
const oneStageBed = (): Bed => {
  const bed = createBed();
  const root = buildTables(bed, GVA_BASE / PAGE_SIZE, RAM_PFN_BASE, RAM_PFN_BASE, LEAF | PTE_U, 1);
  const r = bed.mmu.regs;
  r.priv = PRIV_U;
  r.satpMode = ATP_MODE_SV39;
  r.satpPpn = RAM_PFN_BASE + root;
  bed.mmu.contextChanged();
  return bed;
};

/** Two stages: the guest's tables lie in its own RAM, above the pages that they map. */
const twoStageBed = (): Bed => {
  const bed = createBed();
  const root = buildTables(bed, GVA_BASE / PAGE_SIZE, GPA_PAGE_BASE, GPA_PAGE_BASE, LEAF, 1);
  const tablesEnd = bed.nextPage;
  const gRoot = buildTables(bed, GPA_PAGE_BASE, RAM_PFN_BASE, RAM_PFN_BASE, LEAF | PTE_U, 4);
  // The guest's tables themselves, which are beyond the range that buildTables() mapped.
  const middle = gRoot + 4;
  const leaf = bed.nextPage++;
  writePte(bed.memory, middle, PAGES / 512, RAM_PFN_BASE + leaf, PTE_V);
  for (let page = TABLES_BASE_PAGE; page < tablesEnd; page++)
    writePte(bed.memory, leaf, page - PAGES, RAM_PFN_BASE + page, LEAF | PTE_U);
  const r = bed.mmu.regs;
  r.priv = PRIV_S;
  r.virt = true;
  r.vsatpMode = ATP_MODE_SV39;
  r.vsatpPpn = GPA_PAGE_BASE + root;
  r.hgatpMode = ATP_MODE_SV39;
  r.hgatpVmid = 1;
  r.hgatpPpn = RAM_PFN_BASE + gRoot;
  bed.mmu.contextChanged();
  return bed;
};

/* Each of these does `count` operations; sums, which are 0, so that no access can be left out. */

const plainLoop = (m: PhysMemory, pages: number, count: number): number => {
  const i32 = m.i32;
  let sum = 0;
  for (let i = 0, page = 0; i < count; i++) {
    sum = (sum + i32[(RAM_OFFSET + page * PAGE_SIZE + ((page & 63) << 6)) >>> 2]!) | 0;
    page = page + 1 === pages ? 0 : page + 1;
  }
  return sum;
};

const loadLoop = (mmu: Mmu, m: PhysMemory, pages: number, count: number): number => {
  const i32 = m.i32;
  let sum = 0;
  for (let i = 0, page = 0; i < count; i++) {
    const gva = GVA_BASE + page * PAGE_SIZE + ((page & 63) << 6);
    sum = (sum + i32[mmu.loadOffset(gva, 0, 4) >>> 2]!) | 0;
    page = page + 1 === pages ? 0 : page + 1;
  }
  return sum;
};

const switchLoop = (mmu: Mmu, count: number): number => {
  const r = mmu.regs;
  for (let i = 0; i < count; i++) {
    r.priv = (i & 1) === 0 ? PRIV_U : PRIV_S;
    mmu.contextChanged();
  }
  return 0;
};

/** Nanoseconds an operation. @param work a loop over pages that are empty: its sum is 0 */
const time = (work: (count: number) => number, count: number): number => {
  const start = performance.now();
  const sum = work(count);
  const ns = ((performance.now() - start) * 1e6) / count;
  if (sum !== 0) throw new Error('translate: the pages are not empty');
  return ns;
};

interface Case {
  name: string;
  count: number;
  work: (count: number) => number;
  limit: (count: number) => number;
}

/**
 * The cases' samples: `rounds` interleaved rounds after warming up.
 *
 * `... hit` loops over 512 pages that the TLB holds; `... miss` touches 65,536 pages in sequence, each a
 * miss (the arrays have 4,096 entries); the peer of each is the plain access to the same bytes.
 */
export const translateRows = (rounds: number): Samples[] => {
  const one = oneStageBed();
  const two = twoStageBed();
  const cases: Case[] = [];
  for (const [stages, bed] of [
    ['one-stage', one],
    ['two-stage', two],
  ] as const)
    for (const [kind, pages, count] of [
      ['hit', 512, 4_000_000],
      ['miss', PAGES, 8 * PAGES],
    ] as const)
      cases.push({
        name: `${stages} ${kind}`,
        count,
        work: (n) => loadLoop(bed.mmu, bed.memory, pages, n),
        limit: (n) => plainLoop(bed.memory, pages, n),
      });
  const switching = twoStageBed();
  cases.push({
    name: 'privilege switch',
    count: 400_000,
    work: (n) => switchLoop(switching.mmu, n),
    limit: (n) => plainLoop(switching.memory, 512, n),
  });

  const warmUps = 2;
  const rows = cases.map(({ name }) => translateSamples(name, 'ns'));
  for (let round = -warmUps; round < rounds; round++)
    for (const [i, { work, limit, count }] of cases.entries()) {
      const plain = time(limit, count);
      const ns = time(work, count);
      if (round < 0) continue;
      rows[i]!.peers[PLAIN_ACCESS]!.push(plain);
      rows[i]!.samples.push(ns);
    }
  return rows;
};
