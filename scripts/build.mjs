#!/usr/bin/env node
/**
 * Builds dist/: gupbed.js, the command line in one file; gupbed-explore.js, the same with the
 * exploring #cells; and one file for every door that package.json exports, with what they share
 * split into chunks.
 */
import { readFileSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const dist = join(root, 'dist');

/** Doors by the name of their file in dist/: the `types` of an export is its source. */
const doors = Object.fromEntries(
  Object.values(manifest.exports)
    .filter((target) => typeof target === 'object')
    .map((target) => [basename(target.default, '.js'), join(root, target.types)]),
);

const shared = {
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  outdir: dist,
  logLevel: 'warning',
  define: { GUPBED_VERSION: JSON.stringify(manifest.version) },
};

rmSync(dist, { recursive: true, force: true });
// A file of its own, so that it starts by reading one file; esbuild keeps its #! line.
await build({ ...shared, entryPoints: { gupbed: join(root, 'testbed/main.ts') } });
await build({
  ...shared,
  entryPoints: { 'gupbed-explore': join(root, 'testbed/main.ts') },
  conditions: ['explore'],
});
await build({ ...shared, entryPoints: doors, splitting: true, chunkNames: 'chunk-[hash]' });

const kib = Math.round(statSync(join(dist, 'gupbed.js')).size / 1024);
console.log(`dist/gupbed.js ${kib} KiB, and ${Object.keys(doors).length} doors`);
