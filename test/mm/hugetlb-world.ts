/** What the hugetlb tests share: a world with pools, and mappings of huge pages. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  HUGETLB_ORDER_2M,
  type HostProcess,
  hugetlbFileSetup,
  hugetlbSetPool,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  mmap,
} from '#mm';
import type { Hstate } from '../../mm/hugetlb/state.ts';
import { leafLevel, leafWord, ptepGet, walkLeaf } from '../../mm/pgtable/walk.ts';
import { ptePage, ptePresent } from '../../mm/pgtable/pte.ts';
import { forked, createProcess, createWorld, RW, type World, settled } from './support.ts';

export { forked, settled };

export const HUGE = 2 << 20;
export const HUGE_NR = HUGE / PAGE_SIZE;
export const GIB = 2 ** 30;

/** 64 MiB of RAM, of which `nr` pages of 2 MiB are in the pool. */
export const createHugeWorld = (nr: number): World => {
  const w = createWorld(64 << 20);
  if (hugetlbSetPool(w.k, HUGETLB_ORDER_2M, nr) !== nr) throw new Error('the pool is not so large');
  return w;
};

/** The pool of 2 MiB pages. */
export const poolOf = (w: World): Hstate => {
  const h = w.k.state.hugetlb.hstates.find(({ order }) => order === HUGETLB_ORDER_2M);
  if (h === undefined) throw new Error('no pool');
  return h;
};

/** `total/free/reserved` of the pool of 2 MiB pages. */
export const poolState = (w: World): string => {
  const { nrPages, free, reserved } = poolOf(w);
  return `${nrPages}/${free.length}/${reserved}`;
};

/** Maps anonymous memory of `nr` huge pages; its hva or -errno. @param flags MAP_*, private unless MAP_SHARED is among them */
export const tryMapHuge = (p: HostProcess, nr: number, flags = 0, prot = RW): number =>
  drive(
    mmap(p.k, p.mm, {
      lenBytes: nr * HUGE,
      prot,
      flags: MAP_ANONYMOUS | MAP_HUGETLB | ((flags & MAP_SHARED) === 0 ? MAP_PRIVATE : 0) | flags,
    }),
  );

/** The same, which must work. */
export const mapHuge = (p: HostProcess, nr: number, flags = 0, prot = RW): number => {
  const hva = tryMapHuge(p, nr, flags, prot);
  if (hva < 0) throw new Error(`mmap: ${hva}`);
  return hva;
};

/** A file of `nr` huge pages. */
export const hugeFile = (w: World, nr: number): AddressSpace => {
  const mapping = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, nr * HUGE_NR);
  if (typeof mapping === 'number') throw new Error(`hugetlbFileSetup: ${mapping}`);
  return mapping;
};

/** Maps all of a file, shared unless MAP_PRIVATE is given; its hva or -errno. */
export const mapHugeFile = (
  p: HostProcess,
  mapping: AddressSpace,
  flags = MAP_SHARED,
  prot = RW,
): number =>
  drive(mmap(p.k, p.mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot, flags, mapping }));

/** The entry that ends the walk for an address, of whatever level. */
export const leafAt = ({ k, mm }: HostProcess, hva: number): { entry: number; level: number } => {
  const leaf = walkLeaf(k, mm, hva);
  return { entry: leaf > 0 ? ptepGet(k, leafWord(leaf)) : 0, level: leafLevel(leaf) };
};

/** The huge page that an address is mapped to, -1 for none. */
export const folioAt = (p: HostProcess, hva: number): number => {
  const { entry } = leafAt(p, hva);
  return ptePresent(entry) ? ptePage(entry) : -1;
};

/** A parent with one written huge page, and a child that shares it; `left` pages are left over. */
export const sharedPage = (
  left: number,
): { w: World; p: HostProcess; c: HostProcess; hva: number } => {
  const w = createHugeWorld(1 + left);
  const p = createProcess(w);
  const hva = mapHuge(p, 1);
  p.store32(hva, 1);
  return { w, p, c: forked(w, p), hva };
};
