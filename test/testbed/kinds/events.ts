/** What a host does to the pages of a guest, each for one page that the guest keeps writing to. */
import { PAGE_SIZE } from '#emu';
import {
  collapseHugePage,
  drive,
  extentBlockAt,
  filePunchHole,
  folioMapcount,
  folioOf,
  fork,
  HPAGE_PMD_SIZE,
  ksmScan,
  leafLevel,
  leafPage,
  leafWord,
  MADV_MERGEABLE,
  MADV_PAGEOUT,
  MADV_POPULATE_WRITE,
  madvise,
  migrateFolio,
  mmExit,
  offlinePages,
  onlinePages,
  pageMapcount,
  splitHugePage,
  tryToFreePages,
  walkLeaf,
  writebackMapping,
} from '#mm';
import { type KindWorld, NR_PAGES } from './world.ts';

export const EVENTS = [
  'migrate',
  'swap',
  'ksm',
  'fork',
  'writeback',
  'truncate',
  'collapse',
  'split',
  'offline',
] as const;
export type KindEvent = (typeof EVENTS)[number];

/** The guest's instructions after something, in which it goes over all of its pages a few times. */
const FURTHER = 5000;

/** An event did not do what it is for: what was missing. */
const must = (condition: boolean, what: string): void => {
  if (!condition) throw new Error(what);
};

/** Tries again while the guest, which is always quicker, keeps a page from what is done to it. @param attempt 0 = done */
const insist = (what: string, attempt: () => number): void => {
  let error = 0;
  for (let tries = 0; tries < 50; tries++) {
    error = attempt();
    if (error === 0) return;
  }
  throw new Error(`${what}: not in 50 tries, at last ${error}`);
};

/** No error, and yet it has not come to pass. */
const NOT_DONE = 1;

/** The page is not there at the moment: the guest will see to it. */
const absent = (w: KindWorld): number => {
  w.step();
  return NOT_DONE;
};

const migrate = (w: KindWorld): void => {
  insist('migrate', () => {
    const before = w.page;
    if (before < 0) return absent(w);
    const error = w.during(migrateFolio(w.k, folioOf(w.k, before)));
    return error === 0 && w.page === before ? NOT_DONE : error;
  });
};

/** Paged out: to swap, or, of a file that writes to its disk, out of the page cache. */
const swap = (w: KindWorld): void => {
  insist('swap', () => {
    const before = w.page;
    if (before < 0) return absent(w);
    const start = w.hva - (w.hva % HPAGE_PMD_SIZE);
    if (w.guest.config.backing === 'file') {
      w.during(writebackMapping(w.k, w.file), 1);
      w.during(tryToFreePages(w.k, 0, 2 * NR_PAGES), 1);
    } else w.during(madvise(w.k, w.mm, start, NR_PAGES * PAGE_SIZE, MADV_PAGEOUT), 1);
    return w.page === before ? NOT_DONE : 0;
  });
};

/** Pages that are alike become one. */
const ksm = (w: KindWorld): void => {
  const start = w.hva - (w.hva % HPAGE_PMD_SIZE);
  must(drive(madvise(w.k, w.mm, start, HPAGE_PMD_SIZE, MADV_MERGEABLE)) === 0, 'madvise');
  insist('ksm', () => {
    w.during(ksmScan(w.k, w.mm), 1);
    const merged = w.page >= 0 && pageMapcount(w.k, w.page) > 1;
    w.run(FURTHER);
    return merged ? 0 : NOT_DONE;
  });
};

/** A child has what was there when it was forked, or shares it, whatever the guest counts. */
const forked = (w: KindWorld): void => {
  const child = w.during(fork(w.k, w.mm));
  if (typeof child === 'number') throw new Error(`fork: ${child}`);
  const childPage = (): number => {
    const leaf = walkLeaf(w.k, child, w.hva);
    return leaf > 0 ? leafPage(w.k.memory.i32[leafWord(leaf)]!, leafLevel(leaf), w.hva) : -1;
  };
  const shared = w.guest.ranges[0]!.mappingId !== null;
  const page = childPage();
  if (!shared) {
    const had = w.countIn(page);
    w.run(FURTHER);
    must(childPage() === page && w.countIn(page) === had, 'the child sees the parent count');
    must(w.page !== page, 'the parent has no copy');
  } else {
    w.run(FURTHER);
    must(page < 0 || page === w.page, 'the child does not share');
  }
  w.during(mmExit(w.k, child));
};

/** Everything dirty is written, while it is written to. What the device has is a count that the guest once had. */
const writeback = (w: KindWorld): void => {
  const device = w.k.state.blockDevices.get(w.guest.backing.device)!;
  const onDevice = (): number => {
    const block = extentBlockAt(w.file.inode!, w.fileOffset / PAGE_SIZE);
    const bytes = block < 0 ? undefined : (device.cache.get(block) ?? device.media.get(block));
    return bytes === undefined
      ? 0
      : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  };
  const before = w.countIn(w.page);
  must(w.during(writebackMapping(w.k, w.file)) === 0, 'writeback');
  must(
    onDevice() >= before && onDevice() <= before + FURTHER,
    `${onDevice()} was written, not ${before}`,
  );
};

/** A hole where the page was: its bytes are gone, and what comes after is in another frame. */
const truncate = (w: KindWorld): void => {
  const size = w.guest.config.backing === 'hugetlb' ? HPAGE_PMD_SIZE : PAGE_SIZE;
  const start = w.fileOffset - (w.fileOffset % size);
  const error = w.during(filePunchHole(w.k, w.file, start, start + size));
  must(error === 0, `hole: ${error}`);
};

const collapse = (w: KindWorld): void => {
  if (w.level > 0) must(w.during(splitHugePage(w.k, w.page)) === 0, 'split');
  insist('collapse', () => {
    // The guest's faults have references: let it have all of its pages first.
    w.run(FURTHER);
    while (!w.machine.quiet) w.step();
    const error = w.during(collapseHugePage(w.k, w.mm, w.hva));
    return error === 0 && w.level <= 0 ? NOT_DONE : error;
  });
};

const split = (w: KindWorld): void => {
  must(w.level > 0, 'not huge');
  insist('split', () => (w.page < 0 ? absent(w) : w.during(splitHugePage(w.k, w.page))));
  must(w.level <= 0 && folioMapcount(w.k, w.page) <= 1, 'still huge');
};

const offline = (w: KindWorld): void => {
  const { first, nrPages } = w.block;
  // Allocated without __GFP_MOVABLE: only a migration has brought it there.
  if (w.guest.config.backing === 'gmem') migrate(w);
  must(w.page >= first, 'the page is not in the memory block');
  // A free page of the pool that is promised cannot be dissolved: the guest gets all that it was promised.
  const { hva, lenBytes } = w.guest.ranges[0]!;
  if (w.guest.config.backing === 'hugetlb')
    must(w.during(madvise(w.k, w.mm, hva, lenBytes, MADV_POPULATE_WRITE)) === 0, 'populate');
  const report = w.during(offlinePages(w.k, first, nrPages, { maxRounds: 50 }));
  must(report.error === 0, `offline: ${report.error}`);
  must(w.page < first, 'the page has not moved');
  w.run(FURTHER);
  must(onlinePages(w.k, first, nrPages) === 0, 'online');
};

export const strike: Record<KindEvent, (w: KindWorld) => void> = {
  migrate,
  swap,
  ksm,
  fork: forked,
  writeback,
  truncate,
  collapse,
  split,
  offline,
};
