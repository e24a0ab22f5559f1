/**
 * S3: FOLL_LONGTERM is only meaningful with FOLL_PIN: it promises that pages stay where they may, and
 * only a pin says to everybody else that they have to. Facts sheet 0, 1.1, 1.8.
 */
import { describe, expect, it } from 'vitest';
import {
  createPolicy,
  drive,
  EINVAL,
  type GupUserId,
  pageZoneIndex,
  setPolicyApi,
  ZONE_MOVABLE,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  pinUserPagesFast,
  pinUserPagesUnlocked,
  unpinUserPages,
} from '#mm/driver-api';
import { folioPut } from '../../../mm/folio/folio.ts';
import { getUserPagesFast } from '../../../mm/gup/fast.ts';
import { FOLL_PIN } from '../../../mm/gup/flags.ts';
import { getUserPagesUnlocked } from '../../../mm/gup/slow.ts';
import { GUP_USERS } from '../../../mm/gup/users.ts';
import { POLICY_NAMES } from '../../../mm/policy.ts';
import { createProcess, mapAnon, pageAt } from '../support.ts';
import { assertAtRest, createZonedWorld, MIB } from '../zone-world.ts';

const USER: GupUserId = 'gup-test';

/** A process with one page in zone MOVABLE. */
const onePage = () => {
  const w = createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.store32(hva, 1);
  expect(pageZoneIndex(w.k, pageAt(p, hva))).toBe(ZONE_MOVABLE);
  return { w, k: w.k, p, hva, pages: new Int32Array(1) };
};

describe('S3: FOLL_LONGTERM goes with FOLL_PIN', () => {
  for (const [name, take] of [
    ['get_user_pages_unlocked', getUserPagesUnlocked],
    ['get_user_pages_fast', getUserPagesFast],
  ] as const)
    it(`${name}() refuses it: -EINVAL, and nothing is counted`, () => {
      const { w, k, p, hva, pages } = onePage();
      const before = k.state.frames.refcount[pageAt(p, hva)];
      expect(drive(take(k, USER, p.mm, hva, 1, FOLL_LONGTERM, pages))).toBe(-EINVAL);
      expect(drive(take(k, USER, p.mm, hva, 1, FOLL_LONGTERM | FOLL_WRITE, pages))).toBe(-EINVAL);
      expect(k.state.frames.refcount[pageAt(p, hva)]).toBe(before);
      assertAtRest(w.k);
    });

  it('nor can a caller set FOLL_PIN himself to make up for it', () => {
    const { k, p, hva, pages } = onePage();
    const flags = FOLL_LONGTERM | FOLL_PIN;
    expect(drive(getUserPagesFast(k, USER, p.mm, hva, 1, flags, pages))).toBe(-EINVAL);
    expect(drive(pinUserPagesUnlocked(k, p.mm, hva, 1, flags, pages))).toBe(0);
  });

  it('a plain reference, and a pin for a while, leave the page where nobody can move it away', () => {
    const { w, k, p, hva, pages } = onePage();
    const page = pageAt(p, hva);
    expect(drive(getUserPagesFast(k, USER, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect([pages[0], pageZoneIndex(k, page)]).toEqual([page, ZONE_MOVABLE]);
    folioPut(k, page);
    expect(drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect([pages[0], pageZoneIndex(k, page)]).toEqual([page, ZONE_MOVABLE]);
    unpinUserPages(k, pages, 1);
    assertAtRest(w.k);
  });

  it('with FOLL_PIN the page goes elsewhere first, and then it stays (I5)', () => {
    const { w, k, p, hva, pages } = onePage();
    const before = pageAt(p, hva);
    const flags = FOLL_WRITE | FOLL_LONGTERM;
    expect(drive(pinUserPagesFast(k, p.mm, hva, 1, flags, pages))).toBe(1);
    expect(pages[0]).not.toBe(before);
    expect(pageZoneIndex(k, pages[0]!)).not.toBe(ZONE_MOVABLE);
    expect(p.load32(hva)).toBe(1);
    unpinUserPages(k, pages, 1);
    assertAtRest(w.k);
  });

  it('so no user has a FOLL_GET that lasts for ever by intention, and the one that has it (vmsplice) can be given a pin', () => {
    for (const name of POLICY_NAMES) {
      const policy = createPolicy(name);
      const lasting = GUP_USERS.filter(
        ({ id, uses }) => policy.apis[id] === 'get' && uses.get?.hold === 'unbounded',
      ).map(({ id }) => id);
      expect(lasting).toEqual(name === 'target' ? [] : ['vmsplice']);
      expect(setPolicyApi(policy, 'vmsplice', 'pin-longterm')).toBeNull();
    }
  });
});
