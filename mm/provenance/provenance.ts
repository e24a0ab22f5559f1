/**
 * Provenance: for every reference and pin that GUP hands out, who has it, by which function, since
 * when. Off unless a machine or a test switches it on; then a call of GUP costs a test.
 *
 * Only what nobody else writes down is recorded: references of page tables, caches, isolation and
 * the kernel's own users follow from the state itself (explain.ts). A call is recorded when it
 * returns, and given up where pages are given back: while a path is suspended in GUP its counts are
 * ahead of the records.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import { folioNrPages, folioOf } from '../folio/folio.ts';
import { isZeroFolio } from '../folio/pin.ts';
import { FOLL_GET, FOLL_PIN, FOLL_WRITE } from '../gup/flags.ts';
import { ptePresent } from '../pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, ptepGet, walkLeaf } from '../pgtable/walk.ts';
import type { Kernel, MmStruct } from '../types.ts';

/** FOLL_GET or FOLL_PIN. */
export type HoldKind = 'get' | 'pin';

/** One page that somebody holds by GUP. Plain data. */
export interface Hold {
  kind: HoldKind;
  /** The function, as Linux spells it. */
  api: string;
  /** Who called it: a row of the users table, or whatever name the caller gave. */
  user: string;
  /** Address space and place in it that the page was found at; -1 where it was found by other means. */
  mm: number;
  hva: number;
  /** FOLL_* that it was asked for with; 0 where it was not by address. */
  flags: number;
  /** References or pins that this record stands for. */
  n: number;
  /** Number of the call, counted from when recording began. */
  since: number;
  /** The address does not stand for the page any more: it was unmapped since, or while GUP was on its way. */
  zapped: boolean;
}

/** Plain data: it is saved with the machine. */
export interface Provenance {
  /** Page -> who holds it, oldest first. */
  holds: Map<number, Hold[]>;
  /** Calls recorded so far. */
  calls: number;
  /** Given back without a record: taken before recording began. */
  unmatched: number;
  /** Page -> who of those that held it for writing has given it back last. */
  writers: Map<number, string>;
  /** Page -> for what its last reference was dropped, when it was freed last. */
  freed: Map<number, string>;
}

/** Begins to record, from nothing. What is held already stays unexplained. */
export const provenanceStart = (k: Kernel): void => {
  setField(k.state, 'provenance', {
    holds: new Map(),
    calls: 0,
    unmatched: 0,
    writers: new Map(),
    freed: new Map(),
  });
};

/**
 * What is dropped from here on is dropped for `why`, in case it is the last reference; an empty text
 * ends that. Without a yield between.
 */
export const dropFor = (k: Kernel, why: string): void => {
  if (k.state.provenance !== null) k.dropping = why;
};

/** The folio is freed: for what its last reference was dropped. */
export const noteFreed = (k: Kernel, folio: number, nrPages: number): void => {
  const { provenance } = k.state;
  if (provenance === null) return;
  const why = k.dropping === '' ? 'its last user' : k.dropping;
  for (let page = folio; page < folio + nrPages; page++) mapSet(provenance.freed, page, why);
};

/** For what a page was freed last; undefined: never, or nothing was recorded. */
export const freedBy = (k: Kernel, page: number): string | undefined =>
  k.state.provenance?.freed.get(page);

export const provenanceStop = (k: Kernel): void => setField(k.state, 'provenance', null);

/** The next call of GUP is this user's. To be said right before it, without a yield between. */
export const nameGupUser = (k: Kernel, user: string): void => {
  k.currentUser = user;
};

/** Who the call that begins now is for; the name is used up. Empty: nobody said. */
export const takeGupUser = (k: Kernel): string => {
  const user = k.currentUser;
  if (user !== '') k.currentUser = '';
  return user;
};

/**
 * A call of GUP returns with pages[0 .. n).
 * @param flags FOLL_GET or FOLL_PIN among them; with neither nothing is held
 * @param api the function, as Linux spells it
 * @param user from takeGupUser when the call began, or the row it named
 * @param hva where pages[0] was found
 * @returns `n`, which may be an error
 */
export const noteGrab = (
  k: Kernel,
  flags: number,
  api: string,
  user: string,
  mm: MmStruct,
  hva: number,
  pages: Int32Array | null,
  n: number,
): number => {
  const kind = (flags & FOLL_PIN) !== 0 ? 'pin' : 'get';
  const { provenance } = k.state;
  if (provenance === null || pages === null || (flags & (FOLL_PIN | FOLL_GET)) === 0) return n;
  if (n <= 0) return n;
  const since = nextCall(provenance);
  const first = hva - (hva % PAGE_SIZE);
  for (let i = 0; i < n; i++)
    addHold(k, provenance, pages[i]!, {
      kind,
      api,
      user,
      mm: mm.id,
      hva: first + i * PAGE_SIZE,
      flags,
      n: 1,
      since,
      zapped: mappedPage(k, mm, first + i * PAGE_SIZE) !== pages[i]!,
    });
  return n;
};

