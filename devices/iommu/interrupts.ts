/**
 * Interrupts of the IOMMU: what is pending, and how it is signalled. RISC-V IOMMU 1.0, "Interrupt
 * pending status register", "Interrupt-cause-to-vector register", "MSI configuration table".
 *
 * By wire, a pending bit drives the wire that icvec names as a level. By message, each time that a bit
 * becomes pending the message of the vector that icvec names is stored; one whose vector is masked, or
 * whose memory is not reachable yet, later.
 */
import { DMA_FAULT, DMA_WAIT, type DmaPort, type IrqLine } from '#emu';

const NR_VECTORS = 16;
/** Wires: vectors of more are not writable while interrupts are wires. */
const NR_SOURCES = 4;
const ICVEC_BITS = 4;
const MSI_MASKED = 1 << 0;
/** Bits 55..2. */
const MSI_ADDRESS_LO = ~3;
const MSI_ADDRESS_HI = 0x00ff_ffff;
/** Words of a vector: address, data, control. */
const WORD_ADDRESS_LO = 0;
const WORD_ADDRESS_HI = 1;
const WORD_DATA = 2;
const WORD_CONTROL = 3;

/** What a saved machine keeps of the interrupts. Plain data. */
export interface IommuInterruptState {
  wired: boolean;
  ipsr: number;
  icvec: number;
  table: Int32Array;
  unsent: number;
}

export class IommuInterrupts {
  /** fctl.WSI. */
  private wired: boolean;
  private pending: number;
  private vectors: number;
  private readonly table: Int32Array;
  /** Bit n: the message of vector n is still to be sent. */
  private unsent: number;
  private readonly lines: readonly IrqLine[];
  private readonly port: DmaPort;
  private readonly onFault: (msiAddress: number) => void;
  private readonly word: Uint8Array;

  /** @param onFault the message of a vector could not be stored */
  constructor(lines: readonly IrqLine[], port: DmaPort, onFault: (msiAddress: number) => void) {
    this.wired = true;
    this.pending = 0;
    this.vectors = 0;
    this.table = new Int32Array(NR_VECTORS * 4);
    this.unsent = 0;
    this.lines = lines;
    this.port = port;
    this.onFault = onFault;
    this.word = new Uint8Array(4);
  }

  get wsi(): boolean {
    return this.wired;
  }

  set wsi(wired: boolean) {
    this.wired = wired;
    this.drive();
  }

  get ipsr(): number {
    return this.pending;
  }

  /** The causes `bits` of IPSR_* are present. */
  raise(bits: number): void {
    const fresh = bits & ~this.pending;
    if (fresh === 0) return;
    this.pending |= fresh;
    if (this.wired) this.drive();
    else
      for (let source = 0; source < NR_SOURCES; source++)
        if ((fresh & (1 << source)) !== 0) this.unsent |= 1 << this.vectorOf(source);
    this.send();
  }

  /** Writing ones to ipsr. The caller raises again what is still present. */
  acknowledge(bits: number): void {
    this.pending &= ~bits;
    this.drive();
  }

  get icvec(): number {
    return this.vectors;
  }

  /** Four bits for each source; a wire has two of them. */
  set icvec(value: number) {
    this.vectors = value & (this.wired ? 0x3333 : 0xffff);
    this.drive();
  }

  /** @param index of a word in the table */
  readTable(index: number): number {
    return this.wired ? 0 : this.table[index]! >>> 0;
  }

  writeTable(index: number, value: number): void {
    if (this.wired) return;
    const word = index % 4;
    const mask =
      word === WORD_ADDRESS_LO
        ? MSI_ADDRESS_LO
        : word === WORD_ADDRESS_HI
          ? MSI_ADDRESS_HI
          : word === WORD_CONTROL
            ? MSI_MASKED
            : -1;
    this.table[index] = value & mask;
    this.send();
  }

  /** Sends what can be sent now. To be called when memory has become reachable. */
  send(): void {
    if (this.unsent === 0 || this.wired) return;
    for (let vector = 0; vector < NR_VECTORS; vector++) {
      if ((this.unsent & (1 << vector)) === 0) continue;
      const at = vector * 4;
      if ((this.table[at + WORD_CONTROL]! & MSI_MASKED) !== 0) continue;
      const msiAddress =
        this.table[at + WORD_ADDRESS_HI]! * 2 ** 32 + (this.table[at + WORD_ADDRESS_LO]! >>> 0);
      const data = this.table[at + WORD_DATA]!;
      for (let i = 0; i < 4; i++) this.word[i] = data >>> (8 * i);
      const outcome = this.port.write(msiAddress, this.word, 0, 4);
      if (outcome === DMA_WAIT) continue;
      this.unsent &= ~(1 << vector);
      if (outcome === DMA_FAULT) this.onFault(msiAddress);
    }
  }

  private vectorOf(source: number): number {
    return (this.vectors >>> (source * ICVEC_BITS)) & (NR_VECTORS - 1);
  }

  private drive(): void {
    let high = 0;
    for (let source = 0; this.wired && source < NR_SOURCES; source++)
      if ((this.pending & (1 << source)) !== 0) high |= 1 << this.vectorOf(source);
    for (let line = 0; line < this.lines.length; line++)
      this.lines[line]!.set((high & (1 << line)) !== 0);
  }

  save(): IommuInterruptState {
    const { wired, pending: ipsr, vectors: icvec, unsent } = this;
    return { wired, ipsr, icvec, table: this.table.slice(), unsent };
  }

  restore({ wired, ipsr, icvec, table, unsent }: IommuInterruptState): void {
    this.wired = wired;
    this.pending = ipsr;
    this.vectors = icvec;
    this.table.set(table);
    this.unsent = unsent;
  }
}
