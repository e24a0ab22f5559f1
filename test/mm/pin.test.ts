/** References and pins as a folio counts them: facts sheet 1.3. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PhysMemory } from '#emu';
import { ENOMEM } from '../../mm/errno.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_DIRTY, PG_LOCKED } from '../../mm/frames/table.ts';
import { nrFreePages } from '../../mm/frames/zone.ts';
import { folioAllocOrder } from '../../mm/folio/large.ts';
import {
  folioHasPincount,
  folioMaybeDmaPinned,
  folioPinCount,
  GUP_PIN_COUNTING_BIAS,
  gupPutFolio,
  tryGrabFolio,
  tryGrabFolioFast,
} from '../../mm/folio/pin.ts';
import { FOLL_GET, FOLL_PIN } from '../../mm/gup/flags.ts';
import {
  unpinFolio,
  unpinFolios,
  unpinUserFolio,
  unpinUserPage,
  unpinUserPageRangeDirtyLock,
  unpinUserPages,
  unpinUserPagesDirtyLock,
} from '../../mm/gup/unpin.ts';
import { createKernel } from '../../mm/kernel.ts';
import { drive, YP_WAIT } from '../../mm/path.ts';
import { createPolicy } from '../../mm/policy.ts';
import type { Kernel } from '../../mm/types.ts';
import { pinsLive } from './support.ts';

let k: Kernel;
beforeEach(() => {
  k = createKernel({
    memory: new PhysMemory(4 << 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
});

const small = (): number => allocPages(k, 0, GFP_KERNEL);
/** A folio of four pages. */
const large = (): number => folioAllocOrder(k, 2, GFP_KERNEL);
const refs = (folio: number): number => k.state.frames.refcount[folio]!;
describe('reference and pin counting — 1.3', () => {
  it('a small folio: GET adds 1, PIN adds 1024', () => {
    const folio = small();
    expect(tryGrabFolio(k, folio, 1, FOLL_GET)).toBe(0);
    expect(refs(folio)).toBe(2);
    expect(folioMaybeDmaPinned(k, folio)).toBe(false);
    expect(tryGrabFolio(k, folio, 1, FOLL_PIN)).toBe(0);
    expect(refs(folio)).toBe(2 + GUP_PIN_COUNTING_BIAS);
    expect(folioMaybeDmaPinned(k, folio)).toBe(true);
    expect(folioPinCount(k, folio)).toBe(1);
    gupPutFolio(k, folio, 1, FOLL_PIN);
    gupPutFolio(k, folio, 1, FOLL_GET);
    expect(refs(folio)).toBe(1);
    expect(pinsLive(k)).toBe(0);
  });

  it('a large folio: PIN adds 1 to refcount and to pincount, per page', () => {
    const folio = large();
    expect(folioHasPincount(k, folio)).toBe(true);
    tryGrabFolio(k, folio, 3, FOLL_PIN);
    expect([refs(folio), k.state.frames.pincount[folio]]).toEqual([4, 3]);
    expect(folioMaybeDmaPinned(k, folio)).toBe(true);
    expect(pinsLive(k)).toBe(3);
    unpinUserPages(k, Int32Array.of(folio, folio + 1, folio + 3), 3);
    expect([refs(folio), k.state.frames.pincount[folio]]).toEqual([1, 0]);
    expect(folioMaybeDmaPinned(k, folio)).toBe(false);
    expect(pinsLive(k)).toBe(0);
  });

  it('neither GET nor PIN counts nothing', () => {
    const folio = small();
    expect(tryGrabFolio(k, folio, 1, 0)).toBe(0);
    expect(refs(folio)).toBe(1);
  });

  it('the zero page: PIN and unpin are no-ops, GET counts', () => {
    const zero = k.state.zeroPage;
    const before = refs(zero);
    tryGrabFolio(k, zero, 1, FOLL_PIN);
    expect(tryGrabFolioFast(k, zero, 1, FOLL_PIN)).toBe(zero);
    unpinUserPage(k, zero);
    expect(refs(zero)).toBe(before);
    expect(pinsLive(k)).toBe(0);
    tryGrabFolio(k, zero, 1, FOLL_GET);
    expect(refs(zero)).toBe(before + 1);
  });

  it('1024 plain references look like a pin on a small folio, and do not on a large one', () => {
    const folio = small();
    const compound = large();
    tryGrabFolio(k, folio, GUP_PIN_COUNTING_BIAS - 1, FOLL_GET);
    tryGrabFolio(k, compound, GUP_PIN_COUNTING_BIAS, FOLL_GET);
    expect(folioMaybeDmaPinned(k, folio)).toBe(true);
    expect(folioMaybeDmaPinned(k, compound)).toBe(false);
  });

  it('the compare is unsigned: an overflowed count still looks pinned', () => {
    const folio = small();
    k.state.frames.refcount[folio] = -5;
    expect(folioMaybeDmaPinned(k, folio)).toBe(true);
  });

  it('a count that is not positive is refused with -ENOMEM, and from zero nothing is raised', () => {
    const folio = small();
    k.state.frames.refcount[folio] = 0;
    expect(tryGrabFolio(k, folio, 1, FOLL_PIN)).toBe(-ENOMEM);
    expect(tryGrabFolioFast(k, folio, 1, FOLL_PIN)).toBe(-1);
    expect(refs(folio)).toBe(0);
  });

  it('the last unpin frees the page', () => {
    const before = nrFreePages(k);
    const folio = small();
    tryGrabFolio(k, folio, 1, FOLL_PIN);
    gupPutFolio(k, folio, 1, FOLL_GET);
    expect(nrFreePages(k)).toBe(before - 1);
    unpinUserPage(k, folio);
    expect(nrFreePages(k)).toBe(before);
  });

  it('unpinUserPages skips missing entries', () => {
    const folio = small();
    tryGrabFolio(k, folio, 2, FOLL_PIN);
    unpinUserPages(k, Int32Array.of(folio, -1, folio), 3);
    expect(refs(folio)).toBe(1);
  });
});

