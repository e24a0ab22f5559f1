/**
 * Policies: for every user of GUP, the API it takes. The rows are in mm/gup/users.ts.
 *
 * Presets: `linux-6.5`, where the question of this project was asked; `linux-7`, today;
 * `target`, where FOLL_GET is left to the few that are audited.
 */
import { apisOf, GUP_USERS, type GupUserId, gupUserOf } from './gup/users.ts';

export const POLICY_NAMES = ['linux-6.5', 'linux-7', 'target'] as const;
export type PolicyName = (typeof POLICY_NAMES)[number];

/**
 * How a user reaches pages: a plain reference, a pin, a pin without time limit, through the page
 * tables by copying, or by following the page tables through notifiers and holding nothing.
 */
export const GUP_APIS = ['get', 'pin', 'pin-longterm', 'copy', 'secondary'] as const;
export type GupApi = (typeof GUP_APIS)[number];

/**
 * What writeback does with a page that may be pinned: nothing special, as Linux; or it writes a copy,
 * and leaves the folio dirty and its reservation in place until the pins are gone.
 */
export const PINNED_WRITEBACKS = ['ignore', 'bounce'] as const;
export type PinnedWriteback = (typeof PINNED_WRITEBACKS)[number];

/**
 * What a long-term pin does about references that keep a page from being migrated, which may be those
 * of batches on their way to LRU lists: nothing; drains them where the page is on no list, as Linux
 * did until 6.16; where it has references that nobody accounts for, as it does now; besides waits for
 * a while until they are gone, as has been proposed.
 */
export const LONGTERM_DRAINS = ['none', 'not-lru', 'referenced', 'wait'] as const;
export type LongtermDrain = (typeof LONGTERM_DRAINS)[number];

const DRAIN_OF: Record<PolicyName, LongtermDrain> = {
  'linux-6.5': 'not-lru',
  'linux-7': 'referenced',
  target: 'wait',
};

/** Plain data. `apis` may be changed row by row for an experiment. */
export interface Policy {
  name: string;
  apis: Record<GupUserId, GupApi>;
  pinnedWriteback: PinnedWriteback;
  longtermDrain: LongtermDrain;
}

export const isPolicyName = (name: string): name is PolicyName =>
  (POLICY_NAMES as readonly string[]).includes(name);

/** A preset, as a fresh record. */
export const createPolicy = (name: PolicyName): Policy => ({
  name,
  apis: apisOf(name),
  pinnedWriteback: name === 'target' ? 'bounce' : 'ignore',
  longtermDrain: DRAIN_OF[name],
});

/** Names by which a change of a policy means something else than a user of GUP. */
const PINNED_WRITEBACK = 'pinned-writeback';
const LONGTERM_DRAIN = 'longterm-drain';

/** One of those. @returns null, or what is wrong */
const setRule = <T extends string>(
  policy: Policy,
  id: string,
  how: string,
  known: readonly T[],
  apply: (value: T) => void,
): string | null => {
  const found = known.find((name) => name === how);
  if (found === undefined) return `${id} cannot be ${how}: it can be ${known.join(', ')}`;
  apply(found);
  policy.name = `${policy.name} with ${id}=${how}`;
  return null;
};

/**
 * Gives one user another API, or `pinned-writeback` or `longterm-drain` another rule. @param api one that the user's row knows
 * @returns null, or what is wrong: no such user, or not an API of that user
 */
export const setPolicyApi = (policy: Policy, id: string, api: string): string | null => {
  if (id === PINNED_WRITEBACK)
    return setRule(policy, id, api, PINNED_WRITEBACKS, (how) => {
      policy.pinnedWriteback = how;
    });
  if (id === LONGTERM_DRAIN)
    return setRule(policy, id, api, LONGTERM_DRAINS, (how) => {
      policy.longtermDrain = how;
    });
  const user = gupUserOf(id);
  if (user === undefined)
    return `no user ${id}: there are ${[...GUP_USERS.map((known) => known.id), PINNED_WRITEBACK, LONGTERM_DRAIN].join(', ')}`;
  const known = GUP_APIS.filter((name) => user.uses[name] !== undefined);
  const found = known.find((name) => name === api);
  if (found === undefined) return `${id} cannot take ${api}: it can take ${known.join(', ')}`;
  policy.apis[user.id] = found;
  policy.name = `${policy.name} with ${id}=${api}`;
  return null;
};
