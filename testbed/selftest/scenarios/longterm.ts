/**
 * Pins for good of files that are mapped, for writing and for reading: which file systems allow them.
 * Compare tools/testing/selftests/mm/gup_longterm.c.
 *
 * Through a pin for writing a device dirties pages of a shared mapping whenever it likes. A file
 * system that has to know of it before, for its blocks, its journal or its checksums, cannot allow
 * that for longer than it can wait; one in memory can.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  EFAULT,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_READ,
} from '#mm';
import { errnoName } from '../../report/errno-names.ts';
import { LongtermPin } from '../pin.ts';
import type { FileScenario } from '../scenario.ts';
import { RW, type Task } from '../task.ts';
import type { Trial } from '../trial.ts';
import { must, RowFailed } from '../verdict.ts';

/** File systems whose shared mappings may be pinned for writing and for good. Compare fs_supports_writable_longterm_pinning(). */
const ALLOWS_WRITABLE: readonly AddressSpace['kind'][] = ['shmem', 'hugetlbfs'];

/** Takes pins, and gives them back with the row. @returns 0 or -errno */
type Take = (trial: Trial, task: Task, hva: number, lenBytes: number) => number;

/** What the row does, and what it is called. */
interface Way {
  title: string;
  write: boolean;
  take: Take;
}

const pinBy =
  (fast: boolean, write: boolean): Take =>
  (trial, task, hva, lenBytes) =>
    new LongtermPin(trial, task, lenBytes).start(hva, fast, write);

/** io_uring pins for writing, whatever the buffer will be used for. */
const registerBuffer: Take = (trial, task, hva, lenBytes) => {
  const { k, mm } = task.process;
  const buffer = drive(ioUringRegisterBuffer(k, mm, hva, lenBytes));
  if (typeof buffer === 'number') return buffer;
  trial.defer(() => ioUringUnregisterBuffer(k, buffer));
  return 0;
};

const way = (write: boolean, fast: boolean): Way => ({
  title: `${write ? 'R/W' : 'R/O'} longterm GUP${fast ? '-fast' : ''} pin in`,
  write,
  take: pinBy(fast, write),
});

const PINS: readonly Way[] = [
  way(true, false),
  way(true, true),
  way(false, false),
  way(false, true),
];
const FIXED_BUFFER: Way = {
  title: 'io_uring fixed buffer with',
  write: true,
  take: registerBuffer,
};

const scenario = ({ title, write, take }: Way, shared: boolean): FileScenario => ({
  title: `${title} ${shared ? 'MAP_SHARED' : 'MAP_PRIVATE'} file mapping`,
  run: (trial, mapping) => {
    const task = trial.start();
    const lenBytes = mapping.nrPages * PAGE_SIZE;
    const flags = shared ? MAP_SHARED : MAP_PRIVATE;
    const hva = task.mmap({ lenBytes, prot: RW, flags, mapping });
    // So that GUP-fast finds it.
    must('a load', task.process.load8(hva));
    // Read-only entries: where a pin has to break COW first, and where it need not.
    if (!write) task.mprotect(hva, lenBytes, PROT_READ);
    const allowed = !shared || !write || ALLOWS_WRITABLE.includes(mapping.kind);
    const error = take(trial, task, hva, lenBytes);
    if (error === 0) {
      if (!allowed) throw new RowFailed(`a file of ${mapping.kind} was pinned, and must not be`);
    } else if (allowed || error !== -EFAULT) {
      throw new RowFailed(`the pin failed: ${errnoName(error)}`);
    }
  },
});

export const LONGTERM_SCENARIOS: readonly FileScenario[] = [
  ...PINS.map((pin) => scenario(pin, true)),
  ...PINS.map((pin) => scenario(pin, false)),
  scenario(FIXED_BUFFER, true),
  scenario(FIXED_BUFFER, false),
];
