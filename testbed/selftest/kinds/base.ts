/** Anonymous memory of one page. */
import { PAGE_SIZE } from '#emu';
import { WRITTEN } from '../content.ts';
import type { Kind, Memory } from '../scenario.ts';
import type { Trial } from '../trial.ts';

const basePage = (trial: Trial): Memory => {
  const task = trial.start();
  const hva = task.mapAnon(PAGE_SIZE);
  task.madvise(hva, PAGE_SIZE, 'MADV_NOHUGEPAGE');
  task.write(hva, PAGE_SIZE, WRITTEN);
  return { task, hva, lenBytes: PAGE_SIZE, content: WRITTEN };
};

export const BASE_KINDS: readonly Kind[] = [
  { title: 'base page', make: basePage },
  {
    title: 'swapped out base page',
    make: (trial) => {
      const memory = basePage(trial);
      memory.task.pageOut(memory.hva, memory.lenBytes);
      return memory;
    },
  },
];
