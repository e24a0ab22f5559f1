/**
 * `npm run test:long`: the random driver for a million operations, the sanitizer on.
 *
 *   npm run test:long -- [--operations N] [--seed N] [--policy NAME] [--ram MIB]
 */
import { parseArgs } from 'node:util';
import { isPolicyName } from '#mm';
import { createRandomDriver, runRandom } from '../mm/random/setup.ts';

const { values } = parseArgs({
  options: {
    operations: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    policy: { type: 'string', default: 'target' },
    ram: { type: 'string', default: '48' },
  },
});
const operations = Number(values.operations);
const seed = Number(values.seed);
const ramMib = Number(values.ram);
const { policy } = values;
if (!Number.isSafeInteger(operations) || operations < 1 || !Number.isSafeInteger(seed))
  throw new Error('--operations and --seed take whole numbers');
if (!(ramMib >= 0.5 && ramMib <= 3584)) throw new Error('--ram takes MiB, 0.5 to 3584');
if (!isPolicyName(policy)) throw new Error(`--policy ${policy} is not a policy`);

const start = performance.now();
const driver = createRandomDriver({ seed, policy, ramBytes: ramMib * 2 ** 20 });
let shown = start;
const failure = runRandom(driver, operations, (begun) => {
  if (!process.stderr.isTTY || performance.now() - shown < 1000) return;
  shown = performance.now();
  process.stderr.write(`\r${begun} of ${operations} operations `);
});
if (process.stderr.isTTY) process.stderr.write('\r\u001b[K');
const seconds = ((performance.now() - start) / 1000).toFixed(0);
const counted = [...driver.counts].sort(([a], [b]) => a.localeCompare(b));
process.stdout.write(`${counted.map(([name, n]) => `${name} ${n}`).join(', ')}\n\n`);
process.stdout.write(
  `seed ${seed}, policy ${policy}: ${driver.begun} operations, ${driver.now} steps, ${seconds} s, digest ${driver.digest().toString(16)}\n`,
);
for (const [rule, n] of driver.predicted) process.stdout.write(`predicted ${n} times: ${rule}\n`);
if (failure !== null) {
  process.stdout.write(`FAILED after ${failure.operations} operations:\n`);
  process.stdout.write(`${failure.problems.slice(0, 20).join('\n')}\n`);
  process.exitCode = 1;
} else {
  process.stdout.write('every byte explained, no invariant broken, nothing left over\n');
}
