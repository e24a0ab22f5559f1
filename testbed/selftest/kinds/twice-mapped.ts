/** Pages of private mappings that are not anonymous: zero pages, and pages of files. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  HPAGE_PMD_ORDER,
  HPAGE_PMD_SIZE,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_READ,
} from '#mm';
import { ZEROES } from '../content.ts';
import type { Kind, TwiceMapped } from '../scenario.ts';
import { RW, type Task } from '../task.ts';
import type { Trial } from '../trial.ts';
import { RowFailed } from '../verdict.ts';
import { hugetlbMemfd, hugetlbTitle, memfd, tmpfile } from './file.ts';

/**
 * Reads both mappings, which maps what they have. The other one first: it gives a file its pages, while
 * a private mapping of a hole of hugetlb gets a page of its own.
 * @throws RowFailed where that is not zeroes
 */
const populated = (task: Task, hva: number, otherHva: number, lenBytes: number): TwiceMapped => {
  for (const at of [otherHva, hva])
    if (task.differsAt(at, lenBytes, ZEROES) >= 0)
      throw new RowFailed('memory that nobody has written is not zero');
  return { task, hva, otherHva, lenBytes, content: ZEROES };
};

const zeroPage = (trial: Trial): TwiceMapped => {
  const task = trial.start();
  const hva = task.mapAnon(PAGE_SIZE);
  return populated(task, hva, task.mapAnon(PAGE_SIZE, PROT_READ), PAGE_SIZE);
};

/** Aligned memory that asks for huge pages, and gets the one that is zero for the first that reads it. */
const hugeZeroPage = (trial: Trial): TwiceMapped => {
  const task = trial.start();
  const [hva, otherHva] = [RW, PROT_READ].map((prot) => {
    const mapped = task.mapAnon(2 * HPAGE_PMD_SIZE, prot);
    const at = Math.ceil(mapped / HPAGE_PMD_SIZE) * HPAGE_PMD_SIZE;
    task.madvise(at, HPAGE_PMD_SIZE, 'MADV_HUGEPAGE');
    task.readFolio(at, HPAGE_PMD_ORDER);
    return at;
  });
  if (hva === undefined || otherHva === undefined) throw new Error('two mappings were made');
  return populated(task, hva, otherHva, HPAGE_PMD_SIZE);
};

/** A file, mapped privately, and shared by the mapping that only reads. */
const file = (trial: Trial, mapping: AddressSpace): TwiceMapped => {
  const task = trial.start();
  const lenBytes = mapping.nrPages * PAGE_SIZE;
  const hva = task.mmap({ lenBytes, prot: RW, flags: MAP_PRIVATE, mapping });
  const otherHva = task.mmap({ lenBytes, prot: PROT_READ, flags: MAP_SHARED, mapping });
  return populated(task, hva, otherHva, lenBytes);
};

/** A file of one huge page. @param order log2 of its pages */
export const hugetlbFileKind = (order: number): Kind<TwiceMapped> => ({
  title: hugetlbTitle(order),
  make: (trial) => file(trial, hugetlbMemfd(trial, order)),
});

export const TWICE_MAPPED_KINDS: readonly Kind<TwiceMapped>[] = [
  { title: 'shared zeropage', make: zeroPage },
  { title: 'memfd', make: (trial) => file(trial, memfd(trial, 1, 0)) },
  { title: 'tmpfile', make: (trial) => file(trial, tmpfile(trial, 1)) },
  { title: 'huge zeropage', make: hugeZeroPage },
];
