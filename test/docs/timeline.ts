/**
 * Timelines of docs/gup.md: GUP-fast on the left, on the right whoever takes the entry away, stopped
 * after each step by hand. The right side does what swap, migration and KSM do under a page-table lock.
 */
import { PAGE_SIZE } from '#emu';
import {
  collapseHugePage,
  drive,
  folioRefCount,
  folioTryShareAnonRmap,
  HPAGE_PMD_NR,
  leafWord,
  MADV_HUGEPAGE,
  madvise,
  type Path,
  pageAnonExclusive,
  ptePage,
  ptePresent,
  ptepGet,
  ptepGetAndClear,
  pteWrite,
  pteWrprotect,
  setPteAt,
  walkLeaf,
  YP_COLLAPSE_CLEARED,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_WAIT,
} from '#mm';
import { FOLL_NOFAULT, FOLL_WRITE, pinUserPagesFast } from '#mm/driver-api';
import { errnoName } from '../../testbed/report/errno-names.ts';
import { stepTo } from '../mm/support.ts';
import type { Play } from './one-page.ts';
import { createStage, HVA, must, type Stage, type StageOptions } from './stage.ts';

const LEFT = 44;

/** Two columns, written one step at a time. */
interface Timeline {
  s: Stage;
  /** Word of P's entry. */
  word: number;
  page: number;
  lines: string[];
}

const begin = (other = 'the other side', options: StageOptions = {}): Timeline => {
  const s = createStage(options);
  const word = leafWord(walkLeaf(s.k, s.p.mm, HVA));
  const page = ptePage(ptepGet(s.k, word));
  return { s, word, page, lines: [`  ${'GUP-fast'.padEnd(LEFT)}${other}`] };
};

const left = (t: Timeline, what: string): void => {
  t.lines.push(`  ${what}`);
};

const right = (t: Timeline, what: string): void => {
  t.lines.push(`  ${''.padEnd(LEFT)}${what}`);
};

const refs = ({ s, page }: Timeline): string => `refcount ${folioRefCount(s.k, page)}`;

const entry = ({ s, word, page }: Timeline): string => {
  const pte = ptepGet(s.k, word);
  if (!ptePresent(pte)) return 'none';
  if (ptePage(pte) !== page) throw new Error('the entry has another page');
  return pteWrite(pte) ? '[W] A' : '[-] A';
};

/** pin_user_pages_fast() without its slow half, so that nothing brings the page back. */
const pinner = ({ s }: Timeline): Path<number> => {
  const pages = new Int32Array(1);
  return pinUserPagesFast(s.k, s.p.mm, HVA, 1, FOLL_WRITE | FOLL_NOFAULT, pages);
};

const counts = (t: Timeline, path: Path<number>): void => {
  stepTo(t.s.k, path, YP_GUP_FAST_READ);
  left(t, `reads the entry: ${entry(t)}`);
  stepTo(t.s.k, path, YP_GUP_FAST_PINNED);
  left(t, `counts, barrier: ${refs(t)}`);
};

/** Reads the entry again, and what comes of it. */
const rereads = (t: Timeline, path: Path<number>): void => {
  const now = entry(t);
  const same = now === '[W] A';
  if (same) stepTo(t.s.k, path, YP_GUP_FAST_DONE);
  const step = path.next();
  if (step.done !== true) throw new Error('GUP-fast has not ended');
  left(t, `reads it again: ${now}, ${same ? 'the same' : 'gives the count back'}`);
  left(t, `returns ${errnoName(step.value)}, ${refs(t)}`);
};

/** @returns what the entry was */
const clears = (t: Timeline): number => {
  const pte = ptepGetAndClear(t.s.k, t.word);
  right(t, `clears the entry, barrier: ${entry(t)}`);
  return pte;
};

/** @returns 0: the page is not exclusive any more; -EBUSY */
const looks = (t: Timeline): number => {
  const seen = refs(t);
  const error = folioTryShareAnonRmap(t.s.k, t.page);
  right(t, `looks at the pins: ${seen}, so ${errnoName(error)}`);
  return error;
};

