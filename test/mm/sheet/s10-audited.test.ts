/**
 * S10: the goal. FOLL_GET is left to a few users that are audited, modules have no API but pins, and
 * secondary MMUs have an interface of their own. Facts sheet 0, 2.19.
 */
import { describe, expect, it } from 'vitest';
import * as driverDoor from '#mm/driver-api';
import * as secondaryDoor from '#mm/secondary';
import {
  assertKernel,
  createPolicy,
  drive,
  folioRefCount,
  POLICY_NAMES,
  provenanceStart,
} from '#mm';
import { getUserPagesFast, getUserPagesFastOnly } from '../../../mm/gup/fast.ts';
import { getUserPagesRemote, getUserPagesUnlocked } from '../../../mm/gup/slow.ts';
import { GUP_USERS, type GupUserId, gupUserOf } from '../../../mm/gup/users.ts';
import { createSecondaryMmu, secondaryFault } from '../secondary-mmu.ts';
import { createProcess, createWorld, mapAnon, pageAt } from '../support.ts';

describe('S10: who may take FOLL_GET', () => {
  it('under target: nobody but the benchmark of GUP itself', () => {
    const { apis } = createPolicy('target');
    expect(GUP_USERS.filter(({ id }) => apis[id] === 'get').map(({ id }) => id)).toEqual([
      'gup-test',
    ]);
  });

  it('today: these, each of which says until when and what is unsafe about it', () => {
    const { apis } = createPolicy('linux-7');
    const takers = GUP_USERS.filter(({ id }) => apis[id] === 'get');
    expect(takers.map(({ id }) => id)).toEqual([
      'kvm',
      'mirror-port',
      'access-remote-vm',
      'vmsplice',
      'nfs-dio',
      'ceph-dio',
      'gup-test',
    ]);
    for (const { uses } of takers) expect(uses.get?.until).not.toBe('');
  });

  for (const name of POLICY_NAMES)
    it(`under ${name} every function that takes one asks for the user's row, and refuses those without`, () => {
      const w = createWorld();
      w.k.policy = createPolicy(name);
      const p = createProcess(w);
      const hva = mapAnon(p, 1);
      p.store32(hva, 1);
      const pages = new Int32Array(1);
      const before = folioRefCount(w.k, pageAt(p, hva));
      const refused = GUP_USERS.map(({ id }) => id).filter(
        (id) => w.k.policy.apis[id] !== 'get',
      ) as (GupUserId | string)[];
      for (const user of [...refused, 'nobody'] as GupUserId[]) {
        const calls = [
          () => drive(getUserPagesFast(w.k, user, p.mm, hva, 1, 0, pages)),
          () => drive(getUserPagesFastOnly(w.k, user, p.mm, hva, 1, 0, pages)),
          () => drive(getUserPagesUnlocked(w.k, user, p.mm, hva, 1, 0, pages)),
          () => drive(getUserPagesRemote(w.k, user, p.mm, hva, 1, 0, pages, null)),
        ];
        for (const call of calls) expect(call).toThrow(/FOLL_GET/);
      }
      expect(folioRefCount(w.k, pageAt(p, hva))).toBe(before);
      expect(gupUserOf('nobody')).toBeUndefined();
    });
});

describe('S10: doors', () => {
  it('modules find pins, and nothing that takes a plain reference', () => {
    const names = Object.keys(driverDoor);
    expect(names.filter((name) => /^pin/.test(name))).toContain('pinUserPagesFast');
    expect(names.filter((name) => /get|grab|GET/i.test(name))).toEqual([]);
  });

  it('secondary MMUs find a way to frames that holds nothing, and neither pins nor references', () => {
    const names = Object.keys(secondaryDoor);
    for (const wanted of ['faultInPfn', 'releasePfn', 'invalidateRetry', 'hmmRangeFault'])
      expect(names).toContain(wanted);
    expect(names.filter((name) => /pin|getUser|grab/i.test(name))).toEqual([]);
  });

  it('under target a guest’s entries leave no reference, no pin and no record behind', () => {
    const w = createWorld();
    w.k.policy = createPolicy('target');
    provenanceStart(w.k);
    const p = createProcess(w);
    const hva = mapAnon(p, 4);
    const mmu = createSecondaryMmu(w.k, p.mm);
    for (let i = 0; i < 4; i++) {
      expect(drive(secondaryFault(w.k, mmu, hva + i * 4096, true))).toBe(0);
      expect(folioRefCount(w.k, pageAt(p, hva + i * 4096))).toBe(1);
    }
    expect([w.k.state.provenance?.calls, w.k.state.provenance?.holds.size]).toEqual([0, 0]);
    expect(w.k.state.stat.nr_foll_pin_acquired).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });
});
