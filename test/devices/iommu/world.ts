/**
 * Random directories and tables for the IOMMU, dense enough that most walks go deep: few indexes, few
 * pages, pointers that mostly lead to tables of the right kind, and some of everything that is wrong.
 */
import { RAM_BASE } from '#emu';
import type { Rng } from '../../support/rng.ts';
import { A, atp, D, FREE, G, pte, pscid, R, ROOT, U, V, W, X } from './support.ts';

const PAGE = 4096;
export const NR_PAGES = 128;
/** Of RAM: RAM_BASE is the first. */
const pageAt = (n: number): number => RAM_BASE + n * PAGE;
/** Indexes of tables that are in use. */
const INDEXES = [0, 1, 2, 3, 511];

/** Ids that requests have. */
export const DEVICES = [0, 1, 2, 3, 64, 65, 128, 129, 40_000, 70_000];
/** -1: a request without process_id. */
export const PROCESSES = [-1, -1, -1, -1, 0, 1, 2, 257, 300, 70_000, 140_000];

export interface World {
  levels: number;
  extended: boolean;
  words: Map<number, bigint>;
  /** Ids that the directory has bits for. */
  devices: number[];
}

/** Flips a bit now and then: whatever the field, it is then wrong, or another. */
const spoiled = (random: Rng, word: bigint, p: number): bigint =>
  random.chance(p) ? word ^ (1n << BigInt(random.below(64))) : word;

/** The same for fields with ids in them, which must not come to name other tables: bits that are reserved. */
const misconfigured = (random: Rng, word: bigint, bits: readonly number[]): bigint =>
  random.chance(0.02) ? word ^ (1n << BigInt(random.pick(bits))) : word;
/** In a pointer with MODE and id, without an id, and in ta. Without bit 62 no MODE is one that exists. */
const IOHGATP_RESERVED = [0, 1, 62];
const FSC_RESERVED = [44, 50, 59, 62];
const TA_RESERVED = [3, 11, 32, 63];

const leafFlags = (random: Rng, gStage: boolean): number => {
  let flags = V | (random.chance(0.85) ? R : 0) | (random.chance(0.7) ? W : 0);
  if (random.chance(0.3)) flags |= X;
  if (random.chance(gStage ? 0.95 : 0.8)) flags |= U;
  if (random.chance(0.6)) flags |= A;
  if (random.chance(0.5)) flags |= D;
  if (random.chance(0.2)) flags |= G;
  return flags;
};

