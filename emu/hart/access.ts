/**
 * Loads and stores that the interpreter's inline TLB hit does not serve: misses, misaligned and
 * page-crossing accesses, devices, frames with decoded instructions, and the accesses of HLV and HSV.
 *
 * Misaligned accesses to RAM work, byte by byte, across pages too; to devices they are access
 * faults. A store that crosses into a page that faults has stored nothing.
 */
import { BUS_ERROR } from '../bus.ts';
import { NO_HART } from '../memory.ts';
import {
  ACCESS_EXEC,
  ACCESS_READ,
  ACCESS_WRITE,
  type Access,
  MMU_FAULT,
  MMU_MMIO,
} from '../mmu/mmu.ts';
import { CAUSE_HARDWARE_ERROR, CAUSE_LOAD_ACCESS, CAUSE_STORE_ACCESS } from './bits.ts';
import { COUNT_MMIO, type HartCore } from './core.ts';

/** Which address space an access means. */
export const SPACE_CURRENT = 0;
/** HLV, HSV: the guest's. */
export const SPACE_GUEST = 1;
/** HLVX: the guest's, by execute permission. */
export const SPACE_GUEST_EXEC = 2;

/** Outcome of an access: done, or an exception is set up in the core. */
export const ACCESS_DONE = 0;
export const ACCESS_TRAP = 1;

/** Loads 1, 2, 4 or 8 bytes, zero-extended, into core.valueLo and valueHi. */
export const loadSlow = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  space: number,
): number => {
  if ((vaLo & (sizeBytes - 1)) !== 0) return loadMisaligned(core, vaLo, vaHi, sizeBytes, space);
  // The interpreter has looked into the TLB already.
  const offset =
    space === SPACE_CURRENT
      ? core.mmu.readSlow(vaLo, vaHi)
      : translate(core, vaLo, vaHi, space, false);
  if (offset >= 0) {
    if (core.memory.isPoisoned(offset, sizeBytes))
      return accessFault(core, CAUSE_HARDWARE_ERROR, vaLo, vaHi, space);
    readRam(core, offset, sizeBytes);
    return ACCESS_DONE;
  }
  if (offset === MMU_FAULT) return faulted(core, 0);
  return loadDevice(core, vaLo, vaHi, sizeBytes, space);
};

/** Stores the low 1, 2, 4 or 8 bytes of a pair. */
export const storeSlow = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  valueLo: number,
  valueHi: number,
  space: number,
): number => {
  if ((vaLo & (sizeBytes - 1)) !== 0)
    return storeMisaligned(core, vaLo, vaHi, sizeBytes, valueLo, valueHi, space);
  const offset =
    space === SPACE_CURRENT
      ? core.mmu.writeSlow(vaLo, vaHi)
      : translate(core, vaLo, vaHi, space, true);
  if (offset >= 0) {
    writeRam(core, offset, sizeBytes, valueLo, valueHi);
    core.memory.wrote(offset, sizeBytes);
    return ACCESS_DONE;
  }
  if (offset === MMU_FAULT) return faulted(core, 0);
  return storeDevice(core, vaLo, vaHi, sizeBytes, valueLo, valueHi, space);
};

/** Offset of the byte at a virtual address, MMU_FAULT or MMU_MMIO. Looks into the TLB first. */
const translate = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  space: number,
  write: boolean,
): number => {
  if (space === SPACE_CURRENT)
    return write ? core.mmu.storeOffset(vaLo, vaHi, 1) : core.mmu.loadOffset(vaLo, vaHi, 1);
  const access: Access = write ? ACCESS_WRITE : space === SPACE_GUEST ? ACCESS_READ : ACCESS_EXEC;
  return core.mmu.guestAccessSlow(vaLo, vaHi, access);
};

/** The MMU's fault, `offsetBytes` behind the address that the instruction named. */
const faulted = (core: HartCore, offsetBytes: number): number => {
  core.raiseMmu();
  core.excOffset = offsetBytes;
  return ACCESS_TRAP;
};

const accessFault = (
  core: HartCore,
  cause: number,
  vaLo: number,
  vaHi: number,
  space: number,
): number => {
  core.raise(cause, vaLo, vaHi, space !== SPACE_CURRENT || core.dataIsGuest());
  return ACCESS_TRAP;
};

const readRam = (core: HartCore, offset: number, sizeBytes: number): void => {
  core.valueHi = 0;
  if (sizeBytes === 1) core.valueLo = core.u8[offset]!;
  else if (sizeBytes === 2) core.valueLo = core.u16[offset >>> 1]!;
  else {
    core.valueLo = core.i32[offset >>> 2]!;
    if (sizeBytes === 8) core.valueHi = core.i32[(offset >>> 2) + 1]!;
  }
};

const writeRam = (
  core: HartCore,
  offset: number,
  sizeBytes: number,
  valueLo: number,
  valueHi: number,
): void => {
  if (sizeBytes === 1) core.u8[offset] = valueLo;
  else if (sizeBytes === 2) core.u16[offset >>> 1] = valueLo;
  else {
    core.i32[offset >>> 2] = valueLo;
    if (sizeBytes === 8) core.i32[(offset >>> 2) + 1] = valueHi;
  }
};

