/**
 * The IOMMU's translation-request registers: a driver asks how an address of a device is translated. RISC-V
 * IOMMU 1.0, "Translation-request control", "Translation-response".
 *
 * A request is carried out at the next access to any register but the rest of its own: by then both
 * halves of tr_req_ctl have been written, in whichever order. One that has to wait for memory keeps Go set.
 * It goes by the caches, as a device's own request would.
 */
import { DMA_FAULT, DMA_WAIT, type Need, PTE_PPN_SHIFT, PTE_R, PTE_W, PTE_X } from '#emu';
import { LEVEL_BARE } from './iotlb.ts';
import * as reg from './registers.ts';
import {
  TTYP_UNTRANSLATED_EXEC,
  TTYP_UNTRANSLATED_READ,
  TTYP_UNTRANSLATED_WRITE,
} from './structures.ts';

const CTL_LO_MASK = ~0xff0;
const CTL_HI_MASK = 0xffff_ff01;

/** Makes the request. @returns physical address, DMA_FAULT or DMA_WAIT */
export type DebugTranslate = (
  deviceId: number,
  processId: number,
  supervisor: boolean,
  iova: number,
  need: Need,
  ttyp: number,
) => number;

/** What a saved machine keeps of the registers: low and high words. */
export interface DebugState {
  iova: number[];
  ctl: number[];
  response: number[];
}

export class DebugRequests {
  private readonly iova: Int32Array;
  private readonly ctl: Int32Array;
  private readonly response: Int32Array;
  private readonly translate: DebugTranslate;
  private readonly levelOfLast: () => number;

  /** @param levelOfLast size of what the last request has found */
  constructor(translate: DebugTranslate, levelOfLast: () => number) {
    this.iova = new Int32Array(2);
    this.ctl = new Int32Array(2);
    this.response = new Int32Array(2);
    this.translate = translate;
    this.levelOfLast = levelOfLast;
  }

  /** @returns the register's word; undefined where the offset is none of these registers */
  read(offset: number): number | undefined {
    const half = (offset & 4) >>> 2;
    switch (offset & ~4) {
      case reg.IOMMU_REG_TR_REQ_IOVA:
        return this.iova[half];
      case reg.IOMMU_REG_TR_REQ_CTL:
        return this.ctl[half];
      case reg.IOMMU_REG_TR_RESPONSE:
        return this.response[half];
      default:
        return undefined;
    }
  }

  write(offset: number, value: number): void {
    const half = (offset & 4) >>> 2;
    if ((offset & ~4) === reg.IOMMU_REG_TR_REQ_IOVA) this.iova[half] = value;
    else if ((offset & ~4) === reg.IOMMU_REG_TR_REQ_CTL)
      this.ctl[half] = value & (half === 0 ? CTL_LO_MASK : CTL_HI_MASK);
  }

  /** Carries out the request that there is, if there is one. */
  run(): void {
    const lo = this.ctl[0]!;
    if ((lo & reg.TR_REQ_GO) === 0) return;
    const hi = this.ctl[1]!;
    const deviceId = hi >>> reg.TR_REQ_HI_DID_SHIFT;
    const processId = (hi & reg.TR_REQ_HI_PV) !== 0 ? lo >>> reg.TR_REQ_PID_SHIFT : -1;
    const exec = (lo & reg.TR_REQ_EXE) !== 0;
    const readOnly = (lo & reg.TR_REQ_NW) !== 0;
    const need = exec ? PTE_X : readOnly ? PTE_R : PTE_W;
    const ttyp = exec
      ? TTYP_UNTRANSLATED_EXEC
      : readOnly
        ? TTYP_UNTRANSLATED_READ
        : TTYP_UNTRANSLATED_WRITE;
    const iova = (this.iova[1]! >>> 0) * 2 ** 32 + (this.iova[0]! >>> 0);
    const supervisor = (lo & reg.TR_REQ_PRIV) !== 0;
    const spa = this.translate(deviceId, processId, supervisor, iova, need, ttyp);
    if (spa === DMA_WAIT) return;
    this.ctl[0] = lo & ~reg.TR_REQ_GO;
    if (spa === DMA_FAULT) this.respond(0, reg.TR_RESPONSE_FAULT);
    else this.respondPage(Math.floor(spa / 4096), this.levelOfLast());
  }

  private respondPage(page: number, level: number): void {
    // What translates everything to itself has no size that could be told.
    if (level === 0 || level >= LEVEL_BARE) {
      this.respond(page, 0);
      return;
    }
    // The size in unary, in the bits of the page number that it leaves free.
    const pages = 2 ** (9 * level);
    this.respond(page - (page % pages) + pages / 2 - 1, reg.TR_RESPONSE_S);
  }

  private respond(ppn: number, flags: number): void {
    this.response[0] = (ppn % 2 ** 22) * 2 ** PTE_PPN_SHIFT + flags;
    this.response[1] = Math.floor(ppn / 2 ** 22) & reg.PPN_HI_MASK;
  }

  save(): DebugState {
    return { iova: [...this.iova], ctl: [...this.ctl], response: [...this.response] };
  }

  restore(state: DebugState): void {
    this.iova.set(state.iova);
    this.ctl.set(state.ctl);
    this.response.set(state.response);
  }
}
