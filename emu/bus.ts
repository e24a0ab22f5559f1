/**
 * The system bus: finds what is behind a physical address, RAM or the registers of a device.
 *
 * Harts reach RAM through their TLB and come here only for the rest; RAM is on the bus too, for
 * whoever has a physical address and no TLB. A guest's bus, whose addresses are guest physical, is made
 * without RAM: its memory is behind memory slots. Policy for an address with nothing behind it, and for an
 * access that leaves its region: BUS_ERROR, counted in `errors`. Not modelled: bus timing.
 */
import { RAM_BASE } from './layout.ts';
import type { PhysMemory } from './memory.ts';
import type { MmioDevice } from './wires.ts';

/** Nothing answered: the hart raises an access fault. No register reads as this, they are unsigned. */
export const BUS_ERROR = -1;

/** One row of the bus's map. */
export interface BusRegion {
  /** First physical address, and first one behind the region. */
  basePa: number;
  endPa: number;
  device: MmioDevice;
  name: string;
}

/** What a saved machine keeps of its bus. */
export interface BusState {
  errors: number;
}

export class Bus {
  /** RAM at RAM_BASE, or nothing there. */
  readonly memory: PhysMemory | undefined;
  /** Sorted by address, never overlapping. */
  readonly regions: readonly BusRegion[];
  /** Accesses that nothing answered. */
  errors: number;
  private readonly map: BusRegion[];
  /** Region of the last access: a driver polls one device many times in a row. */
  private recent: BusRegion | undefined;

  constructor(memory?: PhysMemory) {
    this.memory = memory;
    this.map = [];
    this.regions = this.map;
    this.errors = 0;
    this.recent = undefined;
  }

  /**
   * Puts a device at [basePa, basePa + sizeBytes).
   * @throws Error when something is there already, RAM included
   */
  attach(basePa: number, sizeBytes: number, device: MmioDevice, name: string): void {
    const endPa = basePa + sizeBytes;
    if (!(sizeBytes > 0)) throw new Error(`bus: ${name} has no size`);
    const ramBytes = this.memory?.ramBytes ?? 0;
    if (basePa < RAM_BASE + ramBytes && endPa > RAM_BASE && ramBytes > 0)
      throw new Error(`bus: ${name} at 0x${basePa.toString(16)} overlaps RAM`);
    const taken = this.map.find((r) => basePa < r.endPa && endPa > r.basePa);
    if (taken !== undefined)
      throw new Error(`bus: ${name} at 0x${basePa.toString(16)} overlaps ${taken.name}`);
    this.map.push({ basePa, endPa, device, name });
    this.map.sort((a, b) => a.basePa - b.basePa);
  }

  /**
   * Reads 1, 2 or 4 bytes. Returns them as an unsigned number, or BUS_ERROR.
   * Registers see the access as it was made; RAM gives misaligned bytes too.
   */
  read(pa: number, sizeBytes: number): number {
    const memory = this.memory;
    if (memory?.isRam(pa, sizeBytes) === true) return readRam(memory, pa, sizeBytes);
    const region = this.regionOf(pa, sizeBytes);
    if (region === undefined) {
      this.errors++;
      return BUS_ERROR;
    }
    return region.device.read(pa - region.basePa, sizeBytes) >>> 0;
  }

  /** Writes the low 1, 2 or 4 bytes of `value`. Returns 0 or BUS_ERROR. */
  write(pa: number, sizeBytes: number, value: number): number {
    const memory = this.memory;
    if (memory?.isRam(pa, sizeBytes) === true) {
      writeRam(memory, pa, sizeBytes, value);
      return 0;
    }
    const region = this.regionOf(pa, sizeBytes);
    if (region === undefined) {
      this.errors++;
      return BUS_ERROR;
    }
    const bits = sizeBytes === 4 ? value >>> 0 : value & (sizeBytes === 2 ? 0xffff : 0xff);
    region.device.write(pa - region.basePa, sizeBytes, bits);
    return 0;
  }

  /** Does a device answer at an address? */
  hasDevice(pa: number): boolean {
    return this.map.some((region) => pa >= region.basePa && pa < region.endPa);
  }

  save(): BusState {
    return { errors: this.errors };
  }

  restore(state: BusState): void {
    this.errors = state.errors;
  }

  /** Region that holds all of [pa, pa + sizeBytes). */
  private regionOf(pa: number, sizeBytes: number): BusRegion | undefined {
    const recent = this.recent;
    if (recent !== undefined && pa >= recent.basePa && pa + sizeBytes <= recent.endPa)
      return recent;
    for (const region of this.map)
      if (pa >= region.basePa && pa + sizeBytes <= region.endPa) {
        this.recent = region;
        return region;
      }
    return undefined;
  }
}

const readRam = (memory: PhysMemory, pa: number, sizeBytes: number): number => {
  const { u8 } = memory;
  const offset = memory.offsetOf(pa);
  let value = 0;
  for (let i = sizeBytes - 1; i >= 0; i--) value = (value << 8) | u8[offset + i]!;
  return value >>> 0;
};

const writeRam = (memory: PhysMemory, pa: number, sizeBytes: number, value: number): void => {
  const { u8 } = memory;
  const offset = memory.offsetOf(pa);
  for (let i = 0; i < sizeBytes; i++) u8[offset + i] = value >>> (8 * i);
  memory.wrote(offset, sizeBytes);
};
