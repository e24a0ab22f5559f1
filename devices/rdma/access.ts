/**
 * How the RDMA NIC reaches bytes through its memory regions: by key, protection domain, range and
 * right, for the pieces of a work request here and for what the other end asks for.
 */
import { DMA_FAULT, DMA_OK, DMA_WAIT } from '#emu';
import type { NicContext, RdmaMr } from './state.ts';
import type { Pieces } from './work.ts';

/** The region of a key, or undefined. */
export const mrOf = (nic: NicContext, key: number): RdmaMr | undefined => {
  const mr = nic.s.mrs[key >>> 8];
  return mr?.ready && mr.key === key ? mr : undefined;
};

/**
 * The region of a key that gives these rights to all of [address, address + lenBytes).
 * @param rights RDMA_ACCESS_*, all of which it must have
 * @returns undefined where there is none
 */
export const mrFor = (
  nic: NicContext,
  key: number,
  pd: number,
  address: number,
  lenBytes: number,
  rights: number,
): RdmaMr | undefined => {
  const mr = mrOf(nic, key);
  if (mr === undefined || mr.pd !== pd || (mr.access & rights) !== rights) return undefined;
  const from = address - mr.iova;
  return from >= 0 && from + lenBytes <= mr.lenBytes ? mr : undefined;
};

/** Counts an access that has to wait. */
export const counted = (nic: NicContext, result: number): number => {
  if (result === DMA_WAIT) nic.s.counters.waits++;
  return result;
};

/**
 * Moves bytes [from, from + lenBytes) of the pieces to or from `bytes`, from its beginning on.
 * @param rights that each piece's region must have here
 * @returns DMA_OK, DMA_WAIT; DMA_FAULT also for a key, a place or a right that is wrong
 */
export const movePieces = (
  nic: NicContext,
  pd: number,
  pieces: Pieces,
  from: number,
  bytes: Uint8Array,
  lenBytes: number,
  rights: number,
  write: boolean,
): number => {
  let skip = from;
  let done = 0;
  for (let i = 0; i < pieces.count && done < lenBytes; i++) {
    const pieceBytes = pieces.lenBytes[i] ?? 0;
    const address = pieces.address[i] ?? 0;
    if (skip >= pieceBytes) {
      skip -= pieceBytes;
      continue;
    }
    const mr = mrFor(nic, pieces.key[i] ?? 0, pd, address, pieceBytes, rights);
    if (mr === undefined) return DMA_FAULT;
    const run = Math.min(lenBytes - done, pieceBytes - skip);
    const at = mr.address + (address - mr.iova) + skip;
    const result = write
      ? nic.regions.write(mr.handle, at, bytes, done, run)
      : nic.regions.read(mr.handle, at, bytes, done, run);
    if (result !== DMA_OK) return counted(nic, result);
    done += run;
    skip = 0;
  }
  return done === lenBytes ? DMA_OK : DMA_FAULT;
};
