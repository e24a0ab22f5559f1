/**
 * Sanitizer: VMAs, and whether the reverse map leads from a page back to every entry that maps it.
 * No overlap, both ways between a VMA and its file and anon_vmas, the file's page in a file's entry.
 */
import { PAGE_SIZE } from '#emu';
import { PG_ANON, PG_DEVICE_COHERENT, PG_HUGETLB, PG_KSM, PG_P2PDMA } from '../frames/table.ts';
import { nrRunPages } from '../gup/page-runs.ts';
import type { AddressSpace, Kernel, MmStruct, Vma } from '../types.ts';
import { linearPageIndex, VM_LOCKED, VM_MIXEDMAP, VM_SHARED } from '../vma/flags.ts';
import { type MmPass, whereOf } from './pass.ts';

/** Checks the list of an address space's VMAs. */
export const checkVmas = (k: Kernel, mm: MmStruct, report: string[]): void => {
  let end = 0;
  let locked = vfioPages(k, mm);
  for (const vma of mm.vmas) {
    const say = (what: string): void => {
      const range = `[0x${vma.start.toString(16)}, 0x${vma.end.toString(16)})`;
      report.push(`mm ${mm.id}: VMA ${range}${what}`);
    };
    if (vma.start >= vma.end || vma.start < end) say(' is empty or overlaps');
    end = vma.end;
    if ((vma.flags & VM_LOCKED) !== 0) locked += (vma.end - vma.start) / PAGE_SIZE;
    if (vma.mm !== mm) say(` belongs to mm ${vma.mm.id}`);
    if (vma.mapping !== null && !vma.mapping.vmas.includes(vma))
      say(` is missing from mapping ${vma.mapping.id}`);
    for (const anonVma of vma.anonChain)
      if (!anonVma.vmas.includes(vma)) say(` is missing from anon_vma ${anonVma.id}`);
    if (vma.anonVma !== null && !vma.anonChain.includes(vma.anonVma))
      say(': its anon_vma is not in its chain');
  }
  // Whoever changes VMAs counts under the lock.
  if (locked !== mm.lockedVm && !mm.mmapLock.writer)
    report.push(`mm ${mm.id}: ${locked} pages locked by VMAs and VFIO, counted ${mm.lockedVm}`);
};

/** What a device of the process has, which counts as locked besides. */
const vfioPages = (k: Kernel, mm: MmStruct): number => {
  let pages = 0;
  for (const { pinned, runs } of k.state.vfioContainers.get(mm.id)?.dmas ?? [])
    if (pinned) pages += nrRunPages(runs);
  return pages;
};

/** Would the reverse map find this entry, and is it the right page of the file? */
export const checkReverseMap = (
  pass: MmPass,
  vma: Vma,
  hva: number,
  page: number,
  folio: number,
  level: number,
): void => {
  const { frames } = pass.k.state;
  const word = frames.flags[folio]!;
  if ((word & (PG_P2PDMA | PG_DEVICE_COHERENT)) !== 0) return;
  const id = frames.mapping[folio]!;
  // A driver may map a page of its own, which is in no file.
  if (id === 0 && (vma.flags & VM_MIXEDMAP) !== 0) return;
  if ((word & PG_KSM) !== 0) {
    checkMerged(pass, vma, hva, page, id);
    return;
  }
  const index = linearPageIndex(vma, hva);
  const own = (frames.index[folio]! + (page - folio)) | 0;
  if (own !== (index | 0))
    pass.report.push(`rmap ${whereOf(pass, hva)}: page ${page} has index ${own}, not ${index}`);
  if ((word & PG_ANON) !== 0) {
    checkAnon(pass, vma, hva, page, id);
  } else if (vma.mapping === null || vma.mapping.id !== id) {
    pass.report.push(
      `rmap ${whereOf(pass, hva)}: page ${page} belongs to mapping ${id}, not the VMA's`,
    );
  } else {
    checkFile(pass, vma.mapping, hva, page, index, level, (word & PG_HUGETLB) !== 0);
  }
};

const checkAnon = (pass: MmPass, vma: Vma, hva: number, page: number, id: number): void => {
  const { report } = pass;
  if ((vma.flags & VM_SHARED) !== 0)
    report.push(`${whereOf(pass, hva)}: anonymous page ${page} in a shared mapping`);
  if (vma.anonVma?.id === id) return;
  for (const anonVma of vma.anonChain) if (anonVma.id === id) return;
  report.push(
    `rmap ${whereOf(pass, hva)}: page ${page} belongs to anon_vma ${id}, not in the VMA's chain`,
  );
};

/** The pages of the cache that an entry maps: hugetlb has one key for a folio, others one for each page. */
const checkFile = (
  pass: MmPass,
  mapping: AddressSpace,
  hva: number,
  page: number,
  index: number,
  level: number,
  hugetlb: boolean,
): void => {
  const nr = level === 0 || hugetlb ? 1 : 512;
  // Of a driver's file nothing is cached, of one by DAX what its mappings show is listed.
  if (mapping.kind === 'device') return;
  const pages = mapping.dax?.entries ?? mapping.pages;
  for (let i = 0; i < nr; i++)
    if (pages.get(index + i) !== page + i) {
      pass.report.push(
        `${whereOf(pass, hva)}: page ${page + i} is not the file's page ${index + i}`,
      );
      return;
    }
};

/** A merged page: one of its node's items leads to this entry. */
const checkMerged = (pass: MmPass, vma: Vma, hva: number, page: number, id: number): void => {
  const node = pass.k.state.mappings.get(id);
  if (node?.kind !== 'ksm' || node.page !== page) {
    pass.report.push(`rmap ${whereOf(pass, hva)}: merged page ${page} has no node`);
    return;
  }
  for (const item of node.items)
    if (item.hva === hva && vma.anonChain.includes(item.anonVma)) return;
  pass.report.push(`rmap ${whereOf(pass, hva)}: no item of merged page ${page} leads here`);
};