/** First byte of the page behind an address: low word; the high word takes the carry. */
const nextPageLo = (vaLo: number): number => ((vaLo & ~0xfff) + 0x1000) | 0;
const carryHi = (lo: number, beforeLo: number, hi: number): number =>
  (hi + (lo >>> 0 < beforeLo >>> 0 ? 1 : 0)) | 0;

/**
 * Finds the bytes of an access that is misaligned and may cross a page: core.firstPart is the offset of
 * its first byte, core.secondPart that of the first one in the next page. Nothing is accessed yet.
 */
const locateParts = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  space: number,
  write: boolean,
): number => {
  const deviceFault = write ? CAUSE_STORE_ACCESS : CAUSE_LOAD_ACCESS;
  core.firstPart = translate(core, vaLo, vaHi, space, write);
  if (core.firstPart === MMU_FAULT) return faulted(core, 0);
  if (core.firstPart === MMU_MMIO) return accessFault(core, deviceFault, vaLo, vaHi, space);
  const inFirst = bytesInFirst(vaLo, sizeBytes);
  if (inFirst === sizeBytes) return ACCESS_DONE;
  const lo = nextPageLo(vaLo);
  const hi = carryHi(lo, vaLo, vaHi);
  core.secondPart = translate(core, lo, hi, space, write);
  if (core.secondPart === MMU_FAULT) return faulted(core, inFirst);
  if (core.secondPart === MMU_MMIO) return accessFault(core, deviceFault, lo, hi, space);
  return ACCESS_DONE;
};

/** How many bytes of an access lie in its first page. */
const bytesInFirst = (vaLo: number, sizeBytes: number): number =>
  Math.min(sizeBytes, 0x1000 - (vaLo & 0xfff));

const loadMisaligned = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  space: number,
): number => {
  if (locateParts(core, vaLo, vaHi, sizeBytes, space, false) !== ACCESS_DONE) return ACCESS_TRAP;
  const { firstPart, secondPart } = core;
  const inFirst = bytesInFirst(vaLo, sizeBytes);
  const inSecond = sizeBytes - inFirst;
  if (
    core.memory.isPoisoned(firstPart, inFirst) ||
    (inSecond > 0 && core.memory.isPoisoned(secondPart, inSecond))
  )
    return accessFault(core, CAUSE_HARDWARE_ERROR, vaLo, vaHi, space);
  let valueLo = 0;
  let valueHi = 0;
  for (let i = 0; i < sizeBytes; i++) {
    const byte = core.u8[i < inFirst ? firstPart + i : secondPart + i - inFirst]!;
    if (i < 4) valueLo |= byte << (8 * i);
    else valueHi |= byte << (8 * (i - 4));
  }
  core.valueLo = valueLo;
  core.valueHi = valueHi;
  return ACCESS_DONE;
};

const storeMisaligned = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  valueLo: number,
  valueHi: number,
  space: number,
): number => {
  if (locateParts(core, vaLo, vaHi, sizeBytes, space, true) !== ACCESS_DONE) return ACCESS_TRAP;
  const { firstPart, secondPart } = core;
  const inFirst = bytesInFirst(vaLo, sizeBytes);
  for (let i = 0; i < sizeBytes; i++) {
    const byte = i < 4 ? valueLo >>> (8 * i) : valueHi >>> (8 * (i - 4));
    core.u8[i < inFirst ? firstPart + i : secondPart + i - inFirst] = byte;
  }
  core.memory.wrote(firstPart, inFirst);
  if (inFirst < sizeBytes) core.memory.wrote(secondPart, sizeBytes - inFirst);
  return ACCESS_DONE;
};

/** A read of whatever is at mmu.pa; 8 bytes in two halves, low one first. */
const loadDevice = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  space: number,
): number => {
  const pa = core.mmu.pa;
  core.f64[core.countersAt + COUNT_MMIO]!++;
  core.syncClock();
  core.memory.hart = NO_HART; // what the device does to memory is not the hart's doing
  const low = core.bus.read(pa, sizeBytes === 8 ? 4 : sizeBytes);
  const high = sizeBytes === 8 && low !== BUS_ERROR ? core.bus.read(pa + 4, 4) : 0;
  core.memory.hart = core.index;
  if (low === BUS_ERROR || high === BUS_ERROR)
    return accessFault(core, CAUSE_LOAD_ACCESS, vaLo, vaHi, space);
  // A device may drive more than the bytes that were asked for.
  core.valueLo = sizeBytes >= 4 ? low | 0 : low & (sizeBytes === 1 ? 0xff : 0xffff);
  core.valueHi = high | 0;
  return ACCESS_DONE;
};

const storeDevice = (
  core: HartCore,
  vaLo: number,
  vaHi: number,
  sizeBytes: number,
  valueLo: number,
  valueHi: number,
  space: number,
): number => {
  const pa = core.mmu.pa;
  core.f64[core.countersAt + COUNT_MMIO]!++;
  core.syncClock();
  // A device that is told something may write to memory, the reserved place included.
  core.reservation = 0;
  core.memory.hart = NO_HART;
  let status = core.bus.write(pa, sizeBytes === 8 ? 4 : sizeBytes, valueLo);
  if (sizeBytes === 8 && status !== BUS_ERROR) status = core.bus.write(pa + 4, 4, valueHi);
  core.memory.hart = core.index;
  if (status === BUS_ERROR) return accessFault(core, CAUSE_STORE_ACCESS, vaLo, vaHi, space);
  return ACCESS_DONE;
};