/** Builds a world: words by physical address. */
export const randomWorld = (random: Rng, extended: boolean): World => {
  const words = new Map<number, bigint>();
  let next = (FREE - RAM_BASE) / PAGE;
  const take = (pages = 1): number => {
    next = Math.ceil(next / pages) * pages;
    const first = next;
    next += pages;
    if (next > NR_PAGES) throw new Error('no pages are left');
    return pageAt(first);
  };
  const anyPage = (): number => pageAt(random.below(NR_PAGES + 4));
  const put = (pa: number, word: bigint, p = 0.03): void => {
    words.set(pa, spoiled(random, word, p));
  };

  /** Second-stage tables in which guest physical RAM mostly is where it is. */
  const second = (mode: number): number => {
    const root = take(4);
    let table = root;
    for (let level = mode - 6; level > 0; level--) {
      const below = take();
      for (const index of INDEXES) {
        const leaf = random.chance(0.15);
        const flags = leaf ? leafFlags(random, true) : V;
        put(table + index * 8, pte(leaf ? RAM_BASE : below, flags));
      }
      // RAM itself is below index 2 of level 2.
      put(table + (level === 2 ? 2 : 0) * 8, pte(below, V), 0.01);
      table = below;
    }
    for (let n = 0; n < NR_PAGES; n++) {
      const flags = leafFlags(random, true) | (random.chance(0.8) ? R | W | U : 0);
      put(table + n * 8, pte(random.chance(0.8) ? pageAt(n) : anyPage(), flags), 0.01);
    }
    return root;
  };

  const first = (mode: number): number => {
    const root = take();
    let table = root;
    for (let level = mode - 6; level >= 0; level--) {
      const below = level > 0 ? take() : 0;
      for (const index of INDEXES) {
        const leaf = level === 0 || random.chance(0.15);
        const to = level === 0 ? anyPage() : leaf ? RAM_BASE : below;
        put(table + index * 8, pte(to, leaf ? leafFlags(random, false) : V));
      }
      table = below;
    }
    return root;
  };

  const modeOf = (): number => 8 + random.below(3);
  const seconds = [1, 2].map((gscid) => {
    const mode = modeOf();
    return atp(mode, second(mode), gscid);
  });
  const firsts = [1, 2, 3].map((id) => {
    const mode = modeOf();
    return { id, fsc: atp(mode, first(mode)) };
  });

  const process = (table: number): void => {
    for (const index of [0, 1, 2, 44, 112]) {
      const { id, fsc } = random.pick(firsts);
      const ta = 1n | (random.chance(0.6) ? 2n : 0n) | (random.chance(0.5) ? 4n : 0n) | pscid(id);
      put(table + index * 16, random.chance(0.9) ? misconfigured(random, ta, TA_RESERVED) : 0n, 0);
      const first = random.chance(0.85) ? fsc : 0n;
      put(table + index * 16 + 8, misconfigured(random, first, FSC_RESERVED), 0);
    }
  };
  const processes = (mode: number): bigint => {
    let table = take();
    const root = table;
    for (let level = mode - 1; level > 0; level--) {
      const below = take();
      for (const index of [0, 1, 2, 273, 274]) put(table + index * 8, pte(below, V));
      table = below;
    }
    process(table);
    return atp(mode, root);
  };
  const directories = [1, 2, 3].map(processes);

  const msiTable = take();
  for (let i = 0; i < NR_PAGES; i++) {
    const mrif = random.chance(0.4);
    const to = anyPage();
    put(
      msiTable + i * 16,
      mrif ? ((BigInt(to) >> 9n) << 7n) | 3n : pte(to, random.chance(0.9) ? 7 : 6),
      0.3,
    );
    put(msiTable + i * 16 + 8, mrif ? pte(anyPage(), 0) | BigInt(random.below(1024)) : 0n);
  }

  const context = (pa: number): void => {
    const pdtv = random.chance(0.5);
    const ats = random.chance(0.5);
    const gated = random.chance(0.6);
    let tc = random.chance(0.95) ? 1n : 0n;
    if (ats) tc |= 2n | (random.chance(0.5) ? 4n : 0n);
    if (ats && gated && random.chance(0.4)) tc |= 8n;
    if (random.chance(0.2)) tc |= 16n;
    if (pdtv) tc |= 32n | (random.chance(0.5) ? 512n : 0n);
    if (random.chance(0.6)) tc |= 128n;
    if (random.chance(0.6)) tc |= 256n;
    const { id, fsc } = random.pick(firsts);
    const single = random.chance(0.7) ? fsc : 0n;
    const p = 0.01;
    put(pa, tc, p);
    const iohgatp = gated ? random.pick(seconds) : 0n;
    put(pa + 8, gated ? misconfigured(random, iohgatp, IOHGATP_RESERVED) : 0n, 0);
    put(pa + 16, misconfigured(random, pscid(id), TA_RESERVED), 0);
    const directory = random.chance(0.9) ? random.pick(directories) : 0n;
    put(pa + 24, misconfigured(random, pdtv ? directory : single, FSC_RESERVED), 0);
    if (!extended) return;
    const flat = random.chance(0.6);
    put(pa + 32, flat ? atp(1, msiTable) : 0n, p);
    put(pa + 40, BigInt(random.pick([0, 3, 5, 0x2c, 0x7f])), p);
    put(pa + 48, BigInt(random.pick([pageAt(0), pageAt(0), 0, pageAt(4)])) >> 12n, p);
    put(pa + 56, 0n, p);
  };

  const levels = 1 + random.below(3);
  const bits = extended ? [6, 15, 24] : [7, 16, 24];
  const dcBytes = extended ? 64 : 32;
  let table = ROOT;
  for (let level = levels - 1; level > 0; level--) {
    const below = take();
    for (const did of DEVICES)
      put(
        table + ((did >>> (bits[level - 1] ?? 0)) & 0x1ff) * 8,
        pte(random.chance(0.97) ? below : 0, V),
        0.03,
      );
    table = below;
  }
  const indexes = new Set(DEVICES.map((did) => did % 2 ** (bits[0] ?? 0)));
  for (const index of indexes) context(table + index * dcBytes);
  const devices = DEVICES.filter((did) => did < 2 ** (bits[levels - 1] ?? 0));
  return { levels, extended, words, devices };
};

/** An address that a walk may get far with. */
export const randomIova = (random: Rng): bigint => {
  if (random.chance(0.2)) return BigInt(pageAt(random.below(NR_PAGES)) + random.below(PAGE));
  const levels = 3 + random.below(3);
  let page = 0n;
  for (let level = 0; level < levels; level++)
    page |= BigInt(random.pick(INDEXES)) << BigInt(9 * level);
  const address = (page << 12n) | BigInt(random.below(512) * 8);
  const extended = BigInt.asUintN(64, BigInt.asIntN(12 + 9 * levels, address));
  // Beyond 2^53 an address is a multiple of 2048: so much is exact in a number.
  return extended >= 1n << 53n ? (extended >> 12n) << 12n : extended;
};
