/** The accesses of the guest benchmarks on a bare typed array: the limit that translation is held against. */

const PAGE_WORDS = 1024;

/** `times` passes of a page touch over memory of its own. Nanoseconds an access. */
export const plainToucher = (pages: number, times: number): (() => number) => {
  const words = new Int32Array(pages * PAGE_WORDS);
  return () => {
    const start = performance.now();
    let sum = 0;
    for (let i = 0; i < times; i++) sum |= touchAll(words, pages);
    return checked(sum, ((performance.now() - start) * 1e6) / (pages * times));
  };
};

const touchAll = (words: Int32Array, pages: number): number => {
  let sum = 0;
  for (let page = 0; page < pages; page++) {
    const word = page * PAGE_WORDS + (page & 7) * 16;
    sum = (sum + words[word]!) | 0;
  }
  return sum;
};

/** A chase along a random ring of nodes. Nanoseconds a load. */
export const plainChaser = (nodes: number, spacing: number, loads: number): (() => number) => {
  const words = new Int32Array((nodes * spacing) / 4);
  const order = Array.from({ length: nodes }, (_, i) => i);
  for (let i = nodes - 1, x = 1; i > 0; i--) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    const j = x % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  for (let i = 0; i < nodes; i++)
    words[(order[i]! * spacing) / 4] = (order[(i + 1) % nodes]! * spacing) / 4;
  return () => {
    const start = performance.now();
    const end = chaseAll(words, loads);
    return checked(end === -1 ? -1 : 0, ((performance.now() - start) * 1e6) / loads);
  };
};

const chaseAll = (words: Int32Array, loads: number): number => {
  let at = 0;
  for (let i = 0; i < loads; i++) at = words[at]!;
  return at;
};

/** Uses what the loop computed, so that no loop can be left out. */
const checked = (sum: number, ns: number): number => {
  if (sum !== 0) throw new Error('plain access: memory is not as it was filled');
  return ns;
};
