/** Who may import whom: the table of docs/architecture.md, held against every import of the sources. */
import { dirname, join, posix } from 'node:path';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { ROOT, sourcesOf, withoutComments } from './support/sources.ts';

/** The three doors of mm/. */
const MM_DOORS = ['#mm', '#mm/driver-api', '#mm/secondary'];

/** Folder -> doors of other folders that its files may import. Tests may look inside everything. */
const MAY_IMPORT: Record<string, string[]> = {
  emu: ['#cells'],
  mm: ['#emu', '#cells'],
  kvm: ['#emu', '#cells', ...MM_DOORS],
  devices: ['#emu', '#cells'],
  'devices/host': ['#emu', '#cells', '#devices', ...MM_DOORS],
  testbed: ['#emu', '#cells', '#cells/explorer', ...MM_DOORS, '#kvm', '#devices', '#devices/host'],
};

const FOLDERS = Object.keys(MAY_IMPORT).toSorted((a, b) => b.length - a.length);

/** The folder of the table that a path from the root belongs to, or undefined. */
const folderOf = (path: string): string | undefined =>
  FOLDERS.find((folder) => path.startsWith(`${folder}/`));

/** What is wrong with `specifier` in the file at `importer`, or undefined. */
const violation = (importer: string, specifier: string): string | undefined => {
  const folder = folderOf(importer);
  if (folder === undefined || specifier.startsWith('node:')) return undefined;
  if (specifier.startsWith('#'))
    return MAY_IMPORT[folder]!.includes(specifier)
      ? undefined
      : `${importer} imports ${specifier}, which ${folder}/ may not`;
  if (!specifier.startsWith('.')) return `${importer} imports the package ${specifier}`;
  const target = posix.join(posix.dirname(importer), specifier);
  if (folderOf(target) !== folder)
    return `${importer} reaches ${target} by a path, not through a door`;
  if (target === `${folder}/index.ts`) return `${importer} imports the door of its own folder`;
  return specifier.endsWith('.ts') ? undefined : `${importer}: ${specifier} does not end in .ts`;
};

/** Every specifier of a file: imports, re-exports and import(), of types too. */
const specifiersOf = (text: string): string[] =>
  [
    ...withoutComments(text).matchAll(/(?:^|[\s;}])(?:from|import)\s*\(?\s*['"]([^'"\n]+)['"]/g),
  ].map((match) => match[1]!);

describe('imports across folders', () => {
  const files = sourcesOf(['emu', 'mm', 'kvm', 'devices', 'testbed']);

  it('go through the doors that the table allows', () => {
    expect(
      files.flatMap(({ path, text }) =>
        specifiersOf(text).flatMap((specifier) => violation(path, specifier) ?? []),
      ),
    ).toEqual([]);
  });

  it('are what the bundler finds too, in everything that the command line reaches', async () => {
    const { metafile } = await build({
      absWorkingDir: ROOT,
      entryPoints: [join(ROOT, 'testbed/main.ts')],
      bundle: true,
      write: false,
      metafile: true,
      format: 'esm',
      platform: 'node',
      outdir: join(ROOT, 'dist'),
      logLevel: 'silent',
    });
    const wrong: string[] = [];
    for (const [importer, { imports }] of Object.entries(metafile.inputs)) {
      if (importer.includes('node_modules')) wrong.push(`${importer} is in the bundle`);
      for (const { path, original, external } of imports) {
        if (external === true) continue;
        const found = violation(importer, original ?? path);
        if (found !== undefined) wrong.push(found);
        // A door may only lead into the folder it is named after.
        if (original?.startsWith('#') && !path.startsWith(doorFolder(original)))
          wrong.push(`${original} leads to ${path}`);
      }
    }
    expect(wrong).toEqual([]);
    expect(Object.keys(metafile.inputs).length).toBeGreaterThan(50);
  });
});

/** Who has copies of entries of an address space, or follows it in another way: with all that asks mm/ for it. */
const SECONDARY_USERS = [
  'kvm/audit.ts',
  'kvm/fault.ts',
  'kvm/gmem.ts',
  'kvm/notifier.ts',
  'kvm/pfncache.ts',
  'devices/host/iommu-sva.ts',
  'devices/host/mirror-port.ts',
  'devices/host/rdma-odp.ts',
];

/** Names of the door by which an entry is asked for, or somebody subscribes. */
const ASKS =
  /\b(faultInPfns?|guestMemfdGetPfn|hmmRangeFault|registerSecondary\w*|mmuIntervalNotifierInsert)\(/;

describe('users of secondary MMUs', () => {
  const files = sourcesOf(['kvm', 'devices', 'testbed']);

  for (const user of SECONDARY_USERS)
    it(`${user} uses #mm/secondary, and no other door of mm/`, () => {
      const file = files.find(({ path }) => path === user);
      const doors = specifiersOf(file?.text ?? '').filter((door) => door.startsWith('#mm'));
      expect(doors).toEqual(['#mm/secondary']);
    });

  it('are all that ask the door for a frame, but for scenarios of the explorer', () => {
    const asking = files
      .filter(({ path, text }) => !path.startsWith('testbed/') && ASKS.test(withoutComments(text)))
      .map(({ path }) => path);
    // kvm/vm.ts makes the subscription of a VM; what it is told and asks is in the files beside it.
    expect(
      asking.filter((path) => path !== 'kvm/vm.ts' && !SECONDARY_USERS.includes(path)),
    ).toEqual([]);
  });
});

/** Folder that a door's file is in. */
const doorFolder = (door: string): string =>
  door.startsWith('#cells')
    ? 'emu/cells/'
    : `${dirname(`${door.slice(1)}/x`).replace(/^mm\/.*/, 'mm')}/`;

describe('the rules themselves', () => {
  for (const { fact, importer, specifier } of [
    { fact: 'emu/ imports nothing of the project', importer: 'emu/bus.ts', specifier: '#mm' },
    { fact: 'mm/ does not know kvm/', importer: 'mm/kernel.ts', specifier: '#kvm' },
    { fact: 'device models do not know mm/', importer: 'devices/plic.ts', specifier: '#mm' },
    { fact: 'nor their backends', importer: 'devices/plic.ts', specifier: './host/index.ts' },
    { fact: 'no path leaves a folder', importer: 'kvm/vm.ts', specifier: '../mm/types.ts' },
    { fact: 'mm/ has no fourth door', importer: 'kvm/vm.ts', specifier: '#mm/gup/slow.ts' },
    { fact: 'nobody imports testbed/', importer: 'kvm/vm.ts', specifier: '#testbed' },
    { fact: 'no file goes round by its own door', importer: 'kvm/vm.ts', specifier: './index.ts' },
    { fact: 'no package is used', importer: 'testbed/main.ts', specifier: 'vitest' },
  ])
    it(`find that ${fact}`, () => expect(violation(importer, specifier)).toBeDefined());

  it('read imports of every form', () => {
    const text = `import a from './a.ts';\nimport type { B } from "./b.ts";\nexport { c }\n  from './c.ts';
      const d = await import('./d.ts');\nimport './e.ts'; // import './f.ts'`;
    expect(specifiersOf(text)).toEqual(['./a.ts', './b.ts', './c.ts', './d.ts', './e.ts']);
  });
});
