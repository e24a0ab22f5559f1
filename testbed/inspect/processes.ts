/** `gupbed inspect FILE processes`: the address spaces of a machine. */
import type { MmStruct } from '#mm';
import { alignRows } from '../report/table.ts';
import type { Inspected, NamedProcess } from './kernel.ts';

/** One process; sizes in KiB, as /proc/PID/status has them. */
export interface ProcessRow {
  pid: number;
  name: string;
  vmas: number;
  VmSize: number;
  RssAnon: number;
  RssFile: number;
  VmSwap: number;
  HugetlbPages: number;
  VmPTE: number;
  VmLck: number;
  VmPin: number;
}

/** A guest's VMM has the guest's name; whom it forked has none. */
export const processName = ({ guest }: NamedProcess): string => guest ?? '-';

const rowOf = (process: NamedProcess, mm: MmStruct): ProcessRow => ({
  pid: process.pid,
  name: processName(process),
  vmas: mm.vmas.length,
  VmSize: mm.vmas.reduce((sum, { start, end }) => sum + (end - start), 0) / 1024,
  RssAnon: mm.rssAnon * 4,
  RssFile: mm.rssFile * 4,
  VmSwap: mm.rssSwap * 4,
  HugetlbPages: mm.hugetlbUsage * 4,
  VmPTE: mm.nrTables * 4,
  VmLck: mm.lockedVm * 4,
  VmPin: mm.pinnedVm * 4,
});

export const processRows = ({ k, processes }: Inspected): ProcessRow[] =>
  processes.flatMap((process) => {
    const mm = k.state.mms.get(process.pid);
    return mm === undefined ? [] : [rowOf(process, mm)];
  });

export const processTable = (rows: ProcessRow[]): string => {
  const head = [
    'PID',
    'name',
    'VMAs',
    'VmSize',
    'RssAnon',
    'RssFile',
    'VmSwap',
    'Hugetlb',
    'VmPTE',
  ];
  const lines = rows.map((row) => [
    String(row.pid),
    row.name,
    String(row.vmas),
    ...[row.VmSize, row.RssAnon, row.RssFile, row.VmSwap, row.HugetlbPages, row.VmPTE].map(
      (kib) => `${kib} kB`,
    ),
  ]);
  return `${alignRows([head, ...lines]).join('\n')}\n`;
};
