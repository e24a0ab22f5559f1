/**
 * Sanitizer: who holds pages by a key: page caches, the swap cache, and KSM's nodes. Both ways
 * between the map and the frame, and a swap slot's count is what names it.
 */
import { PG_ANON_EXCLUSIVE, PG_HUGETLB, PG_KSM, PG_SWAPCACHE, PG_TAIL } from '../frames/table.ts';
import type { AddressSpace, AnonVma, Kernel } from '../types.ts';
import type { Census } from './census.ts';

const headOf = (k: Kernel, page: number): number =>
  (k.state.frames.flags[page]! & PG_TAIL) !== 0 ? k.state.frames.head[page]! : page;

/** Every file's pages, one reference each in the census, and the slots of those that are swapped out. */
export const checkCaches = (k: Kernel, census: Census, report: string[]): void => {
  for (const [id, object] of k.state.mappings) {
    if (object.id !== id) report.push(`mapping ${object.id} is registered as ${id}`);
    if (object.kind === 'anon') checkAnonVma(object, report);
    else if (object.kind !== 'ksm') checkFile(k, object, census, report);
  }
};

/** How many VMAs have it for their own: what says whether a fork may use it again. */
const checkAnonVma = (anonVma: AnonVma, report: string[]): void => {
  const active = anonVma.vmas.filter((vma) => vma.anonVma === anonVma).length;
  if (active !== anonVma.numActiveVmas)
    report.push(`anon_vma ${anonVma.id}: of ${active} VMAs, counted ${anonVma.numActiveVmas}`);
};

const checkFile = (
  k: Kernel,
  { id, pages, swapped }: AddressSpace,
  { held, swapEntries }: Census,
  report: string[],
): void => {
  const { mapping, index } = k.state.frames;
  for (const [pgoff, page] of pages) {
    const folio = headOf(k, page);
    held[folio] = held[folio]! + 1;
    const own = (index[folio]! + (page - folio)) | 0;
    if (mapping[folio] !== id || own !== (pgoff | 0))
      report.push(`cache: page ${page} is at ${id}:${pgoff}, and says ${mapping[folio]!}:${own}`);
  }
  for (const [pgoff, slot] of swapped) {
    swapEntries[slot] = swapEntries[slot]! + 1;
    if (pages.has(pgoff)) report.push(`cache: ${id}:${pgoff} is there and swapped out`);
  }
};

/** The swap cache, and the count of every slot. Address spaces and files have been counted before. */
export const checkSwap = (k: Kernel, census: Census, report: string[]): void => {
  const { nrSlots, count, cache, nrFree } = k.state.swap;
  const { flags, swap, mapcount } = k.state.frames;
  const { held, swapEntries, swapExclusive } = census;
  for (const [slot, page] of cache) {
    const folio = headOf(k, page);
    held[folio] = held[folio]! + 1;
    if ((flags[folio]! & PG_SWAPCACHE) === 0 || swap[folio]! + (page - folio) !== slot)
      report.push(`swap: slot ${slot} has page ${page} cached, which says otherwise`);
    // Of one entry of a directory the head says it, but then no slot of it is named.
    if ((flags[page]! & PG_ANON_EXCLUSIVE) !== 0 && mapcount[page]! > 0 && swapEntries[slot]! > 0)
      report.push(
        `I3 swap: page ${page} is exclusive, and slot ${slot} in ${swapEntries[slot]!} entries`,
      );
  }
  let nrUnused = 0;
  for (let slot = 1; slot <= nrSlots; slot++) {
    const named = swapEntries[slot]! + (cache.has(slot) ? 1 : 0);
    if (count[slot] !== named)
      report.push(`swap: slot ${slot} is named ${named} times, counted ${count[slot]!}`);
    if (swapExclusive[slot]! > 0 && swapEntries[slot] !== 1)
      report.push(`I3 swap: exclusive slot ${slot} is in ${swapEntries[slot]!} entries`);
    if (count[slot] === 0) nrUnused++;
  }
  if (nrUnused !== nrFree) report.push(`swap: ${nrUnused} free slots, counted ${nrFree}`);
};

/** KSM's nodes and the frames that belong to them. */
export const checkKsm = (k: Kernel, report: string[]): void => {
  const { flags, mapping } = k.state.frames;
  for (const node of k.state.ksm.nodes)
    if (k.state.mappings.get(node.id) !== node)
      report.push(`ksm: node ${node.id} is not among the mappings`);
    else if ((flags[node.page]! & PG_KSM) === 0 || mapping[node.page] !== node.id)
      report.push(`ksm: page ${node.page} of node ${node.id} says that it belongs elsewhere`);
};

/** True for a folio that must be in a cache as often as it has pages (hugetlb: once), and is not. */
export const missingFromSwapCache = (k: Kernel, folio: number): boolean => {
  const { flags, swap } = k.state.frames;
  return (
    (flags[folio]! & (PG_SWAPCACHE | PG_HUGETLB)) === PG_SWAPCACHE &&
    k.state.swap.cache.get(swap[folio]!) !== folio
  );
};
