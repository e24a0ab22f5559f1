/**
 * Everything of mm/ at once, interleaved by a seed, against a history of every word and the sanitizer:
 * mmap, munmap, mprotect, mremap, madvise, fork, exit, loads and stores, ptrace, GUP of every sort,
 * vmsplice, io_uring, RDMA, VFIO, process_vm_*, a secondary MMU, swap, KSM, huge pages, hugetlb, files on
 * a disk and in persistent memory with truncation, fsync and losses of power, direct I/O of disks and
 * servers, migration, CMA, compaction, reclaim, NUMA hints.
 *
 * `npm run test:long` does a million operations of the same.
 */
import { describe, expect, it } from 'vitest';
import type { Sabotage } from '#mm';
import { History } from './random/history.ts';
import { createRandomDriver, runRandom } from './random/setup.ts';

const OPERATIONS = 12_000;
const TINY = 512 << 10;

describe('a history explains every read: I13', () => {
  it('a read sees no write that ended before another began, which ended before the read', () => {
    const word = new History(0);
    word.finish(word.begin(1, 11), 3, 0);
    expect(word.explains(0, 4, 5)).toBe(false);
    expect(word.explains(11, 4, 5)).toBe(true);
    expect(word.explains(0, 2, 5)).toBe(true);
  });

  it('writes that overlap leave either value; one under way may be seen or not', () => {
    const word = new History(0);
    const first = word.begin(1, 11);
    word.finish(word.begin(2, 12), 4, 0);
    word.finish(first, 5, 0);
    word.begin(6, 13);
    expect([0, 11, 12, 13].map((value) => word.explains(value, 7, 8))).toEqual([
      false,
      true,
      true,
      true,
    ]);
  });

  it("a child has what the parent had at some moment of the fork, and none of the parent's writes after it", () => {
    const word = new History(0);
    word.finish(word.begin(1, 11), 2, 0);
    const child = word.copy(3, 4);
    word.finish(word.begin(5, 12), 6, 0);
    expect(child.explains(11, 7, 8)).toBe(true);
    expect(child.explains(12, 7, 8)).toBe(false);
  });

  it('an untouched page of a private mapping is the file, and a copy of it once somebody wanted to write', () => {
    const file = new History(1);
    const word = new History(file);
    word.breaksCow(1);
    word.brokeCow(1, 2, true);
    file.wrote(3, 2, false, 0);
    expect([word.explains(1, 4, 5), word.explains(2, 4, 5)]).toEqual([true, false]);
  });
});

describe('random interleavings: every byte explained, no invariant broken, nothing left over', () => {
  for (const { seed, policy, ramBytes } of [
    { seed: 1, policy: 'target', ramBytes: 48 << 20 },
    { seed: 2, policy: 'linux-7', ramBytes: 48 << 20 },
    { seed: 3, policy: 'target', ramBytes: TINY },
    { seed: 4, policy: 'target', ramBytes: 256 << 20 },
  ] as const)
    it(`seed ${seed}, ${policy}, ${ramBytes >> 10} KiB`, () => {
      const driver = createRandomDriver({ seed, policy, ramBytes });
      expect(runRandom(driver, OPERATIONS)).toBeNull();
      // The driver did what its name says.
      const least = {
        store: 400,
        load: 300,
        'remote write': 50,
        fork: 15,
        exit: 15,
        'mremap move': 30,
        dontneed: 50,
        'fast write': 20,
        'slow read': 20,
        splice: 50,
        register: 10,
        reclaim: 3,
        migrate: 3,
        ksm: 10,
        'vm writev': 10,
        'shmem truncate': 10,
        'nfs-dio read': 10,
        'odp write': 20,
        ...(ramBytes > 192 << 20 && { 'offline done': 5, online: 5 }),
        ...(ramBytes > TINY && { 'extent fsync': 30, 'direct dio write': 30, cma: 10 }),
      };
      for (const [what, n] of Object.entries(least))
        expect(driver.counts.get(what) ?? 0, what).toBeGreaterThan(n);
    });

  it('under linux-6.5 nothing goes wrong but what is known to, and each is named: 2.4, 2.6, 2.7', () => {
    const driver = createRandomDriver({ seed: 9, policy: 'linux-6.5' });
    expect(runRandom(driver, 2 * OPERATIONS)).toBeNull();
    const rules = [...driver.predicted.keys()];
    expect(rules).toContainEqual(expect.stringMatching(/^2\.4 \(a\): what direct I\/O reads/));
    for (const rule of rules)
      expect(rule).toMatch(/^2\.4 \([ab]\): |^1\.12, 2\.6, 2\.7: I[78], |^2\.6: /);
  });

  it('under target not even that', () => {
    const driver = createRandomDriver({ seed: 9 });
    expect(runRandom(driver, OPERATIONS)).toBeNull();
    expect([...driver.predicted]).toEqual([]);
  });

  it('one seed is one run: the same bytes, counts and flags at the end', () => {
    const digests = [7, 7, 8].map((seed) => {
      const driver = createRandomDriver({ seed });
      runRandom(driver, 2000);
      return driver.digest();
    });
    expect(digests[0]).toBe(digests[1]);
    expect(digests[0]).not.toBe(digests[2]);
  });
});

describe('what the driver finds when one rule is taken away', () => {
  for (const { rule, finds } of [
    { rule: 'forkKeepsExclusive', finds: /^I[13] |no write is left/ },
    { rule: 'forkSharesPinned', finds: /^I2 |I4 |no write is left/ },
    { rule: 'neverUnshare', finds: /^I2 |I4 |no write is left/ },
    { rule: 'migratePinned', finds: /^I2 |I4 |no write is left/ },
    { rule: 'hugetlbAlwaysReuses', finds: /^I[123] |rmap |no write is left/ },
  ] as const satisfies { rule: keyof Sabotage; finds: RegExp }[])
    it(rule, () => {
      const driver = createRandomDriver({ seed: 1 });
      driver.k.sabotage[rule] = true;
      const failure = runRandom(driver, 60_000);
      expect(failure?.problems.join('\n')).toMatch(new RegExp(finds.source, 'm'));
    });
});
