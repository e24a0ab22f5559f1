/**
 * The IOMMU's side of address translation services: translation requests of devices with a cache, their
 * page requests and who answers them, the invalidations that they owe an answer to. RISC-V IOMMU 1.0,
 * "PCIe ATS translation request handling", "PCIe ATS Page Request handling".
 */
import {
  type Clock,
  DMA_OK,
  DMA_WAIT,
  INSTRUCTIONS_PER_TICK,
  type Need,
  PTE_R,
  PTE_W,
  PTE_X,
  TIMEBASE_HZ,
} from '#emu';
import {
  ATS_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED,
  type AtsCompletion,
  type AtsDevice,
  type AtsRequest,
  type PageRequest,
  PRG_FAILURE,
  PRG_INVALID,
  PRG_SUCCESS,
} from './ats.ts';
import type { AtsInvalidation } from './command-queue.ts';
import { pageRecord } from './fault.ts';
import { IOTLB_GLOBAL, iotlbBytes } from './iotlb.ts';
import { MSI_MRIF, MSI_NONE } from './msi.ts';
import type { RecordQueue } from './queues.ts';
import { DDTP_MODE_BARE, DDTP_MODE_OFF } from './registers.ts';
import * as s from './structures.ts';
import type { IoTranslator } from './translate.ts';

/** How long a device may take to answer an invalidation: 10 ms. */
export const ATS_TIMEOUT = (TIMEBASE_HZ / 100) * INSTRUCTIONS_PER_TICK;
/** Event: an invalidation may be late. */
const EVENT_TIMEOUT = 0;
/** Message code of a page request, for fault records. */
const MESSAGE_PAGE_REQUEST = 0x04;

/** An invalidation that a device has not answered yet. Plain data. */
interface Owed {
  tag: number;
  deviceId: number;
  deadline: number;
}

/** What a saved machine keeps of the unit. */
export interface AtsUnitState {
  owed: Owed[];
  nextTag: number;
}

export interface AtsUnitConfig {
  translator: IoTranslator;
  pages: RecordQueue;
  /** Without one, what is not answered at once is late at once. */
  clock: Clock | undefined;
  name: string;
  /** Puts a fault of the translator's last request into the fault queue. */
  report(
    cause: number,
    ttyp: number,
    deviceId: number,
    processId: number,
    supervisor: boolean,
    iotval: number,
  ): void;
  /** An invalidation was answered, or is late: the command queue may go on. */
  onSettled(): void;
}

export class AtsUnit {
  private readonly config: AtsUnitConfig;
  private readonly devices: Map<number, AtsDevice>;
  private owing: Owed[];
  private nextTag: number;

  constructor(config: AtsUnitConfig) {
    this.config = config;
    this.devices = new Map();
    this.owing = [];
    this.nextTag = 1;
    config.clock?.receive(config.name, () => config.onSettled());
  }

  /** Who answers for a device; undefined: it is gone, and answers nothing. */
  setDevice(deviceId: number, device: AtsDevice | undefined): void {
    if (device === undefined) this.devices.delete(deviceId);
    else this.devices.set(deviceId, device);
  }

  /* ---- translation requests ---- */

  /**
   * A translation request.
   * @param into the completion
   * @returns DMA_OK, or DMA_WAIT: it has to be made again
   */
  request(request: Readonly<AtsRequest>, into: AtsCompletion): number {
    const { translator } = this.config;
    into.status = ATS_SUCCESS;
    into.iova = request.iova - (request.iova % 4096);
    into.lenBytes = iotlbBytes(0);
    into.read = false;
    into.write = false;
    into.exec = false;
    into.global = false;
    into.supervisor = request.processId >= 0 && request.supervisor;
    into.untranslatedOnly = false;
    const cause = this.probe(request, PTE_R);
    if (cause === DMA_WAIT) return DMA_WAIT;
    if (cause !== 0) {
      this.refuse(request, cause, into);
      return DMA_OK;
    }
    into.read = true;
    if (translator.msi.kind === MSI_MRIF) {
      into.write = true;
      into.untranslatedOnly = true;
      return DMA_OK;
    }
    const dc = translator.dc;
    const toGuest = dc !== undefined && (dc.tc & s.TC_T2GPA) !== 0;
    into.lenBytes = translator.lenBytes;
    into.iova = request.iova - (request.iova % into.lenBytes);
    const at = toGuest ? translator.gpa : translator.spa;
    into.translated = at - (at % into.lenBytes);
    const isMsi = translator.msi.kind !== MSI_NONE;
    into.global = request.processId >= 0 && !isMsi && (translator.flags & IOTLB_GLOBAL) !== 0;
    if (!request.noWrite) {
      const write = this.probe(request, PTE_W);
      if (write === DMA_WAIT) return DMA_WAIT;
      into.write = write === 0;
    }
    if (request.exec) {
      const exec = this.probe(request, PTE_X);
      if (exec === DMA_WAIT) return DMA_WAIT;
      into.exec = exec === 0;
    }
    return DMA_OK;
  }

  private probe(request: Readonly<AtsRequest>, need: Need): number {
    const { deviceId, processId, supervisor, iova } = request;
    const { translator } = this.config;
    return translator.translate(deviceId, processId, supervisor, iova, need, s.TTYP_ATS_REQUEST);
  }

