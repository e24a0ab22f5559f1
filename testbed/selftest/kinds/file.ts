/** Files of every file system that the kernel's test of long-term pins makes one on. */
import { PAGE_SHIFT, PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  extentCreate,
  extentFallocate,
  extentUnlink,
  fileTruncate,
  MAP_HUGE_SHIFT,
  MFD_HUGETLB,
  mappingPut,
  memfdCreate,
  shmemCreate,
} from '#mm';
import { errnoName } from '../../report/errno-names.ts';
import type { FileKind } from '../scenario.ts';
import type { Trial } from '../trial.ts';
import { must, RowSkipped } from '../verdict.ts';

/** A file that goes with the row. */
const untilEnd = (trial: Trial, mapping: AddressSpace): AddressSpace => {
  trial.defer(() => drive(mappingPut(trial.world.k, mapping)));
  return mapping;
};

/** @param flags MFD_* */
export const memfd = (trial: Trial, nrPages: number, flags: number): AddressSpace => {
  const mapping = memfdCreate(trial.world.k, nrPages, flags);
  if (typeof mapping === 'number')
    throw new RowSkipped(`memfd_create() failed: ${errnoName(mapping)}`);
  return untilEnd(trial, mapping);
};

/** One of /dev/shm or /tmp. */
export const tmpfile = (trial: Trial, nrPages: number): AddressSpace =>
  untilEnd(trial, shmemCreate(trial.world.k, nrPages));

/** One huge page. @param order log2 of its pages */
export const hugetlbMemfd = (trial: Trial, order: number): AddressSpace =>
  memfd(trial, 2 ** order, MFD_HUGETLB | ((order + PAGE_SHIFT) << MAP_HUGE_SHIFT));

/** As a hugetlb memfd is called in the names of rows. */
export const hugetlbTitle = (order: number): string =>
  `memfd hugetlb (${(PAGE_SIZE / 1024) * 2 ** order} kB)`;

/** One of the file system on the host's disk: with its blocks, and without a name from the beginning. */
const localTmpfile = (trial: Trial): AddressSpace => {
  const { k, fs } = trial.world;
  const mapping = extentCreate(k, fs);
  trial.defer(() => {
    drive(mappingPut(k, mapping));
    if (mapping.inode !== null) must('unlink()', drive(extentUnlink(k, fs, mapping.inode.ino)));
  });
  must('ftruncate()', drive(fileTruncate(k, mapping, PAGE_SIZE)));
  must('fallocate()', drive(extentFallocate(k, mapping, 0, 1)));
  return mapping;
};

/** @param hugetlbOrders sizes that the host has pools of */
export const fileKinds = (hugetlbOrders: readonly number[]): FileKind[] => [
  { title: 'memfd', make: (trial) => memfd(trial, 1, 0) },
  { title: 'tmpfile', make: (trial) => tmpfile(trial, 1) },
  { title: 'local tmpfile', make: localTmpfile },
  ...hugetlbOrders.map((order) => ({
    title: hugetlbTitle(order),
    make: (trial: Trial) => hugetlbMemfd(trial, order),
  })),
];
