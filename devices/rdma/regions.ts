/**
 * What stands behind an RDMA NIC's memory regions: the memory that work requests and packets move bytes
 * to and from. The bus of a bare board, or a process whose pages are pinned or followed.
 *
 * A region is registered under a handle of the NIC's; from the answer on the NIC reaches its bytes by
 * bus addresses. Registering, releasing and finding a page may take time: the answers come to the client,
 * at once or later, and an access to bytes that are not there yet is DMA_WAIT.
 */
import { readOnce, writeOnce } from '#cells';
import { DMA_FAULT, DMA_OK, PAGE_MASK, PAGE_SIZE, PersistDomain, type PhysMemory } from '#emu';
import { RDMA_ACCESS_FLUSH_PERSISTENT, RDMA_EFAULT, RDMA_EINVAL } from './registers.ts';

/** What the NIC asks for. Plain data. */
export interface RdmaRegionRequest {
  handle: number;
  address: number;
  lenBytes: number;
  /** RDMA_ACCESS_*. */
  access: number;
}

/** The NIC, as its memory sees it. */
export interface RdmaRegionClient {
  /** @param errno 0: the region may be used; otherwise it does not exist */
  registered(handle: number, errno: number): void;
  /** Nothing is held for the region any more. */
  released(handle: number): void;
  /** Something that had to wait may be tried again. */
  ready(): void;
}

/** Memory of the regions of one NIC. Accesses lie inside their region. */
export interface RdmaRegions {
  attach(client: RdmaRegionClient): void;
  register(request: RdmaRegionRequest): void;
  /** Also before the answer to register(), which does not come then; a second time it does nothing. */
  release(handle: number): void;
  /** DMA_OK, DMA_FAULT or DMA_WAIT; after anything but DMA_OK an unspecified prefix was transferred. */
  read(
    handle: number,
    address: number,
    into: Uint8Array,
    intoOffset: number,
    lenBytes: number,
  ): number;
  write(
    handle: number,
    address: number,
    from: Uint8Array,
    fromOffset: number,
    lenBytes: number,
  ): number;
  /** Adds to the 8 aligned bytes at `address`; `old` gets the low and the high word of what was there. */
  fetchAdd64(
    handle: number,
    address: number,
    addLo: number,
    addHi: number,
    old: Uint32Array,
  ): number;
  /** Stores the swap value where the compare value is. */
  compareSwap64(
    handle: number,
    address: number,
    compareLo: number,
    compareHi: number,
    swapLo: number,
    swapHi: number,
    old: Uint32Array,
  ): number;
  /** What was written there is seen by all, and with `persistent` survives a power failure. */
  flush(handle: number, address: number, lenBytes: number, persistent: boolean): number;
}

/** Memory that keeps its bytes without power, as far as the NIC's memory knows. */
export interface RdmaPersistence {
  /** Are all of these bytes, by offsets into the machine's memory, of such memory? */
  covers(offset: number, lenBytes: number): boolean;
  /** Brings them to where they survive. */
  persist(offset: number, lenBytes: number): void;
}

/** The persistence domains of the machine. */
const domainsOf = (memory: PhysMemory): RdmaPersistence => ({
  covers: (offset, lenBytes) => {
    for (let at = offset; at < offset + lenBytes; at += PAGE_SIZE)
      if (PersistDomain.at(memory, at) === undefined) return false;
    return PersistDomain.at(memory, offset + lenBytes - 1) !== undefined;
  },
  persist: (offset, lenBytes) => {
    const domain = PersistDomain.at(memory, offset);
    domain?.persist(offset - domain.firstOffset, lenBytes);
  },
});

/** Regions of machine memory, for any way to find out where a byte is. */
export abstract class RegionMemory implements RdmaRegions {
  protected readonly memory: PhysMemory;
  protected readonly persistence: RdmaPersistence;

  /** @param persistence which memory is persistent; where not given, that of the persistence domains */
  constructor(memory: PhysMemory, persistence = domainsOf(memory)) {
    this.memory = memory;
    this.persistence = persistence;
  }

  abstract attach(client: RdmaRegionClient): void;
  abstract register(request: RdmaRegionRequest): void;
  abstract release(handle: number): void;

