/**
 * A device that does DMA, as its driver and the host's IOMMU know it: its id, its mode, the domain
 * that it is attached to, what it has done wrong. Compare struct device and struct dev_iommu.
 */
import type { Kernel } from '#mm';
import { type DmaMapping, type DmaSegmentLimits, NO_SEGMENT_LIMITS } from './dma-mapping.ts';
import type { IoDomain } from './io-domain.ts';

/**
 * What stands between a device and memory: nothing (bus addresses are physical); a domain whose
 * entries are invalidated when they go, or some time later; the page tables of processes.
 */
export type IommuMode = 'off' | 'strict' | 'deferred' | 'sva';

/** One DMA access that should not have been. Plain data. */
export interface DmaViolation {
  kind: 'stale' | 'blocked' | 'unmapped';
  /** One line: who did what to which frame, who had mapped it, whose it is now. */
  text: string;
}

/** Unmapped ranges that are remembered. */
const PAST_KEPT = 64;

/** Violations that are kept word for word; further ones are counted. */
const VIOLATIONS_KEPT = 64;

/** What a saved machine keeps of a device; its domain is saved beside it. */
export interface DmaDeviceState {
  id: number;
  name: string;
  mode: IommuMode;
  domain: number;
  ats: boolean;
  pdt: number;
  removed: boolean;
  direct: DmaMapping[];
  violations: DmaViolation[];
  nrViolations: number;
}

export class DmaDevice {
  readonly kernel: Kernel;
  /** device_id at the IOMMU. */
  readonly id: number;
  readonly name: string;
  readonly mode: IommuMode;
  /** Where its bus addresses lead; null for one whose addresses are physical, or virtual of a process. */
  domain: IoDomain | null;
  /** It has a cache of translations of its own. */
  ats: boolean;
  /** Page of its process directory, -1: it has none. */
  pdt: number;
  /** It is gone, or was cut off: nothing is mapped for it any more. */
  removed: boolean;
  /** What is mapped for a device without a domain: for the checks of its accesses. */
  readonly direct: Set<DmaMapping>;
  /** The same by each page, in physical addresses. */
  private readonly directPages: Map<number, DmaMapping[]>;
  /** The last of those that were unmapped, oldest first. */
  readonly directPast: DmaMapping[];
  /** Ranges that were unmapped: what was looked up in `direct` before it changed has to be looked up again. */
  nrUnmapped: number;
  limits: Readonly<DmaSegmentLimits>;
  /** The first of its violations, and how many there were. */
  readonly violations: DmaViolation[];
  nrViolations: number;

  constructor(kernel: Kernel, id: number, name: string, mode: IommuMode) {
    this.kernel = kernel;
    this.id = id;
    this.name = name;
    this.mode = mode;
    this.domain = null;
    this.ats = false;
    this.pdt = -1;
    this.removed = false;
    this.direct = new Set();
    this.directPages = new Map();
    this.directPast = [];
    this.nrUnmapped = 0;
    this.limits = NO_SEGMENT_LIMITS;
    this.violations = [];
    this.nrViolations = 0;
  }

  /** A range is mapped for a device without a domain. */
  mapDirect(mapping: DmaMapping): void {
    this.direct.add(mapping);
    for (let pfn = mapping.pfn; pfn < mapping.pfn + mapping.nrPages; pfn++) {
      const there = this.directPages.get(pfn);
      if (there === undefined) this.directPages.set(pfn, [mapping]);
      else there.push(mapping);
    }
  }

  /** It is unmapped. @throws Error for one that is not mapped */
  unmapDirect({ pfn, nrPages }: Readonly<DmaMapping>): void {
    const mapping = this.directPages.get(pfn)?.find((m) => m.pfn === pfn && m.nrPages === nrPages);
    if (mapping === undefined) throw new Error(`${this.name}: frame ${pfn} is not mapped`);
    this.nrUnmapped++;
    this.direct.delete(mapping);
    for (let at = pfn; at < pfn + nrPages; at++) {
      const left = this.directPages.get(at)?.filter((m) => m !== mapping) ?? [];
      if (left.length > 0) this.directPages.set(at, left);
      else this.directPages.delete(at);
    }
    this.directPast.push(mapping);
    if (this.directPast.length > PAST_KEPT) this.directPast.shift();
  }

  /** A mapping, of a device without a domain, that allows an access to a page; undefined: none. */
  directAt(pfn: number, write: boolean): DmaMapping | undefined {
    return this.directPages.get(pfn)?.find((mapping) => !write || mapping.writable);
  }

  /** Writes down that an access should not have been. */
  violate(kind: DmaViolation['kind'], text: string): void {
    this.nrViolations++;
    if (this.violations.length < VIOLATIONS_KEPT)
      this.violations.push({ kind, text: `${this.name}: ${text}` });
  }

  save(): DmaDeviceState {
    return {
      id: this.id,
      name: this.name,
      mode: this.mode,
      domain: this.domain?.id ?? -1,
      ats: this.ats,
      pdt: this.pdt,
      removed: this.removed,
      direct: [...this.direct].map((mapping) => ({ ...mapping })),
      violations: this.violations.map((violation) => ({ ...violation })),
      nrViolations: this.nrViolations,
    };
  }

  /** All but the domain, which the IOMMU's driver finds again. */
  restore(state: DmaDeviceState): void {
    this.ats = state.ats;
    this.pdt = state.pdt;
    this.removed = state.removed;
    for (const mapping of state.direct) this.mapDirect({ ...mapping });
    this.violations.push(...state.violations.map((violation) => ({ ...violation })));
    this.nrViolations = state.nrViolations;
  }
}

/** A device behind no IOMMU. Its bus addresses are physical, and nothing keeps it from any of them. */
export const directDevice = (kernel: Kernel, name: string): DmaDevice =>
  new DmaDevice(kernel, 0, name, 'off');
