/** What the GUP tests share: a small kernel, a process whose loads and stores are done by hand, and paths stepped one yield at a time. */
import { PAGE_SIZE, PhysMemory, PTE_A, PTE_D } from '#emu';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { FAULT_FLAG_WRITE, userFault } from '../../mm/fault/fault.ts';
import { nrFreePages } from '../../mm/frames/zone.ts';
import { createKernel } from '../../mm/kernel.ts';
import { drive, type Path } from '../../mm/path.ts';
import { pteProtnone, ptePresent, pteWrite } from '../../mm/pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, setPteAt, walkLeaf } from '../../mm/pgtable/walk.ts';
import { createPolicy, type PolicyName } from '../../mm/policy.ts';
import type { AddressSpace, Kernel, MmStruct } from '../../mm/types.ts';
import { MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED } from '../../mm/vma/flags.ts';
import { mmap } from '../../mm/vma/mmap.ts';
import { forkMm, pinsLive, RW, stepTo } from './support.ts';

export { forkMm, pinsLive, RW, stepTo };

export const createWorld = (policy: PolicyName = 'linux-7', ramBytes = 8 << 20): Kernel => {
  const k = createKernel({
    memory: new PhysMemory(ramBytes),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy(policy),
  });
  k.checked = true;
  return k;
};

/** Maps anonymous private memory. @returns hva */
export const mapAnon = (k: Kernel, mm: MmStruct, nrPages: number, prot = RW): number =>
  drive(mmap(k, mm, { lenBytes: nrPages * PAGE_SIZE, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS }));

/** Maps a file. @returns hva */
export const mapFile = (
  k: Kernel,
  mm: MmStruct,
  mapping: AddressSpace,
  flags = MAP_SHARED,
  prot = RW,
): number =>
  drive(mmap(k, mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot, flags, mapping, pgoff: 0 }));

/** The entry that maps `hva`, of any level, as it is; 0 = none. */
export const entryAt = (k: Kernel, mm: MmStruct, hva: number): number =>
  k.memory.i32[leafWord(walkLeaf(k, mm, hva))]!;

/** Frame mapped at `hva`, -1 = none. */
export const pageAt = (k: Kernel, mm: MmStruct, hva: number): number => {
  const leaf = walkLeaf(k, mm, hva);
  const pte = k.memory.i32[leafWord(leaf)]!;
  return ptePresent(pte) ? leafPage(pte, leafLevel(leaf), hva) : -1;
};

/** Offset in RAM of a byte of user memory, as the hardware finds it: A (and D) set, faults taken. @returns it, or -errno */
function* userOffset(k: Kernel, mm: MmStruct, hva: number, write: boolean): Path<number> {
  for (;;) {
    const leaf = walkLeaf(k, mm, hva);
    const pte = k.memory.i32[leafWord(leaf)]!;
    if (ptePresent(pte) && !pteProtnone(pte) && (!write || pteWrite(pte))) {
      setPteAt(k, leafWord(leaf), pte | PTE_A | (write ? PTE_D : 0));
      return k.memory.pageOffset(leafPage(pte, leafLevel(leaf), hva)) + (hva % PAGE_SIZE);
    }
    const error = yield* userFault(k, mm, hva, write ? FAULT_FLAG_WRITE : 0);
    if (error < 0) return error;
  }
}

/** A user's store of one byte. @returns 0 or -errno */
export function* storePath(k: Kernel, mm: MmStruct, hva: number, byte: number): Path<number> {
  const offset = yield* userOffset(k, mm, hva, true);
  if (offset < 0) return offset;
  k.memory.u8[offset] = byte;
  return 0;
}

/** A user's load of one byte. @returns the byte or -errno */
export function* loadPath(k: Kernel, mm: MmStruct, hva: number): Path<number> {
  const offset = yield* userOffset(k, mm, hva, false);
  return offset < 0 ? offset : k.memory.u8[offset]!;
}

export const store = (k: Kernel, mm: MmStruct, hva: number, byte: number): number =>
  drive(storePath(k, mm, hva, byte));
export const load = (k: Kernel, mm: MmStruct, hva: number): number => drive(loadPath(k, mm, hva));
export const byteOf = (k: Kernel, page: number, offset = 0): number =>
  k.memory.u8[k.memory.pageOffset(page) + offset]!;

/** Runs the rest of a stepped path, unwatched. */
export const finish = <T>(path: Path<T>): T => drive(path);

/** Violations with no path suspended. */
export const violations = (k: Kernel, gets = 0): string[] =>
  checkKernel(k, { quiescent: true, gets });

export const freeOf = (k: Kernel): number => nrFreePages(k);
