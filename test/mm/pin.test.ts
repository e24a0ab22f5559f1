/** References and pins as a folio counts them: facts sheet 1.3. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PhysMemory } from '#emu';
import { ENOMEM } from '../../mm/errno.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_HEAD, PG_TAIL } from '../../mm/frames/table.ts';
import { nrFreePages } from '../../mm/frames/zone.ts';
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
import { unpinUserPage, unpinUserPages } from '../../mm/gup/unpin.ts';
import { createKernel } from '../../mm/kernel.ts';
import { createPolicy } from '../../mm/policy.ts';
import type { Kernel } from '../../mm/types.ts';

let k: Kernel;
beforeEach(() => {
  k = createKernel({
    memory: new PhysMemory(4 << 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
});

const small = (): number => allocPages(k, 0, GFP_KERNEL);
/** A folio of four pages, as a compound allocation leaves it. */
const large = (): number => {
  const { flags, head, private: order } = k.state.frames;
  const folio = allocPages(k, 2, GFP_KERNEL);
  flags[folio] = PG_HEAD;
  order[folio] = 2;
  for (let i = 1; i < 4; i++) {
    flags[folio + i] = PG_TAIL;
    head[folio + i] = folio;
  }
  return folio;
};
const refs = (folio: number): number => k.state.frames.refcount[folio]!;
const live = (): number => k.state.stat.nr_foll_pin_acquired - k.state.stat.nr_foll_pin_released;

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
    expect(live()).toBe(0);
  });

  it('a large folio: PIN adds 1 to refcount and to pincount, per page', () => {
    const folio = large();
    expect(folioHasPincount(k, folio)).toBe(true);
    tryGrabFolio(k, folio, 3, FOLL_PIN);
    expect([refs(folio), k.state.frames.pincount[folio]]).toEqual([4, 3]);
    expect(folioMaybeDmaPinned(k, folio)).toBe(true);
    expect(live()).toBe(3);
    unpinUserPages(k, Int32Array.of(folio, folio + 1, folio + 3), 3);
    expect([refs(folio), k.state.frames.pincount[folio]]).toEqual([1, 0]);
    expect(folioMaybeDmaPinned(k, folio)).toBe(false);
    expect(live()).toBe(0);
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
    expect(live()).toBe(0);
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
