/**
 * Sanitizer: the LRU lists and the batches before them. A folio with PG_LRU is on exactly one list,
 * that of its zone which its flags name, or, unevictable, counted there; what is in a batch has a
 * reference for it.
 */
import { PG_HEAD, PG_LRU, PG_TAIL, PG_UNEVICTABLE } from '../frames/table.ts';
import { pageZoneIndex } from '../frames/pageblock.ts';
import { lruIndex, lruOf } from '../lru/list.ts';
import { LRU_UNEVICTABLE, NR_LRU_LISTS } from '../lru/state.ts';
import type { Kernel } from '../types.ts';
import type { Census } from './census.ts';

const pagesOf = (k: Kernel, folio: number): number =>
  (k.state.frames.flags[folio]! & PG_HEAD) !== 0 ? 1 << k.state.frames.private[folio]! : 1;

/** Walks every list, and marks what is on one in the census; counts the references of batches. */
export const checkLru = (k: Kernel, census: Census, report: string[]): void => {
  const { zones, lru } = k.state;
  for (const { index } of zones)
    for (let list = 0; list < LRU_UNEVICTABLE; list++) checkList(k, index, list, census, report);
  for (const cpu of lru.cpus)
    for (const batch of [cpu.add, cpu.activate, cpu.mlock])
      for (const folio of batch) census.held[folio] = census.held[folio]! + 1;
  for (const folio of lru.cpus.flatMap(({ add, activate }) => [...add, ...activate]))
    if ((k.state.frames.flags[folio]! & PG_LRU) !== 0)
      report.push(`lru: page ${folio} is in a batch, and on a list`);
  checkFlags(k, census, report);
};

const checkList = (
  k: Kernel,
  zone: number,
  list: number,
  { listed }: Census,
  report: string[],
): void => {
  const { flags, next, prev } = k.state.frames;
  const { head, tail, nrPages } = k.state.lru;
  const at = lruIndex(zone, list);
  let pages = 0;
  let before = -1;
  for (let folio = head[at]!; folio >= 0; folio = next[folio]!) {
    const say = (what: string): void => {
      report.push(`lru: page ${folio} on list ${list} of zone ${zone} ${what}`);
    };
    if (listed[folio] !== 0) {
      say('is on a list twice');
      return;
    }
    listed[folio] = 1;
    const word = flags[folio]!;
    if ((word & PG_LRU) === 0 || (word & PG_TAIL) !== 0) say('does not say so itself');
    else if (lruOf(word) !== list || pageZoneIndex(k, folio) !== zone) say('belongs on another');
    if (prev[folio] !== before) say('has a broken back link');
    pages += pagesOf(k, folio);
    before = folio;
  }
  if (tail[at] !== before) report.push(`lru: list ${list} of zone ${zone} ends elsewhere`);
  if (nrPages[at] !== pages)
    report.push(`lru: list ${list} of zone ${zone} has ${pages} pages, counted ${nrPages[at]!}`);
};

/** Whoever says that it is on a list is on one. */
const checkFlags = (k: Kernel, { listed }: Census, report: string[]): void => {
  const { flags, nrPages } = k.state.frames;
  const unevictable = new Map<number, number>();
  for (let page = 0; page < nrPages; page++) {
    const word = flags[page]!;
    if ((word & PG_LRU) === 0) continue;
    if ((word & PG_UNEVICTABLE) !== 0) {
      const zone = pageZoneIndex(k, page);
      unevictable.set(zone, (unevictable.get(zone) ?? 0) + pagesOf(k, page));
    } else if (listed[page] === 0) {
      report.push(`lru: page ${page} says that it is on a list, and is on none`);
    }
  }
  for (const { index } of k.state.zones) {
    const counted = k.state.lru.nrPages[index * NR_LRU_LISTS + LRU_UNEVICTABLE]!;
    if (counted !== (unevictable.get(index) ?? 0))
      report.push(`lru: ${unevictable.get(index) ?? 0} unevictable pages, counted ${counted}`);
  }
};
