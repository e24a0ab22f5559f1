/** The sanitizer on swap, merged pages, pipes and registered buffers: one planted violation per rule. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  createPipe,
  drive,
  fork,
  type HostProcess,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  type Kernel,
  MADV_MERGEABLE,
  MADV_PAGEOUT,
  madvise,
  type MmStruct,
  pipeRelease,
  pipeWrite,
  tee,
  vmspliceToPipe,
} from '#mm';
import { unpinUserPages } from '#mm/driver-api';
import { PG_ANON_EXCLUSIVE, PG_KSM, PG_SWAPCACHE } from '../../mm/frames/table.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { makeSwapEntry, PTE_SWP_EXCLUSIVE, swapEntrySlot } from '../../mm/pgtable/swapops.ts';
import { walkPte } from '../../mm/pgtable/walk.ts';
import { createPolicy } from '../../mm/policy.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapCachePage } from '../../mm/swap/cache.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { createProcess, createWorld, entryAt, mapAnon, pageAt } from './support.ts';

interface Swapped {
  k: Kernel;
  p: HostProcess;
  child: MmStruct;
  /** Swapped out, its own. */
  own: number;
  /** Swapped out, shared by fork. */
  shared: number;
  /** In the swap cache, read in by the child's parent, and named by the child still. */
  cached: number;
  /** Four pages, merged into one. */
  merged: number;
}

const build = (): Swapped => {
  const w = createWorld(8 << 20);
  const { k } = w;
  swapon(k, 32);
  const p = createProcess(w);
  const shared = mapAnon(p, 3);
  const cached = shared + PAGE_SIZE;
  const own = shared + 2 * PAGE_SIZE;
  for (const hva of [shared, cached]) p.store32(hva, 1);
  const merged = mapAnon(p, 4);
  for (let i = 0; i < 4; i++) p.store32(merged + i * PAGE_SIZE, 7);
  drive(madvise(k, p.mm, merged, 4 * PAGE_SIZE, MADV_MERGEABLE));
  while (drive(ksmScan(k, p.mm)) > 0);
  drive(madvise(k, p.mm, shared, 2 * PAGE_SIZE, MADV_PAGEOUT));
  const child = drive(fork(k, p.mm));
  if (typeof child === 'number') throw new Error(`fork: ${child}`);
  p.load32(cached);
  p.store32(own, 1);
  expect(drive(reclaimFolio(k, pageAt(p, own)))).toBe(0);
  return { k, p, child, own, shared, cached, merged };
};

let w: Swapped;
beforeEach(() => {
  w = build();
});

const check = (): string => checkKernel(w.k, { quiescent: true }).join('\n');
const wordAt = (hva: number): number => walkPte(w.k, w.p.mm, hva, false);
const slotAt = (hva: number): number => swapEntrySlot(entryAt(w.p, hva));
const node = () => w.k.state.ksm.nodes[0]!;

it('a healthy kernel with swap and merged pages has no violation', () => {
  expect(check()).toBe('');
  const page = pageAt(w.p, w.cached);
  expect(swapCachePage(w.k, w.k.state.frames.swap[page]!)).toBe(page);
  expect(pageAt(w.p, w.merged)).toBe(pageAt(w.p, w.merged + 3 * PAGE_SIZE));
});

