/**
 * What memory management asks of a file, by its kind. Compare include/linux/fs.h, struct
 * address_space_operations, and include/linux/mm.h, struct vm_operations_struct.
 */
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { extentOperations } from './extent/operations.ts';
import { extentSyncMetadata } from './extent/sync.ts';
import { guestMemfdGetPage } from './guestmemfd.ts';
import { secretmemGetPage } from './secretmem.ts';
import { shmemGetPage } from './shmem.ts';

/** A kind of file. What is left out it does not have. */
export interface AddressSpaceOperations {
  /**
   * The page at an offset, read or made. @returns the page, its folio locked, up to date and with a
   * reference for the caller; -EINVAL beyond the end; -ENOMEM; -EIO
   */
  getPage(k: Kernel, mapping: AddressSpace, pgoff: number, vmFlags: number): Path<number>;
  /**
   * A page of a shared mapping is about to become writable: the file system promises that it can be
   * written. The caller has a reference, and not the lock. Waits while the page has to be stable.
   * @returns 0: the folio is locked, and still the file's; -EAGAIN: it is not any more, try the access
   *   again; -EFAULT: SIGBUS (beyond the end, no space, an error). Compare vm_ops->page_mkwrite()
   */
  pageMkwrite?(k: Kernel, mapping: AddressSpace, page: number): Path<number>;
  /**
   * Writes one page out: locked, and clean as folioClearDirtyForIo() has left it. Comes back with it
   * unlocked, when the device has the bytes or has refused them. The caller has a reference.
   * @returns 0, -EIO, -ENOSPC: also kept in mapping.wbErr. Compare a_ops->writepages()
   */
  writeFolio?(k: Kernel, mapping: AddressSpace, folio: number): Path<number>;
  /** What the file has of a clean locked folio besides its bytes goes. @returns false: it cannot now. Compare a_ops->release_folio() */
  releaseFolio?(k: Kernel, mapping: AddressSpace, folio: number): boolean;
  /** A locked folio leaves the file by truncation, dirty or not: so do its promises. Compare a_ops->invalidate_folio() */
  invalidateFolio?(k: Kernel, mapping: AddressSpace, folio: number): void;
  /** Makes durable what writeback leaves to be done: the size, the extents, the device's cache. @returns 0, -EIO */
  syncMetadata?(k: Kernel, mapping: AddressSpace): Path<number>;
}

const SHMEM: AddressSpaceOperations = { getPage: shmemGetPage };
const SECRETMEM: AddressSpaceOperations = { getPage: secretmemGetPage };
const GMEM: AddressSpaceOperations = { getPage: guestMemfdGetPage };

/** There is no page cache to get a page into: faults, read() and write() have their own way (dax/). */
const FSDAX: AddressSpaceOperations = {
  getPage: (_k, { id }) => {
    throw new Error(`file ${id} is DAX: it has no page cache`);
  },
  syncMetadata: extentSyncMetadata,
};

/**
 * @throws Error for a kind whose pages come another way: hugetlbfs, a driver's file
 */
export const operationsOf = (mapping: AddressSpace): AddressSpaceOperations => {
  switch (mapping.kind) {
    case 'shmem':
      return SHMEM;
    case 'secretmem':
      return SECRETMEM;
    case 'gmem':
      return GMEM;
    case 'extent':
      return extentOperations;
    case 'fsdax':
      return FSDAX;
    default:
      throw new Error(`${mapping.kind} has no operations of the page cache`);
  }
};
