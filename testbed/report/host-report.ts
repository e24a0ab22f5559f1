/**
 * What a run on the host amounted to, as one JSON-able object. Everything outside the key `host` is
 * the same in every run of one input and seed; every number was counted in this run.
 */
import { MMU_NOTIFY_PROTECTION_PAGE, MMU_NOTIFY_PROTECTION_VMA, MMU_NOTIFY_SOFT_DIRTY } from '#mm';
import type { Guest, GuestEnd } from '../machine/guest.ts';
import type { HostMachine } from '../machine/host.ts';
import { hex, mips } from './numbers.ts';

/** A guest's part of it. */
export interface GuestReport {
  name: string;
  memoryBytes: number;
  harts: number;
  instructions: number;
  output: readonly string[];
  end: Record<string, string | number> | null;
  /** The guest ended by itself and reported no failure. */
  ok: boolean;
  exits: Record<string, number>;
  sbiCalls: Record<string, number>;
  gstageFaults: { read: number; write: number; exec: number; retries: number };
  invalidations: { total: number; zapped: number; zappedInTlb: number };
  /** Entries that write-protection removed while a hart's TLB held their frame. */
  protectionsInTlb: number;
  dirtyLog: { harvests: number; pages: number };
  dma: { transfers: number; bytesWritten: number };
  /** What each part of the guest counted, by kind. */
  parts: { kind: string; counts: Record<string, number | string> }[];
  tlb: TlbReport;
  activity: Record<string, Record<string, number>>;
}

/** Of all harts of a guest. The hit rate is that of loads and stores; fetches are not counted as accesses. */
export interface TlbReport {
  accesses: number;
  misses: { read: number; write: number; exec: number };
  hitRate: number;
  walks: number;
  walkSteps: number;
  flushes: number;
}

/** The whole, as --json prints it. */
export interface HostReport {
  seed: number;
  policy: string;
  instructions: number;
  time: number;
  ok: boolean;
  stopped: string | null;
  guests: GuestReport[];
  kernel: Record<string, number>;
  /** What the host's IOMMU and its driver did; null without one. */
  iommu: Record<string, number> | null;
  sanitizer: { passes: number; violations: readonly string[] };
  host: { seconds: number; mips: number; rssMiB: number };
}

/**
 * The report of a run.
 * @param stopped why the run ended before its guests did; null when they ended
 * @param seconds of host time that the run took
 */
export const hostReport = (
  machine: HostMachine,
  stopped: string | null,
  seconds: number,
): HostReport => {
  const guests = machine.guests.map((guest) => guestReport(guest, machine));
  return {
    seed: machine.config.seed,
    policy: machine.config.policy,
    instructions: machine.retired,
    time: machine.clock.now,
    ok: stopped === null && guests.every((g) => g.ok) && machine.violations.length === 0,
    stopped,
    guests,
    kernel: { ...machine.k.state.stat },
    iommu: machine.iommu?.report ?? null,
    sanitizer: { passes: machine.sanitizerPasses, violations: machine.violations },
    host: {
      seconds,
      mips: mips(machine.retired, seconds),
      rssMiB: Math.round(process.memoryUsage.rss() / 2 ** 20),
    },
  };
};

const guestReport = (guest: Guest, machine: HostMachine): GuestReport => {
  const { stat } = guest.vm;
  const byEvent = stat.zapsInTlbByEvent;
  const struck = (...events: number[]): number => events.reduce((n, e) => n + (byEvent[e] ?? 0), 0);
  return {
    name: guest.config.name,
    memoryBytes: guest.config.memoryBytes,
    harts: guest.config.harts,
    instructions: guest.vcpus.reduce((sum, vcpu) => sum + vcpu.state.retired, 0),
    output: guest.console.lines,
    end: guest.end === null ? null : endReport(guest.end),
    ok: guest.end !== null && endedWell(guest.end),
    exits: { ...stat.exits },
    sbiCalls: { ...stat.sbiCalls },
    gstageFaults: {
      read: stat.gstageFaultsRead,
      write: stat.gstageFaultsWrite,
      exec: stat.gstageFaultsExec,
      retries: stat.faultRetries,
    },
    invalidations: {
      total: stat.invalidations,
      zapped: stat.zaps,
      zappedInTlb: stat.zapsInTlb,
    },
    protectionsInTlb: struck(
      MMU_NOTIFY_PROTECTION_PAGE,
      MMU_NOTIFY_PROTECTION_VMA,
      MMU_NOTIFY_SOFT_DIRTY,
    ),
    dirtyLog: { harvests: stat.dirtyHarvests, pages: stat.dirtyPages },
    dma: {
      transfers: guest.dmaSide.counts.transfers,
      bytesWritten: guest.dmaSide.counts.bytesWritten,
    },
    parts: (guest.config.parts ?? []).map(({ kind }, i) => ({
      kind,
      counts: guest.parts[i]!.report(),
    })),
    tlb: tlbReport(guest),
    activity: activityReport(guest, machine),
  };
};

const tlbReport = (guest: Guest): TlbReport => {
  const total: TlbReport = {
    accesses: 0,
    misses: { read: 0, write: 0, exec: 0 },
    hitRate: 0,
    walks: 0,
    walkSteps: 0,
    flushes: 0,
  };
  for (const { hart } of guest.vcpus) {
    const counts = hart.mmu.counts();
    total.accesses += hart.counts().accesses;
    total.misses.read += counts.tlbMissRead;
    total.misses.write += counts.tlbMissWrite;
    total.misses.exec += counts.tlbMissExec;
    total.walks += counts.walks;
    total.walkSteps += counts.walkSteps;
    total.flushes += counts.flushes;
  }
  const missed = total.misses.read + total.misses.write;
  total.hitRate = total.accesses === 0 ? 0 : 1 - missed / total.accesses;
  return total;
};

const activityReport = (
  guest: Guest,
  machine: HostMachine,
): Record<string, Record<string, number>> => {
  const prefix = `${guest.config.name} `;
  const report: Record<string, Record<string, number>> = {};
  for (const activity of machine.activities)
    if (activity.name.startsWith(prefix))
      report[activity.name.slice(prefix.length)] = { ...activity.counts };
  return report;
};

/** SRST with reason 0, or the finisher's pass or reset. */
const endedWell = (end: GuestEnd): boolean => {
  if (end.kind === 'shutdown') return end.resetReason === 0;
  return end.kind === 'finisher' && end.request !== 'fail';
};

const endReport = (end: GuestEnd): Record<string, string | number> => {
  if (end.kind !== 'error') return { ...end };
  const { kind, vcpu, cause, message } = end;
  const where: Record<string, string> = end.gpa < 0 ? {} : { gpa: hex(end.gpa) };
  return { kind, vcpu, pc: hex(end.pc), cause, ...where, message };
};

/** One line for a person: how a guest ended, where that was not a clean shutdown. */
export const endMessage = (guest: Guest): string | null => {
  const { end } = guest;
  if (end === null || endedWell(end)) return null;
  const who = guest.config.name;
  switch (end.kind) {
    case 'shutdown':
      return `${who}: the guest shut down with reason ${end.resetReason} (system failure)`;
    case 'finisher':
      return `${who}: the guest failed with code ${end.code}`;
    case 'error':
      return `${who}: vcpu ${end.vcpu} stopped at pc ${hex(end.pc)}, cause ${end.cause}: ${end.message}`;
  }
};
