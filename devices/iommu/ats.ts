/**
 * Address translation services between the IOMMU and a device that caches translations: what each says
 * to the other. PCIe's messages, as RISC-V IOMMU 1.0 uses them ("PCIe ATS translation request
 * handling", "PCIe ATS Page Request handling").
 */
import type { AtsInvalidation } from './command-queue.ts';

/** Status of a translation completion: unsupported request, completer abort. */
export const ATS_SUCCESS = 0;
export const ATS_UNSUPPORTED = 1;
export const ATS_ABORT = 2;

/** Response codes of a page request group. */
export const PRG_SUCCESS = 0;
export const PRG_INVALID = 1;
export const PRG_FAILURE = 15;

/** The device's side. */
export interface AtsDevice {
  /**
   * Forgets translations.
   * @param tag names the request in Iommu.invalidationDone()
   * @returns true: done; false: the device says so later, or never
   */
  invalidate(invalidation: AtsInvalidation, tag: number): boolean;
  /** The answer to a group of page requests: PRG_*. @param processId -1: without */
  pageGroupResponse(processId: number, group: number, code: number): void;
}

/** What a device asks a translation for. */
export interface AtsRequest {
  deviceId: number;
  /** -1: without. */
  processId: number;
  iova: number;
  /** Privilege mode, and execute permission, are asked for: with a process_id only. */
  supervisor: boolean;
  exec: boolean;
  /** The device will not write. */
  noWrite: boolean;
}

/** A translation completion. */
export interface AtsCompletion {
  status: typeof ATS_SUCCESS | typeof ATS_UNSUPPORTED | typeof ATS_ABORT;
  /** [iova, +lenBytes) is translated to [translated, +lenBytes), where any permission is granted. */
  iova: number;
  lenBytes: number;
  translated: number;
  read: boolean;
  write: boolean;
  exec: boolean;
  global: boolean;
  supervisor: boolean;
  /** Only untranslated requests may be made to the page. */
  untranslatedOnly: boolean;
}

export const createAtsCompletion = (): AtsCompletion => ({
  status: ATS_SUCCESS,
  iova: 0,
  lenBytes: 0,
  translated: 0,
  read: false,
  write: false,
  exec: false,
  global: false,
  supervisor: false,
  untranslatedOnly: false,
});

/** A page request message. Without read and write, and last: a stop marker. */
export interface PageRequest {
  deviceId: number;
  processId: number;
  supervisor: boolean;
  exec: boolean;
  read: boolean;
  write: boolean;
  last: boolean;
  /** Of nine bits. */
  group: number;
  iova: number;
}
