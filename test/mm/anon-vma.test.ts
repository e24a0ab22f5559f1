/** anon_vma: which one new pages belong to after a fork. Compare mm/rmap.c, anon_vma_clone(), anon_vma_fork(). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { drive, type HostProcess, munmap } from '#mm';
import { forked, createProcess, createWorld, exit, mapAnon } from './support.ts';

const chainOf = (p: HostProcess): number => p.mm.vmas[0]?.anonChain.length ?? 0;

describe('anon_vma', () => {
  it('a child has an anon_vma of its own, below the parent’s', () => {
    const w = createWorld();
    const parent = createProcess(w);
    parent.store8(mapAnon(parent, 1), 1);
    const child = forked(w, parent);
    const [mine, its] = [parent.mm.vmas[0]?.anonVma, child.mm.vmas[0]?.anonVma];
    expect(its).not.toBe(mine);
    expect(its?.parent).toBe(mine);
    expect([chainOf(parent), chainOf(child)]).toEqual([1, 2]);
  });

  it('a line of descendants, each of whose ancestors has gone, keeps short chains', () => {
    const w = createWorld();
    let p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store8(hva, 1);
    for (let generation = 0; generation < 50; generation++) {
      const child = forked(w, p);
      exit(p);
      child.store8(hva, generation);
      p = child;
    }
    expect(p.load8(hva)).toBe(49);
    expect(chainOf(p)).toBeLessThanOrEqual(4);
    exit(p);
    expect(w.k.state.mappings.size).toBe(0);
  });

  it('one that another child still uses is not used again', () => {
    const w = createWorld();
    const parent = createProcess(w);
    const hva = mapAnon(parent, 1);
    parent.store8(hva, 1);
    const first = forked(w, parent);
    const second = forked(w, parent);
    drive(munmap(w.k, parent.mm, hva, PAGE_SIZE));
    const third = forked(w, second);
    expect(third.mm.vmas[0]?.anonVma).not.toBe(first.mm.vmas[0]?.anonVma);
    expect(third.mm.vmas[0]?.anonVma?.parent).toBe(second.mm.vmas[0]?.anonVma);
  });
});
