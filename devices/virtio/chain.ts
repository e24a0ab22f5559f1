/**
 * A buffer that a driver made available: device-readable segments, then device-writable ones.
 * virtio 1.2, 2.6 and 2.7.4. How the segments are cut means nothing (2.7.4.1): whoever wants bytes
 * asks for them by their distance from the start of the readable or of the writable part.
 */
import { DMA_OK, type DmaPort } from '#emu';

/** The most bytes that a chain may have in all (2.7.5). */
export const VIRTIO_CHAIN_MAX_BYTES = 2 ** 32;
/** Addresses at and above this one are on no bus here: numbers stop being exact. */
const ADDRESS_LIMIT = 2 ** 53;

/** Plain data: may be kept, and saved, until it is put back; then it belongs to its queue again. */
export interface VirtioChain {
  /** What names it to the driver: index of its first descriptor, in a packed ring its buffer id. */
  id: number;
  /** Ring entries that it takes in a packed ring. */
  descriptors: number;
  /** Which life of its queue it is from; a chain from before a reset is void. */
  epoch: number;
  /** Segments [0, nrReadable) are for the device to read, [nrReadable, nrSegments) to write. */
  nrReadable: number;
  nrSegments: number;
  readableBytes: number;
  writableBytes: number;
  /** By segment. None is empty. May be longer than nrSegments. */
  address: number[];
  lenBytes: number[];
}

export const createChain = (): VirtioChain => ({
  id: 0,
  descriptors: 0,
  epoch: 0,
  nrReadable: 0,
  nrSegments: 0,
  readableBytes: 0,
  writableBytes: 0,
  address: [],
  lenBytes: [],
});

/** The same chain as a record of its own: for saved machines. */
export const copyChain = (chain: VirtioChain): VirtioChain => ({
  ...chain,
  address: chain.address.slice(0, chain.nrSegments),
  lenBytes: chain.lenBytes.slice(0, chain.nrSegments),
});

export const clearChain = (chain: VirtioChain): void => {
  chain.descriptors = 0;
  chain.nrReadable = 0;
  chain.nrSegments = 0;
  chain.readableBytes = 0;
  chain.writableBytes = 0;
};

/**
 * Adds a segment. Returns false for what a driver must not do: a readable one behind a writable one,
 * more than 4 GiB in all, an address that no bus has.
 */
export const pushSegment = (
  chain: VirtioChain,
  addressLo: number,
  addressHi: number,
  lenBytes: number,
  writable: boolean,
): boolean => {
  const address = addressHi * 2 ** 32 + addressLo;
  if (address + lenBytes >= ADDRESS_LIMIT) return false;
  if (!writable && chain.nrSegments > chain.nrReadable) return false;
  if (chain.readableBytes + chain.writableBytes + lenBytes > VIRTIO_CHAIN_MAX_BYTES) return false;
  if (lenBytes === 0) return true;
  chain.address[chain.nrSegments] = address;
  chain.lenBytes[chain.nrSegments] = lenBytes;
  chain.nrSegments++;
  if (writable) chain.writableBytes += lenBytes;
  else {
    chain.nrReadable++;
    chain.readableBytes += lenBytes;
  }
  return true;
};

/**
 * Reads [from, +lenBytes) of a chain's readable part, counted from its start, into `into`.
 * Returns DMA_OK, DMA_FAULT or DMA_WAIT. @throws RangeError beyond the readable part
 */
export const readChain = (
  port: DmaPort,
  chain: VirtioChain,
  from: number,
  into: Uint8Array,
  intoOffset: number,
  lenBytes: number,
): number => {
  if (from + lenBytes > chain.readableBytes)
    throw new RangeError(`readChain ${from}+${lenBytes} of ${chain.readableBytes} bytes`);
  let skip = from;
  let done = 0;
  for (let i = 0; done < lenBytes; i++) {
    const here = chain.lenBytes[i] ?? 0;
    const run = Math.min(here - skip, lenBytes - done);
    if (run > 0) {
      const result = port.read((chain.address[i] ?? 0) + skip, into, intoOffset + done, run);
      if (result !== DMA_OK) return result;
      done += run;
    }
    skip = Math.max(0, skip - here);
  }
  return DMA_OK;
};

/**
 * Writes to [to, +lenBytes) of a chain's writable part, counted from its start.
 * Returns DMA_OK, DMA_FAULT or DMA_WAIT. @throws RangeError beyond the writable part
 */
export const writeChain = (
  port: DmaPort,
  chain: VirtioChain,
  to: number,
  from: Uint8Array,
  fromOffset: number,
  lenBytes: number,
): number => {
  if (to + lenBytes > chain.writableBytes)
    throw new RangeError(`writeChain ${to}+${lenBytes} of ${chain.writableBytes} bytes`);
  let skip = to;
  let done = 0;
  for (let i = chain.nrReadable; done < lenBytes; i++) {
    const here = chain.lenBytes[i] ?? 0;
    const run = Math.min(here - skip, lenBytes - done);
    if (run > 0) {
      const result = port.write((chain.address[i] ?? 0) + skip, from, fromOffset + done, run);
      if (result !== DMA_OK) return result;
      done += run;
    }
    skip = Math.max(0, skip - here);
  }
  return DMA_OK;
};
