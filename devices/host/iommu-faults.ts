/**
 * What the IOMMU reports of accesses that it did not let through, in words: which device, what it tried,
 * and who had that address mapped before. RISC-V IOMMU 1.0, "Fault/Event-Queue".
 */
import { PAGE_SIZE } from '#emu';
import type { DmaDevice } from './dma-device.ts';
import type { DmaMapping } from './dma-mapping.ts';

/** Causes by number, as a fault record has them. */
const CAUSES: Readonly<Record<number, string>> = {
  1: 'instruction access fault',
  5: 'read access fault',
  7: 'write access fault',
  12: 'instruction page fault',
  13: 'read page fault',
  15: 'write page fault',
  20: 'instruction guest-page fault',
  21: 'read guest-page fault',
  23: 'write guest-page fault',
  256: 'all transactions disallowed',
  257: 'device context not readable',
  258: 'no valid device context',
  259: 'device context misconfigured',
  260: 'transaction type disallowed',
  265: 'process context not readable',
  266: 'no valid process context',
  267: 'process context misconfigured',
};

const TYPES: Readonly<Record<number, string>> = {
  1: 'execute',
  2: 'read',
  3: 'write',
  5: 'translated execute',
  6: 'translated read',
  7: 'translated write',
  8: 'translation request',
  9: 'message',
};

/** Words of a fault record. */
export interface FaultRecord {
  cause: number;
  deviceId: number;
  /** -1: without. */
  processId: number;
  type: number;
  iova: number;
}

/** Reads a record of 32 bytes. */
export const decodeFault = (words: Readonly<Int32Array>): FaultRecord => ({
  cause: words[0]! & 0xfff,
  processId: (words[1]! & 1) !== 0 ? words[0]! >>> 12 : -1,
  type: (words[1]! >>> 2) & 0x3f,
  deviceId: words[1]! >>> 8,
  iova: (words[5]! >>> 0) * 2 ** 32 + (words[4]! >>> 0),
});

/** Whose fault a record is. */
export const faultDevice = (words: Readonly<Int32Array>): number => words[1]! >>> 8;

/** "write to iova 0x3ffff000: write page fault (15)". */
export const describeFault = (fault: FaultRecord): string => {
  const process = fault.processId < 0 ? '' : ` of process ${fault.processId}`;
  const what = TYPES[fault.type] ?? `type ${fault.type}`;
  const why = CAUSES[fault.cause] ?? 'fault';
  return `${what} at iova 0x${fault.iova.toString(16)}${process}: ${why} (${fault.cause})`;
};

/** "mapped for rdma (4 pages) until it was unmapped". */
export const describePast = (mapping: Readonly<DmaMapping> | undefined): string =>
  mapping === undefined
    ? 'nothing was mapped there'
    : `mapped for ${mapping.user} (${mapping.nrPages} pages) until it was unmapped`;

/** Writes down with a device what it was kept from. */
export const noteFault = (device: DmaDevice | undefined, words: Readonly<Int32Array>): void => {
  const fault = decodeFault(words);
  if (device === undefined) return;
  const past = device.domain?.pastAt(Math.floor(fault.iova / PAGE_SIZE));
  const of = device.domain === null ? '' : `; ${describePast(past)}`;
  device.violate('blocked', `${describeFault(fault)}${of}`);
};
