/**
 * Memory of every kind under a guest that writes throughout, and everything that a host does to pages:
 * no count of the guest is ever lost, and none lands where the page was before.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { BACKING_KINDS, type BackingKind } from '../../testbed/machine/backing.ts';
import { alignRows } from '../../testbed/report/table.ts';
import { EVENTS, type KindEvent, strike } from './kinds/events.ts';
import { COUNTED, KindWorld, NR_PAGES } from './kinds/world.ts';

type Kind = Exclude<BackingKind, 'mixed'>;

const NO_FILE = 'anonymous memory has no file behind it (folio_mapping() is the swap cache)';
const NOT_ON_LRU = 'hugetlb folios are on no LRU list: nothing reclaims them';
const SHARED = 'KSM leaves VM_SHARED alone (vma_ksm_compatible())';
const SMALL = 'the folios of this file have one page: nothing to split';
const NO_WRITEBACK = 'mapping_can_writeback() is false: there is nowhere to write to';
const NOT_HUGE_FILE = 'khugepaged takes anonymous memory: thp_vma_allowable_order() says no';
const DEVICE = 'ZONE_DEVICE frames are never on an LRU list, nor isolated for migration';
const NOT_RAM = 'ZONE_DEVICE frames are in no memory block that goes offline';

/** Cells that cannot be, and the rule that says so. */
const IMPOSSIBLE: Record<Kind, Partial<Record<KindEvent, string>>> = {
  anon: { writeback: NO_FILE, truncate: NO_FILE, split: 'nothing to split: order 0' },
  thp: { writeback: NO_FILE, truncate: NO_FILE },
  shmem: { ksm: SHARED, writeback: NO_WRITEBACK, collapse: NOT_HUGE_FILE, split: SMALL },
  hugetlb: {
    swap: NOT_ON_LRU,
    ksm: SHARED,
    writeback: NO_WRITEBACK,
    collapse: NOT_HUGE_FILE,
    split: 'hugetlb folios are never split, only dissolved when free',
  },
  file: { ksm: SHARED, collapse: NOT_HUGE_FILE, split: SMALL },
  fsdax: {
    migrate: DEVICE,
    swap: DEVICE,
    ksm: SHARED,
    collapse: NOT_HUGE_FILE,
    split: SMALL,
    offline: NOT_RAM,
  },
  gmem: {
    swap: 'mapping_unevictable(): reclaim does not look at guest_memfd',
    ksm: SHARED,
    writeback: NO_WRITEBACK,
    collapse: NOT_HUGE_FILE,
    split: SMALL,
  },
  devdax: {
    migrate: DEVICE,
    swap: DEVICE,
    ksm: SHARED,
    writeback: 'device-dax has no file system: dev_dax_aops write nothing',
    truncate: 'a character device has no size to cut',
    collapse: NOT_HUGE_FILE,
    split: SMALL,
    offline: NOT_RAM,
  },
};

const kinds = BACKING_KINDS.filter((kind): kind is Kind => kind !== 'mixed');
/** By kind and event: the count at which it struck, or that it cannot. */
const table = new Map<string, string>();

describe.each(kinds)('guest memory of kind %s', (kind) => {
  const impossible = IMPOSSIBLE[kind];

  it.each(EVENTS.filter((event) => impossible[event] === undefined))(
    'loses no count to %s',
    (event) => {
      const world = new KindWorld(kind);
      world.runUntilCounted(COUNTED);
      const counted = world.countIn(world.guestPage);
      expect(world.page).toBe(world.guestPage);
      expect(counted).toBeGreaterThanOrEqual(COUNTED);
      strike[event](world);
      expect(world.guest.end).toBeNull();
      table.set(`${kind} ${event}`, String(counted));
      expect(world.finish()).toEqual([]);
      expect(world.output).toContain(', 0 mismatches');
      const cut = Number(/, (\d+) pages empty/.exec(world.output)?.[1]);
      const most = event !== 'truncate' ? 0 : kind === 'hugetlb' ? NR_PAGES : 1;
      // One that the guest had just read, it writes to before it has seen that it is empty.
      expect([most, Math.max(0, most - 1)]).toContain(cut);
    },
  );

  it.each(Object.entries(impossible))('cannot meet %s: %s', (event, rule) => {
    table.set(`${kind} ${event}`, '-');
    expect(rule).not.toBe('');
  });
});

afterAll(() => {
  const rows = kinds.map((kind) => [
    kind,
    ...EVENTS.map((event) => table.get(`${kind} ${event}`) ?? '?'),
  ]);
  console.log(
    `counts of the page when the event hit it:\n${alignRows([['', ...EVENTS], ...rows]).join('\n')}`,
  );
});
