/** TLB shootdown: the host kernel's flushes, carried to the MMU of every hart. Compare arch/riscv/mm/tlbflush.c. */
import { type Mmu, PAGE_SIZE } from '#emu';
import type { TlbShootdown } from '#mm';

/** Above this many pages, one fence of the whole ASID is cheaper than one a page. */
const PAGES_MAX = 64;

/** Flushes reach every hart at once: none runs while the host kernel does. */
export const shootdownOf = (harts: readonly { readonly mmu: Mmu }[]): TlbShootdown => ({
  flushPage: (asid, hva) => {
    for (const hart of harts) hart.mmu.hostSfenceVma(hva, asid);
  },
  flushRange: (asid, start, end) => {
    for (const hart of harts) {
      if (end - start > PAGES_MAX * PAGE_SIZE) hart.mmu.hostSfenceVma(undefined, asid);
      else for (let hva = start; hva < end; hva += PAGE_SIZE) hart.mmu.hostSfenceVma(hva, asid);
    }
  },
  flushAsid: (asid) => {
    for (const hart of harts) hart.mmu.hostSfenceVma(undefined, asid);
  },
});
