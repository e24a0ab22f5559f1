/**
 * Who uses GUP, and by which API: the one table that says who may take FOLL_GET.
 *
 * A row gives a user's API under each policy preset, why, and since when. Code that takes a
 * FOLL_GET reference names its row; a row whose API under the active policy is another one is
 * refused, and so is everybody without a row. Modules (mm/driver-api.ts) never get here.
 */
import type { GupApi, Policy, PolicyName } from '../policy.ts';

/** One user of GUP. */
export interface GupUser {
  id: GupUserId;
  /** What it is, in Linux's terms. */
  what: string;
  api: Readonly<Record<PolicyName, GupApi>>;
  why: string;
  since: string;
}

export type GupUserId = 'kvm' | 'dma-engine' | 'access-remote-vm';

export const GUP_USERS: readonly GupUser[] = [
  {
    id: 'kvm',
    what: 'second-level page tables: virt/kvm/kvm_main.c, hva_to_pfn()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'secondary' },
    why: 'MMU notifiers keep the entry right; the reference bridges lookup and installation, which the invalidate sequence guards anyway',
    since: 'FOLL_GET from the start; refcounted_page since 6.13',
  },
  {
    id: 'dma-engine',
    what: 'a driver that lets a device read and write user pages',
    api: { 'linux-6.5': 'pin', 'linux-7': 'pin', target: 'pin' },
    why: 'the device writes bytes at a time nobody can foresee: fork must copy, migration must keep away, the dirty state is set at unpin',
    since: 'pin_user_pages() since 5.6',
  },
  {
    id: 'access-remote-vm',
    what: 'ptrace, /proc/pid/mem, and what a VMM loads into its guest: __access_remote_vm()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'get' },
    why: 'copies at once and lets go; audited, and marks the folio dirty under its lock',
    since: 'FOLL_GET from the start',
  },
];

/** The API each user takes under a preset, as the policy carries it. */
export const apisOf = (name: PolicyName): Record<GupUserId, GupApi> => {
  const apis: Partial<Record<GupUserId, GupApi>> = {};
  for (const user of GUP_USERS) apis[user.id] = user.api[name];
  return apis as Record<GupUserId, GupApi>;
};

/** True where the policy lets this user take plain references. */
export const mayTakeGet = (policy: Policy, user: GupUserId): boolean => policy.apis[user] === 'get';

/**
 * To be called by everything that is about to take FOLL_GET.
 * @throws Error when the active policy does not give this user FOLL_GET: a bug of the caller's
 */
export const checkGetUser = (policy: Policy, user: GupUserId): void => {
  if (!mayTakeGet(policy, user))
    throw new Error(
      `FOLL_GET by '${user}': policy ${policy.name} gives it '${policy.apis[user] ?? 'nothing'}' (mm/gup/users.ts)`,
    );
};
