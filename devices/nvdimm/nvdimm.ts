/**
 * The control registers of an NVDIMM: what its memory keeps, its label area, and ranges of its media
 * that cannot be read. Its memory itself is on the memory bus, and no business of this model.
 *
 * Our own device, in the terms of ACPI's NFIT (capabilities, flush hints) and of the usual NVDIMM
 * commands (label data, address range scrub, clear error, inject). This is its specification.
 * Registers are words at these offsets, pairs with the low half first; any other access reads 0 and
 * writes nothing:
 *
 *   0x00 ID              RO   0x64766e47
 *   0x04 VERSION         RO   1
 *   0x08 CAPABILITIES    RO   bit 0 caches survive a loss of power, bit 1 the memory controller's queue does
 *   0x0c STATUS          RO   bit 0 a scrub is under way, bit 1 power was lost without warning before this boot
 *   0x10 GPA             RO   64 bits: first byte of the memory
 *   0x18 SIZE            RO   64 bits
 *   0x20 FLUSH_HINT      WO   any value drains the queue
 *   0x28 LABEL_SIZE      RO   bytes of the label area
 *   0x2c LABEL_OFFSET    RW   a multiple of 4; bits 1..0 are zero
 *   0x30 LABEL_DATA      RW   the word there, durable once written; moves LABEL_OFFSET on by 4
 *   0x40 RANGE_START     RW   64 bits, from the first byte of the memory
 *   0x48 RANGE_LENGTH    RW   64 bits
 *   0x50 COMMAND         WO   1 scrub, 2 clear, 3 inject; on the range
 *   0x54 COMMAND_STATUS  RO   of the last command: 0 done or begun, 1 invalid, 2 a scrub is under way
 *   0x58 RECORDS         RO   ranges that the last scrub has found
 *   0x5c RECORD_INDEX    RW
 *   0x60 RECORD_START    RO   64 bits of the record with that index; 0 behind the last one
 *   0x68 RECORD_LENGTH   RO   64 bits
 *   0x70 UNSAFE          RO   how often power was lost without warning
 *
 * A scrub takes one instruction for each 64 bytes of the range, and 1000 at least; STATUS bit 0 goes and
 * the records are there when it is over. CLEAR makes those units good, and zero, that lie in the range as
 * a whole, and puts the number of bytes into RANGE_LENGTH; INJECT makes every unit bad that the range
 * touches. Behind the end of the label area words read 0 and take nothing.
 */
import type { Clock, MmioDevice } from '#emu';

export const NVDIMM_ID = 0x00;
export const NVDIMM_VERSION = 0x04;
export const NVDIMM_CAPABILITIES = 0x08;
export const NVDIMM_STATUS = 0x0c;
export const NVDIMM_MEMORY_GPA = 0x10;
export const NVDIMM_MEMORY_SIZE = 0x18;
export const NVDIMM_FLUSH_HINT = 0x20;
export const NVDIMM_LABEL_SIZE = 0x28;
export const NVDIMM_LABEL_OFFSET = 0x2c;
export const NVDIMM_LABEL_DATA = 0x30;
export const NVDIMM_RANGE_START = 0x40;
export const NVDIMM_RANGE_LENGTH = 0x48;
export const NVDIMM_COMMAND = 0x50;
export const NVDIMM_COMMAND_STATUS = 0x54;
export const NVDIMM_RECORDS = 0x58;
export const NVDIMM_RECORD_INDEX = 0x5c;
export const NVDIMM_RECORD_START = 0x60;
export const NVDIMM_RECORD_LENGTH = 0x68;
export const NVDIMM_UNSAFE = 0x70;

export const NVDIMM_ID_VALUE = 0x6476_6e47;
export const NVDIMM_CAP_CACHE_FLUSH = 1 << 0;
export const NVDIMM_CAP_MEM_FLUSH = 1 << 1;
export const NVDIMM_STATUS_SCRUB = 1 << 0;
export const NVDIMM_STATUS_UNSAFE = 1 << 1;
export const NVDIMM_SCRUB = 1;
export const NVDIMM_CLEAR = 2;
export const NVDIMM_INJECT = 3;
export const NVDIMM_OK = 0;
export const NVDIMM_INVALID = 1;
export const NVDIMM_BUSY = 2;

/** A scrub reads so many bytes in the time of one instruction, and takes so long at least. */
const SCRUB_BYTES_PER_INSTRUCTION = 64;
const SCRUB_MIN_INSTRUCTIONS = 1000;

/** Event: the scrub is over. */
const EVENT_SCRUBBED = 0;

