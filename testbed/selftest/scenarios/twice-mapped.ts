/** COW without fork(): what is written to a private mapping is not seen by another mapping of the pages. */
import { MODIFIED } from '../content.ts';
import type { Scenario, TwiceMapped } from '../scenario.ts';
import { RowFailed } from '../verdict.ts';
import { writeUnderPin } from './pins.ts';

export const TWICE_MAPPED_SCENARIOS: readonly Scenario<TwiceMapped>[] = [
  {
    title: 'Basic COW',
    run: (_trial, { task, hva, otherHva, lenBytes, content }) => {
      task.write(hva, lenBytes, MODIFIED);
      const at = task.differsAt(otherHva, lenBytes, content);
      if (at >= 0) throw new RowFailed(`the other mapping was modified: byte ${at}`);
    },
  },
  {
    title: 'R/O longterm GUP pin',
    run: (trial, memory) => writeUnderPin(trial, memory, false),
  },
  {
    title: 'R/O longterm GUP-fast pin',
    run: (trial, memory) => writeUnderPin(trial, memory, true),
  },
];
