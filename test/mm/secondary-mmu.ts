/** A secondary MMU as small as can be: what kvm does with mm/secondary.ts, without a guest. */
import { PAGE_SIZE } from '#emu';
import {
  createInvalidateState,
  createSecondaryPfn,
  faultInPfn,
  invalidateBegin,
  invalidateEnd,
  invalidateRetry,
  invalidateSeq,
  type Kernel,
  type MmStruct,
  type Path,
  registerSecondary,
  registerSecondaryOps,
  releasePfn,
} from '#mm/secondary';

export interface SecondaryEntry {
  pfn: number;
  writable: boolean;
}

/** Its entries by hva, its invalidate state, and what it counted. */
export interface SecondaryMmu {
  mm: MmStruct;
  entries: Map<number, SecondaryEntry>;
  state: ReturnType<typeof createInvalidateState>;
  retries: number;
  released: boolean;
}

/** Subscribes a new secondary MMU to an address space. */
export const createSecondaryMmu = (k: Kernel, mm: MmStruct, owner = 1): SecondaryMmu => {
  const mmu: SecondaryMmu = {
    mm,
    entries: new Map(),
    state: createInvalidateState(),
    retries: 0,
    released: false,
  };
  registerSecondaryOps(k, `secondary${owner}`, {
    invalidateRangeStart: (_owner, range) => {
      invalidateBegin(mmu.state, range.start, range.end);
      for (const hva of [...mmu.entries.keys()])
        if (hva >= range.start && hva < range.end) mmu.entries.delete(hva);
      return 0;
    },
    invalidateRangeEnd: () => invalidateEnd(mmu.state),
    visitEntries: (visit) => {
      for (const [hva, { pfn, writable }] of mmu.entries) visit(mmu.mm, hva, pfn, writable);
    },
    release: () => {
      mmu.entries.clear();
      mmu.released = true;
    },
  });
  registerSecondary(k, mm, `secondary${owner}`, owner);
  return mmu;
};

/** One fault, by the protocol of the facts sheet 1.13. @returns 0 or -errno */
export function* secondaryFault(
  k: Kernel,
  mmu: SecondaryMmu,
  hva: number,
  write: boolean,
): Path<number> {
  const at = hva - (hva % PAGE_SIZE);
  const out = createSecondaryPfn();
  for (;;) {
    const seq = invalidateSeq(mmu.state);
    const error = yield* faultInPfn(k, mmu.mm, at, write, out);
    if (error !== 0) return error;
    // From here to the release nobody else runs: the owner's lock.
    if (invalidateRetry(mmu.state, seq, at)) {
      mmu.retries++;
      releasePfn(k, out, false, false);
      // An open invalidation is waited for, as a vCPU that faults again and again does.
      if (mmu.state.inProgress > 0) yield 0;
      continue;
    }
    mmu.entries.set(at, { pfn: out.pfn, writable: out.writable });
    releasePfn(k, out, out.writable, true);
    return 0;
  }
}