  /**
   * Offset of a byte in the machine's memory, good for the rest of its page; DMA_FAULT, DMA_WAIT.
   * @param lenBytes what the access is going to reach from here on
   */
  protected abstract reach(
    handle: number,
    address: number,
    lenBytes: number,
    write: boolean,
  ): number;

  /** Bytes inside one page were written. */
  protected abstract wrote(address: number, lenBytes: number): void;

  read(
    handle: number,
    address: number,
    into: Uint8Array,
    intoOffset: number,
    lenBytes: number,
  ): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(address + done));
      const offset = this.reach(handle, address + done, lenBytes - done, false);
      if (offset < 0) return offset;
      if (this.memory.isPoisoned(offset, run)) return DMA_FAULT;
      into.set(this.memory.u8.subarray(offset, offset + run), intoOffset + done);
    }
    return DMA_OK;
  }

  write(
    handle: number,
    address: number,
    from: Uint8Array,
    fromOffset: number,
    lenBytes: number,
  ): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(address + done));
      const offset = this.reach(handle, address + done, lenBytes - done, true);
      if (offset < 0) return offset;
      this.memory.setBytes(offset, from.subarray(fromOffset + done, fromOffset + done + run));
      this.wrote(address + done, run);
    }
    return DMA_OK;
  }

  fetchAdd64(
    handle: number,
    address: number,
    addLo: number,
    addHi: number,
    old: Uint32Array,
  ): number {
    const offset = this.reach(handle, address, 8, true);
    if (offset < 0) return offset;
    this.load64(offset, old);
    const sumLo = old[0]! + addLo;
    const carry = sumLo >= 2 ** 32 ? 1 : 0;
    this.store64(address, offset, sumLo | 0, (old[1]! + addHi + carry) | 0);
    return DMA_OK;
  }

  compareSwap64(
    handle: number,
    address: number,
    compareLo: number,
    compareHi: number,
    swapLo: number,
    swapHi: number,
    old: Uint32Array,
  ): number {
    const offset = this.reach(handle, address, 8, true);
    if (offset < 0) return offset;
    this.load64(offset, old);
    if (old[0] === compareLo && old[1] === compareHi)
      this.store64(address, offset, swapLo | 0, swapHi | 0);
    return DMA_OK;
  }

  flush(handle: number, address: number, lenBytes: number, persistent: boolean): number {
    // For all to see they are at once: between the NIC and this memory are no caches.
    if (!persistent) return DMA_OK;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(address + done));
      const offset = this.reach(handle, address + done, lenBytes - done, false);
      if (offset < 0) return offset;
      if (!this.persistence.covers(offset, run)) return DMA_FAULT;
      this.persistence.persist(offset, run);
    }
    return DMA_OK;
  }

  private load64(offset: number, into: Uint32Array): void {
    into[0] = readOnce(this.memory.i32, offset >>> 2);
    into[1] = readOnce(this.memory.i32, (offset >>> 2) + 1);
  }

  private store64(address: number, offset: number, lo: number, hi: number): void {
    writeOnce(this.memory.i32, offset >>> 2, lo);
    writeOnce(this.memory.i32, (offset >>> 2) + 1, hi);
    this.memory.wrote(offset, 8);
    this.wrote(address, 8);
  }
}

/** Bytes from `address` to the end of its page. */
const pageRest = (address: number): number => PAGE_SIZE - (address & PAGE_MASK);

/** Regions of a bare board: bus addresses are physical, all RAM is reached at any time. */
export class BusRegions extends RegionMemory {
  private client: RdmaRegionClient | undefined;

  attach(client: RdmaRegionClient): void {
    this.client = client;
  }

  register({ handle, address, lenBytes, access }: RdmaRegionRequest): void {
    const errno = this.memory.isRam(address, lenBytes) ? 0 : RDMA_EFAULT;
    const offset = this.memory.offsetOf(address);
    const mustPersist = (access & RDMA_ACCESS_FLUSH_PERSISTENT) !== 0;
    const persists = errno === 0 && this.persistence.covers(offset, lenBytes);
    this.client?.registered(handle, errno === 0 && mustPersist && !persists ? RDMA_EINVAL : errno);
  }

  release(handle: number): void {
    this.client?.released(handle);
  }

  protected reach(_handle: number, pa: number): number {
    return this.memory.isRam(pa, 1) ? this.memory.offsetOf(pa) : DMA_FAULT;
  }

  protected wrote(): void {}
}
