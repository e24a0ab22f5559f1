/** Pages of private mappings that are not anonymous: zero pages, and pages of files. */
import { PAGE_SIZE } from '#emu';
import { drive, MAP_PRIVATE, MAP_SHARED, PROT_READ, shmemCreate, shmemPut } from '#mm';
import { ZEROES } from '../content.ts';
import type { Kind, TwiceMapped } from '../scenario.ts';
import { RW, type Task } from '../task.ts';
import type { Trial } from '../trial.ts';
import { RowFailed } from '../verdict.ts';

/** Reads both mappings, which maps what they have. @throws RowFailed where that is not zeroes */
const populated = (task: Task, hva: number, otherHva: number, lenBytes: number): TwiceMapped => {
  for (const at of [hva, otherHva])
    if (task.differsAt(at, lenBytes, ZEROES) >= 0)
      throw new RowFailed('memory that nobody has written is not zero');
  return { task, hva, otherHva, lenBytes, content: ZEROES };
};

const zeroPage = (trial: Trial): TwiceMapped => {
  const task = trial.start();
  const hva = task.mapAnon(PAGE_SIZE);
  return populated(task, hva, task.mapAnon(PAGE_SIZE, PROT_READ), PAGE_SIZE);
};

/** A file of one page, mapped privately, and shared by the mapping that only reads. */
const shmemFile = (trial: Trial): TwiceMapped => {
  const { k } = trial.world;
  const mapping = shmemCreate(k, 1);
  trial.defer(() => drive(shmemPut(k, mapping)));
  const task = trial.start();
  const lenBytes = PAGE_SIZE;
  const hva = task.mmap({ lenBytes, prot: RW, flags: MAP_PRIVATE, mapping });
  const otherHva = task.mmap({ lenBytes, prot: PROT_READ, flags: MAP_SHARED, mapping });
  return populated(task, hva, otherHva, lenBytes);
};

export const TWICE_MAPPED_KINDS: readonly Kind<TwiceMapped>[] = [
  { title: 'shared zeropage', make: zeroPage },
  { title: 'tmpfile', make: shmemFile },
];
