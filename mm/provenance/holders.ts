/**
 * Who holds a folio, by name, for reports about memory that could not be had: without a walk over the
 * page tables, whose entries hold nothing back. explain.ts has the whole picture of one frame.
 */
import { folioExpectedRefs, folioNrPages, folioOf, folioRefCount } from '../folio/folio.ts';
import { folioHasPincount, folioPinCount, GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import {
  PG_ANON,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_LOCKED,
  PG_LRU,
  PG_RESERVED,
  PG_TABLE,
  PG_WRITEBACK,
} from '../frames/table.ts';
import { isZoneDevice } from '../frames/zone-device.ts';
import { longtermOf } from './longterm.ts';
import { pipeHoldIsGup } from '../pipe/pipe.ts';
import type { Kernel } from '../types.ts';

/** A page that somebody wanted to have moved, and that has not moved. Plain data. */
export interface HeldPage {
  page: number;
  /** What about it is in the way. */
  reason: string;
  /** Who has it, by name: users of GUP, pipes, buffers, the kernel. */
  holders: string[];
}

/** References and pins that are counted by name. */
interface Named {
  /** Name -> how often. */
  names: Map<string, number>;
  gets: number;
  pins: number;
}

const add = (named: Named, name: string, n: number): void => {
  named.names.set(name, (named.names.get(name) ?? 0) + n);
};

/** Pipes, registered buffers and long-term pins, and with provenance on whatever GUP has handed out. */
const gupHolders = (k: Kernel, folio: number, named: Named): void => {
  const { provenance, pipes, fixedBuffers } = k.state;
  for (const { id, buffers } of pipes.values())
    for (const { page, hold } of buffers) {
      if (folioOf(k, page) !== folio) continue;
      if (pipeHoldIsGup(hold) && provenance !== null) continue;
      add(named, pipeHoldIsGup(hold) ? `vmsplice (pipe ${id})` : `pipe ${id}`, 1);
      if (hold === 'pin') named.pins++;
      else named.gets++;
    }
  if (provenance === null) {
    for (const { id, pages } of fixedBuffers.values())
      for (const page of pages) {
        if (folioOf(k, page) !== folio) continue;
        add(named, `io_uring (buffer ${id})`, 1);
        named.pins++;
      }
    for (const { user, at, pins } of longtermOf(k, folio)) {
      add(
        named,
        user === 'rdma' ? `rdma (region ${at})` : `vfio (iova 0x${at.toString(16)})`,
        pins,
      );
      named.pins += pins;
    }
    return;
  }
  for (let page = folio; page < folio + folioNrPages(k, folio); page++)
    for (const { user, api, kind, n } of provenance.holds.get(page) ?? []) {
      add(named, user === '' ? `${api}()` : `${user} (${api}())`, n);
      if (kind === 'pin') named.pins += n;
      else named.gets += n;
    }
};

/** Batches on the way to an LRU list: a reference for each place in one. */
const batchHolders = (k: Kernel, folio: number, named: Named): void => {
  for (const [cpu, batches] of k.state.lru.cpus.entries())
    for (const batch of Object.values(batches) as number[][])
      for (const waiting of batch) {
        if (waiting !== folio) continue;
        add(named, `LRU batch of CPU ${cpu}`, 1);
        named.gets++;
      }
};

/** What the kernel itself has a page for, by its flags; '' for nothing that they say. */
const kernelUse = (k: Kernel, folio: number): string => {
  const word = k.state.frames.flags[folio]!;
  if ((word & PG_RESERVED) !== 0) return 'reserved';
  if ((word & PG_TABLE) !== 0) return 'page table';
  if (isZoneDevice(word)) return 'memory of a device';
  if ((word & PG_HWPOISON) !== 0) return 'hwpoison';
  const used = folioRefCount(k, folio) > 0 && k.state.frames.mapping[folio] === 0;
  return used && (word & (PG_ANON | PG_HUGETLB)) === 0 ? 'kernel' : '';
};

/**
 * Everybody but page tables, caches and whoever isolates it, with how often where that is not once;
 * last what nobody is known to have.
 */
export const holderNames = (k: Kernel, folio: number): string[] => {
  const isolated = (k.state.frames.flags[folio]! & PG_ISOLATED) !== 0 ? 1 : 0;
  const rest = folioRefCount(k, folio) - folioExpectedRefs(k, folio) - isolated;
  // Most pages that are in the way have not been tried yet: nobody has to be looked for.
  if (rest === 0) return [];
  const named: Named = { names: new Map(), gets: 0, pins: 0 };
  gupHolders(k, folio, named);
  batchHolders(k, folio, named);
  const use = kernelUse(k, folio);
  if (use !== '') {
    add(named, use, 1);
    named.gets++;
  }
  const bias = folioHasPincount(k, folio) ? 1 : GUP_PIN_COUNTING_BIAS;
  const pins = Math.min(folioPinCount(k, folio), Math.floor(Math.max(rest, 0) / bias));
  const strangePins = pins - named.pins;
  const strangeGets = rest - pins * bias - named.gets;
  const names = [...named.names].map(([name, n]) => (n === 1 ? name : `${name} x ${n}`));
  if (strangePins > 0) names.push(`${strangePins} pins of nobody known by name`);
  if (strangeGets > 0) names.push(`${strangeGets} references of nobody known by name`);
  return names;
};

/** What is in the way of moving a folio. */
const reasonOf = (k: Kernel, folio: number, holders: readonly string[]): string => {
  const word = k.state.frames.flags[folio]!;
  const object = k.state.mappings.get(k.state.frames.mapping[folio]!);
  const use = kernelUse(k, folio);
  if (use !== '') return use === 'kernel' ? 'allocated by the kernel' : use;
  if (object?.kind === 'secretmem') return 'secretmem';
  if (folioPinCount(k, folio) > 0) return 'pinned';
  if ((word & PG_WRITEBACK) !== 0) return 'under writeback';
  if (holders.some((name) => name.startsWith('LRU batch'))) return 'waits in an LRU batch';
  if (holders.length > 0) return 'referenced';
  if ((word & PG_ISOLATED) !== 0) return 'isolated by somebody else';
  if ((word & PG_LOCKED) !== 0) return 'locked';
  return (word & PG_LRU) === 0 ? 'on no LRU list' : 'busy';
};

/**
 * Says why a page has not moved.
 * @param why where the one who tried knows better than the page's state says
 */
export const heldPage = (k: Kernel, page: number, why?: string): HeldPage => {
  const folio = folioOf(k, page);
  const holders = holderNames(k, folio);
  return { page, reason: why ?? reasonOf(k, folio, holders), holders };
};
