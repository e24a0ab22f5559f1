/**
 * Suite `dma`: what the DMA engine moves through the host's IOMMU: off, hit, miss, and with a cache of
 * translations in the device; over 4 KiB pages that are nowhere contiguous, and over 2 MiB pages. Beside
 * it Uint8Array.set of the same bytes, piece by piece. And what mapping costs a driver. A sample is the
 * best of several short passes, of both sides.
 */
import { Atc, BusPort, DmaEngine, type DmaEnginePort, IommuPort } from '#devices';
import {
  DMA_BIDIRECTIONAL,
  type DmaDevice,
  DmaDevicePort,
  directDevice,
  dmaMapSg,
  type DmaRun,
  type DmaSg,
  dmaUnmapSg,
  HostIommu,
  type IommuMode,
} from '#devices/host';
import { Clock, PAGE_SIZE, PhysMemory } from '#emu';
import { allocPages, createKernel, createPolicy, drive, type Kernel } from '#mm';
import type { Samples } from './row.ts';
import type { Announce } from './translate.ts';

const MIB = 2 ** 20;
/** Of one descriptor: the most that there is. */
const DESCRIPTOR_BYTES = MIB;
const PAGES = DESCRIPTOR_BYTES / PAGE_SIZE;
const PMD_ORDER = 9;
const ENGINE_RING = 0x10;
const ENGINE_RING_SIZE = 0x18;
const ENGINE_TAIL = 0x20;
const ENGINE_HEAD = 0x1c;
const ENGINE_LATENCY = 0x28;
const LIST_FLAGS = 6; // source and destination are lists
const BARE_SET = 'Uint8Array.set';
/** Descriptors before the first that counts, of one pass; passes of a sample. */
const WARM_UP = 200;
const DESCRIPTORS = 12;
const PASSES = 6;
const TRANSLATIONS = 200_000;
const MAPPINGS = 50;

/** How the engine's addresses are translated. */
type Way = 'off' | 'hit' | 'miss' | 'ATS';

/** A machine with an engine over memory of one page size. */
interface Subject {
  what: string;
  way: Way;
  memory: PhysMemory;
  host: HostIommu;
  engine: DmaEngine;
  clock: Clock;
  /** Offsets of the pieces, and how long they are: for the peer. */
  from: number[];
  to: number[];
  pieceBytes: number;
}

