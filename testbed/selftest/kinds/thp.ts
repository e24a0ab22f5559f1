/**
 * Transparent huge pages of every size: mapped by one entry or page by page, whole or what is left of
 * them, in memory or swapped out.
 */
import { PAGE_SIZE } from '#emu';
import { HPAGE_PMD_ORDER, PROT_NONE, PROT_READ } from '#mm';
import { WRITTEN } from '../content.ts';
import type { Kind, Memory } from '../scenario.ts';
import { RW } from '../task.ts';
import type { Trial } from '../trial.ts';

/** Sizes that the host is switched to one after another: 16 kB to 2 MiB. */
const ORDERS = [2, 3, 4, 5, 6, 7, 8, HPAGE_PMD_ORDER];

/** Memory that is one huge page, of a size that the host gives everybody or (2 MiB) who asks for it. */
const thp = (trial: Trial, order: number): Memory => {
  const task = trial.start();
  const lenBytes = PAGE_SIZE << order;
  const mapped = task.mapAnon(2 * lenBytes);
  const hva = Math.ceil(mapped / lenBytes) * lenBytes;
  task.madvise(hva, lenBytes, 'MADV_HUGEPAGE');
  task.writeFolio(hva, order);
  task.write(hva, lenBytes, WRITTEN);
  return { task, hva, lenBytes, content: WRITTEN };
};

/** What is done to a huge page to make a kind of it. @returns bytes of it that the scenario is to use */
type Shape = (memory: Memory, trial: Trial) => number;

const whole: Shape = ({ lenBytes }) => lenBytes;

/** Its second page is read-only for a moment: from then on each page has its own entry. */
const pteMapped: Shape = ({ task, hva, lenBytes }) => {
  task.mprotect(hva + PAGE_SIZE, PAGE_SIZE, PROT_READ);
  task.mprotect(hva + PAGE_SIZE, PAGE_SIZE, RW);
  return lenBytes;
};

/** All but the first page is discarded. */
const singlePte: Shape = ({ task, hva, lenBytes }) => {
  task.madvise(hva + PAGE_SIZE, lenBytes - PAGE_SIZE, 'MADV_DONTNEED');
  return PAGE_SIZE;
};

/** Its upper half goes somewhere else. */
const partiallyMoved: Shape = ({ task, hva, lenBytes }) => {
  const half = lenBytes / 2;
  task.moveTo(hva + half, half, task.mapAnon(half, PROT_NONE));
  return half;
};

/** Its first page was a child's for a while, the others never were. */
const partiallyShared: Shape = ({ task, hva, lenBytes }) => {
  task.madvise(hva + PAGE_SIZE, lenBytes - PAGE_SIZE, 'MADV_DONTFORK');
  task.fork().exit();
  task.madvise(hva + PAGE_SIZE, lenBytes - PAGE_SIZE, 'MADV_DOFORK');
  return lenBytes;
};

const swappedOut =
  (shape: Shape): Shape =>
  (memory, trial) => {
    const lenBytes = shape(memory, trial);
    memory.task.pageOut(memory.hva, lenBytes);
    return lenBytes;
  };

const kind = (title: string, order: number, shape: Shape): Kind => ({
  title: `${title} (${(PAGE_SIZE << order) / 1024} kB)`,
  make: (trial) => {
    trial.onlyThpOrder(order);
    const memory = thp(trial, order);
    return { ...memory, lenBytes: shape(memory, trial) };
  },
});

const kindsOf = (order: number): Kind[] => [
  ...(order === HPAGE_PMD_ORDER
    ? [kind('THP', order, whole), kind('swapped-out THP', order, swappedOut(whole))]
    : []),
  kind('PTE-mapped THP', order, pteMapped),
  kind('swapped-out, PTE-mapped THP', order, swappedOut(pteMapped)),
  kind('single PTE of THP', order, singlePte),
  kind('single PTE of swapped-out THP', order, swappedOut(singlePte)),
  kind("partially mremap()'ed THP", order, partiallyMoved),
  kind('partially shared THP', order, partiallyShared),
];

export const THP_KINDS: readonly Kind[] = ORDERS.flatMap(kindsOf);

/** What collapse begins with; the rows do not name it. */
export const COLLAPSIBLE: Kind = {
  title: 'PTE-mapped THP',
  make: (trial) => {
    const memory = thp(trial, HPAGE_PMD_ORDER);
    return { ...memory, lenBytes: pteMapped(memory, trial) };
  },
};
