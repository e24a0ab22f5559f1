/**
 * NS16550A UART: transmitter, 16-byte receive FIFO, interrupts, loopback, as a driver sees them.
 *
 * National Semiconductor PC16550D data sheet, section 8 (register bits). Characters take no time:
 * what is written is out at once, and a receive FIFO below its trigger level reports the character
 * timeout at once. Left out: baud rate, parity, break, DMA mode; the bits are kept and do nothing.
 */
import type { IrqLine, MmioDevice } from '#emu';

/* register offsets; the first two are the divisor latch while LCR.DLAB is set */
export const UART_RBR_THR_DLL = 0;
export const UART_IER_DLM = 1;
export const UART_IIR_FCR = 2;
export const UART_LCR = 3;
export const UART_MCR = 4;
export const UART_LSR = 5;
export const UART_MSR = 6;
export const UART_SCR = 7;

export const UART_IER_RDI = 0x01; // received data
export const UART_IER_THRI = 0x02; // transmitter holding register empty
export const UART_IER_RLSI = 0x04; // receiver line status
export const UART_IER_MSI = 0x08; // modem status

export const UART_IIR_NONE = 0x01;
export const UART_IIR_MSI = 0x00;
export const UART_IIR_THRI = 0x02;
export const UART_IIR_RDI = 0x04;
export const UART_IIR_RLSI = 0x06;
export const UART_IIR_TIMEOUT = 0x0c;
export const UART_IIR_FIFO = 0xc0;

export const UART_FCR_ENABLE = 0x01;
export const UART_FCR_CLEAR_RX = 0x02;
export const UART_FCR_TRIGGER_SHIFT = 6;

export const UART_LCR_DLAB = 0x80;

export const UART_MCR_DTR = 0x01;
export const UART_MCR_RTS = 0x02;
export const UART_MCR_OUT1 = 0x04;
export const UART_MCR_OUT2 = 0x08;
export const UART_MCR_LOOP = 0x10;

export const UART_LSR_DR = 0x01; // data ready
export const UART_LSR_OE = 0x02; // overrun
export const UART_LSR_THRE = 0x20;
export const UART_LSR_TEMT = 0x40;

export const UART_MSR_CTS = 0x10;
export const UART_MSR_DSR = 0x20;
export const UART_MSR_RI = 0x40;
export const UART_MSR_DCD = 0x80;

export const UART_FIFO_BYTES = 16;
/** FCR bits 7..6: bytes in the FIFO that raise the interrupt. */
const TRIGGER_BYTES = [1, 4, 8, 14];

export interface Ns16550Config {
  irq: IrqLine;
  /** A byte went out. */
  onByte(byte: number): void;
}

/** What a saved machine keeps of the UART. */
export interface Ns16550State {
  ier: number;
  fcr: number;
  lcr: number;
  mcr: number;
  scr: number;
  divisor: number;
  msrDeltas: number;
  overrun: boolean;
  thrPending: boolean;
  rx: number[];
}

export class Ns16550 implements MmioDevice {
  private readonly config: Ns16550Config;
  private ier: number;
  private fcr: number;
  private lcr: number;
  private mcr: number;
  private scr: number;
  private divisor: number;
  /** MSR bits 3..0: modem inputs that have changed since MSR was read. */
  private msrDeltas: number;
  private overrun: boolean;
  /** The empty transmitter has not been acknowledged by a read of IIR or a write of THR. */
  private thrPending: boolean;
  /** Received bytes, oldest first. Invariant: no longer than UART_FIFO_BYTES. */
  private rx: number[];

  constructor(config: Ns16550Config) {
    this.config = config;
    this.ier = 0;
    this.fcr = 0;
    this.lcr = 0;
    this.mcr = 0;
    this.scr = 0;
    this.divisor = 12;
    this.msrDeltas = 0;
    this.overrun = false;
    this.thrPending = false;
    this.rx = [];
  }

  /** Bytes that can be received without an overrun. */
  get rxRoom(): number {
    return this.rxCapacity - this.rx.length;
  }

  /** A byte comes in; one too many is lost and sets LSR.OE. In loopback nothing comes in. */
  receive(byte: number): void {
    if ((this.mcr & UART_MCR_LOOP) !== 0) return;
    this.receiveFromShifter(byte);
  }

  read(offset: number, _sizeBytes: number): number {
    const latch = (this.lcr & UART_LCR_DLAB) !== 0;
    switch (offset) {
      case UART_RBR_THR_DLL:
        return latch ? this.divisor & 0xff : this.readRbr();
      case UART_IER_DLM:
        return latch ? this.divisor >>> 8 : this.ier;
      case UART_IIR_FCR:
        return this.readIir();
      case UART_LCR:
        return this.lcr;
      case UART_MCR:
        return this.mcr;
      case UART_LSR:
        return this.readLsr();
      case UART_MSR:
        return this.readMsr();
      case UART_SCR:
        return this.scr;
      default:
        return 0;
    }
  }

  write(offset: number, _sizeBytes: number, value: number): void {
    const byte = value & 0xff;
    const latch = (this.lcr & UART_LCR_DLAB) !== 0;
    switch (offset) {
      case UART_RBR_THR_DLL:
        if (latch) this.divisor = (this.divisor & 0xff00) | byte;
        else this.writeThr(byte);
        break;
      case UART_IER_DLM:
        if (latch) this.divisor = (this.divisor & 0xff) | (byte << 8);
        else this.writeIer(byte);
        break;
      case UART_IIR_FCR:
        this.writeFcr(byte);
        break;
      case UART_LCR:
        this.lcr = byte;
        break;
      case UART_MCR:
        this.writeMcr(byte & 0x1f);
        break;
      case UART_SCR:
        this.scr = byte;
        break;
    }
  }

