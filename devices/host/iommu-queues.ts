/**
 * The driver's side of the IOMMU's rings in RAM: commands to it; faults and page requests from it.
 * RISC-V IOMMU 1.0, "In-memory queue interface"; compare drivers/iommu/riscv/iommu.c:
 * riscv_iommu_queue_enable(), riscv_iommu_cmd_send(), riscv_iommu_cmd_sync().
 *
 * The IOMMU carries out what stands in the ring when the tail is written, so that a fence has
 * completed when its write returns, or never will.
 */
import { readOnce, writeOnce } from '#cells';
import { type MmioDevice, PAGE_SIZE, RAM_BASE } from '#emu';
import { freePages, type Kernel, pageToPfn } from '#mm';
import { COMMAND_BYTES, COMMAND_WORDS, iofenceC } from './iommu-commands.ts';
import { allocIommuPage } from './iommu-directory.ts';

/** Registers of one ring, and what is common to their control registers. */
export interface RingRegisters {
  base: number;
  head: number;
  tail: number;
  control: number;
}

const CONTROL_ENABLE = 1 << 0;
const CONTROL_IRQ_ENABLE = 1 << 1;
const CONTROL_ON = 1 << 16;
/** Memory fault, time-out or overflow, illegal command; cleared by writing them. */
const CONTROL_ERRORS = (1 << 8) | (1 << 9) | (1 << 10);

/** The ring's page, and how far the driver is. */
export interface RingState {
  page: number;
  index: number;
}

const write64 = (device: MmioDevice, offset: number, value: number): void => {
  // The half with the mode or the size last.
  device.write(offset + 4, 4, Math.floor(value / 2 ** 32));
  device.write(offset, 4, value >>> 0);
};

/** Tells the IOMMU where a ring of one page is, and switches it on. @throws Error when it does not come up */
const enableRing = (
  device: MmioDevice,
  registers: RingRegisters,
  page: number,
  entries: number,
): void => {
  const pfn = pageToPfn(page);
  write64(device, registers.base, pfn * 1024 + (Math.log2(entries) - 1));
  device.write(registers.control, 4, CONTROL_ENABLE | CONTROL_IRQ_ENABLE);
  if ((device.read(registers.control, 4) & CONTROL_ON) === 0)
    throw new Error(`iommu: the queue at 0x${registers.base.toString(16)} does not come up`);
};

/** Commands to the IOMMU, one page of them, and a word that fences store to. */
export class CommandRing {
  private readonly kernel: Kernel;
  private readonly device: MmioDevice;
  private readonly registers: RingRegisters;
  private readonly page: number;
  private readonly fencePage: number;
  private tail: number;
  private fences: number;
  private readonly words: Int32Array;
  /** Commands written since the beginning, fences among them. */
  commands: number;

  private constructor(
    kernel: Kernel,
    device: MmioDevice,
    registers: RingRegisters,
    page: number,
    fencePage: number,
  ) {
    this.kernel = kernel;
    this.device = device;
    this.registers = registers;
    this.page = page;
    this.fencePage = fencePage;
    this.tail = 0;
    this.fences = 0;
    this.words = new Int32Array(COMMAND_WORDS);
    this.commands = 0;
  }

  /** @throws Error without memory: at start-up there is some */
  static create(kernel: Kernel, device: MmioDevice, registers: RingRegisters): CommandRing {
    const page = mustAlloc(kernel);
    const ring = new CommandRing(kernel, device, registers, page, mustAlloc(kernel));
    enableRing(device, registers, page, PAGE_SIZE / COMMAND_BYTES);
    return ring;
  }

  static restore(
    kernel: Kernel,
    device: MmioDevice,
    registers: RingRegisters,
    state: CommandRingState,
  ): CommandRing {
    const ring = new CommandRing(kernel, device, registers, state.page, state.fencePage);
    ring.tail = state.tail;
    ring.fences = state.fences;
    ring.commands = state.commands;
    return ring;
  }

  /**
   * Puts a command into the ring; the IOMMU looks at it by the next sync() at the latest.
   * @param encode writes its words, from iommu-commands.ts
   */
  send(encode: (words: Int32Array) => void): void {
    encode(this.words);
    this.put();
    // One entry stays free, so that full and empty differ.
    if (this.nextOf(this.tail) === this.device.read(this.registers.head, 4)) this.kick();
  }

