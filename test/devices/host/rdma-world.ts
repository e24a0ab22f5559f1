/**
 * A process with an RDMA NIC of its own, its regions pinned or paged on demand, and a peer at the other
 * end of the wire: another process, with regions of the other kind if a test wants it.
 */
import { BusPort, RdmaNic, RdmaWire } from '#devices';
import { RdmaOdpRegions, RdmaPinnedRegions } from '#devices/host';
import { PAGE_SIZE } from '#emu';
import { allocPages, drive, freePages, GFP_KERNEL, type HostProcess, type Kernel } from '#mm';
import { ACCESS, ALL, Host, poll, post, type Qp, type QpOptions } from '../rdma/pair.ts';
import { Clock, runTo } from '../support/wires.ts';

/** Kernel memory for the queues of one NIC: 2^7 pages. */
const QUEUE_ORDER = 7;

export type Kind = 'pin' | 'odp';

/** A NIC with its driver, for a process. */
export interface Node {
  host: Host;
  regions: RdmaPinnedRegions | RdmaOdpRegions;
  qp: Qp;
  queues: number;
  written: [number, number][];
}

export interface RdmaWorld {
  k: Kernel;
  clock: Clock;
  wire: RdmaWire;
  a: Node;
  b: Node;
  /** Until nothing is due and nothing to do. @param work false: the memory's work is left undone */
  settle(work?: boolean): void;
  /** NICs are reset and their memory given back. */
  end(): void;
}

/** Connects NICs of two processes. */
export const rdmaWorld = (
  a: HostProcess,
  kindA: Kind,
  b: HostProcess,
  kindB: Kind,
  options: QpOptions = {},
): RdmaWorld => {
  const { k } = a;
  const clock = new Clock();
  const wire = new RdmaWire({ clock, name: 'wire' });
  const node = (side: 0 | 1, { mm }: HostProcess, kind: Kind): Node => {
    const written: [number, number][] = [];
    const config = {
      kernel: k,
      mm,
      hvaOf: (hva: number) => hva,
      onWritten: (at: number, n: number) => void written.push([at, n]),
    };
    const regions = kind === 'pin' ? new RdmaPinnedRegions(config) : new RdmaOdpRegions(config);
    const queues = allocPages(k, QUEUE_ORDER, GFP_KERNEL);
    const nic = (irq: { set(level: boolean): void }): RdmaNic => {
      const port = new BusPort(k.memory);
      return new RdmaNic({ clock, irq, port, regions, link: wire.end(side), name: `nic${side}` });
    };
    const host = new Host(nic, k.memory, queues, () => {
      if (regions.pendingWork() > 0) drive(regions.work());
    });
    return { host, regions, qp: host.createQp({ timeout: 8, ...options }), queues, written };
  };
  const [first, second] = [node(0, a, kindA), node(1, b, kindB)];
  first.host.connect(first.qp, second.qp);
  second.host.connect(second.qp, first.qp);
  const pump = (): boolean => {
    const busy = [first, second].filter(({ regions }) => regions.pendingWork() > 0);
    for (const { regions } of busy) drive(regions.work());
    return busy.length > 0;
  };
  const settle = (work = true): void => {
    const end = clock.now + 50_000_000;
    for (let turn = 0; ; turn++) {
      if (turn > 100_000) throw new Error('no end');
      if (work && pump()) continue;
      if (clock.nextAt > end) return;
      runTo(clock, clock.nextAt);
    }
  };
  const end = (): void => {
    for (const { host } of [first, second]) host.nic.reset();
    settle();
    for (const { queues } of [first, second]) freePages(k, queues, QUEUE_ORDER);
  };
  return { k, clock, wire, a: first, b: second, settle, end };
};

/** Registers memory of a node's process, with every right unless told otherwise. @returns keys; or the errno */
export const register = (
  { host }: Node,
  hva: number,
  lenBytes: number,
  access = ALL,
): { lkey: number; rkey: number } | number => {
  const wide = (value: number): number[] => [value % 2 ** 32, Math.floor(value / 2 ** 32)];
  const result = host.command(3, host.pd, access, ...wide(hva), ...wide(hva), ...wide(lenBytes));
  return typeof result === 'number' ? result : { lkey: result[0], rkey: result[1] };
};

/** As register, where it has to succeed. */
export const registered = (node: Node, hva: number, lenBytes: number, access = ALL) => {
  const keys = register(node, hva, lenBytes, access);
  if (typeof keys === 'number') throw new Error(`REG_MR: errno ${keys}`);
  return keys;
};

/** Posts a request of one piece and settles. @returns status of its completion, -1: none */
export const move = (
  w: RdmaWorld,
  from: Node,
  op: number,
  local: { at: number; len: number; key: number },
  remote: number,
  rkey: number,
): number => {
  post(from.qp, { op, pieces: local.len > 0 ? [local] : [], remote, rkey });
  w.settle();
  return poll(from.qp)[0]?.status ?? -1;
};

export { ACCESS, ALL, PAGE_SIZE };