/** One page, or one folio by its first page, is held `n` times, found by other means than an address. */
export const noteGrabPage = (
  k: Kernel,
  kind: HoldKind,
  api: string,
  user: string,
  page: number,
  n: number,
): void => {
  const { provenance } = k.state;
  if (provenance === null) return;
  const since = nextCall(provenance);
  const where = { mm: -1, hva: -1, flags: 0, zapped: false };
  addHold(k, provenance, page, { kind, api, user, n, since, ...where });
};

/** Frame that an address space maps at `hva` now, -1 for none. */
const mappedPage = (k: Kernel, mm: MmStruct, hva: number): number => {
  const leaf = mm.exited ? 0 : walkLeaf(k, mm, hva);
  const entry = leaf > 0 ? ptepGet(k, leafWord(leaf)) : 0;
  if (!ptePresent(entry)) return -1;
  return leafPage(entry, leafLevel(leaf), hva);
};

/** [start, end) of an address space has been unmapped: what is held from there is no longer what is there. */
export const noteZap = (k: Kernel, mm: MmStruct, start: number, end: number): void => {
  if (k.state.provenance === null) return;
  for (const own of k.state.provenance.holds.values())
    for (const hold of own)
      if (hold.mm === mm.id && hold.hva >= start && hold.hva < end) setField(hold, 'zapped', true);
};

/** What was mapped at [from, from + lenBytes) is now at `to`. */
export const noteMoved = (
  k: Kernel,
  mm: MmStruct,
  from: number,
  to: number,
  lenBytes: number,
): void => {
  if (k.state.provenance === null) return;
  for (const own of k.state.provenance.holds.values())
    for (const hold of own)
      if (hold.mm === mm.id && hold.hva >= from && hold.hva < from + lenBytes)
        setField(hold, 'hva', hold.hva - from + to);
};

const nextCall = (provenance: Provenance): number => {
  setField(provenance, 'calls', provenance.calls + 1);
  return provenance.calls;
};

const addHold = (k: Kernel, { holds }: Provenance, page: number, hold: Hold): void => {
  if (hold.kind === 'pin' && isZeroFolio(k, folioOf(k, page))) return;
  const own = holds.get(page);
  if (own === undefined) mapSet(holds, page, [hold]);
  else listPush(own, hold);
};

/** pages[0 .. n) are given back, one reference or pin of each. An entry below 0 is none. */
export const noteRelease = (
  k: Kernel,
  kind: HoldKind,
  pages: Int32Array,
  n: number,
  user = takeGupUser(k),
): void => {
  if (k.state.provenance === null) return;
  if (kind === 'pin') dropFor(k, unpinningBy(user));
  for (let i = 0; i < n; i++) if (pages[i]! >= 0) dropHold(k, kind, user, pages[i]!, 1);
};

/** The same for the contiguous pages [page, page + n). */
export const noteReleaseRange = (
  k: Kernel,
  kind: HoldKind,
  page: number,
  n: number,
  user = takeGupUser(k),
): void => {
  if (k.state.provenance === null) return;
  if (kind === 'pin') dropFor(k, unpinningBy(user));
  for (let at = page; at < page + n; at++) dropHold(k, kind, user, at, 1);
};

/** `n` references or pins of one page, or of any pages of its folio, are given back. @param user whose they are */
export const noteReleasePage = (
  k: Kernel,
  kind: HoldKind,
  page: number,
  n: number,
  user = takeGupUser(k),
): void => {
  if (k.state.provenance === null) return;
  if (kind === 'pin') dropFor(k, unpinningBy(user));
  dropHold(k, kind, user, page, n);
};

const unpinningBy = (user: string): string =>
  `the unpinning by ${user === '' ? 'nobody who said' : user}`;

/**
 * Whose are they? Those of the user who was named (nameGupUser); without a name, or where he has
 * none, the oldest of that kind. The page's own first: a folio may be given back by other pages.
 */
const dropHold = (k: Kernel, kind: HoldKind, user: string, page: number, n: number): void => {
  const { provenance } = k.state;
  if (provenance === null || (kind === 'pin' && isZeroFolio(k, folioOf(k, page)))) return;
  let left = dropAt(provenance, page, kind, user, n);
  if (left > 0) {
    const folio = folioOf(k, page);
    const end = folio + folioNrPages(k, folio);
    for (let other = folio; other < end && left > 0; other++)
      left = dropAt(provenance, other, kind, user, left);
  }
  if (left > 0) setField(provenance, 'unmatched', provenance.unmatched + left);
};

/** @returns how many are still to be given back */
const dropAt = (
  provenance: Provenance,
  page: number,
  kind: HoldKind,
  user: string,
  n: number,
): number => {
  const own = provenance.holds.get(page);
  let left = n;
  while (own !== undefined && left > 0) {
    const named = own.findIndex((hold) => hold.kind === kind && hold.user === user);
    const i = named >= 0 ? named : own.findIndex((hold) => hold.kind === kind);
    const hold = own[i];
    if (hold === undefined) break;
    if ((hold.flags & FOLL_WRITE) !== 0)
      mapSet(provenance.writers, page, hold.user === '' ? `${hold.api}()` : hold.user);
    const dropped = Math.min(left, hold.n);
    left -= dropped;
    setField(hold, 'n', hold.n - dropped);
    if (hold.n === 0) listRemoveAt(own, i);
  }
  if (own?.length === 0) mapDelete(provenance.holds, page);
  return left;
};
