/** `gupbed bench`: measures, and prints medians beside their limits. */
import { type BenchRow, rowOf, type Samples } from '../bench/row.ts';
import { dmaSuite } from '../bench/dma.ts';
import { gupSuite } from '../bench/gup.ts';
import { hartSuite } from '../bench/hart.ts';
import { kvmSuite } from '../bench/kvm.ts';
import { type Announce, translateSuite } from '../bench/translate.ts';
import { alignRows, paint, wantsColour } from '../report/table.ts';
import { parseCommandLine, parseCount } from './args.ts';
import { Progress } from './progress.ts';
import { EXIT_OK, UsageError } from './usage-error.ts';

type Suite = (rounds: number, announce: Announce) => Promise<Samples[]>;

const SUITES: Record<string, Suite> = {
  translate: translateSuite,
  hart: hartSuite,
  gup: gupSuite,
  kvm: kvmSuite,
  dma: dmaSuite,
};

export const benchCommand = async (words: string[]): Promise<number> => {
  const { values, positionals } = parseCommandLine('bench', words, {
    rounds: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  });
  const rounds = parseCount('--rounds', String(values['rounds']), 3, 99);
  const names = positionals.length === 0 ? Object.keys(SUITES) : positionals;
  for (const name of names)
    if (!Object.hasOwn(SUITES, name))
      throw new UsageError(`bench: no suite ${name}, there are ${Object.keys(SUITES).join(', ')}`);
  const progress = new Progress();
  const rows: BenchRow[] = [];
  for (const name of names)
    rows.push(...(await SUITES[name]!(rounds, (what) => progress.update(() => what))).map(rowOf));
  progress.clear();
  if (values['json'] === true) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else process.stdout.write(`${table(rows, wantsColour(process.stdout)).join('\n')}\n`);
  return EXIT_OK;
};

/** Three digits that count, about. */
const figure = (n: number): string => (n >= 100 ? n.toFixed(0) : n.toFixed(2));

const table = (rows: BenchRow[], colour: boolean): string[] => {
  const head = ['', 'median', 'min', 'max', 'unit', 'beside it', 'ratio'];
  const lines = alignRows([
    head,
    ...rows.map((row) => {
      const [peer] = Object.keys(row.ratios);
      const beside = peer === undefined ? '' : `${peer} ${figure(row.peers[peer]!)}`;
      const ratio = peer === undefined ? '' : `${figure(row.ratios[peer]!)}x`;
      const { median, min, max } = row;
      return [row.name, figure(median), figure(min), figure(max), row.unit, beside, ratio];
    }),
  ]);
  return [paint(colour, 'bold', lines[0]!), ...lines.slice(1)];
};
