/**
 * Recipe 2.2: vmsplice() and COW (CVE-2020-29374). A page that fork has shared goes into a pipe and is
 * unmapped; whoever writes it next must not take it for his own. As it is, and with the rule that was
 * missing then taken away; 2.3 is hugetlb's (s4-unsharing.test.ts).
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  createPipe,
  drive,
  type HostProcess,
  munmap,
  type Pipe,
  pipeRead,
  pipeRelease,
  vmspliceToPipe,
} from '#mm';
import { createProcess, createWorld, exit, forked, mapAnon, type World } from '../support.ts';

const splice = (p: HostProcess, hva: number): Pipe => {
  const pipe = createPipe(p.k);
  expect(drive(vmspliceToPipe(p.k, p.mm, pipe, hva, 1, 0))).toBe(1);
  return pipe;
};

/** The secret, as the pipe's reader gets it. */
const read = ({ k }: World, pipe: Pipe): number => {
  const byte = new Uint8Array(1);
  expect(pipeRead(k, pipe, byte)).toBe(1);
  pipeRelease(k, pipe);
  return byte[0]!;
};

/** A parent and its child with one page that says 1. @param weak without the rule */
const family = (weak: boolean): { w: World; p: HostProcess; c: HostProcess; hva: number } => {
  const w = createWorld();
  w.k.sabotage.reuseByMapcount = weak;
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.store8(hva, 1);
  return { w, p, c: forked(w, p), hva };
};

for (const weak of [false, true])
  describe(`vmsplice() of a shared page${weak ? ', with reuseByMapcount, as until 2020' : ''} — 2.2`, () => {
    const secret = weak ? 2 : 1;

    it(`in the child, which unmaps it; the parent writes: the child reads ${weak ? "the parent's secret" : 'what was there'}`, () => {
      const { w, p, c, hva } = family(weak);
      const pipe = splice(c, hva);
      drive(munmap(w.k, c.mm, hva, PAGE_SIZE));
      p.store8(hva, 2);
      expect(read(w, pipe)).toBe(secret);
    });

    it(`in the parent, which unmaps it; the child writes: the same the other way round`, () => {
      const { w, p, c, hva } = family(weak);
      const pipe = splice(p, hva);
      drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
      c.store8(hva, 2);
      expect(read(w, pipe)).toBe(secret);
    });

    it('before fork(), in the parent, which exits; the child writes', () => {
      const w = createWorld();
      w.k.sabotage.reuseByMapcount = weak;
      const p = createProcess(w);
      const hva = mapAnon(p, 1);
      p.store8(hva, 1);
      const pipe = splice(p, hva);
      const c = forked(w, p);
      exit(p);
      c.store8(hva, 2);
      expect(read(w, pipe)).toBe(secret);
    });
  });
