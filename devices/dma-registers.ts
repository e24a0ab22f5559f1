/** Registers of the DMA engine (dma-engine.ts), and what it keeps of the descriptor in progress. */

export const DMA_ID = 0x00;
export const DMA_VERSION = 0x04;
export const DMA_CONTROL = 0x08;
export const DMA_STATUS = 0x0c;
export const DMA_RING_LO = 0x10;
export const DMA_RING_HI = 0x14;
export const DMA_RING_SIZE = 0x18;
export const DMA_HEAD = 0x1c;
export const DMA_TAIL = 0x20;
export const DMA_IRQ_STATUS = 0x24;
export const DMA_LATENCY = 0x28;

export const DMA_ID_VALUE = 0x616d_6447;
export const DMA_CONTROL_ENABLE = 1 << 0;
export const DMA_CONTROL_IRQ = 1 << 1;
export const DMA_CONTROL_RESET = 1 << 31;
export const DMA_STATUS_BUSY = 1 << 0;
export const DMA_STATUS_ERROR = 1 << 1;
export const DMA_IRQ_COMPLETION = 1 << 0;
export const DMA_IRQ_ERROR = 1 << 1;
export const DMA_MAX_RING = 4096;
export const DMA_DEFAULT_LATENCY = 2000;

/* What a submission is waiting for. */
export const PHASE_IDLE = 0;
export const PHASE_DESCRIPTOR = 1;
export const PHASE_SRC_LIST = 2;
export const PHASE_DST_LIST = 3;
export const PHASE_SRC = 4;
export const PHASE_DST = 5;
export const PHASE_READY = 6; // for its completion
export const PHASE_MOVING = 7; // its bytes move
export const PHASE_STATUS = 8; // its status is to be written

/** Registers and the descriptor in progress. */
export interface Registers {
  control: number;
  error: boolean;
  /** Stands still until a reset. */
  halted: boolean;
  ringLo: number;
  ringHi: number;
  ringSize: number;
  head: number;
  tail: number;
  irqStatus: number;
  latency: number;
  phase: number;
  /** When the current descriptor was submitted, in instructions. */
  submittedAt: number;
  descriptor: number;
  source: number;
  destination: number;
  lenBytes: number;
  flags: number;
  /** What the current descriptor will report. */
  outcome: number;
  /** Next list entry to read, bytes that the list has covered, next segment to map. */
  listAt: number;
  covered: number;
  segment: number;
  /** The port has said DMA_WAIT, and has not called yet. */
  waiting: boolean;
  /** How far the bytes have moved: segment of each side, and bytes of it. */
  fromSegment: number;
  fromDone: number;
  toSegment: number;
  toDone: number;
}

/** After power-on, or a reset. */
export const afterReset = (): Registers => ({
  control: 0,
  error: false,
  halted: false,
  ringLo: 0,
  ringHi: 0,
  ringSize: 0,
  head: 0,
  tail: 0,
  irqStatus: 0,
  latency: DMA_DEFAULT_LATENCY,
  phase: PHASE_IDLE,
  submittedAt: 0,
  descriptor: 0,
  source: 0,
  destination: 0,
  lenBytes: 0,
  flags: 0,
  outcome: 0,
  listAt: 0,
  covered: 0,
  segment: 0,
  waiting: false,
  fromSegment: 0,
  fromDone: 0,
  toSegment: 0,
  toDone: 0,
});
