/**
 * Draws what is on a stage, in the way of writing that docs/gup.md explains: entries with their
 * flags on the left, who else has the page below them, counts of each folio where it is first named.
 */
import { PAGE_SIZE } from '#emu';
import {
  folioMapcount,
  folioOf,
  folioOrder,
  folioPinCount,
  folioRefCount,
  type HostProcess,
  type Kernel,
  leafLevel,
  leafPage,
  leafWord,
  levelPages,
  pageAnonExclusive,
  pfnToPage,
  ptePresent,
  ptepGet,
  pteWrite,
  walkLeaf,
} from '#mm';
import { isSwapEntry, swapEntryExclusive, swapEntrySlot } from '../../mm/pgtable/swapops.ts';
import { HVA, type Stage } from './stage.ts';

/** Width of the left column. */
const LEFT = 30;
/** As many entries as are drawn one by one. */
const FEW = 2;

/** Entries one after the other that say the same of one folio, or of small folios that are alike. */
interface Run {
  nr: number;
  flags: string;
  kind: 'page' | 'zero' | 'slot' | 'none';
  /** One entry for 2 MiB. */
  huge: boolean;
  /** The folio, or the first of the small ones. */
  folio: number;
  nrFolios: number;
  /** Of a swap entry: how often its slot is named. */
  named: number;
}

const NOTHING: Run = {
  nr: 1,
  flags: '',
  kind: 'none',
  huge: false,
  folio: -1,
  nrFolios: 0,
  named: 0,
};

const flagsOf = (writable: boolean, exclusive: boolean): string =>
  `[${writable ? 'W' : '-'} ${exclusive ? 'X' : '-'}]`;

const runAt = ({ k }: Stage, p: HostProcess, hva: number): Run => {
  const leaf = walkLeaf(k, p.mm, hva);
  const word = leafWord(leaf);
  const entry = word > 0 ? ptepGet(k, word) : 0;
  if (word <= 0 || entry === 0) return NOTHING;
  if (!ptePresent(entry)) {
    if (!isSwapEntry(entry))
      throw new Error(`no picture has an entry like 0x${entry.toString(16)}`);
    const named = k.state.swap.count[swapEntrySlot(entry)]!;
    return { ...NOTHING, kind: 'slot', flags: flagsOf(false, swapEntryExclusive(entry)), named };
  }
  const level = leafLevel(leaf);
  const page = leafPage(entry, level, hva);
  const folio = folioOf(k, page);
  return {
    ...NOTHING,
    nr: level > 0 ? levelPages(level) : 1,
    flags: flagsOf(pteWrite(entry), pageAnonExclusive(k, level > 0 ? folio : page)),
    kind: folio === k.state.zeroPage ? 'zero' : 'page',
    huge: level > 0,
    folio,
    nrFolios: 1,
  };
};

const alike = (k: Kernel, a: number, b: number): boolean =>
  folioOrder(k, a) === 0 &&
  folioOrder(k, b) === 0 &&
  folioRefCount(k, a) === folioRefCount(k, b) &&
  folioMapcount(k, a) === folioMapcount(k, b);

/** Can the two be told in one line? */
const joins = (k: Kernel, run: Run, next: Run): boolean =>
  run.kind === next.kind &&
  run.flags === next.flags &&
  !run.huge &&
  !next.huge &&
  (run.kind !== 'page' || run.folio === next.folio || alike(k, run.folio, next.folio));

const runsOf = (s: Stage, p: HostProcess): Run[] => {
  const runs: Run[] = [];
  for (let i = 0; i < s.nrPages; ) {
    const next = runAt(s, p, HVA + i * PAGE_SIZE);
    i += next.nr;
    const last = runs.at(-1);
    if (last !== undefined && s.nrPages > FEW && joins(s.k, last, next)) {
      last.nr += next.nr;
      if (last.folio !== next.folio) last.nrFolios += next.nrFolios;
    } else runs.push({ ...next });
  }
  return runs;
};

/** Folios are called A, B, ... as they come. */
const letterOf = (s: Stage, folio: number): string => {
  const known = s.letters.get(folio);
  if (known !== undefined) return known;
  const letter = String.fromCharCode('A'.charCodeAt(0) + s.nrLetters++);
  s.letters.set(folio, letter);
  return letter;
};

