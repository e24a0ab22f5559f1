/** The views of `gupbed inspect`, by name: words after the name -> text, and the same as JSON. */
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import {
  explainFrame,
  kpageFlagNames,
  type MmStruct,
  pfnToPage,
  procKpageflags,
  procMaps,
  procBuddyinfo,
  procMeminfo,
  procPagetypeinfo,
  procZoneinfo,
  procSmaps,
  procVmstat,
} from '#mm';
import { parseCount } from '../cli/args.ts';
import { UsageError } from '../cli/usage-error.ts';
import { frameText } from './frame.ts';
import type { Inspected } from './kernel.ts';
import { parseCounts, parseMaps, parseSmaps } from './parse.ts';
import { processName, processRows, processTable } from './processes.ts';
import {
  flagsRows,
  flagsTable,
  frameRows,
  frameTable,
  pagemapMapped,
  pagemapRange,
  pagemapTable,
} from './words.ts';

/** Words that make no sense are a UsageError. */
export type View = (
  inspected: Inspected,
  words: string[],
) => { text: () => string; json: () => unknown };

/** No view shows more pages or frames at once. */
const MAX_PAGES = 1 << 20;

/** The process that is named; the only one, where there is one. */
const processOf = (
  view: string,
  { k, processes }: Inspected,
  word: string | undefined,
): MmStruct => {
  const list = processes.map((p) => `${p.pid} (${processName(p)})`).join(', ');
  if (word === undefined && processes.length !== 1)
    throw new UsageError(
      `inspect: ${view} PID is wanted: ${list === '' ? 'there is no process' : list}`,
    );
  const pid =
    word === undefined ? processes[0]!.pid : parseCount('PID', word, 0, Number.MAX_SAFE_INTEGER);
  const mm = k.state.mms.get(pid);
  if (mm === undefined) throw new UsageError(`PID ${pid}: no such process: there are ${list}`);
  return mm;
};

const noMore = (view: string, words: string[], most: number): void => {
  const extra = words[most];
  if (extra !== undefined) throw new UsageError(`inspect: ${view}: ${extra} is one word too many`);
};

const counts =
  (name: string, make: (inspected: Inspected) => string): View =>
  (inspected, words) => {
    noMore(name, words, 0);
    const text = make(inspected);
    return { text: () => text, json: () => parseCounts(text) };
  };

/** Files whose lines are a table of their own kind: as JSON a list of lines. */
const table =
  (name: string, make: (inspected: Inspected) => string): View =>
  (inspected, words) => {
    noMore(name, words, 0);
    const text = make(inspected);
    return { text: () => text, json: () => text.trimEnd().split('\n') };
  };

const frameOf = ({ k }: Inspected, word: string): number => {
  const pfn = parseCount('PFN', word, 0, Number.MAX_SAFE_INTEGER);
  if (pfn < RAM_PFN_BASE || pfn >= RAM_PFN_BASE + k.memory.nrPages)
    throw new UsageError(
      `PFN ${word}: RAM is 0x${RAM_PFN_BASE.toString(16)} to 0x${(RAM_PFN_BASE + k.memory.nrPages - 1).toString(16)}`,
    );
  return pfn;
};

export const VIEWS: Record<string, View> = {
  processes: (inspected, words) => {
    noMore('processes', words, 0);
    const rows = processRows(inspected);
    return { text: () => processTable(rows), json: () => rows };
  },
  maps: (inspected, words) => {
    noMore('maps', words, 1);
    const text = procMaps(processOf('maps', inspected, words[0]));
    return { text: () => text, json: () => parseMaps(text) };
  },
  smaps: (inspected, words) => {
    noMore('smaps', words, 1);
    const text = procSmaps(inspected.k, processOf('smaps', inspected, words[0]));
    return { text: () => text, json: () => parseSmaps(text) };
  },
  pagemap: (inspected, words) => {
    noMore('pagemap', words, 3);
    const mm = processOf('pagemap', inspected, words[0]);
    const rows =
      words[1] === undefined
        ? pagemapMapped(inspected.k, mm)
        : pagemapRange(inspected.k, mm, hvaOf(words[1]), nrOf(words[2]));
    return { text: () => pagemapTable(rows), json: () => rows };
  },
  meminfo: counts('meminfo', ({ k }) => procMeminfo(k)),
  vmstat: counts('vmstat', ({ k }) => procVmstat(k)),
  buddyinfo: table('buddyinfo', ({ k }) => procBuddyinfo(k)),
  pagetypeinfo: table('pagetypeinfo', ({ k }) => procPagetypeinfo(k)),
  zoneinfo: table('zoneinfo', ({ k }) => procZoneinfo(k)),
  kpageflags: (inspected, words) => {
    noMore('kpageflags', words, 2);
    const { k } = inspected;
    if (words[0] === undefined) {
      const rows = flagsRows(k);
      return { text: () => flagsTable(rows), json: () => rows };
    }
    const rows = frameRows(k, frameOf(inspected, words[0]), nrOf(words[1]));
    return { text: () => frameTable(rows), json: () => rows };
  },
  frame: (inspected, words) => {
    noMore('frame', words, 1);
    if (words[0] === undefined) throw new UsageError('inspect: frame PFN is wanted');
    const { k } = inspected;
    const pfn = frameOf(inspected, words[0]);
    const holders = explainFrame(k, pfnToPage(pfn));
    const names = kpageFlagNames(procKpageflags(k, pfn, 1)[0] ?? 0n);
    return {
      text: () => frameText(inspected, holders, names, k.state.provenance !== null),
      json: () => ({ ...holders, flags: names }),
    };
  },
};

const hvaOf = (word: string): number => {
  const hva = parseCount('HVA', word, 0, Number.MAX_SAFE_INTEGER);
  if (hva % PAGE_SIZE !== 0) throw new UsageError(`HVA ${word}: not a multiple of ${PAGE_SIZE}`);
  return hva;
};

const nrOf = (word: string | undefined): number =>
  word === undefined ? 1 : parseCount('N', word, 1, MAX_PAGES);