const createHost = (): { k: Kernel; clock: Clock; host: HostIommu } => {
  const k = createKernel({
    memory: new PhysMemory(32 * MIB),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  const clock = new Clock();
  return { k, clock, host: new HostIommu({ kernel: k, clock, name: 'iommu' }) };
};

/** Frames for DESCRIPTOR_BYTES: of 2 MiB pages, or none beside another. */
const framesOf = (k: Kernel, huge: boolean): DmaRun[] => {
  if (huge) return [{ page: allocPages(k, PMD_ORDER, 0), nr: 1 << PMD_ORDER }];
  const runs: DmaRun[] = [];
  for (let i = 0; i < PAGES; i++) {
    runs.push({ page: allocPages(k, 0, 0), nr: 1 });
    allocPages(k, 0, 0);
  }
  return runs;
};

const mapped = (device: DmaDevice, runs: readonly DmaRun[]): DmaSg => {
  const sg = drive(dmaMapSg(device, runs, DMA_BIDIRECTIONAL, 'bench'));
  if (typeof sg === 'number') throw new Error(`bench dma: not mapped: ${sg}`);
  return sg;
};

const attached = (host: HostIommu, mode: IommuMode, ats: boolean): DmaDevice => {
  const device = host.attachDevice(1, { mode, name: 'bench', ats });
  if (typeof device === 'number') throw new Error(`bench dma: not attached: ${device}`);
  return device;
};

/** The engine's port, and the device it is. */
const portOf = (k: Kernel, host: HostIommu, way: Way): [DmaDevice, DmaEnginePort] => {
  if (way === 'off') {
    const device = directDevice(k, 'bench');
    return [device, new DmaDevicePort({ device, iommu: null })];
  }
  const device = attached(host, 'strict', way === 'ATS');
  if (way !== 'ATS') return [device, new DmaDevicePort({ device, iommu: host.model })];
  const memory = new BusPort(k.memory);
  const ats = new IommuPort({ iommu: host.model, deviceId: 1, memory, atc: new Atc() });
  const iommu = {
    translate: (_id: number, _process: number, iova: number, write: boolean) =>
      ats.translate(iova, write),
    reachOf: (iova: number) => PAGE_SIZE - (iova % PAGE_SIZE),
  };
  return [device, new DmaDevicePort({ device, iommu })];
};

/** Lists of both sides as the engine reads them: an entry for each piece of `pieceBytes`. */
const putList = (view: DataView, at: number, sg: DmaSg, pieceBytes: number): number => {
  let entry = at;
  sg.address.forEach((address, i) => {
    for (let done = 0; done < Math.min(sg.lenBytes[i]!, DESCRIPTOR_BYTES); done += pieceBytes) {
      view.setBigUint64(entry, BigInt(address + done), true);
      view.setUint32(entry + 8, Math.min(pieceBytes, sg.lenBytes[i]! - done), true);
      entry += 16;
    }
  });
  return entry;
};

/** @param merged lists as the driver makes them, contiguous bus addresses in one entry; else an entry a page */
const createSubject = (huge: boolean, way: Way, merged: boolean): Subject => {
  const { k, clock, host } = createHost();
  const [device, port] = portOf(k, host, way);
  const [fromRuns, toRuns] = [framesOf(k, huge), framesOf(k, huge)];
  const from = mapped(device, fromRuns);
  const to = mapped(device, toRuns);
  const rings: DmaRun[] = [{ page: allocPages(k, 2, 1), nr: 4 }];
  const ring = mapped(device, rings).address[0]!;
  const offset = k.memory.pageOffset(rings[0]!.page);
  const view = new DataView(k.memory.wasm.buffer);
  // One descriptor again and again: the first page is the ring, the lists follow.
  view.setBigUint64(offset, BigInt(ring + PAGE_SIZE), true);
  view.setBigUint64(offset + 8, BigInt(ring + 2 * PAGE_SIZE), true);
  view.setUint32(offset + 16, DESCRIPTOR_BYTES, true);
  view.setUint32(offset + 20, LIST_FLAGS, true);
  const pieceBytes = huge ? DESCRIPTOR_BYTES : PAGE_SIZE;
  const entryBytes = merged ? DESCRIPTOR_BYTES : pieceBytes;
  putList(view, offset + PAGE_SIZE, from, entryBytes);
  putList(view, offset + 2 * PAGE_SIZE, to, entryBytes);
  const engine = new DmaEngine({ clock, irq: { set: () => {} }, port });
  engine.write(ENGINE_RING, 4, ring % 2 ** 32);
  engine.write(ENGINE_RING + 4, 4, Math.floor(ring / 2 ** 32));
  engine.write(ENGINE_RING_SIZE, 4, 1);
  engine.write(ENGINE_LATENCY, 4, 0);
  engine.write(0x08, 4, 1);
  const offsets = (runs: DmaRun[]): number[] => runs.map(({ page }) => k.memory.pageOffset(page));
  const pieces = { from: offsets(fromRuns), to: offsets(toRuns), pieceBytes };
  const what = `${huge ? '2 MiB' : '4 KiB'} pages, ${way}`;
  return { what, way, memory: k.memory, host, engine, clock, ...pieces };
};

/** Nanoseconds a descriptor, of `n`. */
const runDescriptors = (subject: Subject, n: number): number => {
  const { engine, clock, host, way } = subject;
  const head = engine.read(ENGINE_HEAD, 4);
  const begin = performance.now();
  for (let i = 1; i <= n; i++) {
    if (way === 'miss') host.model.invalidateVma(-1, -1, -1);
    engine.write(ENGINE_TAIL, 4, head + i);
    clock.deliverDue();
  }
  const took = ((performance.now() - begin) * 1e6) / n;
  if (engine.read(ENGINE_HEAD, 4) !== (head + n) >>> 0) throw new Error('bench dma: no completion');
  if ((engine.read(0x0c, 4) & 2) !== 0) throw new Error('bench dma: a descriptor failed');
  return took;
};

/** Nanoseconds to set as many bytes, of `n` times. */
const runPlain = ({ memory, from, to, pieceBytes }: Subject, n: number): number => {
  const { u8 } = memory;
  const begin = performance.now();
  for (let i = 0; i < n; i++)
    for (let piece = 0; piece < from.length; piece++) {
      const at = from[piece]!;
      u8.set(u8.subarray(at, at + pieceBytes), to[piece]!);
    }
  return ((performance.now() - begin) * 1e6) / n;
};

/** The least that several passes take. */
const best = (pass: () => number): number => {
  let least = pass();
  for (let i = 1; i < PASSES; i++) least = Math.min(least, pass());
  return least;
};

const gbPerSecond = (ns: number): number => DESCRIPTOR_BYTES / ns;

/** Nanoseconds a translation of addresses that the IOTLB has. */
const runHits = (host: HostIommu, base: number): number => {
  const { model } = host;
  let sum = 0;
  const begin = performance.now();
  for (let i = 0; i < TRANSLATIONS; i++)
    sum += model.translate(1, -1, base + (i & (PAGES - 1)) * PAGE_SIZE, true);
  const took = ((performance.now() - begin) * 1e6) / TRANSLATIONS;
  if (sum < TRANSLATIONS) throw new Error('bench dma: a translation failed');
  return took;
};

/** Nanoseconds a page that is mapped and unmapped again. */
const runMappings = (device: DmaDevice, runs: readonly DmaRun[], n: number): number => {
  const begin = performance.now();
  for (let i = 0; i < n; i++) drive(dmaUnmapSg(device, mapped(device, runs)));
  return ((performance.now() - begin) * 1e6) / n / PAGES;
};

const samplesOf = (
  name: string,
  unit: string,
  better: Samples['better'],
  peers: readonly string[] = [],
): Samples => ({
  suite: 'dma',
  name,
  unit,
  better,
  samples: [],
  peers: Object.fromEntries(peers.map((peer) => [peer, []])),
});

export const dmaSuite = async (rounds: number, announce: Announce): Promise<Samples[]> => {
  announce('dma: preparing');
  const subjectsWith = (merged: boolean): Subject[] =>
    [false, true].flatMap((huge) =>
      (['off', 'hit', 'miss', 'ATS'] as const).map((way) => createSubject(huge, way, merged)),
    );
  // What the driver hands over, for bytes; an entry a page, for the work that a list is.
  const asMapped = subjectsWith(true);
  const subjects = subjectsWith(false);
  const copies = asMapped.map(({ what }) =>
    samplesOf(`copy, ${what}`, 'GB/s', 'higher', [BARE_SET]),
  );
  const each = subjects.map(({ what }) =>
    samplesOf(`1 MiB by lists, ${what}`, 'ns/descriptor', 'lower'),
  );
  const hits = samplesOf('IOTLB hit', 'ns/translation', 'lower');
  const { k, host } = createHost();
  const base = mapped(attached(host, 'strict', false), framesOf(k, false)).address[0]!;
  const drivers = (['strict', 'deferred'] as const).map((mode) => {
    const machine = createHost();
    const device = attached(machine.host, mode, false);
    return {
      device,
      runs: framesOf(machine.k, false),
      row: samplesOf(`map and unmap, ${mode}`, 'ns/page', 'lower'),
    };
  });
  for (const subject of [...asMapped, ...subjects]) {
    runDescriptors(subject, WARM_UP);
    runPlain(subject, WARM_UP);
  }
  runHits(host, base);
  for (const { device, runs } of drivers) runMappings(device, runs, WARM_UP);
  for (let round = 0; round < rounds; round++) {
    announce(`dma: round ${round + 1} of ${rounds}`);
    hits.samples.push(best(() => runHits(host, base)));
    asMapped.forEach((subject, i) => {
      const ns = best(() => runDescriptors(subject, DESCRIPTORS));
      copies[i]!.samples.push(gbPerSecond(ns));
      copies[i]!.peers[BARE_SET]!.push(gbPerSecond(best(() => runPlain(subject, DESCRIPTORS))));
    });
    subjects.forEach((subject, i) => {
      each[i]!.samples.push(best(() => runDescriptors(subject, DESCRIPTORS)));
    });
    for (const { device, runs, row } of drivers)
      row.samples.push(best(() => runMappings(device, runs, MAPPINGS)));
  }
  return [hits, ...copies, ...each, ...drivers.map(({ row }) => row)];
};
