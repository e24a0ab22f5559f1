/** Pages of a hugetlb pool: private memory of one huge page. */
import { PAGE_SIZE, PAGE_SHIFT } from '#emu';
import { drive, MAP_ANONYMOUS, MAP_HUGETLB, MAP_HUGE_SHIFT, MAP_PRIVATE, mmap } from '#mm';
import { WRITTEN } from '../content.ts';
import type { Kind } from '../scenario.ts';
import { RW, type Task } from '../task.ts';
import { mustOrSkip } from '../verdict.ts';

/** Maps one huge page. @throws RowSkipped where the pool has none */
const mapHugetlb = (task: Task, order: number): number => {
  const { k, mm } = task.process;
  const size = (order + PAGE_SHIFT) << MAP_HUGE_SHIFT;
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | size;
  return mustOrSkip(
    'mmap() of a huge page',
    drive(mmap(k, mm, { lenBytes: PAGE_SIZE << order, prot: RW, flags })),
  );
};

/** @param order log2 of the pages of a huge page: 9 or 18 */
export const hugetlbKind = (order: number): Kind => ({
  title: `hugetlb (${(PAGE_SIZE / 1024) * 2 ** order} kB)`,
  make: (trial) => {
    const task = trial.start();
    const lenBytes = PAGE_SIZE << order;
    const hva = mapHugetlb(task, order);
    task.write(hva, lenBytes, WRITTEN);
    // A second one must be there for the copy, else whoever needs it gets SIGBUS.
    task.munmap(mapHugetlb(task, order), lenBytes);
    return { task, hva, lenBytes, content: WRITTEN };
  },
});
