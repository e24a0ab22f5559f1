/** `gupbed inspect`: the views of a saved machine, its frames' holders, and what is refused. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { explainFrame, type FrameHolders, pageToPfn } from '#mm';
import { type HostState, readSnapshot } from '#testbed';
import { inspectCommand } from '../../testbed/cli/inspect.ts';
import { UsageError } from '../../testbed/cli/usage-error.ts';
import { type Inspected, inspect } from '../../testbed/inspect/kernel.ts';
import { VIEWS } from '../../testbed/inspect/views.ts';
import { buildCli } from '../support/cli.ts';

const cli = buildCli();
afterAll(() => cli.remove());

/** The commands of the example in docs/cli.md: the first saves a machine under DMA. */
const EXAMPLE = [
  .../### `gupbed inspect[\s\S]*?(?=\n##)/
    .exec(readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8'))![0]
    .matchAll(/^ {4}gupbed (.*)$/gm),
].map((match) => match[1]!.split(' '));
const RUN = EXAMPLE[0]!;

const fileOf = (name: string): string => join(cli.folder, name);
const read = (name: string): HostState => readSnapshot(readFileSync(fileOf(name))) as HostState;
const open = (name: string): Inspected => inspect(read(name));
let inspected: Inspected;
beforeAll(() => {
  const saved = cli.run(...RUN);
  expect(saved.stderr).toMatch(/to dma\.gup\n$/);
  expect(saved.code).toBe(0);
  expect(saved.stdout).toContain('sanitizer: clean');
  inspected = open('dma.gup');
}, 60_000);

const text = (view: string, ...words: string[]): string => VIEWS[view]!(inspected, words).text();
const json = <T>(view: string, ...words: string[]): T =>
  JSON.parse(JSON.stringify(VIEWS[view]!(inspected, words).json())) as T;

interface PagemapRow {
  hva: string;
  word: string;
  pfn: number | null;
  bits: string[];
}

describe('views', () => {
  it('processes: the VMM of each guest, by name, with its sizes', () => {
    const rows = json<Record<string, unknown>[]>('processes');
    expect(rows).toMatchObject([{ name: 'dmacopy', vmas: 2, VmSize: 65536 }]);
    expect(text('processes').split('\n')[1]).toMatch(/^\d+ +dmacopy +2 +65536 kB/);
  });

  it('maps and smaps of the one process, or of the one that is named', () => {
    const [{ pid }] = json<[{ pid: number }]>('processes');
    expect(text('maps')).toBe(text('maps', String(pid)));
    const maps = json<{ start: string; rights: string; name: string | null }[]>('maps');
    expect(maps).toMatchObject([
      { start: '0x1000000000', rights: 'rw-p', name: null },
      { rights: 'rw-s', name: expect.stringMatching(/^\/memfd:/) },
    ]);
    const smaps = json<{ counts: Record<string, number>; flags: string[] }[]>('smaps');
    expect(smaps.map(({ counts }) => counts['Size'])).toEqual([32768, 32768]);
    const [row] = json<[{ RssAnon: number; RssFile: number }]>('processes');
    expect(smaps.map(({ counts }) => counts['Rss'])).toEqual([row.RssAnon, row.RssFile]);
    expect(smaps[0]!.flags).toContain('wr');
  });

  it('meminfo and vmstat agree, and --json says what the text says', () => {
    const meminfo = json<Record<string, number>>('meminfo');
    const vmstat = json<Record<string, number>>('vmstat');
    expect(meminfo['MemFree']).toBe(vmstat['nr_free_pages']! * 4);
    expect(meminfo['AnonPages']).toBe(vmstat['nr_anon_pages']! * 4);
    expect(text('meminfo')).toContain(`MemTotal: ${String(meminfo['MemTotal']).padStart(14)} kB\n`);
    expect(text('vmstat')).toContain(`\npgfault ${vmstat['pgfault']}\n`);
    expect(vmstat['nr_foll_pin_acquired']).toBeGreaterThan(vmstat['nr_foll_pin_released']!);
  });

  it('pagemap: what is there, or a range page by page', () => {
    const rows = json<PagemapRow[]>('pagemap');
    const [row] = json<[{ pid: number; RssAnon: number; RssFile: number }]>('processes');
    const present = rows.filter(({ bits }) => bits.includes('present'));
    expect(present.length * 4).toBe(row.RssAnon + row.RssFile);
    const range = json<PagemapRow[]>('pagemap', String(row.pid), '0x1000000000', '3');
    expect(range.map(({ hva }) => hva)).toEqual(['0x1000000000', '0x1000001000', '0x1000002000']);
    expect(text('pagemap', String(row.pid), present[0]!.hva)).toMatch(
      new RegExp(`^${present[0]!.hva} +0x[0-9a-f]{16} +pfn 0x[0-9a-f]+ +present`),
    );
  });

  it('kpageflags: all of RAM by flags, or frame by frame', () => {
    const rows = json<{ frames: number; names: string[] }[]>('kpageflags');
    const frames = rows.reduce((sum, row) => sum + row.frames, 0);
    expect(frames * 4).toBe(json<Record<string, number>>('meminfo')['MemTotal']);
    const two = json<{ pfn: string; names: string[] }[]>('kpageflags', '0x80000', '2');
    expect(two.map(({ pfn }) => pfn)).toEqual(['0x80000', '0x80001']);
    expect(two[0]!.names).toContain('zero_page');
    expect(text('kpageflags', '0x80000')).toMatch(
      /^0x80000 +0x[0-9a-f]{16} +mapcount 0 +.*reserved\n$/,
    );
  });
});

describe('frame', () => {
  /** A frame that a device has pinned now. */
  const pinned = (): number => {
    const [page] = [...inspected.k.state.provenance!.holds.keys()];
    expect(page).toBeDefined();
    return pageToPfn(page!);
  };

  it('of a page under DMA: the driver, its function, where and when', () => {
    const holders = json<FrameHolders>('frame', String(pinned()));
    expect(holders.unexplained).toEqual({ pins: 0, references: 0 });
    expect(holders.holds[0]).toMatchObject({
      kind: 'pin',
      user: 'dma-engine',
      api: 'pin_user_pages_fast',
    });
    expect(text('frame', String(pinned()))).toMatch(
      /^pinned +by dma-engine: pin_user_pages_fast\(\) number \d+, process \d+ \(dmacopy\) at 0x[0-9a-f]+/m,
    );
  });

  it('every frame of the machine is explained', () => {
    const { k } = inspected;
    const { refcount } = k.state.frames;
    for (let page = 0; page < k.memory.nrPages; page += 97)
      if (refcount[page]! > 0)
        expect(explainFrame(k, page).unexplained).toEqual({ pins: 0, references: 0 });
  });

  it('of a frame of the kernel', () => {
    expect(text('frame', '0x80000')).toMatch(/^kernel +reserved\nunexplained nothing\n$/m);
  });

  it('records go on when the machine does; without them it says how to have them', () => {
    cli.run('resume', 'dma.gup', '--save', 'later.gup', '--save-at', '3100000');
    const later = open('later.gup').k.state.provenance!;
    expect(later.calls).toBeGreaterThan(inspected.k.state.provenance!.calls);
    expect(later.unmatched).toBe(0);
    const pfn = String(pinned());
    const { k, processes } = inspected;
    const plain = { k: { ...k, state: { ...k.state, provenance: null } }, processes };
    expect(VIEWS['frame']!(plain, [pfn]).text()).toMatch(
      /^unexplained \d+ pins: recorded by nobody \(--provenance\)$/m,
    );
  });
});

it('records change nothing about a run', () => {
  const plain = RUN.filter((word) => word !== '--provenance');
  cli.run(...plain.map((word) => (word === 'dma.gup' ? 'plain.gup' : word)));
  const [recorded, not] = [read('dma.gup'), read('plain.gup')];
  expect(recorded.kernel.provenance).not.toBeNull();
  expect(not.kernel.provenance).toBeNull();
  recorded.kernel.provenance = null;
  expect(isDeepStrictEqual(recorded, not)).toBe(true);
});

describe('refusals: one line, exit code 2', () => {
  const cases: { words: string[]; line: RegExp }[] = [
    { words: [], line: /^inspect: FILE and VIEW are wanted; views: processes, maps, / },
    { words: ['dma.gup'], line: /^inspect: FILE and VIEW are wanted; views: / },
    { words: ['dma.gup', 'slabinfo'], line: /^inspect: no view slabinfo: one of processes, / },
    { words: ['nowhere.gup', 'maps'], line: /nowhere\.gup: no such file$/ },
    { words: ['old.gup', 'maps'], line: /old\.gup: a saved machine of another version$/ },
    { words: ['noise', 'maps'], line: /noise: not a saved machine$/ },
    {
      words: ['dma.gup', 'maps', '999'],
      line: /^PID 999: no such process: there are 1 \(dmacopy\)$/,
    },
    { words: ['dma.gup', 'maps', 'one'], line: /^PID one: not a whole number$/ },
    { words: ['dma.gup', 'maps', '1', '2'], line: /^inspect: maps: 2 is one word too many$/ },
    { words: ['dma.gup', 'meminfo', '1'], line: /^inspect: meminfo: 1 is one word too many$/ },
    { words: ['dma.gup', 'pagemap', '1', '0x1001'], line: /^HVA 0x1001: not a multiple of 4096$/ },
    { words: ['dma.gup', 'pagemap', '1', '0', '0'], line: /^N 0: must be 1 to 1048576$/ },
    { words: ['dma.gup', 'frame'], line: /^inspect: frame PFN is wanted$/ },
    { words: ['dma.gup', 'frame', '1'], line: /^PFN 1: RAM is 0x80000 to 0x87fff$/ },
    { words: ['dma.gup', 'maps', '--what'], line: /^inspect: unknown option '--what'$/ },
  ];
  beforeAll(() => {
    const whole = readFileSync(fileOf('dma.gup'));
    const old = Buffer.concat([Buffer.from('gupbed machine 1\n'), whole.subarray(17)]);
    writeFileSync(fileOf('old.gup'), old);
    writeFileSync(fileOf('noise'), 'noise\n');
  });
  for (const { words, line } of cases)
    it(`inspect ${words.join(' ')}`, async () => {
      const [file, ...rest] = words;
      const all = file === undefined ? [] : [fileOf(file), ...rest];
      const error = await inspectCommand(all).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(UsageError);
      expect((error as Error).message).toMatch(line);
      expect((error as Error).message).not.toContain('\n');
    });

  it('are printed on stderr alone', () => {
    const { code, stdout, stderr } = cli.run('inspect', 'dma.gup', 'frame');
    expect([code, stdout, stderr]).toEqual([2, '', 'gupbed: inspect: frame PFN is wanted\n']);
  });

  it('a PID left out where there are two processes: both are named', () => {
    const two = {
      k: inspected.k,
      processes: [
        { pid: 1, guest: 'memwalk' },
        { pid: 9, guest: null },
      ],
    };
    expect(() => VIEWS['smaps']!(two, [])).toThrow(
      /^inspect: smaps PID is wanted: 1 \(memwalk\), 9 \(-\)$/,
    );
  });
});

it('the example of docs/cli.md', () => {
  expect(EXAMPLE.length).toBeGreaterThan(3);
  for (const words of EXAMPLE.slice(1)) {
    const { code, stdout, stderr } = cli.run(...words);
    expect(code, `${words.join(' ')}: ${stderr}`).toBe(0);
    expect(stdout).not.toBe('');
  }
});
