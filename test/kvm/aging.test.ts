/** Aging: what the guest uses is known to the host by the A bits of its leaves, and reclaim goes by it. */
import { describe, expect, test } from 'vitest';
import { PAGE_SIZE, PTE_A } from '#emu';
import { gstageFlags, gstageLevel, gstagePfn } from '#kvm';
import {
  folioOf,
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  mmuNotifierTestYoung,
  pageIdleClearRefs,
  pfnToPage,
  swapon,
} from '#mm';
import { folioCheckReferences } from '../../mm/reclaim/references.ts';
import { GUEST_GPA, load, run, type TestMachine, testMachine, touch } from './machine.ts';

const DATA = GUEST_GPA + 0x20_0000;
/** Loads the word at DATA for ever. */
const READER = `li s0, 0x${DATA.toString(16)}\n1: ld t0, 0(s0)\nj 1b`;

const hva = (m: TestMachine): number => m.hva + (DATA - GUEST_GPA);
const young = (m: TestMachine): boolean => mmuNotifierTestYoung(m.k, m.mm, hva(m));
const clear = (m: TestMachine): boolean =>
  mmuNotifierClearYoung(m.k, m.mm, hva(m), hva(m) + PAGE_SIZE);
const clearFlush = (m: TestMachine): boolean =>
  mmuNotifierClearFlushYoung(m.k, m.mm, hva(m), hva(m) + PAGE_SIZE);

describe('kvm_age_gfn(), kvm_test_age_gfn()', () => {
  test('what is not mapped is not young', () => {
    const m = testMachine();
    expect([young(m), clear(m), clearFlush(m)]).toEqual([false, false, false]);
  });

  test('a page is young from its fault on, and testing does not change that', () => {
    const m = testMachine();
    touch(m, DATA, false);
    expect([young(m), young(m)]).toEqual([true, true]);
    expect(clear(m)).toBe(true);
    expect([young(m), clear(m)]).toEqual([false, false]);
    expect(m.vm.stat.aged).toBe(1);
  });

  test('without a flush the hart goes on by its TLB, unseen', () => {
    const m = testMachine();
    load(m, READER);
    expect(run(m, 500)).toBe('limit');
    expect(clear(m)).toBe(true);
    run(m, 500);
    expect(young(m)).toBe(false);
    expect(clearFlush(m)).toBe(false); // not young, so nothing is flushed
    run(m, 500);
    expect(young(m)).toBe(false);
  });

  test('with a flush the next use of the hart is seen', () => {
    const m = testMachine();
    load(m, READER);
    expect(run(m, 500)).toBe('limit');
    expect(clearFlush(m)).toBe(true);
    expect(young(m)).toBe(false);
    run(m, 500);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_A).toBe(PTE_A);
    expect(young(m)).toBe(true);
  });

  test('a use of any page of a huge leaf is a use of all of it', () => {
    const m = testMachine({ huge: true, ramMib: 64, guestMib: 8 });
    touch(m, DATA, true);
    expect(gstageLevel(m.k, m.vm.gstage, DATA)).toBe(1);
    const other = hva(m) + 300 * PAGE_SIZE;
    expect(mmuNotifierTestYoung(m.k, m.mm, other)).toBe(true);
    expect(mmuNotifierClearYoung(m.k, m.mm, other, other + PAGE_SIZE)).toBe(true);
    expect(young(m)).toBe(false);
  });

  test('two slots over one hva are both asked', () => {
    const m = testMachine();
    m.vm.slots.push({
      ...m.vm.slots[0]!,
      id: 1,
      gpa: 2 ** 32,
    });
    const other = 2 ** 32 + (DATA - GUEST_GPA);
    touch(m, DATA, false);
    touch(m, other, false);
    expect(clear(m)).toBe(true);
    expect(gstageFlags(m.k, m.vm.gstage, DATA) & PTE_A).toBe(0);
    expect(gstageFlags(m.k, m.vm.gstage, other) & PTE_A).toBe(0);
  });
});

describe('the host asks', () => {
  test("page idle tracking sees the guest's use, and that there is none any more", () => {
    const m = testMachine();
    load(m, READER);
    run(m, 500);
    const folio = folioOf(m.k, pfnToPage(gstagePfn(m.k, m.vm.gstage, DATA)));
    expect(pageIdleClearRefs(m.k, folio)).toBe(true);
    expect(pageIdleClearRefs(m.k, folio)).toBe(false);
    // Only of what is mapped: with the entries gone, the next fault says that it is used.
    touch(m, DATA, false);
    expect(young(m)).toBe(true);
  });

  test('reclaim keeps the page that the guest has used, and takes the one that it has not', () => {
    const m = testMachine();
    swapon(m.k, 64);
    const cold = DATA + 16 * PAGE_SIZE;
    load(m, READER);
    for (const gpa of [DATA, cold]) touch(m, gpa, true);
    const pageAt = (gpa: number): number => pfnToPage(gstagePfn(m.k, m.vm.gstage, gpa));
    const folios = [DATA, cold].map((gpa) => folioOf(m.k, pageAt(gpa)));
    mmuNotifierClearFlushYoung(m.k, m.mm, m.hva, m.hva + 4 * 2 ** 20);
    // The host's own entries are old, and those of the guest; then the guest uses one page again.
    for (const folio of folios) pageIdleClearRefs(m.k, folio);
    expect(run(m, 500)).toBe('limit');
    expect(folios.map((folio) => folioCheckReferences(m.k, folio))).toEqual(['keep', 'reclaim']);
  });
});
