/**
 * The door for modules: pins, and nothing that would be a plain reference.
 *
 * What Documentation/core-api/pin_user_pages.rst offers a driver, and the kernel-mapping access to
 * bytes of a page it has pinned (kmap_local_page()). FOLL_GET is not here and cannot be reached.
 */
export {
  FOLL_FORCE,
  FOLL_INTERRUPTIBLE,
  FOLL_LONGTERM,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_PCI_P2PDMA,
  FOLL_WRITE,
} from './gup/flags.ts';
export { folioAddPins } from './folio/pin.ts';
export { pinUserPagesFast } from './gup/fast.ts';
export type { GupLocked } from './gup/legality.ts';
export { memfdPinFolios } from './gup/memfd.ts';
export type { FolioOffset } from './gup/memfd.ts';
export { pinnedPageOffset, readPinnedPage, writePinnedPage } from './gup/pinned.ts';
export { pinUserPages, pinUserPagesRemote, pinUserPagesUnlocked } from './gup/slow.ts';
export {
  unpinFolio,
  unpinFolios,
  unpinUserFolio,
  unpinUserPage,
  unpinUserPageRangeDirtyLock,
  unpinUserPages,
  unpinUserPagesDirtyLock,
} from './gup/unpin.ts';
export { copyFromIter, copyToIter } from './iov/copy.ts';
export { ITER_ALLOW_P2PDMA, iovIterExtractPages, iovIterExtractWillPin } from './iov/extract.ts';
export type { ExtractedPages } from './iov/extract.ts';
export {
  ITER_DEST,
  ITER_SOURCE,
  iovIterAdvance,
  iovIterIovec,
  iovIterIsAligned,
  iovIterNpages,
  iovIterRevert,
  iovIterTruncate,
  iovIterUbuf,
} from './iov/iter.ts';
export type { IoVec, IovIter, IterDirection } from './iov/iter.ts';
export { drive, YP_DMA_COMPLETING, YP_DMA_SUBMITTED, YP_WAIT } from './path.ts';
export type { Path } from './path.ts';
export { nameGupUser } from './provenance/provenance.ts';
export type { AddressSpace, Kernel, MmStruct } from './types.ts';
export { mmapRead, mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './vma/lock.ts';
