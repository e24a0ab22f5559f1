/** Whose a frame is now, in words: for reports of accesses that should not have reached it. */
import { PAGE_SIZE, RAM_OFFSET } from '#emu';
import { explainFrame, freedBy, type Kernel } from '#mm';

/** Frame of an offset into the machine's memory. */
export const pageOfOffset = (offset: number): number =>
  Math.floor((offset - RAM_OFFSET) / PAGE_SIZE);

/** "the frame is free", "the frame is mapped by mm 3 at 0x7000, pinned twice". */
export const frameOwner = (k: Kernel, page: number): string => {
  const { refcount, entries, cache, swapCache, kernel, pins, holds } = explainFrame(k, page);
  const why = freedBy(k, page);
  const freed = why === undefined ? '' : `, freed by ${why}`;
  if (refcount === 0) return `the frame is free${freed}`;
  const facts = entries.map(({ mm, hva }) => `mapped by mm ${mm} at 0x${hva.toString(16)}`);
  if (cache !== null) facts.push(`page ${cache.pgoff} of file ${cache.mapping}`);
  if (swapCache !== null) facts.push('in the swap cache');
  facts.push(...kernel);
  if (holds.length > 0) facts.push(...holds.map(({ user, api }) => `held by ${user || api}`));
  else if (pins > 0) facts.push(`pinned ${pins} times`);
  const owner = facts.length > 0 ? facts.join(', ') : "the kernel's own";
  return `the frame is ${owner}${freed === '' ? '' : ` now${freed} before`}`;
};
