/** Runs a host machine to its end, its limit, its saving point or Ctrl-C, and reports. */
import { CSR_VSCAUSE, CSR_VSEPC } from '#emu';
import { exceptionName, type Vcpu } from '#kvm';
import type { HostMachine } from '../machine/host.ts';
import { writeSnapshot } from '../machine/snapshot.ts';
import { endMessage, hostReport } from '../report/host-report.ts';
import { hostSummary } from '../report/host-summary.ts';
import { hex, speedLine } from '../report/numbers.ts';
import { wantsColour } from '../report/table.ts';
import type { SavePlan } from './host-options.ts';
import { reasonOf } from './input.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, FailureError, UsageError } from './usage-error.ts';

export interface HostRunOptions {
  /** Instructions after which to give up. */
  limit: number;
  save: SavePlan | null;
  json: boolean;
  /** Print the summary; without it only what went wrong is printed. */
  summary: boolean;
  /** Power fails after so many instructions; 0: never. */
  powerFailAt?: number;
}

/**
 * The run.
 * @returns the exit code
 * @throws UsageError when the machine cannot be saved where it was to be
 */
export const runHost = async (machine: HostMachine, options: HostRunOptions): Promise<number> => {
  const { limit, save, json, powerFailAt = 0 } = options;
  let stopped: string | null = null;
  const step = (): boolean => {
    if (machine.done) return false;
    const { retired } = machine;
    if (save !== null && retired >= save.at && machine.quiet) {
      stopped = 'saved';
      return false;
    }
    if (machine.powerHasFailed || (powerFailAt > 0 && retired >= powerFailAt)) {
      stopped = 'power-failed';
      return false;
    }
    if (retired >= limit) {
      stopped = 'max-instructions';
      return false;
    }
    // A slice is not cut at the saving point: the run would go on otherwise than one without.
    if (machine.step((powerFailAt > 0 ? Math.min(limit, powerFailAt) : limit) - retired))
      return true;
    stopped = 'asleep';
    return false;
  };
  const { outcome, seconds } = await runLoop(step, (passed) => speedLine(machine.retired, passed));
  if (outcome === 'interrupted') stopped = 'interrupted';
  if (stopped === 'saved' && save !== null) saveTo(machine, save.path);
  else if (stopped === 'power-failed') machine.powerFail();
  else if (stopped === null) machine.tearDown();
  writeFiles(machine);
  for (const guest of machine.guests) if (stopped !== 'saved') guest.console.finish();

  const report = hostReport(machine, stopped, seconds);
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else if (options.summary) {
    const lines = hostSummary(report, wantsColour(process.stdout));
    process.stdout.write(`\n${lines.join('\n')}\n`);
  }
  for (const message of remarks(machine, stopped, options))
    process.stderr.write(`gupbed: ${message}\n`);
  if (stopped === 'interrupted') return EXIT_INTERRUPTED;
  if (stopped === 'saved' || stopped === 'power-failed') return EXIT_OK;
  if (save !== null) return EXIT_FAILED; // it was to be saved, and was not
  return report.ok ? EXIT_OK : EXIT_FAILED;
};

const saveTo = (machine: HostMachine, path: string): void => {
  try {
    writeSnapshot(path, machine.save());
  } catch (error) {
    throw new UsageError(`--save ${path}: ${reasonOf(error)}`);
  }
};

/** What the guests wrote to images goes into their files. */
const writeFiles = (machine: HostMachine): void => {
  try {
    machine.writeBack();
  } catch (error) {
    throw new FailureError(reasonOf(error));
  }
};

/** Where a guest is, and the last exception it had, if it had one. */
const whereabouts = (vcpu: Vcpu): string => {
  const at = `at pc ${hex(vcpu.guestPc)}`;
  const cause = vcpu.hart.readCsr(CSR_VSCAUSE);
  const pc = vcpu.hart.readCsr(CSR_VSEPC);
  const isException = cause < 1n << 63n;
  if (!isException || pc === 0n) return at;
  return `${at}, last exception ${exceptionName(Number(cause))} (cause ${cause}) at pc ${hex(pc)}`;
};

/** How the run ended where that is not as every guest wanted it, a line each. */
const remarks = (
  machine: HostMachine,
  stopped: string | null,
  { save, json, summary }: HostRunOptions,
): string[] => {
  const lines = machine.guests.map(endMessage).filter((line) => line !== null);
  const where = (): string =>
    machine.guests
      .filter((guest) => guest.end === null)
      .map((guest) => `${guest.config.name} ${whereabouts(guest.vcpus[0]!)}`)
      .join(', ');
  switch (stopped) {
    case 'max-instructions':
      lines.push(`--max-instructions reached: ${where()}`);
      break;
    case 'asleep':
      lines.push(`every vCPU waits and no event is due: ${where()}`);
      break;
    case 'interrupted':
      lines.push(`interrupted: ${where()}`);
      break;
    case 'power-failed':
      lines.push(`power failed after ${machine.retired} instructions: ${where()}`);
      break;
    case 'saved':
      lines.push(`saved after ${machine.retired} instructions to ${save?.path}`);
      break;
  }
  if (stopped === null && save !== null)
    lines.push(
      `--save ${save.path}: nothing saved, the run ended after ${machine.retired} instructions`,
    );
  if (!json && !summary)
    for (const violation of machine.violations) lines.push(`sanitizer: ${violation}`);
  return lines;
};
