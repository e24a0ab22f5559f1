/** Who may take FOLL_GET, under which policy: the claims S1, S2, S6 and S10 of the mail that began it. */
import { describe, expect, it } from 'vitest';
import { checkGetUser, GUP_USERS, mayTakeGet } from '../../mm/gup/users.ts';
import { createPolicy, isPolicyName, POLICY_NAMES, setPolicyApi } from '../../mm/policy.ts';

describe('who may take FOLL_GET: S10', () => {
  it('every user has an API for every preset, and says what it means', () => {
    for (const user of GUP_USERS)
      for (const name of POLICY_NAMES) {
        expect(createPolicy(name).apis[user.id]).toBe(user.api[name]);
        const use = user.uses[user.api[name]];
        expect(use, `${user.id} under ${name}`).toBeDefined();
        for (const text of Object.values(use ?? {})) expect(text).not.toBe('');
      }
  });

  it('under target FOLL_GET is left to the benchmark of GUP', () => {
    const { apis } = createPolicy('target');
    expect(Object.keys(apis).filter((id) => apis[id as keyof typeof apis] === 'get')).toEqual([
      'gup-test',
    ]);
  });

  it('kvm takes FOLL_GET today and nothing under target: S6', () => {
    expect(mayTakeGet(createPolicy('linux-7'), 'kvm')).toBe(true);
    expect(createPolicy('target').apis.kvm).toBe('secondary');
    expect(() => checkGetUser(createPolicy('target'), 'kvm')).toThrow(/'kvm'.*target.*secondary/);
  });

  it('vmsplice takes FOLL_GET without a bound today, a long-term pin under target: S2', () => {
    const vmsplice = GUP_USERS.find((user) => user.id === 'vmsplice');
    expect(createPolicy('linux-7').apis.vmsplice).toBe('get');
    expect(vmsplice?.uses.get?.hold).toBe('unbounded');
    expect(createPolicy('target').apis.vmsplice).toBe('pin-longterm');
  });

  it('a driver never takes it, whatever the preset', () => {
    for (const name of POLICY_NAMES)
      expect(() => checkGetUser(createPolicy(name), 'dma-engine')).toThrow(/FOLL_GET/);
  });

  it('presets are told from other names', () => {
    expect(isPolicyName('linux-6.5')).toBe(true);
    expect(isPolicyName('linux-5')).toBe(false);
  });

  it('one user may be given another API that it knows', () => {
    const policy = createPolicy('linux-7');
    expect(setPolicyApi(policy, 'vmsplice', 'copy')).toBeNull();
    expect(policy.apis.vmsplice).toBe('copy');
    expect(policy.name).toBe('linux-7 with vmsplice=copy');
    expect(setPolicyApi(policy, 'vmsplice', 'secondary')).toMatch(/cannot take secondary/);
    expect(setPolicyApi(policy, 'vmsplice2', 'get')).toMatch(/no user vmsplice2/);
    expect(policy.apis.vmsplice).toBe('copy');
  });
});