describe('planted violations', () => {
  const cases: { rule: string; plant: () => void; expected: RegExp }[] = [
    {
      rule: 'swap: a slot whose count is not what names it',
      plant: () => {
        w.k.state.swap.count[slotAt(w.shared)]! += 1;
      },
      expected: /swap: slot \d+ is named 2 times, counted 3/,
    },
    {
      rule: 'swap: a slot that is free and named',
      plant: () => {
        w.k.state.swap.count[slotAt(w.own)] = 0;
      },
      expected: /swap: slot \d+ is named 1 times, counted 0/,
    },
    {
      rule: 'swap: an entry for a slot that does not exist',
      plant: () => {
        w.k.memory.i32[wordAt(w.own)] = makeSwapEntry(33);
      },
      expected: /swap entry for slot 33, which the device does not have/,
    },
    {
      rule: 'swap: the count of free slots',
      plant: () => {
        w.k.state.swap.nrFree--;
      },
      expected: /swap: \d+ free slots, counted \d+/,
    },
    {
      rule: 'swap: the count of swapped pages',
      plant: () => {
        w.p.mm.rssSwap--;
      },
      expected: /swapped pages, counted/,
    },
    {
      rule: 'I3: an entry that says that it alone names the slot, and does not',
      plant: () => {
        w.k.memory.i32[wordAt(w.shared)]! |= PTE_SWP_EXCLUSIVE;
      },
      expected: /^I3 swap: exclusive slot \d+ is in 2 entries/m,
    },
    {
      rule: 'I3: an exclusive page whose slot another entry names',
      plant: () => {
        w.k.state.frames.flags[pageAt(w.p, w.cached)]! |= PG_ANON_EXCLUSIVE;
      },
      expected: /^I3 swap: page \d+ is exclusive, and slot \d+ in 1 entries/m,
    },
    {
      rule: 'swap cache: a page that says another slot',
      plant: () => {
        w.k.state.frames.swap[pageAt(w.p, w.cached)]! += 1;
      },
      expected: /swap: slot \d+ has page \d+ cached, which says otherwise/,
    },
    {
      rule: 'swap cache: a page that says that it is in it, and is not',
      plant: () => {
        w.k.state.frames.flags[pageAt(w.p, w.merged)]! |= PG_SWAPCACHE;
      },
      expected: /swap: page \d+ says that it is cached, and is not/,
    },
    {
      rule: 'I11: a reference of the swap cache that is missing',
      plant: () => {
        w.k.state.frames.refcount[pageAt(w.p, w.cached)]! -= 1;
      },
      expected: /^I11 page \d+: 1 references, 2 are accounted for/m,
    },
    {
      rule: 'a merged page is never exclusive',
      plant: () => {
        w.k.state.frames.flags[pageAt(w.p, w.merged)]! |= PG_ANON_EXCLUSIVE;
      },
      expected: /^I1 .* merged page \d+ is exclusive/m,
    },
    {
      rule: 'rmap: an item that leads to a merged page is missing',
      plant: () => {
        node().items.pop();
      },
      expected: /^rmap .* no item of merged page \d+ leads here/m,
    },
    {
      rule: 'rmap: a merged page without a node',
      plant: () => {
        w.k.state.mappings.delete(node().id);
      },
      expected: /^ksm: node \d+ is not among the mappings/m,
    },
    {
      rule: 'ksm: a node whose page belongs elsewhere',
      plant: () => {
        w.k.state.frames.flags[node().page]! &= ~PG_KSM;
      },
      expected: /^ksm: page \d+ of node \d+ says that it belongs elsewhere/m,
    },
  ];

  for (const { rule, plant, expected } of cases)
    it(rule, () => {
      plant();
      expect(check()).toMatch(expected);
    });
});

describe('holders known by name', () => {
  const spliced = (api: 'get' | 'pin-longterm') => {
    w.k.policy = createPolicy('linux-7');
    w.k.policy.apis.vmsplice = api;
    const hva = mapAnon(w.p, 2);
    for (const at of [hva, hva + PAGE_SIZE]) w.p.store32(at, 1);
    const pipe = createPipe(w.k);
    expect(drive(vmspliceToPipe(w.k, w.p.mm, pipe, hva, 2 * PAGE_SIZE, 0))).toBe(2 * PAGE_SIZE);
    return { pipe, hva };
  };

  it('pipes: pages of their own, references, pins, and what tee() has', () => {
    for (const api of ['get', 'pin-longterm'] as const) {
      const { pipe } = spliced(api);
      pipeWrite(w.k, pipe, new Uint8Array(5000));
      expect(check()).toBe('');
      const other = createPipe(w.k);
      expect(tee(w.k, pipe, other, 1 << 20)).toBe(2 * PAGE_SIZE + 5000);
      expect(check()).toBe('');
      pipeRelease(w.k, pipe);
      expect(check()).toBe('');
      pipeRelease(w.k, other);
      expect(check()).toBe('');
    }
  });

  it('I11: a reference that a pipe says it has, and has not', () => {
    const { pipe, hva } = spliced('get');
    pipe.buffers.push({ ...pipe.buffers[0]! });
    expect(pageAt(w.p, hva)).toBe(pipe.buffers[0]!.page);
    expect(check()).toMatch(/^I11 page \d+: 2 references, 3 are accounted for/m);
  });

  it('I11: a pin that a registered buffer says it has, and has not', () => {
    const hva = mapAnon(w.p, 2);
    const buffer = drive(ioUringRegisterBuffer(w.k, w.p.mm, hva, 2 * PAGE_SIZE));
    if (typeof buffer === 'number') throw new Error(`${buffer}`);
    expect(check()).toBe('');
    unpinUserPages(w.k, buffer.pages, 1);
    expect(check()).toMatch(/^I11 page \d+: 1 pins too few/m);
  });

  it('registered buffers: pins while they last', () => {
    const hva = mapAnon(w.p, 2);
    const buffer = drive(ioUringRegisterBuffer(w.k, w.p.mm, hva, 2 * PAGE_SIZE));
    if (typeof buffer === 'number') throw new Error(`${buffer}`);
    ioUringUnregisterBuffer(w.k, buffer);
    expect(check()).toBe('');
  });
});
