/** `gupbed inspect FILE frame PFN`: everybody who holds a frame, for a person to read. */
import type { FrameHolders } from '#mm';
import { hex, withCommas } from '../report/numbers.ts';
import { processName } from './processes.ts';
import type { Inspected } from './kernel.ts';

const SIZES = ['4 KiB', '2 MiB', '1 GiB'];

/** FOLL_* that say what somebody wants a page for. */
const FOLL_NAMES: [number, string][] = [
  [1 << 0, 'writing'],
  [1 << 8, 'long term'],
  [1 << 3, 'by force'],
];

/** How a pipe has a page. */
const PIPE_HOLDS: Record<FrameHolders['pipes'][number]['hold'], string> = {
  own: 'its own page',
  cache: "a page of a file's cache",
  get: 'by get',
  pin: 'by pin',
};

/** Lines of the report. @param flags names of the page's flags @param recorded provenance was on */
export const frameText = (
  inspected: Inspected,
  holders: FrameHolders,
  flags: string[],
  recorded: boolean,
): string => {
  const lines: string[] = [];
  const say = (label: string, text: string): void => {
    lines.push(`${label.padEnd(12)}${text}`);
  };
  const process = (pid: number): string => {
    const found = inspected.processes.find((p) => p.pid === pid);
    return found === undefined
      ? `process ${pid}, which has ended`
      : `${pid} (${processName(found)})`;
  };
  const { nrPages, folioPfn, pfn, refcount, pins, mapcount, unexplained } = holders;
  say(
    'frame',
    nrPages === 1
      ? hex(pfn)
      : `${hex(pfn)}, page ${pfn - folioPfn} of ${nrPages} at ${hex(folioPfn)}`,
  );
  say('flags', flags.length === 0 ? 'none' : flags.join(','));
  say('references', `${withCommas(refcount)}, pins ${pins}, mapcount ${mapcount}`);
  for (const { kind, mm, hva, level, writable } of holders.entries)
    say(
      'mapped',
      `process ${process(mm)} at ${hex(hva)}: ${kind === 'migration' ? 'on the move' : SIZES[level]}, ${writable ? 'writable' : 'read-only'}`,
    );
  if (holders.otherEntries > 0) say('mapped', `${holders.otherEntries} entries of other pages`);
  if (holders.cache !== null)
    say(
      'cached',
      `${holders.cache.kind} ${holders.cache.mapping}, page ${holders.cache.pgoff}: ${count(holders.cache.references)}`,
    );
  if (holders.swapCache !== null)
    say('cached', `swap, slot ${holders.swapCache.slot}: ${count(holders.swapCache.references)}`);
  for (const what of holders.kernel) say('kernel', what);
  for (const { pipe, buffer, hold } of holders.pipes)
    say('pipe', `${pipe}, buffer ${buffer}: ${PIPE_HOLDS[hold]}`);
  for (const { buffer, mm, hva } of holders.fixedBuffers)
    say('buffer', `${buffer} of process ${process(mm)} at ${hex(hva)}`);
  for (const { user, mm, at, pins: n } of holders.longterm)
    say(
      user,
      user === 'rdma'
        ? `memory region ${at} of process ${process(mm)}: ${n} pins`
        : `at bus address ${hex(at)} of process ${process(mm)}: ${n} pins`,
    );
  for (const hold of holders.holds) {
    const wanted = FOLL_NAMES.flatMap(([bit, name]) => ((hold.flags & bit) !== 0 ? [name] : []));
    const where = hold.mm < 0 ? '' : `, process ${process(hold.mm)} at ${hex(hold.hva)}`;
    const gone = hold.zapped ? ', unmapped since' : '';
    const times = hold.n === 1 ? '' : `${hold.n} times `;
    say(
      hold.kind === 'pin' ? 'pinned' : 'referenced',
      `${times}by ${hold.user === '' ? 'somebody' : hold.user}: ${hold.api}() number ${hold.since}${where}${wanted.map((w) => `, ${w}`).join('')}${gone}`,
    );
  }
  const left = [
    ...(unexplained.pins > 0 ? [`${unexplained.pins} pins`] : []),
    ...(unexplained.references !== 0 ? [count(unexplained.references)] : []),
  ];
  const why = recorded ? 'a leak' : 'recorded by nobody (--provenance)';
  say('unexplained', left.length === 0 ? 'nothing' : `${left.join(', ')}: ${why}`);
  return `${lines.join('\n')}\n`;
};

const count = (n: number): string => (n === 1 ? '1 reference' : `${n} references`);
