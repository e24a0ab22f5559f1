/** The summary of a run on the host, for a person to read. */
import type { GuestReport, HostReport } from './host-report.ts';
import { withCommas } from './numbers.ts';
import { alignRows, paint } from './table.ts';

/** Lines of the summary. @param colour emphasise for a terminal */
export const hostSummary = (report: HostReport, colour: boolean): string[] => {
  const { guests, kernel, host } = report;
  const n = withCommas;
  const head = ['', ...guests.map((g) => g.name)];
  const rows: string[][] = [head];
  const row = (name: string, value: (g: GuestReport) => string): void => {
    rows.push([name, ...guests.map(value)]);
  };
  row('instructions', (g) => n(g.instructions));
  row('exits: G-stage fault', (g) => n(g.exits['fault'] ?? 0));
  row('exits: MMIO', (g) => n(g.exits['mmio'] ?? 0));
  row('exits: WFI', (g) => n(g.exits['wfi'] ?? 0));
  row('SBI calls', (g) => n(Object.values(g.sbiCalls).reduce((a, b) => a + b, 0)));
  row('G-stage faults read/write/exec', ({ gstageFaults: f }) =>
    [f.read, f.write, f.exec].map(n).join(' / '),
  );
  row('secondary faults retried', (g) => n(g.gstageFaults.retries));
  row('TLB hit rate', (g) => `${(100 * g.tlb.hitRate).toFixed(3)} %`);
  row('page walks', (g) => n(g.tlb.walks));
  row('walk steps per walk', (g) => (g.tlb.walkSteps / Math.max(1, g.tlb.walks)).toFixed(2));
  row('notifier invalidations', (g) => n(g.invalidations.total));
  row(
    'entries zapped, of them in a TLB',
    ({ invalidations: i }) => `${n(i.zapped)} / ${n(i.zappedInTlb)}`,
  );
  row('write-protections that hit a TLB', (g) => n(g.protectionsInTlb));
  row('DMA transfers', (g) => n(g.dma.transfers));
  const has = (kind: string): boolean => guests.some((g) => g.activity[kind] !== undefined);
  const activity = (name: string, kind: string, what: string): void => {
    if (has(kind)) row(name, (g) => n(g.activity[kind]?.[what] ?? 0));
  };
  activity('pages migrated', 'migrate', 'moved');
  activity('of them held by a TLB', 'migrate', 'movedFromTlb');
  activity('migrations refused: pinned', 'migrate', 'refusedPinned');
  activity('migrations refused: referenced', 'migrate', 'refusedReferenced');
  activity('migrations with DMA in flight', 'migrate', 'withDma');
  activity('protections with DMA in flight', 'protect', 'withDma');
  activity('protections of pages under DMA', 'protect', 'underDma');
  activity('stretches remapped', 'remap', 'remapped');
  activity('forks', 'fork', 'forked');
  activity('dirty-log harvests', 'harvest', 'harvests');
  activity('clean pages verified', 'harvest', 'cleanPagesChecked');
  const lines = alignRows(rows);
  lines[0] = paint(colour, 'bold', lines[0]!);
  lines.push('');
  lines.push(
    `host kernel: ${n(kernel['pgfault'] ?? 0)} faults, ${n(kernel['cow_copied'] ?? 0)} copies on write, ` +
      `${n(kernel['cow_reused'] ?? 0)} reused, ${n(kernel['fork_copied_pinned'] ?? 0)} pinned pages copied at fork`,
  );
  const pins = `pins: ${n(kernel['nr_foll_pin_acquired'] ?? 0)} taken, ${n(kernel['nr_foll_pin_released'] ?? 0)} released`;
  lines.push(`${pins}; TLB shootdowns: ${n(kernel['tlb_shootdowns'] ?? 0)}`);
  lines.push(verdict(report, colour));
  lines.push(
    paint(
      colour,
      'dim',
      `${(report.instructions / 1e6).toFixed(1)} M instructions in ${host.seconds.toFixed(2)} s: ` +
        `${host.mips.toFixed(0)} MIPS, ${host.rssMiB} MiB resident; seed ${report.seed}, policy ${report.policy}`,
    ),
  );
  return lines;
};

const verdict = ({ sanitizer }: HostReport, colour: boolean): string => {
  const { passes, violations } = sanitizer;
  if (violations.length === 0)
    return `sanitizer: ${paint(colour, 'green', 'clean')}, ${passes} passes over every frame and table`;
  const shown = violations.slice(0, 10).map((violation) => `\n  ${violation}`);
  const more = violations.length > 10 ? `\n  and ${violations.length - 10} more` : '';
  return `sanitizer: ${paint(colour, 'red', `${violations.length} violations`)}${shown.join('')}${more}`;
};
