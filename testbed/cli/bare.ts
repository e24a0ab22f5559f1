/** `gupbed bare`: a bare-metal program on the emulated board. */
import { CSR_MCAUSE, CSR_MEPC } from '#emu';
import { type BareEnd, BareMachine } from '../machine/bare.ts';
import { putParameters } from '../machine/parameters.ts';
import { hex, mips, speedLine } from '../report/numbers.ts';
import { trapName } from '../report/trap-names.ts';
import { parseCommandLine, parseCount, parseSize } from './args.ts';
import { limitOf, parametersOf, RUN_OPTIONS, wantsJson } from './host-options.ts';
import { readElf, refusingElf, withRoomFor } from './input.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UsageError } from './usage-error.ts';

const MIB = 2 ** 20;

/** How the run ended, as text for people and as facts for --json. */
interface Ending {
  kind: BareEnd['kind'] | 'limit' | 'interrupted';
  code: number;
  message: string;
  pc: string;
  cause?: number;
}

export const bareCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('bare', words, {
    memory: { type: 'string', default: '64M' },
    harts: { type: 'string', default: '1' },
    iommu: { type: 'boolean' },
    param: { type: 'string', multiple: true },
    ...RUN_OPTIONS,
  });
  const { values, positionals } = args;
  if (positionals.length !== 1)
    throw new UsageError('bare: name one program, as in: gupbed bare FILE.elf');
  const file = positionals[0]!;
  const ramBytes = parseSize('--memory', String(values['memory']), MIB, 3072 * MIB);
  const harts = parseCount('--harts', String(values['harts']), 1, 8);
  const iommu = values['iommu'] === true;
  const limit = limitOf(args);
  const json = wantsJson(args);
  const image = putParameters(readElf(file), parametersOf(args));
  const onLine = (line: string): void => {
    if (!json) process.stdout.write(`${line}\n`);
  };
  const machine = withRoomFor(ramBytes, () => new BareMachine({ ramBytes, harts, iommu, onLine }));
  refusingElf(file, () => machine.load(image));
  let left = limit;
  const { outcome, seconds } = await runLoop(
    () => {
      left -= machine.step(left);
      return machine.end === null && left > 0;
    },
    (passed) => speedLine(machine.retired, passed),
  );
  machine.console.finish();
  const ending = endingOf(machine, outcome === 'interrupted');
  if (json) {
    const report = {
      program: file,
      ramBytes,
      harts,
      instructions: machine.retired,
      time: machine.clock.now,
      output: machine.console.lines,
      end: ending,
      host: { seconds, mips: mips(machine.retired, seconds) },
    };
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  }
  if (ending.code !== EXIT_OK) process.stderr.write(`gupbed: ${ending.message}\n`);
  return ending.code;
};

const endingOf = (machine: BareMachine, interrupted: boolean): Ending => {
  const { end } = machine;
  const first = machine.harts[0]!;
  const pc = hex(first.pc);
  if (end === null) {
    if (interrupted)
      return {
        kind: 'interrupted',
        code: EXIT_INTERRUPTED,
        message: `interrupted at pc ${pc}`,
        pc,
      };
    const message = `stopped at pc ${pc} after ${machine.retired} instructions: --max-instructions reached`;
    return { kind: 'limit', code: EXIT_FAILED, message, pc };
  }
  switch (end.kind) {
    case 'finished': {
      const { kind, code } = end.request;
      if (kind !== 'fail') return { kind: 'finished', code: EXIT_OK, message: kind, pc };
      return {
        kind: 'finished',
        code: EXIT_FAILED,
        message: `the program failed with code ${code}`,
        pc,
      };
    }
    case 'trap-loop': {
      const hart = machine.harts[end.hart]!;
      const { cause, pc: trappedAt } = hart.firstTrap;
      const at = hex(trappedAt);
      const last = Number(hart.readCsr(CSR_MCAUSE));
      const message = `hart ${end.hart}: ${trapName(cause)} (cause ${cause}) at pc ${at}, and no end of traps after it: ${trapName(last)} at pc ${hex(hart.readCsr(CSR_MEPC))}`;
      return { kind: 'trap-loop', code: EXIT_FAILED, message, pc: at, cause };
    }
    case 'asleep':
      return {
        kind: 'asleep',
        code: EXIT_FAILED,
        message: `every hart waits for an interrupt and no event is due; hart 0 at pc ${pc}`,
        pc,
      };
  }
};
