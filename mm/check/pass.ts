/** Sanitizer: what its parts hand on while they go over one address space. */
import type { Kernel, MmStruct, Vma } from '../types.ts';
import type { Census } from './census.ts';

/** One address space on its way through the sanitizer. */
export interface MmPass {
  k: Kernel;
  mm: MmStruct;
  census: Census;
  report: string[];
  /** The VMA of the entry before, and its number: entries come in order of address. */
  vma: Vma | undefined;
  nextVma: number;
  /** Found so far. */
  anon: number;
  file: number;
  swap: number;
  hugetlb: number;
  tables: number;
  /** Entries for which a table must be kept back. */
  hugeEntries: number;
}

/** For messages: where an entry is. */
export const whereOf = ({ mm }: MmPass, hva: number): string =>
  `mm ${mm.id}: hva 0x${hva.toString(16)}`;
