/** Which flags each GUP entry takes: facts sheet 1.1. */
import { describe, expect, it } from 'vitest';
import { PhysMemory } from '#emu';
import { EFAULT, EINVAL, EOVERFLOW } from '../../mm/errno.ts';
import {
  FOLL_ANON,
  FOLL_DUMP,
  FOLL_FAST_ONLY,
  FOLL_FORCE,
  FOLL_GET,
  FOLL_HONOR_NUMA_FAULT,
  FOLL_HWPOISON,
  FOLL_INTERRUPTIBLE,
  FOLL_LONGTERM,
  FOLL_MADV_POPULATE,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_PCI_P2PDMA,
  FOLL_PIN,
  FOLL_REMOTE,
  FOLL_SPLIT_PMD,
  FOLL_TOUCH,
  FOLL_TRIED,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import { gupArgs, gupFastRange } from '../../mm/gup/legality.ts';
import { createKernel } from '../../mm/kernel.ts';
import { createPolicy } from '../../mm/policy.ts';

const pages = new Int32Array(1);
const k = createKernel({
  memory: new PhysMemory(1 << 20),
  tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
  policy: createPolicy('linux-7'),
});

describe('flags of GUP — 1.1', () => {
  it('bit values are those of Linux, so that a trace reads alike', () => {
    expect([FOLL_WRITE, FOLL_GET, FOLL_FORCE, FOLL_LONGTERM]).toEqual([1, 2, 8, 1 << 8]);
    expect([FOLL_TOUCH, FOLL_REMOTE, FOLL_PIN, FOLL_FAST_ONLY]).toEqual([
      1 << 16,
      1 << 18,
      1 << 19,
      1 << 20,
    ]);
  });

  for (const { fact, flags, toSet, array, expected } of [
    {
      fact: '(a) TOUCH is internal',
      flags: FOLL_TOUCH,
      toSet: FOLL_GET,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) PIN is internal',
      flags: FOLL_PIN,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) TRIED is internal',
      flags: FOLL_TRIED,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) REMOTE is internal',
      flags: FOLL_REMOTE,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) FAST_ONLY is internal',
      flags: FOLL_FAST_ONLY,
      toSet: FOLL_GET,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) UNLOCKABLE is internal',
      flags: FOLL_UNLOCKABLE,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(a) MADV_POPULATE is internal',
      flags: FOLL_MADV_POPULATE,
      toSet: FOLL_GET,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(c) GET and PIN exclude each other',
      flags: FOLL_GET,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(d) LONGTERM without PIN means nothing',
      flags: FOLL_LONGTERM,
      toSet: FOLL_GET,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: '(d) LONGTERM with PIN is legal',
      flags: FOLL_LONGTERM,
      toSet: FOLL_PIN,
      array: pages,
      expected: FOLL_LONGTERM | FOLL_PIN,
    },
    { fact: '(e) PIN without an array', flags: 0, toSet: FOLL_PIN, array: null, expected: -EINVAL },
    { fact: '(e) GET without an array', flags: 0, toSet: FOLL_GET, array: null, expected: -EINVAL },
    {
      fact: '(e) neither GET nor PIN needs none',
      flags: FOLL_WRITE,
      toSet: 0,
      array: null,
      expected: FOLL_WRITE,
    },
    {
      fact: '(f) LONGTERM with PCI_P2PDMA',
      flags: FOLL_LONGTERM | FOLL_PCI_P2PDMA,
      toSet: FOLL_PIN,
      array: pages,
      expected: -EINVAL,
    },
    {
      fact: 'GET given by the caller of a GET entry is no error',
      flags: FOLL_GET | FOLL_WRITE,
      toSet: FOLL_GET,
      array: pages,
      expected: FOLL_GET | FOLL_WRITE,
    },
  ])
    it(fact, () => expect(gupArgs(flags, toSet, array)).toBe(expected));

  for (const [name, flag] of Object.entries({
    FOLL_DUMP,
    FOLL_NOWAIT,
    FOLL_HWPOISON,
    FOLL_ANON,
    FOLL_SPLIT_PMD,
    FOLL_INTERRUPTIBLE,
  }))
    it(`the fast entry does not take ${name}: -EINVAL`, () =>
      expect(gupFastRange(k, FOLL_PIN | flag, 0, 1)).toBe(-EINVAL));

  it('the fast entry takes the other external flags', () =>
    expect(
      gupFastRange(
        k,
        FOLL_PIN | FOLL_WRITE | FOLL_FORCE | FOLL_LONGTERM | FOLL_NOFAULT | FOLL_HONOR_NUMA_FAULT,
        0,
        1,
      ),
    ).toBe(0));

  it('the fast entry: a range that wraps is -EOVERFLOW, one above user space -EFAULT', () => {
    expect(gupFastRange(k, FOLL_PIN, 2 ** 64 - 4096, 1)).toBe(-EOVERFLOW);
    expect(gupFastRange(k, FOLL_PIN, 2 ** 38 - 4096, 2)).toBe(-EFAULT);
    expect(gupFastRange(k, FOLL_PIN, 2 ** 38 - 4096, 1)).toBe(0);
  });
});
