/**
 * Sanitizer: what files that are written back promise, and what makes them lose data.
 *
 * I6 a page of a shared mapping that can be written to: its file system has promised that it can be
 * written out; and the page is dirty. I7 a dirty page: the same promise. Whoever writes through a
 * reference after writeback has cleaned the page breaks it, and is named where provenance knows him. I8
 * at rest: a clean page is on the device as it is in memory, so no store before the last completed
 * writeback is lost; and nobody is under writeback.
 */
import { PAGE_SIZE } from '#emu';
import { blockDeviceOf } from '../block/device.ts';
import { blockBytes } from '../block/media.ts';
import { extentAt } from '../fs/extent/extents.ts';
import type { ExtentFs, ExtentInode } from '../fs/extent/state.ts';
import { PG_DIRTY, PG_LOCKED, PG_UPTODATE, PG_WRITEBACK } from '../frames/table.ts';
import { vmaNeedsDirtyTracking } from '../gup/vma-check.ts';
import { pteDirty, ptePage, pteWrite } from '../pgtable/pte.ts';
import { holderNames } from '../provenance/holders.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { linearPageIndex } from '../vma/flags.ts';
import { type MmPass, whereOf } from './pass.ts';

/** I6. A present entry of a VMA. */
export const checkWritableEntry = (pass: MmPass, vma: Vma, hva: number, entry: number): void => {
  const inode = vma.mapping?.inode ?? null;
  if (inode === null || !pteWrite(entry) || !vmaNeedsDirtyTracking(vma)) return;
  const { k, report } = pass;
  const pgoff = linearPageIndex(vma, hva);
  if (!inode.reserved.has(pgoff))
    report.push(
      `I6 ${whereOf(pass, hva)}: writable, and nothing is promised for ${pageOf(inode, pgoff)}`,
    );
  const page = ptePage(entry);
  // Of DAX the file itself keeps track of stores.
  const dax = vma.mapping?.dax ?? null;
  if (dax !== null && !dax.dirty.has(pgoff))
    report.push(`I6 ${whereOf(pass, hva)}: writable, and ${pageOf(inode, pgoff)} is not dirty`);
  if (dax === null && !pteDirty(entry) && (k.state.frames.flags[page]! & PG_DIRTY) === 0)
    report.push(`I6 ${whereOf(pass, hva)}: writable and clean, page ${page} as well`);
};

const pageOf = ({ ino }: ExtentInode, pgoff: number): string => `page ${pgoff} of inode ${ino}`;

/** I7, and with `settled` I8: the cached pages of every file that is written back. */
export const checkDirty = (k: Kernel, settled: boolean, report: string[]): void => {
  for (const object of k.state.mappings.values()) {
    if (object.kind !== 'extent' || object.inode === null) continue;
    const fs = k.state.filesystems.get(object.inode.fs);
    if (fs === undefined) continue;
    for (const [pgoff, page] of object.pages)
      checkPage(k, fs, object, object.inode, pgoff, page, settled, report);
  }
};

const checkPage = (
  k: Kernel,
  fs: ExtentFs,
  { wbErr }: AddressSpace,
  inode: ExtentInode,
  pgoff: number,
  page: number,
  settled: boolean,
  report: string[],
): void => {
  const word = k.state.frames.flags[page]!;
  if ((word & PG_DIRTY) !== 0) {
    if (!inode.reserved.has(pgoff))
      report.push(
        `I7 ${pageOf(inode, pgoff)}: dirty, and nothing is promised for it: ${writerOf(k, page)}`,
      );
    return;
  }
  if (!settled) return;
  if ((word & PG_WRITEBACK) !== 0) {
    report.push(`${pageOf(inode, pgoff)}: under writeback by nobody`);
    return;
  }
  if ((word & (PG_LOCKED | PG_UPTODATE)) !== PG_UPTODATE || wasLost(k, fs, inode, pgoff, wbErr))
    return;
  if (!isOnDevice(k, fs, inode, pgoff, page))
    report.push(
      `I8 ${pageOf(inode, pgoff)}: clean, and not on the device as it is: ${writerOf(k, page)}`,
    );
};

/** Writeback cannot complete, or has said that it lost the page: to whoever asks, or by a name on its list. */
const wasLost = (
  k: Kernel,
  fs: ExtentFs,
  { ino }: ExtentInode,
  pgoff: number,
  wbErr: number,
): boolean =>
  wbErr !== 0 ||
  fs.journal.aborted ||
  blockDeviceOf(k, fs.device).badWrites.size > 0 ||
  fs.behind.some((lost) => lost.ino === ino && lost.pgoff === pgoff && lost.status !== 0);

/** Who wrote it last by GUP, or holds it now. */
const writerOf = (k: Kernel, page: number): string => {
  const { provenance } = k.state;
  if (provenance === null) return 'by somebody (provenance is off)';
  const writer = provenance.writers.get(page);
  const holders = holderNames(k, page);
  const held = holders.length > 0 ? `, held by ${holders.join(', ')}` : '';
  return writer === undefined && held === ''
    ? 'by nobody known'
    : `by ${writer ?? 'whoever holds it'}${held}`;
};

/** Are the bytes of a page, as far as the file goes, those of its block? */
const isOnDevice = (
  k: Kernel,
  fs: ExtentFs,
  inode: ExtentInode,
  pgoff: number,
  page: number,
): boolean => {
  const extent = extentAt(inode, pgoff);
  const block =
    extent === undefined || extent.unwritten ? -1 : extent.block + (pgoff - extent.pgoff);
  const bytes = block < 0 ? undefined : blockBytes(k, blockDeviceOf(k, fs.device), block);
  const { u8 } = k.memory;
  const at = k.memory.pageOffset(page);
  const nr = Math.min(PAGE_SIZE, inode.sizeBytes - pgoff * PAGE_SIZE);
  for (let i = 0; i < nr; i++)
    if (u8[at + i]! !== (bytes === undefined ? 0 : bytes[i]!)) return false;
  return true;
};
