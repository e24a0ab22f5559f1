/**
 * Records of the fault queue and of the page-request queue, as bytes; and which faults a device context
 * can keep from being reported. RISC-V IOMMU 1.0, "Fault/Event-Queue", "Page-Request-Queue".
 */
import type { PageRequest } from './ats.ts';
import {
  CAUSE_ALL_DISALLOWED,
  CAUSE_DDT_CORRUPT,
  CAUSE_DDT_MISCONFIGURED,
  CAUSE_MSI_WRITE_ACCESS,
  TTYP_NONE,
} from './structures.ts';

export const FAULT_RECORD_BYTES = 32;
export const PAGE_RECORD_BYTES = 16;

/** The cause is reported although DTF is set: it does not come of translating an address. */
export const reportedWithDtf = (cause: number): boolean =>
  (cause >= CAUSE_ALL_DISALLOWED && cause <= CAUSE_DDT_MISCONFIGURED) ||
  cause === CAUSE_DDT_CORRUPT ||
  cause === CAUSE_MSI_WRITE_ACCESS;

const PV = 1 << 0;
const PRIV = 1 << 1;
const EXEC = 1 << 2;

const putWord = (bytes: Uint8Array, at: number, word: number): void => {
  for (let i = 0; i < 4; i++) bytes[at + i] = word >>> (8 * i);
};

const putNumber = (bytes: Uint8Array, at: number, n: number): void => {
  putWord(bytes, at, n >>> 0);
  putWord(bytes, at + 4, Math.floor(n / 2 ** 32) >>> 0);
};

/**
 * A fault record.
 * @param processId -1: the transaction has none
 * @param iotval, iotval2Lo, iotval2Hi the addresses that go with the cause
 */
export const faultRecord = (
  cause: number,
  ttyp: number,
  deviceId: number,
  processId: number,
  supervisor: boolean,
  iotval: number,
  iotval2Lo: number,
  iotval2Hi: number,
): Uint8Array => {
  const bytes = new Uint8Array(FAULT_RECORD_BYTES);
  const named = ttyp !== TTYP_NONE;
  const pv = named && processId >= 0;
  putWord(bytes, 0, cause | (pv ? processId << 12 : 0));
  putWord(
    bytes,
    4,
    (pv ? PV | (supervisor ? PRIV : 0) : 0) | (ttyp << 2) | (named ? deviceId << 8 : 0),
  );
  putNumber(bytes, 16, iotval);
  putWord(bytes, 24, iotval2Lo);
  putWord(bytes, 28, iotval2Hi);
  return bytes;
};

/** A record of a page request or a stop marker. */
export const pageRecord = (request: Readonly<PageRequest>): Uint8Array => {
  const bytes = new Uint8Array(PAGE_RECORD_BYTES);
  const pv = request.processId >= 0;
  putWord(bytes, 0, pv ? request.processId << 12 : 0);
  putWord(
    bytes,
    4,
    (pv ? PV | (request.supervisor ? PRIV : 0) | (request.exec ? EXEC : 0) : 0) |
      (request.deviceId << 8),
  );
  putNumber(bytes, 8, request.iova);
  putWord(
    bytes,
    8,
    (request.iova & ~0xfff) |
      (request.read ? 1 : 0) |
      (request.write ? 2 : 0) |
      (request.last ? 4 : 0) |
      ((request.group & 0x1ff) << 3),
  );
  return bytes;
};