/** The memory that the registers are about. Addresses count from its first byte. */
export interface NvdimmMemory {
  readonly lenBytes: number;
  /** What a loss of power leaves: caches too, the controller's queue, or not even that. */
  readonly mode: 'eadr' | 'adr' | 'none';
  flushHint(): void;
  addPoison(at: number, lenBytes: number): void;
  /** @returns bytes that are good again */
  clearPoison(at: number, lenBytes: number): number;
  /** Runs of bytes in [at, at + lenBytes) that cannot be read, ascending. */
  poisonIn(at: number, lenBytes: number): [at: number, lenBytes: number][];
}

export interface NvdimmConfig {
  clock: Clock;
  memory: NvdimmMemory;
  /** Where the memory is for whoever reads the registers. */
  gpa: number;
  /** The label area: durable as it is. A multiple of 4 bytes. */
  labels: Uint8Array;
  /** Times that power was lost without warning, this time included where `unsafe`. */
  unsafeShutdowns: number;
  unsafe: boolean;
  /** Name for the clock's events. */
  name: string;
}

/** What a saved machine keeps of the device. */
export interface NvdimmState {
  labels: Uint8Array;
  labelOffset: number;
  range: number[];
  commandStatus: number;
  recordIndex: number;
  records: [at: number, lenBytes: number][];
  scrubbing: [at: number, lenBytes: number] | null;
  unsafeShutdowns: number;
  unsafe: boolean;
}

export class Nvdimm implements MmioDevice {
  readonly labels: Uint8Array;
  /** Commands that were carried out, flush hints, and words of the label area that were written. */
  commands: number;
  hints: number;
  labelWrites: number;
  private readonly config: NvdimmConfig;
  private readonly labelView: DataView;
  private labelOffset: number;
  /** RANGE_START and RANGE_LENGTH, low and high. */
  private range: number[];
  private commandStatus: number;
  private recordIndex: number;
  private records: [at: number, lenBytes: number][];
  private scrubbing: [at: number, lenBytes: number] | null;
  private unsafe: boolean;
  unsafeShutdowns: number;