  /** A request that could not be translated: no permissions, or an error that is reported as well. */
  private refuse(request: Readonly<AtsRequest>, cause: number, into: AtsCompletion): void {
    if (noPermission(cause)) return;
    into.status = isUnsupported(cause) ? ATS_UNSUPPORTED : ATS_ABORT;
    const { deviceId, processId, supervisor, iova } = request;
    this.config.report(cause, s.TTYP_ATS_REQUEST, deviceId, processId, supervisor, iova);
  }

  /* ---- page requests ---- */

  /**
   * A page request message.
   * @returns DMA_OK: it is in the queue, or was answered, or discarded; DMA_WAIT: it has to be sent again
   */
  pageRequest(request: Readonly<PageRequest>): number {
    const { translator, pages } = this.config;
    translator.dc = undefined;
    if (translator.mode === DDTP_MODE_OFF)
      return this.answer(request, PRG_FAILURE, true, s.CAUSE_ALL_DISALLOWED);
    if (translator.mode === DDTP_MODE_BARE)
      return this.answer(request, PRG_INVALID, false, s.CAUSE_TYPE_DISALLOWED);
    const dc = translator.locate(request.deviceId);
    if (dc === DMA_WAIT) return DMA_WAIT;
    if (typeof dc === 'number') return this.answer(request, PRG_FAILURE, true, dc);
    translator.dc = dc;
    const prpr = (dc.tc & s.TC_PRPR) !== 0;
    const enabled = s.TC_EN_ATS | s.TC_EN_PRI;
    if ((dc.tc & enabled) !== enabled)
      return this.answer(request, PRG_INVALID, prpr, s.CAUSE_TYPE_DISALLOWED);
    if (!pages.on || pages.faulted) return this.answer(request, PRG_FAILURE, true, 0);
    if (pages.overflowed) return this.answer(request, PRG_SUCCESS, prpr, 0);
    if (pages.push(pageRecord(request))) return DMA_OK;
    return pages.faulted
      ? this.answer(request, PRG_FAILURE, true, 0)
      : this.answer(request, PRG_SUCCESS, prpr, 0);
  }

  /**
   * The IOMMU answers itself, where an answer is due at all.
   * @param withProcess the answer has the request's process_id
   * @param cause is reported, unless 0
   */
  private answer(
    request: Readonly<PageRequest>,
    code: number,
    withProcess: boolean,
    cause: number,
  ): number {
    const { deviceId, processId, supervisor } = request;
    if (cause !== 0)
      this.config.report(
        cause,
        s.TTYP_MESSAGE,
        deviceId,
        processId,
        supervisor,
        MESSAGE_PAGE_REQUEST,
      );
    const stopMarker = request.last && !request.read && !request.write;
    if (request.last && !stopMarker)
      this.devices
        .get(deviceId)
        ?.pageGroupResponse(withProcess ? processId : -1, request.group, code);
    return DMA_OK;
  }

  /** ATS.PRGR. */
  pageGroupResponse(deviceId: number, processId: number, group: number, code: number): void {
    this.devices.get(deviceId)?.pageGroupResponse(processId, group, code);
  }

  /* ---- invalidations ---- */

  /** ATS.INVAL. */
  invalidate(deviceId: number, invalidation: AtsInvalidation): void {
    const tag = this.nextTag;
    this.nextTag = (tag % 0xffff) + 1;
    if (this.devices.get(deviceId)?.invalidate(invalidation, tag) === true) return;
    const { clock, name } = this.config;
    const deadline = (clock?.now ?? 0) + (clock === undefined ? 0 : ATS_TIMEOUT);
    this.owing.push({ tag, deviceId, deadline });
    clock?.at(deadline, name, EVENT_TIMEOUT);
  }

  /** A device's invalidation completion message. */
  invalidationDone(deviceId: number, tag: number): void {
    this.owing = this.owing.filter((o) => o.deviceId !== deviceId || o.tag !== tag);
    if (this.owing.length === 0) this.config.onSettled();
  }

  /** 'some' while an answer may still come; 'late' when only those are left that will not. */
  owed(): 'none' | 'some' | 'late' {
    if (this.owing.length === 0) return 'none';
    const now = this.config.clock?.now ?? 0;
    return this.owing.some(({ deadline }) => deadline > now) ? 'some' : 'late';
  }

  giveUpLate(): void {
    this.owing = [];
  }

  save(): AtsUnitState {
    return { owed: this.owing.map((o) => ({ ...o })), nextTag: this.nextTag };
  }

  restore({ owed, nextTag }: AtsUnitState): void {
    this.owing = owed.map((o) => ({ ...o }));
    this.nextTag = nextTag;
  }
}

/** Causes for which a translation request is answered with success, and no permission. */
const noPermission = (cause: number): boolean =>
  (cause >= s.CAUSE_IO_INSTRUCTION_PAGE && cause <= s.CAUSE_IO_WRITE_GUEST_PAGE) ||
  cause === s.CAUSE_PDT_NOT_VALID ||
  cause === s.CAUSE_MSI_NOT_VALID;

const isUnsupported = (cause: number): boolean =>
  cause >= s.CAUSE_ALL_DISALLOWED && cause <= s.CAUSE_TYPE_DISALLOWED;
