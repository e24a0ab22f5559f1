/** A virtio-console in a guest: what comes out of it are lines of the guest's console on the host. */
import { VirtioConsole, type VirtioConsoleState } from '#devices';
import type { GuestPart, PartKind } from '../part.ts';
import { plugVirtio, type VirtioPlugState } from './virtio.ts';

const COLS = 80;
const ROWS = 25;

export interface VirtioConsolePartConfig {
  kind: 'virtio-console';
  /** Waits at the console from the start. Default nothing. */
  input?: string;
  /** Names of the ports behind the console itself, which send back what they are sent. Default none. */
  echoPorts?: string[];
}

interface State {
  plug: VirtioPlugState;
  console: VirtioConsoleState;
}

export const VIRTIO_CONSOLE_PART: PartKind<VirtioConsolePartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const plug = plugVirtio(
      wiring,
      (port) => {
        const device: VirtioConsole = new VirtioConsole({
          port,
          clock: wiring.clock,
          name: wiring.name,
          cols: COLS,
          rows: ROWS,
          ports: ['console', ...(config.echoPorts ?? [])],
          onByte: (number, byte) => {
            if (number === 0) wiring.putConsole(byte);
            else device.receive(number, Uint8Array.of(byte));
          },
        });
        return device;
      },
      state?.plug,
    );
    const { device } = plug;
    if (state !== undefined) device.restore(state.console);
    else device.receive(0, new TextEncoder().encode(config.input ?? ''));
    return {
      regions: plug.regions,
      nodes: plug.nodes,
      actors: plug.actors,
      save: (): State => ({ plug: plug.save(), console: device.save() }),
      ended: () => plug.ended(),
      release: () => {},
      report: () => ({ 'bytes out': device.bytesOut, 'bytes in': device.bytesIn }),
    };
  },
  hostRamBytes: () => 0,
  virtio: true,
};
