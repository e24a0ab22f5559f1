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

/** Plain data. `apis` may be changed row by row for an experiment. */
export interface Policy {
  name: string;
  apis: Record<GupUserId, GupApi>;
  pinnedWriteback: PinnedWriteback;
}

export const isPolicyName = (name: string): name is PolicyName =>
  (POLICY_NAMES as readonly string[]).includes(name);

/** A preset, as a fresh record. */
export const createPolicy = (name: PolicyName): Policy => ({
  name,
  apis: apisOf(name),
  pinnedWriteback: name === 'target' ? 'bounce' : 'ignore',
});

/** The name by which a change of a policy means writeback, which is no user of GUP. */
const PINNED_WRITEBACK = 'pinned-writeback';

const setPinnedWriteback = (policy: Policy, how: string): string | null => {
  const found = PINNED_WRITEBACKS.find((name) => name === how);
  if (found === undefined)
    return `${PINNED_WRITEBACK} cannot be ${how}: it can be ${PINNED_WRITEBACKS.join(', ')}`;
  policy.pinnedWriteback = found;
  policy.name = `${policy.name} with ${PINNED_WRITEBACK}=${how}`;
  return null;
};

/**
 * Gives one user another API, or `pinned-writeback` another rule. @param api one that the user's row knows
 * @returns null, or what is wrong: no such user, or not an API of that user
 */
export const setPolicyApi = (policy: Policy, id: string, api: string): string | null => {
  if (id === PINNED_WRITEBACK) return setPinnedWriteback(policy, api);
  const user = gupUserOf(id);
  if (user === undefined)
    return `no user ${id}: there are ${[...GUP_USERS.map((known) => known.id), PINNED_WRITEBACK].join(', ')}`;
  const known = GUP_APIS.filter((name) => user.uses[name] !== undefined);
  const found = known.find((name) => name === api);
  if (found === undefined) return `${id} cannot take ${api}: it can take ${known.join(', ')}`;
  policy.apis[user.id] = found;
  policy.name = `${policy.name} with ${id}=${api}`;
  return null;
};