  constructor(config: NvdimmConfig) {
    this.config = config;
    this.labels = config.labels;
    this.labelView = new DataView(this.labels.buffer, this.labels.byteOffset, this.labels.length);
    this.labelOffset = 0;
    this.range = [0, 0, 0, 0];
    this.commandStatus = NVDIMM_OK;
    this.recordIndex = 0;
    this.records = [];
    this.scrubbing = null;
    this.unsafe = config.unsafe;
    this.unsafeShutdowns = config.unsafeShutdowns;
    this.commands = 0;
    this.hints = 0;
    this.labelWrites = 0;
    config.clock.receive(config.name, () => this.scrubbed());
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4) return 0;
    const { memory, gpa } = this.config;
    const record = this.records[this.recordIndex] ?? [0, 0];
    switch (offset) {
      case NVDIMM_ID:
        return NVDIMM_ID_VALUE;
      case NVDIMM_VERSION:
        return 1;
      case NVDIMM_CAPABILITIES:
        return capabilitiesOf(memory.mode);
      case NVDIMM_STATUS:
        return (
          (this.scrubbing !== null ? NVDIMM_STATUS_SCRUB : 0) |
          (this.unsafe ? NVDIMM_STATUS_UNSAFE : 0)
        );
      case NVDIMM_MEMORY_GPA:
      case NVDIMM_MEMORY_GPA + 4:
        return half(gpa, offset);
      case NVDIMM_MEMORY_SIZE:
      case NVDIMM_MEMORY_SIZE + 4:
        return half(memory.lenBytes, offset);
      case NVDIMM_LABEL_SIZE:
        return this.labels.length;
      case NVDIMM_LABEL_OFFSET:
        return this.labelOffset;
      case NVDIMM_LABEL_DATA:
        return this.labelData();
      case NVDIMM_RANGE_START:
      case NVDIMM_RANGE_START + 4:
      case NVDIMM_RANGE_LENGTH:
      case NVDIMM_RANGE_LENGTH + 4:
        return this.range[(offset - NVDIMM_RANGE_START) / 4] ?? 0;
      case NVDIMM_COMMAND_STATUS:
        return this.commandStatus;
      case NVDIMM_RECORDS:
        return this.records.length;
      case NVDIMM_RECORD_INDEX:
        return this.recordIndex;
      case NVDIMM_RECORD_START:
      case NVDIMM_RECORD_START + 4:
        return half(record[0], offset);
      case NVDIMM_RECORD_LENGTH:
      case NVDIMM_RECORD_LENGTH + 4:
        return half(record[1], offset);
      case NVDIMM_UNSAFE:
        return this.unsafeShutdowns;
      default:
        return 0;
    }
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4) return;
    switch (offset) {
      case NVDIMM_FLUSH_HINT:
        this.hints++;
        this.config.memory.flushHint();
        return;
      case NVDIMM_LABEL_OFFSET:
        this.labelOffset = (value & ~3) >>> 0;
        return;
      case NVDIMM_LABEL_DATA:
        this.writeLabelData(value);
        return;
      case NVDIMM_RANGE_START:
      case NVDIMM_RANGE_START + 4:
      case NVDIMM_RANGE_LENGTH:
      case NVDIMM_RANGE_LENGTH + 4:
        this.range[(offset - NVDIMM_RANGE_START) / 4] = value >>> 0;
        return;
      case NVDIMM_COMMAND:
        this.commandStatus = this.command(value);
        return;
      case NVDIMM_RECORD_INDEX:
        this.recordIndex = value >>> 0;
        return;
    }
  }

  /** Power comes back: everything but the label area and the count of losses begins anew. */
  reset(unsafe: boolean): void {
    this.config.clock.cancel(this.config.name, EVENT_SCRUBBED);
    this.labelOffset = 0;
    this.range = [0, 0, 0, 0];
    this.commandStatus = NVDIMM_OK;
    this.recordIndex = 0;
    this.records = [];
    this.scrubbing = null;
    this.unsafe = unsafe;
    if (unsafe) this.unsafeShutdowns++;
  }

  save(): NvdimmState {
    return {
      labels: this.labels.slice(),
      labelOffset: this.labelOffset,
      range: [...this.range],
      commandStatus: this.commandStatus,
      recordIndex: this.recordIndex,
      records: this.records.map(([at, lenBytes]) => [at, lenBytes]),
      scrubbing: this.scrubbing,
      unsafeShutdowns: this.unsafeShutdowns,
      unsafe: this.unsafe,
    };
  }

  /** The clock, with the end of a scrub that is under way, is restored by the machine. */
  restore(state: NvdimmState): void {
    this.labels.set(state.labels);
    this.labelOffset = state.labelOffset;
    this.range = [...state.range];
    this.commandStatus = state.commandStatus;
    this.recordIndex = state.recordIndex;
    this.records = state.records.map(([at, lenBytes]) => [at, lenBytes]);
    this.scrubbing = state.scrubbing;
    this.unsafeShutdowns = state.unsafeShutdowns;
    this.unsafe = state.unsafe;
  }

  private labelData(): number {
    const at = this.labelOffset;
    if (at + 4 > this.labels.length) return 0;
    this.labelOffset = at + 4;
    return this.labelView.getUint32(at, true);
  }

  private writeLabelData(value: number): void {
    const at = this.labelOffset;
    if (at + 4 > this.labels.length) return;
    this.labelOffset = at + 4;
    this.labelView.setUint32(at, value, true);
    this.labelWrites++;
  }

  private command(value: number): number {
    const { memory, clock, name } = this.config;
    const [startLo = 0, startHi = 0, lenLo = 0, lenHi = 0] = this.range;
    const at = startHi * 2 ** 32 + startLo;
    const lenBytes = lenHi * 2 ** 32 + lenLo;
    if (this.scrubbing !== null) return NVDIMM_BUSY;
    if (lenBytes === 0 || at + lenBytes > memory.lenBytes) return NVDIMM_INVALID;
    switch (value) {
      case NVDIMM_SCRUB: {
        this.scrubbing = [at, lenBytes];
        const takes = Math.ceil(lenBytes / SCRUB_BYTES_PER_INSTRUCTION);
        clock.at(clock.now + Math.max(takes, SCRUB_MIN_INSTRUCTIONS), name, EVENT_SCRUBBED);
        break;
      }
      case NVDIMM_CLEAR: {
        const cleared = memory.clearPoison(at, lenBytes);
        this.range[2] = cleared % 2 ** 32;
        this.range[3] = Math.floor(cleared / 2 ** 32);
        break;
      }
      case NVDIMM_INJECT:
        memory.addPoison(at, lenBytes);
        break;
      default:
        return NVDIMM_INVALID;
    }
    this.commands++;
    return NVDIMM_OK;
  }

  private scrubbed(): void {
    if (this.scrubbing === null) return;
    const [at, lenBytes] = this.scrubbing;
    this.records = this.config.memory.poisonIn(at, lenBytes);
    this.scrubbing = null;
  }
}

/** The word of a 64-bit number that is at a register: the low one where its offset is a multiple of 8. */
const half = (value: number, offset: number): number =>
  offset % 8 === 0 ? value % 2 ** 32 : Math.floor(value / 2 ** 32);

/** Caches that survive are cleaned into the queue, which survives too. */
const capabilitiesOf = (mode: NvdimmMemory['mode']): number =>
  mode === 'none'
    ? 0
    : mode === 'adr'
      ? NVDIMM_CAP_MEM_FLUSH
      : NVDIMM_CAP_MEM_FLUSH | NVDIMM_CAP_CACHE_FLUSH;
