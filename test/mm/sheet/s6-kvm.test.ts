/**
 * S6: KVM fills second-level tables by FOLL_GET | FOLL_WRITE and keeps them right by MMU notifiers: when
 * a primary entry goes from writable to read-only, the secondary one follows. So it is no ordinary user
 * of GUP. Facts sheet 0, 1.13, 1.14.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  createPolicy,
  drive,
  EAGAIN,
  folioRefCount,
  fork,
  type HostProcess,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  mprotect,
  pageToPfn,
  PROT_READ,
  pteWrite,
  vfsFsync,
} from '#mm';
import { YP_SECONDARY_PFN } from '../../../mm/path.ts';
import { withFile } from '../file-world.ts';
import { createSecondaryMmu, secondaryFault, type SecondaryMmu } from '../secondary-mmu.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  mapAnon,
  pageAt,
  stepTo,
  type World,
} from '../support.ts';

interface Scene {
  w: World;
  p: HostProcess;
  hva: number;
  mmu: SecondaryMmu;
}

/** A page that the secondary MMU maps for writing. @param file of a file that is written back; else anonymous */
const mapped = (file: boolean): Scene => {
  const fw = file ? withFile() : null;
  const w = fw?.w ?? createWorld();
  const p = fw?.p ?? createProcess(w);
  const hva = fw?.hva ?? mapAnon(p, 1);
  p.store32(hva, 1);
  const mmu = createSecondaryMmu(w.k, p.mm);
  expect(drive(secondaryFault(w.k, mmu, hva, true))).toBe(0);
  expect(mmu.entries.get(hva)).toEqual({ pfn: pageToPfn(pageAt(p, hva)), writable: true });
  return { w, p, hva, mmu };
};

/** What makes a primary entry read-only, or takes it. */
const CHANGES: { what: string; file: boolean; change: (scene: Scene) => void; gone?: boolean }[] = [
  {
    what: 'mprotect(PROT_READ)',
    file: false,
    change: ({ w, p, hva }) => void drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ)),
  },
  { what: 'fork()', file: false, change: ({ w, p }) => void drive(fork(w.k, p.mm)) },
  {
    what: 'fsync(), by clear_dirty_for_io',
    file: true,
    change: ({ w, p }) => {
      const file = p.mm.vmas.find(({ mapping }) => mapping !== null)?.mapping;
      if (file) expect(drive(vfsFsync(w.k, file))).toBe(0);
    },
  },
  {
    what: 'MADV_DONTNEED',
    file: false,
    gone: true,
    change: ({ w, p, hva }) => void drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED)),
  },
];

describe('S6: the secondary entry follows the primary one', () => {
  for (const { what, file, change, gone = false } of CHANGES)
    it(`${what}: ${gone ? 'the entry goes' : 'what was writable is not any more'}, before the call returns`, () => {
      const scene = mapped(file);
      const { w, p, hva, mmu } = scene;
      change(scene);
      expect(pteWrite(entryAt(p, hva))).toBe(false);
      expect(mmu.entries.get(hva)?.writable ?? false).toBe(false);
      expect(checkKernel(w.k)).toEqual([]);
    });

  it('migration: the entry goes, and the next fault finds the new frame', () => {
    const { w, p, hva, mmu } = mapped(false);
    const before = pageAt(p, hva);
    expect(drive(migrateFolio(w.k, before))).toBe(0);
    expect(mmu.entries.size).toBe(0);
    expect(drive(secondaryFault(w.k, mmu, hva, true))).toBe(0);
    expect(mmu.entries.get(hva)?.pfn).toBe(pageToPfn(pageAt(p, hva)));
    expect(pageAt(p, hva)).not.toBe(before);
  });

  it('an entry that did not follow would be found: I9, I10', () => {
    const { w, p, hva, mmu } = mapped(false);
    const entry = mmu.entries.get(hva);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ));
    if (entry) mmu.entries.set(hva, entry);
    const found = (): string =>
      checkKernel(w.k)
        .map((line) => line.split(' ')[0])
        .join(' ');
    expect(found()).toBe('I9');
    drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    if (entry) mmu.entries.set(hva, entry);
    expect(found()).toBe('I10');
  });
});

describe('S6: what it takes meanwhile', () => {
  for (const { policy, refs } of [
    { policy: 'linux-7', refs: 1 },
    { policy: 'target', refs: 0 },
  ] as const)
    it(`under ${policy} a fault on its way has ${refs === 1 ? 'a reference, by which migration fails for no reason' : 'none, and migration succeeds'}; an entry has none`, () => {
      const { w, p, hva, mmu } = mapped(false);
      w.k.policy = createPolicy(policy);
      const page = pageAt(p, hva);
      expect(folioRefCount(w.k, page)).toBe(1);
      mmu.entries.clear();
      const fault = secondaryFault(w.k, mmu, hva, true);
      stepTo(w.k, fault, YP_SECONDARY_PFN);
      expect(folioRefCount(w.k, page)).toBe(1 + refs);
      expect(drive(migrateFolio(w.k, page))).toBe(refs === 1 ? -EAGAIN : 0);
      // It has been told in any case, and looks again.
      expect(drive(fault)).toBe(0);
      expect(mmu.retries).toBe(1);
      expect(mmu.entries.get(hva)?.pfn).toBe(pageToPfn(pageAt(p, hva)));
      expect(folioRefCount(w.k, pageAt(p, hva))).toBe(1);
      expect(checkKernel(w.k)).toEqual([]);
    });
});
