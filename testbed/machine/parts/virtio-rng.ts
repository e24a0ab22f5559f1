/** A virtio-rng in a guest: random bytes from a seeded generator, so that a run can be repeated. */
import { VirtioRng } from '#devices';
import { Rng, type RngState } from '../../rng.ts';
import type { GuestPart, PartKind } from '../part.ts';
import { plugVirtio, type VirtioPlugState } from './virtio.ts';

export interface VirtioRngPartConfig {
  kind: 'virtio-rng';
  /** Of the bytes that the guest gets. Default 1. */
  seed?: number;
  /** It is behind the guest's IOMMU, which is a part before it. Default false. */
  iommu?: boolean;
}

interface State {
  plug: VirtioPlugState;
  rng: RngState;
  bytesGiven: number;
  requests: number;
}

export const VIRTIO_RNG_PART: PartKind<VirtioRngPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const rng = new Rng(config.seed ?? 1);
    const fill = (into: Uint8Array): void => {
      for (let i = 0; i < into.length; i++) into[i] = rng.next();
    };
    const plug = plugVirtio(
      wiring,
      (port) => new VirtioRng({ port, fill }),
      state?.plug,
      config.iommu,
    );
    const { device } = plug;
    if (state !== undefined) {
      rng.restore(state.rng);
      device.bytesGiven = state.bytesGiven;
      device.requests = state.requests;
    }
    return {
      regions: plug.regions,
      nodes: plug.nodes,
      actors: plug.actors,
      save: (): State => ({
        plug: plug.save(),
        rng: rng.save(),
        bytesGiven: device.bytesGiven,
        requests: device.requests,
      }),
      ended: () => plug.ended(),
      release: () => {},
      report: () => ({ requests: device.requests, bytes: device.bytesGiven }),
    };
  },
  hostRamBytes: () => 0,
  virtio: true,
};