  save(): Ns16550State {
    return {
      ier: this.ier,
      fcr: this.fcr,
      lcr: this.lcr,
      mcr: this.mcr,
      scr: this.scr,
      divisor: this.divisor,
      msrDeltas: this.msrDeltas,
      overrun: this.overrun,
      thrPending: this.thrPending,
      rx: this.rx.slice(),
    };
  }

  /** Drives no line: whoever is at its other end is restored too. */
  restore(state: Ns16550State): void {
    this.ier = state.ier;
    this.fcr = state.fcr;
    this.lcr = state.lcr;
    this.mcr = state.mcr;
    this.scr = state.scr;
    this.divisor = state.divisor;
    this.msrDeltas = state.msrDeltas;
    this.overrun = state.overrun;
    this.thrPending = state.thrPending;
    this.rx = state.rx.slice();
  }

  private get rxCapacity(): number {
    return (this.fcr & UART_FCR_ENABLE) !== 0 ? UART_FIFO_BYTES : 1;
  }

  private receiveFromShifter(byte: number): void {
    if (this.rxRoom > 0) this.rx.push(byte & 0xff);
    else this.overrun = true;
    this.updateIrq();
  }

  private readRbr(): number {
    const byte = this.rx.shift() ?? 0;
    this.updateIrq();
    return byte;
  }

  private writeThr(byte: number): void {
    this.thrPending = true; // empty again at once
    if ((this.mcr & UART_MCR_LOOP) !== 0) this.receiveFromShifter(byte);
    else this.config.onByte(byte);
    this.updateIrq();
  }

  /** Enabling the transmitter interrupt raises it, because the transmitter is empty. */
  private writeIer(byte: number): void {
    this.ier = byte & 0x0f;
    if ((this.ier & UART_IER_THRI) !== 0) this.thrPending = true;
    this.updateIrq();
  }

  private readIir(): number {
    const cause = this.cause();
    if (cause === UART_IIR_THRI) {
      this.thrPending = false;
      this.updateIrq();
    }
    return cause | ((this.fcr & UART_FCR_ENABLE) !== 0 ? UART_IIR_FIFO : 0);
  }

  /** Switching the FIFOs on or off empties them (8.4). */
  private writeFcr(byte: number): void {
    const toggled = ((byte ^ this.fcr) & UART_FCR_ENABLE) !== 0;
    if (toggled || (byte & UART_FCR_CLEAR_RX) !== 0) this.rx = [];
    this.fcr = byte & 0xc9;
    this.updateIrq();
  }

  private writeMcr(byte: number): void {
    const before = this.modemInputs();
    this.mcr = byte;
    const after = this.modemInputs();
    const changed = (before ^ after) >>> 4;
    // Bit 2 (TERI) tells of the trailing edge of RI only.
    const deltas = (changed & 0x0b) | ((before & ~after & UART_MSR_RI) !== 0 ? 0x04 : 0);
    this.msrDeltas |= deltas;
    this.updateIrq();
  }

  private readLsr(): number {
    const lsr =
      UART_LSR_THRE |
      UART_LSR_TEMT |
      (this.rx.length > 0 ? UART_LSR_DR : 0) |
      (this.overrun ? UART_LSR_OE : 0);
    this.overrun = false;
    this.updateIrq();
    return lsr;
  }

  private readMsr(): number {
    const msr = this.modemInputs() | this.msrDeltas;
    this.msrDeltas = 0;
    this.updateIrq();
    return msr;
  }

  /** The line is always connected and ready; in loopback the inputs are the outputs (8.6). */
  private modemInputs(): number {
    if ((this.mcr & UART_MCR_LOOP) === 0) return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
    return (
      ((this.mcr & UART_MCR_RTS) !== 0 ? UART_MSR_CTS : 0) |
      ((this.mcr & UART_MCR_DTR) !== 0 ? UART_MSR_DSR : 0) |
      ((this.mcr & UART_MCR_OUT1) !== 0 ? UART_MSR_RI : 0) |
      ((this.mcr & UART_MCR_OUT2) !== 0 ? UART_MSR_DCD : 0)
    );
  }

  /** The pending interrupt of the highest priority, as IIR bits 3..0 name it (table in 8.5). */
  private cause(): number {
    if ((this.ier & UART_IER_RLSI) !== 0 && this.overrun) return UART_IIR_RLSI;
    if ((this.ier & UART_IER_RDI) !== 0 && this.rx.length > 0) {
      if ((this.fcr & UART_FCR_ENABLE) === 0) return UART_IIR_RDI;
      const trigger = TRIGGER_BYTES[this.fcr >>> UART_FCR_TRIGGER_SHIFT] ?? 1;
      return this.rx.length >= trigger ? UART_IIR_RDI : UART_IIR_TIMEOUT;
    }
    if ((this.ier & UART_IER_THRI) !== 0 && this.thrPending) return UART_IIR_THRI;
    if ((this.ier & UART_IER_MSI) !== 0 && this.msrDeltas !== 0) return UART_IIR_MSI;
    return UART_IIR_NONE;
  }

  private updateIrq(): void {
    this.config.irq.set(this.cause() !== UART_IIR_NONE);
  }
}
