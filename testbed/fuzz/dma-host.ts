/**
 * The DMA engine under attack with all that stands behind it on the host: a VMM process whose pages are
 * pinned, mapped at the IOMMU or shared with it. Whatever the guest makes of rings and lists: nothing of
 * the process but guest memory changes, and after a reset nothing is pinned or mapped.
 */
import { DMA_CONTROL, DMA_DESC_BYTES, DMA_SG_BYTES, DmaEngine } from '#devices';
import { checkIommu, HostIommu, type IommuMode } from '#devices/host';
import { Clock, PAGE_SIZE, PhysMemory } from '#emu';
import {
  accessRemoteVm,
  createKernel,
  createPolicy,
  drive,
  type Kernel,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  mmap,
  type MmStruct,
  mmCreate,
  PROT_READ,
  PROT_WRITE,
} from '#mm';
import { createGuestDma, type GuestDma } from '../machine/guest-dma.ts';
import type { Rng } from '../rng.ts';
import type { FuzzCase, FuzzTarget } from './target.ts';

const GPA = 0x8000_0000;
const SLOT_PAGES = 8;
const SLOT_BYTES = SLOT_PAGES * PAGE_SIZE;
const HVA = 0x10_0000_0000;
/** The second slot, elsewhere in the process; between them what is nobody's business. */
const SECOND_HVA = HVA + 4 * SLOT_BYTES;
const SECRET_HVA = HVA + 2 * SLOT_BYTES;
const SECRET = 0x5a;
/** Page that may only be read. */
const ROM = GPA + 4 * SLOT_BYTES;
const ROM_HVA = HVA + 8 * SLOT_BYTES;
const MAX_TURNS = 4000;

const hvaOf = (gpa: number): number => {
  if (gpa >= GPA && gpa < GPA + SLOT_BYTES) return HVA + gpa - GPA;
  if (gpa >= GPA + SLOT_BYTES && gpa < GPA + 2 * SLOT_BYTES)
    return SECOND_HVA + gpa - GPA - SLOT_BYTES;
  return gpa >= ROM && gpa < ROM + PAGE_SIZE ? ROM_HVA + gpa - ROM : -1;
};

interface World {
  k: Kernel;
  mm: MmStruct;
  clock: Clock;
  host: HostIommu;
  dma: GuestDma;
  engine: DmaEngine;
  secret: Uint8Array;
}

const mapMemory = (k: Kernel, mm: MmStruct, hva: number, lenBytes: number, prot: number): void => {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  const at = drive(mmap(k, mm, { hva, lenBytes, prot, flags }));
  if (at !== hva) throw new Error(`mmap: ${at}`);
};

