/** NUMA hinting faults and FOLL_HONOR_NUMA_FAULT: facts sheet 1.1. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../../mm/errno.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_FORCE, FOLL_HONOR_NUMA_FAULT, FOLL_NOFAULT, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { getUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { drive } from '../../mm/path.ts';
import { pteProtnone, pteWrite } from '../../mm/pgtable/pte.ts';
import { pmdLeafAt, ptepGet } from '../../mm/pgtable/walk.ts';
import { HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../../mm/thp/state.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { changeProtNuma } from '../../mm/vma/change-protection.ts';
import { PROT_NONE } from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import { createWorld, entryAt, load, mapAnon, pageAt, store, violations } from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(4);
const USER = 'access-remote-vm';

beforeEach(() => {
  k = createWorld('linux-7', 32 << 20);
  mm = mmCreate(k);
});

const hint = (hva: number, lenBytes = PAGE_SIZE): void => {
  drive(changeProtNuma(k, mm, hva, hva + lenBytes));
  expect(pteProtnone(entryAt(k, mm, hva))).toBe(true);
};
/** A written page whose entry is a hint. */
const hinted = (): number => {
  const hva = mapAnon(k, mm, 1);
  store(k, mm, hva, 42);
  hint(hva);
  return hva;
};
const get = (hva: number, flags: number): number => {
  const n = drive(getUserPagesUnlocked(k, USER, mm, hva, 1, flags, pages));
  if (n > 0) folioPut(k, pages[0]!);
  return n;
};

describe('a hinting fault', () => {
  it('gives the entry back what the VMA allows, writing at once where the page is exclusive', () => {
    const hva = hinted();
    const page = pageAt(k, mm, hva);
    expect(load(k, mm, hva)).toBe(42);
    expect([pageAt(k, mm, hva), pteWrite(entryAt(k, mm, hva))]).toEqual([page, true]);
    expect(k.state.stat.numa_hint_faults).toBe(1);
    expect(violations(k)).toEqual([]);
  });

  it('a page that fork shares stays read-only: the write fault follows', () => {
    const hva = hinted();
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(load(k, mm, hva)).toBe(42);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(false);
    store(k, mm, hva, 1);
    expect(load(k, child, hva)).toBe(42);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('of an entry of 2 MiB: the same, as a whole', () => {
    k.state.thp.always = 1 << HPAGE_PMD_ORDER;
    const hva = mapAnon(k, mm, 2 * 512);
    const at = hva + HPAGE_PMD_SIZE - (hva % HPAGE_PMD_SIZE);
    store(k, mm, at, 7);
    hint(at, HPAGE_PMD_SIZE);
    expect(load(k, mm, at)).toBe(7);
    const word = pmdLeafAt(k, mm, at);
    expect([word > 0, pteWrite(ptepGet(k, word))]).toEqual([true, true]);
    expect(k.state.stat.numa_hint_faults).toBe(1);
    expect(violations(k)).toEqual([]);
  });

  it('where the VMA is inaccessible PROT_NONE is no hint', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    drive(mprotect(k, mm, hva, PAGE_SIZE, PROT_NONE));
    expect(load(k, mm, hva)).toBe(-EFAULT);
    // Nor for a debugger, whose write has to break COW here.
    const child = drive(fork(k, mm));
    expect(get(hva, FOLL_WRITE | FOLL_FORCE)).toBe(1);
    expect(k.state.stat.numa_hint_faults).toBe(0);
    if (typeof child !== 'number') drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });
});

describe('gup_can_follow_protnone', () => {
  it('a hint is followed as it is', () => {
    const hva = hinted();
    expect(get(hva, FOLL_NOFAULT)).toBe(1);
    expect(pteProtnone(entryAt(k, mm, hva))).toBe(true);
  });

  it('with FOLL_HONOR_NUMA_FAULT it counts as absent and is faulted in', () => {
    const hva = hinted();
    expect(get(hva, FOLL_NOFAULT | FOLL_HONOR_NUMA_FAULT)).toBe(-EFAULT);
    expect(get(hva, FOLL_HONOR_NUMA_FAULT)).toBe(1);
    expect([pteProtnone(entryAt(k, mm, hva)), k.state.stat.numa_hint_faults]).toEqual([false, 1]);
  });

  it('... but not where the VMA is inaccessible: FORCE may have come so far', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    drive(mprotect(k, mm, hva, PAGE_SIZE, PROT_NONE));
    expect(get(hva, FOLL_FORCE | FOLL_NOFAULT | FOLL_HONOR_NUMA_FAULT)).toBe(1);
  });

  it('an entry of 2 MiB alike', () => {
    k.state.thp.always = 1 << HPAGE_PMD_ORDER;
    const hva = mapAnon(k, mm, 2 * 512);
    const at = hva + HPAGE_PMD_SIZE - (hva % HPAGE_PMD_SIZE);
    store(k, mm, at, 7);
    hint(at, HPAGE_PMD_SIZE);
    expect(get(at, FOLL_NOFAULT)).toBe(1);
    expect(get(at, FOLL_NOFAULT | FOLL_HONOR_NUMA_FAULT)).toBe(-EFAULT);
    expect(get(at, FOLL_HONOR_NUMA_FAULT)).toBe(1);
    expect(pmdLeafAt(k, mm, at)).toBeGreaterThan(0);
  });

  it('GUP-fast never follows one, whatever the flags', () => {
    const hva = hinted();
    expect(drive(getUserPagesFastOnly(k, USER, mm, hva, 1, 0, pages))).toBe(0);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    unpinUserPage(k, pages[0]!);
  });

  it('KVM honours hints: its fault restores the entry', () => {
    const hva = hinted();
    const flags = FOLL_HONOR_NUMA_FAULT | FOLL_WRITE;
    expect(drive(getUserPagesUnlocked(k, 'kvm', mm, hva, 1, flags, pages))).toBe(1);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(true);
    folioPut(k, pages[0]!);
  });
});
