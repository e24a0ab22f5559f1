/** The activities that disturb one guest, each with its own stream of random numbers. */
import type { Guest } from '../machine/guest.ts';
import type { HostMachine } from '../machine/host.ts';
import type { Activity, ActivityConfig } from './activity.ts';
import { Forker } from './forker.ts';
import { Harvester } from './harvester.ts';
import { Migrator } from './migrator.ts';
import { Protector } from './protector.ts';
import { Remapper } from './remapper.ts';
import type { Victim } from './targets.ts';

/** Spreads the machine's seed over guests and kinds of activity. */
const streamSeed = (seed: number, stream: number): number =>
  Math.imul(seed + 1, 0x9e37_79b1) ^ Math.imul(stream + 1, 0x85eb_ca6b);

/** In a fixed order, on which the saved states of a machine rely; none for a guest left alone. */
export const activitiesFor = (guest: Guest, host: HostMachine): Activity[] => {
  const gaps = guest.config.activity;
  if (gaps === null) return [];
  const victim: Victim = {
    k: host.k,
    mm: guest.mm,
    harts: guest.vcpus.map((vcpu) => vcpu.hart),
    hostMmu: host.hostHart.mmu,
    ranges: guest.ranges,
    faultingHva: () => guest.faultingHva,
    dma: guest.dmaSide.inFlight,
  };
  const firstStream = guest.vm.vmid * 16;
  const config = (kind: number, meanGap: number): ActivityConfig => ({
    clock: host.clock,
    victim,
    seed: streamSeed(host.config.seed, firstStream + kind),
    meanGap,
    active: () => guest.end === null,
  });
  const name = (what: string): string => `${guest.config.name} ${what}`;
  return [
    new Migrator(name('migrate'), config(0, gaps.migrate)),
    new Protector(name('protect'), config(1, gaps.protect)),
    new Remapper(name('remap'), config(2, gaps.remap)),
    new Forker(name('fork'), config(3, gaps.fork)),
    new Harvester(name('harvest'), config(4, gaps.harvest), host.kvm, guest.vm, () => {
      for (const part of guest.parts) part.markUnderWay?.();
    }),
  ];
};
