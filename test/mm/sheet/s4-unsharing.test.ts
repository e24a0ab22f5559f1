/**
 * S4: FOLL_PIN of anonymous memory breaks COW first (unsharing); it would fix the last failing cases of
 * the kernel's COW self-test, vmsplice() of hugetlb. Facts sheet 0, 1.5, 1.10, 2.2, 2.3.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  createPipe,
  createPolicy,
  drive,
  type GupApi,
  type HostProcess,
  type Kernel,
  munmap,
  type Pipe,
  pipeRead,
  pipeRelease,
  type PolicyName,
  setPolicyApi,
  vmspliceToPipe,
} from '#mm';
import { pinUserPagesFast, readPinnedPage, unpinUserPages } from '#mm/driver-api';
import { folioPut, pageAnonExclusive } from '../../../mm/folio/folio.ts';
import { getUserPagesFast } from '../../../mm/gup/fast.ts';
import { createHugeWorld, folioAt, HUGE, mapHuge } from '../hugetlb-world.ts';
import { createProcess, createWorld, forked, mapAnon, pageAt, type World } from '../support.ts';

/** A parent and its child, which share a written page; `huge`: of a hugetlb pool. */
const shared = (huge: boolean): { w: World; p: HostProcess; c: HostProcess; hva: number } => {
  const w = huge ? createHugeWorld(4) : createWorld();
  const p = createProcess(w);
  const hva = huge ? mapHuge(p, 1) : mapAnon(p, 1);
  p.store32(hva, 1);
  return { w, p, c: forked(w, p), hva };
};

const at = (p: HostProcess, hva: number, huge: boolean): number =>
  huge ? folioAt(p, hva) : pageAt(p, hva);

const firstByte = (k: Kernel, pipe: Pipe): number => {
  const byte = new Uint8Array(1);
  expect(pipeRead(k, pipe, byte)).toBe(1);
  return byte[0]!;
};

for (const huge of [false, true]) {
  const memory = huge ? 'a hugetlb page' : 'a page';

  describe(`S4: a pin for reading of ${memory} that fork shares`, () => {
    it('is of a page of its own: what the process writes is seen through it', () => {
      const { w, p, c, hva } = shared(huge);
      const was = at(p, hva, huge);
      const pages = new Int32Array(1);
      expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, 0, pages))).toBe(1);
      expect([pages[0] === was, at(c, hva, huge)]).toEqual([false, was]);
      expect(pageAnonExclusive(w.k, pages[0]!)).toBe(true);
      expect(w.k.state.stat.unshare_copied).toBe(1);
      p.store32(hva, 2);
      const seen = new Uint8Array(1);
      readPinnedPage(w.k, pages[0]!, 0, seen, 0, 1);
      expect([seen[0], c.load32(hva)]).toEqual([2, 1]);
      unpinUserPages(w.k, pages, 1);
      assertKernel(w.k, { quiescent: true });
    });

    it('a plain reference is of the shared page: the process leaves it at its next write', () => {
      const { w, p, hva } = shared(huge);
      const pages = new Int32Array(1);
      expect(drive(getUserPagesFast(w.k, 'gup-test', p.mm, hva, 1, 0, pages))).toBe(1);
      expect([pages[0], w.k.state.stat.unshare_copied]).toEqual([at(p, hva, huge), 0]);
      p.store32(hva, 2);
      expect(w.k.memory.i32[w.k.memory.pageOffset(pages[0]!) >>> 2]).toBe(1);
      folioPut(w.k, pages[0]!);
    });
  });
}

describe('S4: the child puts the page into a pipe and unmaps it, the parent writes (2.2)', () => {
  const run = (huge: boolean, policy: PolicyName, api?: GupApi): number => {
    const { w, p, c, hva } = shared(huge);
    w.k.policy = createPolicy(policy);
    if (api !== undefined) expect(setPolicyApi(w.k.policy, 'vmsplice', api)).toBeNull();
    const pipe = createPipe(w.k);
    expect(drive(vmspliceToPipe(w.k, c.mm, pipe, hva, 1, 0))).toBe(1);
    drive(munmap(w.k, c.mm, hva, huge ? HUGE : PAGE_SIZE));
    p.store32(hva, 2);
    const read = firstByte(w.k, pipe);
    pipeRelease(w.k, pipe);
    assertKernel(w.k, { quiescent: true });
    return read;
  };

  for (const { huge, policy, api, reads } of [
    { huge: false, policy: 'linux-7', api: undefined, reads: 1 },
    // mapcount 1 is enough for a hugetlb page to be written in place, whoever has a reference.
    { huge: true, policy: 'linux-7', api: undefined, reads: 2 },
    { huge: false, policy: 'target', api: undefined, reads: 1 },
    { huge: true, policy: 'target', api: undefined, reads: 1 },
    { huge: true, policy: 'linux-7', api: 'pin-longterm', reads: 1 },
    { huge: true, policy: 'linux-7', api: 'copy', reads: 1 },
  ] as const)
    it(`${huge ? 'hugetlb' : 'small'}, ${policy}${api ? ` with vmsplice=${api}` : ''}: the reader gets ${reads === 1 ? 'what was there' : "the parent's secret (2.3)"}`, () => {
      expect(run(huge, policy, api)).toBe(reads);
    });
});