const putsBack = (t: Timeline, pte: number, error: number): void => {
  const { s, word, page } = t;
  setPteAt(s.k, word, error === 0 ? pteWrprotect(pte) : pte);
  const exclusive = pageAnonExclusive(s.k, page) ? 'exclusive' : 'not exclusive';
  right(t, `puts the entry back: ${entry(t)}, ${exclusive}`);
};

/** The entry of the directory, which leads to the table that P's entry is in. */
const directory = ({ s, word }: Timeline): string => {
  const leaf = walkLeaf(s.k, s.p.mm, HVA);
  if (leafWord(leaf) === word) return 'a table';
  return ptePresent(ptepGet(s.k, leafWord(leaf))) ? '2 MiB of B' : 'none';
};

/** A process with 512 pages, and MADV_COLLAPSE of them. */
const beginCollapse = (): { t: Timeline; collapse: Path<number> } => {
  const t = begin('MADV_COLLAPSE', { nrPages: HPAGE_PMD_NR });
  const { k, p } = t.s;
  must(drive(madvise(k, p.mm, HVA, HPAGE_PMD_NR * PAGE_SIZE, MADV_HUGEPAGE)));
  return { t, collapse: collapseHugePage(k, p.mm, HVA) };
};

const takesTableOff = (t: Timeline, collapse: Path<number>): void => {
  stepTo(t.s.k, collapse, YP_COLLAPSE_CLEARED);
  right(t, `clears the directory's entry: ${directory(t)}`);
};

const collapses = (t: Timeline, collapse: Path<number>): void => {
  const seen = refs(t);
  const error = drive(collapse);
  right(t, `looks at all counts: ${seen}, so ${errnoName(error)}`);
  right(t, `the directory's entry: ${directory(t)}`);
};

export const TIMELINES: Record<string, Play> = {
  'pin-first': () => {
    const t = begin();
    const path = pinner(t);
    counts(t, path);
    const pte = clears(t);
    putsBack(t, pte, looks(t));
    rereads(t, path);
    return t.lines;
  },
  'clear-first': () => {
    const t = begin();
    const path = pinner(t);
    stepTo(t.s.k, path, YP_GUP_FAST_READ);
    left(t, `reads the entry: ${entry(t)}`);
    const pte = clears(t);
    putsBack(t, pte, looks(t));
    stepTo(t.s.k, path, YP_GUP_FAST_PINNED);
    left(t, `counts, barrier: ${refs(t)}`);
    rereads(t, path);
    return t.lines;
  },
  'both-give-up': () => {
    const t = begin();
    const path = pinner(t);
    counts(t, path);
    const pte = clears(t);
    const error = looks(t);
    rereads(t, path);
    putsBack(t, pte, error);
    return t.lines;
  },
  'collapse-seen': () => {
    const { t, collapse } = beginCollapse();
    const path = pinner(t);
    stepTo(t.s.k, path, YP_GUP_FAST_READ);
    left(t, `reads the entry: ${entry(t)}`);
    takesTableOff(t, collapse);
    stepTo(t.s.k, path, YP_GUP_FAST_PINNED);
    left(t, `counts, barrier: ${refs(t)}`);
    collapses(t, collapse);
    left(t, `reads the directory again: ${directory(t)}`);
    rereads(t, path);
    return t.lines;
  },
  'collapse-first': () => {
    const { t, collapse } = beginCollapse();
    const path = pinner(t);
    stepTo(t.s.k, path, YP_GUP_FAST_READ);
    left(t, `reads the entry: ${entry(t)}`);
    takesTableOff(t, collapse);
    stepTo(t.s.k, path, YP_GUP_FAST_PINNED);
    left(t, `counts, barrier: ${refs(t)}`);
    stepTo(t.s.k, path, YP_WAIT);
    left(t, `reads the directory again: ${directory(t)}`);
    left(t, `gives the count back: ${refs(t)}`);
    left(t, 'goes the slow way: waits for mmap_lock');
    collapses(t, collapse);
    left(t, `returns ${errnoName(drive(path))}: a page of B`);
    return t.lines;
  },
};
