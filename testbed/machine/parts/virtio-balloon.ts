/** A balloon in a guest, which the host inflates and deflates at given times. */
import { VirtioBalloon, type VirtioBalloonState } from '#devices';
import { BalloonHost } from '#devices/host';
import { PAGE_SIZE, VIRTIO_PMEM_GPA } from '#emu';
import { Pump } from '../../actors/pump.ts';
import type { GuestPart, PartKind } from '../part.ts';
import { plugVirtio, type VirtioPlugState } from './virtio.ts';

/** What the host wants, from a moment on. */
export interface BalloonTarget {
  /** Machine time, in instructions. */
  at: number;
  /** Pages of 4 KiB in the balloon. */
  pages: number;
}

export interface VirtioBalloonPartConfig {
  kind: 'virtio-balloon';
  /** Default: a quarter of the guest's memory after 2 million instructions, none after 6 million. */
  targets?: readonly BalloonTarget[];
}

const DEFAULT_INFLATE_AT = 2_000_000;
const DEFAULT_DEFLATE_AT = 6_000_000;

/** Event: the host wants `arg` pages. */
const EVENT_TARGET = 0;

interface State {
  plug: VirtioPlugState;
  balloon: VirtioBalloonState;
  discardedBytes: number;
  keptBytes: number;
}

export const VIRTIO_BALLOON_PART: PartKind<VirtioBalloonPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const { k, mm, vm, clock, name } = wiring;
    const ram = vm.slots.filter(({ gpa }) => gpa < VIRTIO_PMEM_GPA);
    const guestPages = ram.reduce((sum, { lenBytes }) => sum + lenBytes / PAGE_SIZE, 0);
    const { hvaOf, onWritten } = wiring;
    const backend = new BalloonHost({ kernel: k, mm, ram, hvaOf, onWritten });
    const plug = plugVirtio(
      wiring,
      (port) => new VirtioBalloon({ port, backend, guestPages }),
      state?.plug,
    );
    const { device } = plug;
    clock.receive(name, (_kind, pages) => {
      device.setTarget(pages);
      device.askForStats();
    });
    if (state !== undefined) {
      device.restore(state.balloon);
      backend.discardedBytes = state.discardedBytes;
      backend.keptBytes = state.keptBytes;
    } else {
      const targets = config.targets ?? [
        { at: DEFAULT_INFLATE_AT, pages: Math.floor(guestPages / 4) },
        { at: DEFAULT_DEFLATE_AT, pages: 0 },
      ];
      for (const { at, pages } of targets) clock.at(at, name, EVENT_TARGET, pages);
    }
    return {
      regions: plug.regions,
      nodes: plug.nodes,
      actors: [...plug.actors, new Pump(`${name} discard`, backend)],
      save: (): State => ({
        plug: plug.save(),
        balloon: device.save(),
        discardedBytes: backend.discardedBytes,
        keptBytes: backend.keptBytes,
      }),
      ended: () => plug.ended(),
      markUnderWay: () => backend.markUnderWay(),
      release: () => {},
      report: () => ({
        'pages inflated': device.inflated,
        'pages deflated': device.deflated,
        'pages reported free': device.reported,
        'bytes given up': backend.discardedBytes,
        'bytes kept': backend.keptBytes,
      }),
    };
  },
  hostRamBytes: () => 0,
  virtio: true,
};