const createVmm = (mode: IommuMode): World => {
  const k = createKernel({
    memory: new PhysMemory(4 << 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  const mm = mmCreate(k);
  if (typeof mm === 'number') throw new Error(`mmCreate: ${mm}`);
  for (const hva of [HVA, SECOND_HVA]) mapMemory(k, mm, hva, SLOT_BYTES, PROT_READ | PROT_WRITE);
  mapMemory(k, mm, SECRET_HVA, PAGE_SIZE, PROT_READ | PROT_WRITE);
  mapMemory(k, mm, ROM_HVA, PAGE_SIZE, PROT_READ);
  const secret = new Uint8Array(PAGE_SIZE).fill(SECRET);
  drive(accessRemoteVm(k, mm, SECRET_HVA, secret, true));
  const clock = new Clock();
  const host = new HostIommu({ kernel: k, clock, name: 'iommu' });
  const wiring = { k, mm, index: 0, mode, host, hvaOf, onWritten: () => {} };
  const dma = createGuestDma(wiring);
  const engine = new DmaEngine({ clock, irq: { set: () => {} }, port: dma.port });
  return { k, mm, clock, host, dma, engine, secret };
};

/** A guest physical address: right, at an edge, read-only, or nonsense. */
const gpaOf = (rng: Rng): bigint => {
  switch (rng.below(10)) {
    case 0:
      return BigInt(GPA + SLOT_BYTES - rng.below(64));
    case 1:
      return BigInt(GPA + 2 * SLOT_BYTES - rng.below(64));
    case 2:
      return BigInt(ROM + rng.below(PAGE_SIZE));
    case 3:
      return (BigInt(rng.next()) << 32n) | BigInt(rng.next());
    default:
      return BigInt(GPA + rng.below(2 * SLOT_BYTES));
  }
};

const lengthOf = (rng: Rng): number =>
  rng.chance(5) ? [0, 1 << 20, 0xffff_ffff][rng.below(3)]! : 1 + rng.below(6000);

/** Writes descriptors to the first page of guest memory and lists to the second. */
const fillMemory = (rng: Rng, { k, mm }: World): void => {
  const bytes = new Uint8Array(2 * 256);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < 8; i++) {
    const at = i * DMA_DESC_BYTES;
    const flags = rng.chance(5) ? rng.next() : rng.below(8);
    const list = BigInt(GPA + PAGE_SIZE + rng.below(16) * DMA_SG_BYTES);
    view.setBigUint64(at, (flags & 2) !== 0 && rng.chance(90) ? list : gpaOf(rng), true);
    view.setBigUint64(at + 8, (flags & 4) !== 0 && rng.chance(90) ? list : gpaOf(rng), true);
    view.setUint32(at + 16, lengthOf(rng), true);
    view.setUint32(at + 20, flags, true);
  }
  for (let i = 0; i < 16; i++) {
    const at = 256 + i * DMA_SG_BYTES;
    view.setBigUint64(at, gpaOf(rng), true);
    view.setUint32(at + 8, lengthOf(rng), true);
    view.setUint32(at + 12, rng.chance(20) ? 1 : 0, true);
  }
  drive(accessRemoteVm(k, mm, HVA, bytes.subarray(0, 256), true));
  drive(accessRemoteVm(k, mm, HVA + PAGE_SIZE, bytes.subarray(256), true));
};

/** The host does its work, time passes, until nothing is due or the dice say so. @returns false: no end */
const settle = (rng: Rng, { dma, host, clock }: World, all: boolean): boolean => {
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    if (!all && rng.chance(10)) return true;
    const { pumped } = dma;
    if (pumped !== null && pumped.pendingWork() > 0) drive(pumped.work());
    else if (host.pendingWork() > 0) drive(host.work());
    else if (clock.nextAt === Number.POSITIVE_INFINITY) return true;
    else {
      clock.now = Math.max(clock.now, clock.nextAt);
      clock.deliverDue();
    }
  }
  return false;
};

/** What is left after a reset that must not be, or null. */
const leftovers = ({ k, mm, host, dma, engine, secret }: World): string | null => {
  if (engine.busy) return 'busy after a reset';
  const { stat } = k.state;
  const pins = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
  if (pins !== 0 || dma.inFlight.pagesInFlight() !== 0) return `${pins} pins are left`;
  const [device] = host.allDevices;
  const mapped = device?.domain?.mappings.size ?? 0;
  if (mapped !== 0) return `${mapped} mappings are left`;
  drive(accessRemoteVm(k, mm, SECRET_HVA, secret, false));
  for (let i = 0; i < PAGE_SIZE; i++)
    if (secret[i] !== SECRET) return "memory that is not the guest's has changed";
  return null;
};

const createCase = (mode: IommuMode): FuzzCase => {
  const world = createVmm(mode);
  const { engine } = world;
  return (rng) => {
    engine.reset();
    engine.write(0x10, 4, GPA);
    engine.write(0x18, 4, 8);
    engine.write(DMA_CONTROL, 4, 3);
    engine.write(0x28, 4, rng.below(100));
    fillMemory(rng, world);
    for (let n = 1 + rng.below(3); n > 0; n--) {
      engine.write(0x20, 4, engine.read(0x1c, 4) + rng.below(5));
      if (rng.chance(10)) engine.write(rng.below(12) * 4, 4, rng.next());
      if (!settle(rng, world, rng.chance(60))) return 'the engine comes to no end';
    }
    engine.reset();
    if (!settle(rng, world, true)) return 'the host comes to no end';
    // Looks at every entry of the IOTLB, which takes as long as the case.
    const stale = rng.chance(5) ? checkIommu(world.host)[0] : undefined;
    return stale ?? leftovers(world);
  };
};

const MODES: readonly IommuMode[] = ['off', 'strict', 'deferred', 'sva'];

export const DMA_HOST_TARGETS: readonly FuzzTarget[] = MODES.map((mode) => ({
  name: `dma-${mode}`,
  describe: `the DMA engine over a VMM process, --iommu ${mode}: pins, mappings, page requests`,
  create: () => createCase(mode),
}));
