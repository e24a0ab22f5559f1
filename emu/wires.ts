/**
 * The wires a device holds: interrupt lines, the bus side of its registers, its port to memory.
 * A device never sees the machine; these few functions are all it can reach.
 */

/** One interrupt input of whatever is at the other end: level-triggered. */
export interface IrqLine {
  set(level: boolean): void;
}

/**
 * A device's registers on the bus. Offsets are from the start of its region; sizes are 1, 2 or 4
 * bytes (the bus splits 8-byte accesses, low word first). Values are unsigned 32-bit numbers.
 */
export interface MmioDevice {
  read(offset: number, sizeBytes: number): number;
  write(offset: number, sizeBytes: number, value: number): void;
}

/** Outcomes of a DMA access. DMA_FAULT is what the device reports as a bus error. */
export const DMA_OK = 0;
export const DMA_FAULT = -1;
/**
 * Not reachable yet: the port sees to it, and tells its listener (DmaPort.onReady) when something has
 * changed. The device stops there, and does that request again from its beginning when it is told.
 */
export const DMA_WAIT = -2;

/**
 * Memory as a bus-mastering device sees it, by its own addresses (bus address, IOVA, guest
 * physical: whatever stands behind the port). Returns DMA_OK, DMA_FAULT or, from a port that has
 * onReady, DMA_WAIT; after anything but DMA_OK an unspecified prefix has been transferred.
 */
export interface DmaPort {
  /** Memory -> device: fills `into[intoOffset .. +lenBytes)`. */
  read(address: number, into: Uint8Array, intoOffset: number, lenBytes: number): number;
  /** Device -> memory. */
  write(address: number, from: Uint8Array, fromOffset: number, lenBytes: number): number;
  /** Fetch-and-add of an aligned 32-bit word; the old value, or undefined when it is not reached. */
  atomicAdd32(address: number, delta: number): number | undefined;
  /**
   * Where the bytes at `address` are, as an offset into the machine's memory; DMA_FAULT, DMA_WAIT.
   * What is returned holds for the rest of the 4 KiB page and until the port's owner says otherwise.
   */
  translate(address: number, write: boolean): number;
  /** Whom to tell, after a DMA_WAIT, that a request may be tried again. Ports that never wait lack it. */
  onReady?(listener: () => void): void;
}
