/** What `gupbed harm` prints for people. */
import { withCommas } from '../report/numbers.ts';
import { alignRows, paint } from '../report/table.ts';
import { formatSize } from '../cli/args.ts';
import type { HarmRow, HarmRun, HarmTimes } from './run.ts';
import { HELD_BYTES } from './run.ts';
import { CMA_PIECE_BYTES, OFFLINE_ROUNDS, REGION_BYTES, type Stuck } from './measure.ts';

const HEAD = [
  'held by',
  'API',
  'pages',
  'CMA',
  'stuck',
  'offline',
  'rounds',
  'stuck',
  '2 MiB blocks',
  'stuck',
  'long-term',
  'CMA afterwards',
];

const of = (n: number, all: number): string => `${n} of ${all}`;

const cellsOf = (row: HarmRow): string[] => {
  const { cma, offline, compaction, longterm, cmaAfterwards } = row;
  return [
    row.holder,
    row.api,
    withCommas(row.pages),
    of(cma.allocated, cma.pieces),
    withCommas(cma.pages),
    offline.offline ? 'yes' : 'never',
    `${offline.rounds}`,
    withCommas(offline.pages),
    `${compaction.before} -> ${compaction.after}`,
    withCommas(compaction.pages),
    of(longterm.registered, longterm.regions),
    of(cmaAfterwards.allocated, cmaAfterwards.pieces),
  ];
};

/** Did everything work that works where nobody holds a page? */
const unharmed = ({ cma, offline, longterm }: HarmRow): boolean =>
  cma.allocated === cma.pieces && offline.offline && longterm.registered === longterm.regions;

/** `CMA vmsplice 336, offline vmsplice 80`: who had the pages that did not move. */
const wayOf = ({ cma, offline, compaction }: HarmRow): string => {
  const part = (what: string, { holders }: Stuck): string[] => {
    const names = Object.entries(holders);
    if (names.length === 0) return [];
    return [`${what}: ${names.map(([name, n]) => `${name} ${withCommas(n)}`).join(', ')}`];
  };
  return [
    ...part('CMA', cma),
    ...part('offline', offline),
    ...part('2 MiB blocks', compaction),
  ].join('; ');
};

/** The table, who was in the way, and how long it took. */
export const harmLines = (run: HarmRun, colour: boolean): string[] => {
  const { rows, times } = run;
  const { policy, sizes, seed } = run.options;
  const [head = '', ...lines] = alignRows([HEAD, ...rows.map(cellsOf)]);
  const styled = lines.map((line, i) => paint(colour, unharmed(rows[i]!) ? 'green' : 'red', line));
  const ways = rows.filter((row) => wayOf(row) !== '');
  return [
    `policy ${policy.name}, seed ${seed}: ${formatSize(sizes.ramBytes)} of memory, ${formatSize(sizes.movableBytes)} MOVABLE, ${formatSize(sizes.cmaBytes)} CMA, ${formatSize(HELD_BYTES)} held`,
    '',
    paint(colour, 'bold', head),
    ...styled,
    ...(ways.length === 0 ? [] : ['', 'pages that could not move, by who had them:']),
    ...ways.map((row) => `  ${row.holder}: ${wayOf(row)}`),
    '',
    ...timeLines(times, colour),
    '',
    `CMA: pieces of ${formatSize(CMA_PIECE_BYTES)}; offline: a block of 128M of MOVABLE, given up after ${OFFLINE_ROUNDS} rounds;`,
    `2 MiB blocks: free before compaction, and after; long-term: regions of ${formatSize(REGION_BYTES)} with pages that are held.`,
  ];
};

const timeLines = (times: readonly HarmTimes[], colour: boolean): string[] => {
  const ms = (n: number): string => n.toFixed(0);
  const [head = '', ...lines] = alignRows([
    ['milliseconds', 'load', 'CMA', 'offline', 'compaction', 'long-term'],
    ...times.map((time) => [
      time.holder,
      ms(time.loadMs),
      ms(time.cmaMs),
      ms(time.offlineMs),
      ms(time.compactionMs),
      ms(time.longtermMs),
    ]),
  ]);
  return [paint(colour, 'bold', head), ...lines];
};