/** Counts of a folio, or of some that are alike. */
const countsOf = (s: Stage, folio: number, nrFolios: number): string => {
  const { k } = s;
  const letter = letterOf(s, folio);
  const refs = folioRefCount(k, folio);
  if (refs === 0) return `${letter}: free`;
  const counts = `refcount ${refs}  mapcount ${folioMapcount(k, folio)}`;
  if (nrFolios > 1) return `${letter}: ${nrFolios} folios, each  ${counts}`;
  const order = folioOrder(k, folio);
  if (order === 0) return `${letter}: ${counts}`;
  return `${letter}: ${1 << order} pages  ${counts}  pincount ${folioPinCount(k, folio)}`;
};

/** A line of the left column, and the folio that it ends at; -1: none, and what there is to say instead. */
interface Line {
  left: string;
  folio: number;
  nrFolios: number;
  right?: string;
}

const entryLine = (s: Stage, letter: string, run: Run, at: number): Line => {
  const { nr, flags, kind, huge, folio, nrFolios, named } = run;
  const place = at === 0 ? 'H' : `H+${at}`;
  const where = nr > 1 && !huge ? `${letter}: ${place} x ${nr}` : `${letter}: ${place}`;
  if (kind === 'none') return { left: `${where} none`, folio: -1, nrFolios: 0 };
  const arrow = `${where} ${flags} ${huge ? '===>' : '--->'}`;
  if (kind === 'slot')
    return { left: `${arrow} swap slot`, folio: -1, nrFolios: 0, right: `slot: named ${named} x` };
  if (kind === 'zero') return { left: `${arrow} zero page`, folio: -1, nrFolios: 0 };
  return { left: `${arrow} ${letterOf(s, folio)}`, folio, nrFolios };
};

const processLines = (s: Stage): Line[] =>
  [...s.processes].flatMap(([letter, p]) => {
    if (p.mm.exited) return [];
    let at = 0;
    return runsOf(s, p).map((run) => {
      const line = entryLine(s, letter, run, at);
      at += run.nr;
      return line;
    });
  });

/** The pipe, devices, and the swap cache. */
const holderLines = (s: Stage): Line[] => {
  const { k, pipe, held } = s;
  const times = new Map<string, Line & { n: number }>();
  const add = (who: string, page: number): void => {
    const zero = page === k.state.zeroPage;
    const folio = zero ? -1 : folioOf(k, page);
    const target = zero ? 'zero page' : letterOf(s, folio);
    const line = times.get(`${who} ${target}`);
    const n = (line?.n ?? 0) + 1;
    const left = `${who}${n > 1 ? ` x ${n}` : ''} ---> ${target}`;
    times.set(`${who} ${target}`, { left, folio, nrFolios: 1, n });
  };
  for (const { page, hold } of pipe?.buffers ?? []) if (hold !== 'own') add(`pipe: ${hold}`, page);
  for (const { who, how, page } of held) add(`${who}: ${how}`, page);
  for (const folio of new Set([...k.state.swap.cache.values()].map((page) => folioOf(k, page))))
    add('swap cache', folio);
  return [...times.values()];
};

const secondaryLines = (s: Stage): Line[] => {
  if (s.vm === null) return [];
  const entry = s.vm.entries.get(HVA);
  if (entry === undefined) return [{ left: 'VM: none', folio: -1, nrFolios: 0 }];
  const folio = folioOf(s.k, pfnToPage(entry.pfn));
  const left = `VM: [${entry.writable ? 'W' : '-'}] ---> ${letterOf(s, folio)}`;
  return [{ left, folio, nrFolios: 1 }];
};

/** The picture of what is there now. */
export const draw = (s: Stage): string[] => {
  const counted = new Set<number>();
  const lines = [...processLines(s), ...holderLines(s), ...secondaryLines(s)];
  const drawn = lines.map(({ left, folio, nrFolios, right: instead = '' }) => {
    const first = folio >= 0 && !counted.has(folio);
    counted.add(folio);
    const right = first ? countsOf(s, folio, nrFolios) : instead;
    return `  ${left.padEnd(LEFT)}${right}`.trimEnd();
  });
  // Folios of an earlier picture that nobody points to any more. The next to get a free frame is another folio.
  for (const folio of s.letters.keys()) {
    if (counted.has(folio)) continue;
    drawn.push(`  ${''.padEnd(LEFT)}${countsOf(s, folio, 1)}`);
    if (folioRefCount(s.k, folio) === 0) s.letters.delete(folio);
  }
  return drawn;
};