describe('giving pins back — 1.3', () => {
  const pinned = (folio: number, n: number): number => {
    expect(tryGrabFolio(k, folio, n, FOLL_PIN)).toBe(0);
    return folio;
  };
  const dirty = (folio: number): boolean => (k.state.frames.flags[folio]! & PG_DIRTY) !== 0;
  const pins = (folio: number): number => folioPinCount(k, folio);

  it('a list of many folios: runs of one folio, repeats, gaps, either order', () => {
    const [a, b] = [large(), large()];
    const [c, d] = [small(), small()];
    pinned(a, 6);
    pinned(b, 4);
    pinned(c, 3);
    pinned(d, 1);
    const list = [a, a + 1, a + 2, a + 3, b, b + 3, -1, c, c, d, c, a + 3, a, b + 1, b];
    unpinUserPages(k, Int32Array.from(list), list.length);
    expect([a, b, c, d].map(pins)).toEqual([0, 0, 0, 0]);
    expect([a, b, c, d].map(refs)).toEqual([1, 1, 1, 1]);
    expect(pinsLive(k)).toBe(0);
  });

  it('a run ends where the folio ends, before and behind', () => {
    const block = allocPages(k, 3, GFP_KERNEL);
    const { refcount } = k.state.frames;
    // Four single pages around a folio would not be told from it by a look at its number alone.
    for (const page of [block + 1, block + 2]) refcount[page] = 1;
    for (const page of [block, block + 1, block + 2]) pinned(page, 1);
    unpinUserPages(k, Int32Array.of(block, block + 1, block + 2), 3);
    expect([block, block + 1, block + 2].map(refs)).toEqual([1, 1, 1]);
  });

  it('unpin_user_folio drops any number of one folio’s pins; unpin_folio one', () => {
    const folio = pinned(large(), 7);
    unpinUserFolio(k, folio, 4);
    unpinFolio(k, folio);
    expect([pins(folio), refs(folio), pinsLive(k)]).toEqual([2, 3, 2]);
    unpinFolios(k, Int32Array.of(folio, -1, folio), 3);
    expect([pins(folio), pinsLive(k)]).toEqual([0, 0]);
  });

  it('unpin_user_pages_dirty_lock: each folio is dirty before its pins go, and the next is not yet touched', () => {
    const [a, b] = [pinned(large(), 2), pinned(small(), 1)];
    k.state.frames.flags[b]! |= PG_LOCKED;
    const path = unpinUserPagesDirtyLock(k, Int32Array.of(a, a + 1, b), 3, true);
    expect(path.next().value).toBe(YP_WAIT);
    expect([dirty(a), pins(a), dirty(b), pins(b)]).toEqual([true, 0, false, 1]);
    k.state.frames.flags[b]! &= ~PG_LOCKED;
    drive(path);
    expect([dirty(b), pins(b), pinsLive(k)]).toEqual([true, 0, 0]);
  });

  it('... does not wait for the lock of a folio that is dirty already, nor without make_dirty', () => {
    const folio = pinned(small(), 2);
    k.state.frames.flags[folio]! |= PG_DIRTY | PG_LOCKED;
    drive(unpinUserPagesDirtyLock(k, Int32Array.of(folio), 1, true));
    k.state.frames.flags[folio]! &= ~PG_DIRTY;
    drive(unpinUserPagesDirtyLock(k, Int32Array.of(folio), 1, false));
    expect([dirty(folio), pins(folio)]).toEqual([false, 0]);
    k.state.frames.flags[folio]! &= ~PG_LOCKED;
  });

  it('unpin_user_page_range_dirty_lock: contiguous pages, whatever folios they are in', () => {
    const folio = pinned(large(), 3);
    drive(unpinUserPageRangeDirtyLock(k, folio + 1, 3, true));
    expect([pins(folio), dirty(folio), pinsLive(k)]).toEqual([0, true, 0]);
    const block = allocPages(k, 1, GFP_KERNEL);
    k.state.frames.refcount[block + 1] = 1;
    for (const page of [block, block + 1]) pinned(page, 1);
    drive(unpinUserPageRangeDirtyLock(k, block, 2, false));
    expect([refs(block), refs(block + 1), dirty(block)]).toEqual([1, 1, false]);
  });

  it('what nobody has pinned cannot be unpinned', () => {
    const folio = small();
    expect(() => unpinUserPage(k, folio)).toThrow(/references dropped that nobody held/);
  });
});
