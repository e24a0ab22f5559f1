/**
 * Where host activity strikes: pages of a guest's memory, by preference those that hurt most, which
 * a TLB holds at this moment or a DMA transfer is in flight over.
 */
import {
  type Hart,
  type Mmu,
  PAGE_SIZE,
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
  /** Shared memory: the id of the file behind it; null = private anonymous. */
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
  /** What DMA transfers of the guest hold at this moment. */
  dma: DmaInFlight;
}

/** Tries at finding a frame in a TLB before a random address is taken. */
const TLB_TRIES = 8;
/** Of a hundred choices: frames from a TLB, frames under DMA; the rest are random addresses. */
const FROM_TLB_PERCENT = 50;
const FROM_DMA_PERCENT = 25;

/** A frame of the guest's memory, or -1 when the dice found none. */
export const pickPage = (victim: Victim, rng: Rng): number => {
  const dice = rng.below(100);
  if (dice < FROM_TLB_PERCENT) {
    const page = pickFromTlb(victim, rng);
    if (page >= 0) return page;
  } else if (dice < FROM_TLB_PERCENT + FROM_DMA_PERCENT) {
    const nrPages = victim.dma.pagesInFlight();
    if (nrPages > 0) return victim.dma.pageInFlight(rng.below(nrPages));
  }
  return presentPage(victim.k, victim.mm, pickHva(victim, rng));
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
  if (mapping?.kind !== 'shmem') throw new Error(`no file ${id}`);
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
    if (page < 0 || page >= nrPages || pageMapcount(victim.k, page) === 0) continue;
    if (hart.mmu.holdsPage(page)) return page;
  }
  return -1;
};
