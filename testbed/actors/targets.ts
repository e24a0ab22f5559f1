/**
 * Where host activity strikes: pages of a guest's memory, by preference those that hurt most, which
 * a TLB holds at this moment or a DMA transfer is in flight over.
 */
import {
  type Hart,
  type Mmu,
  PAGE_SIZE,
  RAM_BASE,
  RAM_OFFSET,
  TLB_BASE,
  TLB_ENTRIES,
  TLB_ENTRY_BYTES,
  TLB_READ,
  TLB_STRIDE,
  TLB_WRITE,
} from '#emu';
import {
  type AddressSpace,
  type Kernel,
  type MmStruct,
  pageMapcount,
  ptepGet,
  ptePage,
  ptePresent,
  walkPte,
} from '#mm';
import type { Rng } from '../rng.ts';

/** A part of a guest's memory: one mapping of its host process. */
export interface GuestRange {
  hva: number;
  lenBytes: number;
  /** Shared: the id of the file behind it; null = private anonymous. */
  mappingId: number | null;
}

/** Frames under DMA; one that was pinned twice counts twice. */
export interface DmaInFlight {
  pagesInFlight(): number;
  /** The nth of them. */
  pageInFlight(index: number): number;
  isInFlight(page: number): boolean;
}

/** What activity may strike. */
export interface Victim {
  k: Kernel;
  mm: MmStruct;
  harts: readonly Hart[];
  /** MMU of the hart that host processes run on. */
  hostMmu: Mmu;
  ranges: readonly GuestRange[];
  /** The hva behind a fault of the guest that is being handled at this moment, or -1. */
  faultingHva(): number;
  /** What DMA transfers of the guest hold at this moment. */
  dma: DmaInFlight;
}

/** Tries at finding a frame in a TLB before a random address is taken. */
const TLB_TRIES = 8;
/**
 * Of a hundred choices: the page of a fault that is being handled, a frame under DMA, the frame a hart
 * used last, any frame of a TLB; the rest are random addresses.
 */
const FAULTING_PERCENT = 15;
const FROM_DMA_PERCENT = 30;
const IN_USE_PERCENT = 20;
const FROM_TLB_PERCENT = 25;

/** A frame of the guest's memory, or -1 when the dice found none. */
export const pickPage = (victim: Victim, rng: Rng): number => {
  let dice = rng.below(100);
  if (dice < FAULTING_PERCENT) {
    const hva = victim.faultingHva();
    if (hva >= 0) return pageBehind(victim, hva);
  }
  dice -= FAULTING_PERCENT;
  if (dice < FROM_DMA_PERCENT) {
    const nrInFlight = victim.dma.pagesInFlight();
    if (nrInFlight > 0) return victim.dma.pageInFlight(rng.below(nrInFlight));
  }
  dice -= FROM_DMA_PERCENT;
  if (dice < IN_USE_PERCENT) {
    const page = lastUsed(victim, rng);
    if (page >= 0) return page;
  }
  dice -= IN_USE_PERCENT;
  if (dice < FROM_TLB_PERCENT) {
    const page = pickFromTlb(victim, rng);
    if (page >= 0) return page;
  }
  return pageBehind(victim, pickHva(victim, rng));
};

/** The frame of a page of the guest's memory: mapped at `hva`, or of a guest_memfd, which the guest has without a mapping. */
const pageBehind = ({ k, mm, ranges }: Victim, hva: number): number => {
  const page = presentPage(k, mm, hva);
  if (page >= 0) return page;
  const range = ranges.find((r) => hva >= r.hva && hva < r.hva + r.lenBytes);
  const file = k.state.mappings.get(range?.mappingId ?? -1);
  if (range === undefined || file?.kind !== 'gmem') return -1;
  return file.pages.get((hva - range.hva) / PAGE_SIZE) ?? -1;
};

/** Is it a frame that is mapped, or of a guest_memfd? */
const isUsers = (k: Kernel, page: number): boolean =>
  pageMapcount(k, page) > 0 || k.state.mappings.get(k.state.frames.mapping[page]!)?.kind === 'gmem';

/** The frame of a hart's last translation, if it is one of the guest's: it is likely in use. */
const lastUsed = (victim: Victim, rng: Rng): number => {
  const { mmu } = victim.harts[rng.below(victim.harts.length)]!;
  const page = Math.floor((mmu.pa - RAM_BASE) / PAGE_SIZE);
  if (page < 0 || page >= victim.k.memory.nrPages) return -1;
  return isUsers(victim.k, page) ? page : -1;
};

/** The frame that is mapped at `hva`, or -1. */
export const presentPage = (k: Kernel, mm: MmStruct, hva: number): number => {
  const word = walkPte(k, mm, hva, false);
  if (word <= 0) return -1;
  const pte = ptepGet(k, word);
  return ptePresent(pte) ? ptePage(pte) : -1;
};

/** The file behind a shared range. @throws Error when it is gone */
export const fileById = (k: Kernel, id: number): AddressSpace => {
  const mapping = k.state.mappings.get(id);
  if (mapping === undefined || !('invalidateLock' in mapping)) throw new Error(`no file ${id}`);
  return mapping;
};

/** The page-aligned hva of a random page of guest memory. */
export const pickHva = (victim: Victim, rng: Rng): number => {
  const range = victim.ranges[rng.below(victim.ranges.length)]!;
  return range.hva + rng.below(range.lenBytes / PAGE_SIZE) * PAGE_SIZE;
};

/** A frame that some hart's TLB maps, among those the guest has of the host. */
const pickFromTlb = (victim: Victim, rng: Rng): number => {
  const { i32, nrPages } = victim.k.memory;
  for (let i = 0; i < TLB_TRIES; i++) {
    const hart = victim.harts[rng.below(victim.harts.length)]!;
    const array = rng.chance(50) ? TLB_READ : TLB_WRITE;
    const base = TLB_BASE + hart.index * TLB_STRIDE + array;
    const word = (base + rng.below(TLB_ENTRIES) * TLB_ENTRY_BYTES) >>> 2;
    const tagLo = i32[word]!;
    if (tagLo === 0) continue;
    const offset = ((tagLo & -PAGE_SIZE) + i32[word + 2]!) >>> 0;
    const page = (offset - RAM_OFFSET) / PAGE_SIZE;
    if (page < 0 || page >= nrPages || !isUsers(victim.k, page)) continue;
    if (hart.mmu.holdsPage(page)) return page;
  }
  return -1;
};
