/**
 * faultInPfns(): faultInPfn() for a run of pages, for whoever fills many entries at once: a VM's memory
 * before it starts, a batch of page requests.
 *
 * Each page comes with what its own primary entry says. The run ends early where something else begins:
 * at the first page that cannot be had, or that has gone again meanwhile.
 */
import { readOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../errno.ts';
import { pageToPfn, pfnToPage } from '../frames/table.ts';
import { getUserPagesFastOnly } from '../gup/fast.ts';
import { FOLL_UNLOCKABLE, FOLL_WRITE } from '../gup/flags.ts';
import { getUserPagesUnlocked } from '../gup/slow.ts';
import { type GupUserId, mayTakeGet } from '../gup/users.ts';
import { getUserPagesLocked } from '../gup/walk.ts';
import { type Path, YP_SECONDARY_PFN } from '../path.ts';
import { ptePresent, pteWrite } from '../pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, walkLeaf } from '../pgtable/walk.ts';
import type { Kernel, MmStruct } from '../types.ts';
import {
  createSecondaryPfn,
  faultFlags,
  faultInPfn,
  isFinal,
  levelOrder,
  lookAtEntry,
  markFolio,
  putPage,
  type SecondaryPfn,
} from './fault-in.ts';

/** What faultInPfns found, page by page. The caller provides it, as large as its batches are. */
export interface SecondaryPfns {
  readonly user: GupUserId;
  /** Pages found, from the first one on. */
  nrPages: number;
  /** As SecondaryPfn has them. */
  pfns: Int32Array;
  writable: Uint8Array;
  orders: Uint8Array;
  /** References are held until releasePfns. */
  held: boolean;
  hasFolio: boolean;
  pages: Int32Array;
  /** For a page without a page struct, which comes alone. */
  single: SecondaryPfn;
}

/** @param capacity most pages of one call */
export const createSecondaryPfns = (capacity: number, user: GupUserId = 'kvm'): SecondaryPfns => ({
  user,
  nrPages: 0,
  pfns: new Int32Array(capacity),
  writable: new Uint8Array(capacity),
  orders: new Uint8Array(capacity),
  held: false,
  hasFolio: false,
  pages: new Int32Array(capacity),
  single: createSecondaryPfn(user),
});

/**
 * Makes the pages from `hva` on present (and writable if `write`), and says which frames they are.
 * Called without the owner's lock: it may sleep. They are true together, if invalidateRetryRange()
 * says so of all of them.
 * @param nrPages as many are wanted; at most the capacity of `out`
 * @returns pages found, at least 1 and perhaps fewer than wanted; or for the first one, as faultInPfn
 */
export function* faultInPfns(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  write: boolean,
  out: SecondaryPfns,
): Path<number> {
  out.nrPages = 0;
  out.held = mayTakeGet(k.policy, out.user);
  out.hasFolio = true;
  const n = out.held
    ? yield* getPfns(k, mm, hva, nrPages, write, out)
    : yield* lookUpPfns(k, mm, hva, nrPages, write, out);
  if (n < 0 && isFinal(n)) return n;
  if (n <= 0) return yield* alone(k, mm, hva, write, out);
  out.nrPages = n;
  if (k.watched) yield YP_SECONDARY_PFN;
  return n;
}

/** With a reference to each. */
function* getPfns(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  write: boolean,
  out: SecondaryPfns,
): Path<number> {
  const { pages, user } = out;
  let writable = true;
  let n = yield* getUserPagesFastOnly(k, user, mm, hva, nrPages, FOLL_WRITE, pages);
  if (n <= 0) {
    writable = write;
    n = yield* getUserPagesUnlocked(k, user, mm, hva, nrPages, faultFlags(write), pages);
  }
  for (let i = 0; i < n; i++) {
    out.pfns[i] = pageToPfn(pages[i]!);
    note(k, mm, hva + i * PAGE_SIZE, i, out);
    if (writable) out.writable[i] = 1;
  }
  return n;
}

/** What the entry says now of a page whose frame is known: nothing, where it shows another. */
const note = (k: Kernel, mm: MmStruct, hva: number, i: number, out: SecondaryPfns): void => {
  const leaf = walkLeaf(k, mm, hva);
  const level = leafLevel(leaf);
  const entry = leaf > 0 ? readOnce(k.memory.i32, leafWord(leaf)) : 0;
  const same = ptePresent(entry) && pageToPfn(leafPage(entry, level, hva)) === out.pfns[i]!;
  out.writable[i] = same && pteWrite(entry) ? 1 : 0;
  out.orders[i] = same && level > 0 ? levelOrder(level) : 0;
};

/** Without: fault all of them in, and report what the entries say, until one does not allow it. */
function* lookUpPfns(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  write: boolean,
  out: SecondaryPfns,
): Path<number> {
  const { single } = out;
  const flags = faultFlags(write) | FOLL_UNLOCKABLE;
  for (;;) {
    const faulted = yield* getUserPagesLocked(k, mm, hva, nrPages, flags, null, { locked: 0 });
    if (faulted <= 0) return faulted < 0 ? faulted : -EFAULT;
    let n = 0;
    for (; n < faulted && lookAtEntry(k, mm, hva + n * PAGE_SIZE, write, single); n++) keep(out, n);
    if (n > 0) return n;
  }
}

/** What was found of one page, as that of page `i`. */
const keep = (out: SecondaryPfns, i: number): void => {
  const { single } = out;
  out.pfns[i] = single.pfn;
  out.writable[i] = single.writable ? 1 : 0;
  out.orders[i] = single.order;
};

/** A page that GUP refuses: perhaps it has no page struct. */
function* alone(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfns,
): Path<number> {
  const { single } = out;
  const error = yield* faultInPfn(k, mm, hva, write, single);
  if (error !== 0) return error;
  keep(out, 0);
  out.held = single.held;
  out.hasFolio = single.hasFolio;
  out.nrPages = 1;
  return 1;
}

/**
 * The other half of faultInPfns, called with the owner's lock still held. @param dirty those whose
 * primary entry is writable have writable entries now. @param accessed they have entries
 */
export const releasePfns = (
  k: Kernel,
  out: SecondaryPfns,
  dirty: boolean,
  accessed: boolean,
): void => {
  for (let i = 0; i < out.nrPages; i++) {
    const page = pfnToPage(out.pfns[i]!);
    if (out.hasFolio) markFolio(k, page, dirty && out.writable[i] === 1, accessed);
    if (out.held) putPage(k, page, out.user);
  }
  out.nrPages = 0;
};