  /**
   * Waits for everything that was sent.
   * @returns true; false where a device has not answered an invalidation in time
   * @throws Error where the IOMMU has stopped: a command was illegal, or its ring not readable
   */
  sync(): boolean {
    this.fences = (this.fences + 1) | 0;
    const fenceOffset = this.kernel.memory.pageOffset(this.fencePage);
    iofenceC(this.words, RAM_BASE + this.fencePage * PAGE_SIZE, this.fences);
    this.put();
    this.kick();
    if (readOnce(this.kernel.memory.i32, fenceOffset >>> 2) === this.fences) return true;
    const control = this.device.read(this.registers.control, 4);
    if ((control & CONTROL_ERRORS) !== TIMEOUT)
      throw new Error(`iommu: the command queue has stopped, cqcsr 0x${control.toString(16)}`);
    // The fence is at the head still; with the error cleared it completes.
    this.device.write(this.registers.control, 4, CONTROL_ENABLE | CONTROL_IRQ_ENABLE | TIMEOUT);
    this.kick();
    return false;
  }

  save(): CommandRingState {
    const { page, fencePage, tail, fences, commands } = this;
    return { page, fencePage, tail, fences, commands };
  }

  /** Switches the ring off and gives its pages back. */
  destroy(): void {
    this.device.write(this.registers.control, 4, 0);
    freePages(this.kernel, this.page, 0);
    freePages(this.kernel, this.fencePage, 0);
  }

  private put(): void {
    const { memory } = this.kernel;
    const first = (memory.pageOffset(this.page) + this.tail * COMMAND_BYTES) >>> 2;
    for (let i = 0; i < COMMAND_WORDS; i++) writeOnce(memory.i32, first + i, this.words[i]!);
    this.tail = this.nextOf(this.tail);
    this.commands++;
  }

  private nextOf(index: number): number {
    return (index + 1) % (PAGE_SIZE / COMMAND_BYTES);
  }

  private kick(): void {
    this.device.write(this.registers.tail, 4, this.tail);
  }
}

/** cqcsr.cmd_to alone. */
const TIMEOUT = 1 << 9;

/** What a saved machine keeps of it. */
export interface CommandRingState {
  page: number;
  fencePage: number;
  tail: number;
  fences: number;
  commands: number;
}

const mustAlloc = (kernel: Kernel): number => {
  const page = allocIommuPage(kernel);
  if (page < 0) throw new Error('iommu: no memory for a queue');
  return page;
};

/** Records from the IOMMU, one page of them. */
export class RecordRing {
  private readonly kernel: Kernel;
  private readonly device: MmioDevice;
  private readonly registers: RingRegisters;
  private readonly recordBytes: number;
  private readonly page: number;
  private head: number;
  private readonly words: Int32Array;
  /** Times that records were lost for want of room. */
  overflows: number;

  private constructor(
    kernel: Kernel,
    device: MmioDevice,
    registers: RingRegisters,
    recordBytes: number,
    page: number,
  ) {
    this.kernel = kernel;
    this.device = device;
    this.registers = registers;
    this.recordBytes = recordBytes;
    this.page = page;
    this.head = 0;
    this.words = new Int32Array(recordBytes / 4);
    this.overflows = 0;
  }

  static create(
    kernel: Kernel,
    device: MmioDevice,
    registers: RingRegisters,
    recordBytes: number,
  ): RecordRing {
    const page = mustAlloc(kernel);
    const ring = new RecordRing(kernel, device, registers, recordBytes, page);
    enableRing(device, registers, page, PAGE_SIZE / recordBytes);
    return ring;
  }

  static restore(
    kernel: Kernel,
    device: MmioDevice,
    registers: RingRegisters,
    recordBytes: number,
    state: RecordRingState,
  ): RecordRing {
    const ring = new RecordRing(kernel, device, registers, recordBytes, state.page);
    ring.head = state.head;
    ring.overflows = state.overflows;
    return ring;
  }

  /** The oldest record that was not taken yet, as words that hold until the next call; undefined: none. */
  take(): Readonly<Int32Array> | undefined {
    if (this.device.read(this.registers.tail, 4) === this.head) {
      this.acknowledge();
      return undefined;
    }
    const { memory } = this.kernel;
    const first = (memory.pageOffset(this.page) + this.head * this.recordBytes) >>> 2;
    for (let i = 0; i < this.words.length; i++) this.words[i] = readOnce(memory.i32, first + i);
    this.head = (this.head + 1) % (PAGE_SIZE / this.recordBytes);
    this.device.write(this.registers.head, 4, this.head);
    return this.words;
  }

  save(): RecordRingState {
    return { page: this.page, head: this.head, overflows: this.overflows };
  }

  destroy(): void {
    this.device.write(this.registers.control, 4, 0);
    freePages(this.kernel, this.page, 0);
  }

  /** Overflow and memory faults stop a ring until they are cleared. */
  private acknowledge(): void {
    const errors = this.device.read(this.registers.control, 4) & CONTROL_ERRORS;
    if (errors === 0) return;
    this.overflows++;
    this.device.write(this.registers.control, 4, CONTROL_ENABLE | CONTROL_IRQ_ENABLE | errors);
  }
}

/** What a saved machine keeps of it. */
export interface RecordRingState {
  page: number;
  head: number;
  overflows: number;
}
