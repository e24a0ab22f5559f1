/** Anonymous memory of one page. */
import { PAGE_SIZE } from '#emu';
import { WRITTEN } from '../content.ts';
import type { Kind } from '../scenario.ts';

export const BASE_KINDS: readonly Kind[] = [
  {
    title: 'base page',
    make: (trial) => {
      const task = trial.start();
      const hva = task.mapAnon(PAGE_SIZE);
      task.write(hva, PAGE_SIZE, WRITTEN);
      return { task, hva, lenBytes: PAGE_SIZE, content: WRITTEN };
    },
  },
];
