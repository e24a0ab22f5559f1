/** The door of mm/: what a VMM, a process or the machine itself does with host memory. */
export { pageIdleClearRefs } from './cache/page-idle.ts';
export { folioTestWriteback, folioWriteProtect } from './cache/clean.ts';
export { vfsFsync } from './cache/fsync.ts';
export { invalidateInodePages2Range } from './cache/truncate.ts';
export { unmapMappingRange } from './cache/unmap.ts';
export { writebackMapping } from './cache/writeback.ts';
export { writeProtectRange } from './cache/write-protect.ts';
export { assertKernel, checkKernel } from './check/sanitizer.ts';
export { checkSecondary } from './check/secondary.ts';
export type { CheckOptions } from './check/sanitizer.ts';
export { cmaAlloc, cmaDefaultArea, cmaRelease } from './cma/cma.ts';
export type { CmaArea } from './cma/state.ts';
export { allocContigPages, allocContigRange, freeContigRange } from './compact/contig.ts';
export { compactZone } from './compact/compaction.ts';
export type { CompactReport, CompactResult } from './compact/compaction.ts';
export { migrateToDevice } from './compact/device.ts';
export { fragmentationIndex, unusableFreeIndex } from './compact/fragmentation.ts';
export { migrateFolio } from './compact/migrate.ts';
export { createMoveReport } from './compact/report.ts';
export type { HeldPage, MoveReport } from './compact/report.ts';
export { bioAlloc, bioSubmit, bioWait, blockDeviceFlush } from './block/bio.ts';
export { blockDeviceCreate, blockDeviceRemove } from './block/device.ts';
export { blockBytes, blockCrashImage, blockPowerFail } from './block/media.ts';
export {
  pmemCrashImage,
  pmemDeviceCreate,
  pmemDeviceRemove,
  pmemPowerFail,
} from './block/pmem.ts';
export type { Bio, BioVec, BlockDevice } from './block/state.ts';
export { blockDirectRead, blockDirectWrite } from './dio/block.ts';
export { fileDirectRead, fileDirectWrite } from './dio/file.ts';
export {
  EACCES,
  EAGAIN,
  EBUSY,
  EEXIST,
  EFAULT,
  EHWPOISON,
  EINTR,
  EINVAL,
  EIO,
  EMLINK,
  ENODATA,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENXIO,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  EREMOTEIO,
} from './errno.ts';
export {
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_REMOTE,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
  handleMmFault,
  userFault,
} from './fault/fault.ts';
export {
  FAULT_FLAG_ALLOW_RETRY,
  FAULT_FLAG_INTERRUPTIBLE,
  FAULT_FLAG_KILLABLE,
  FAULT_FLAG_RETRY_NOWAIT,
  FAULT_FLAG_TRIED,
  VM_FAULT_COMPLETED,
  VM_FAULT_RETRY,
} from './fault/flags.ts';
export { memoryFailure } from './fault/memory-failure.ts';
export {
  folioLock,
  folioMapcount,
  folioMarkDirty,
  folioOf,
  folioOrder,
  folioRefCount,
  folioTestAnon,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
  pageAnonExclusive,
  pageMapcount,
} from './folio/folio.ts';
export { folioMaybeDmaPinned, folioPinCount, GUP_PIN_COUNTING_BIAS } from './folio/pin.ts';
export {
  allocPages,
  freePages,
  GFP_DMA32,
  GFP_KERNEL,
  GFP_MOVABLE,
  GFP_RECLAIMABLE,
  GFP_ZERO,
} from './frames/buddy.ts';
export {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  pageblockType,
  pageOnline,
  pageZoneIndex,
} from './frames/pageblock.ts';
export {
  FRAME_TABLE_BYTES_PER_PAGE,
  PAGEBLOCK_PAGES,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_DEVDAX,
  PG_DEVICE_COHERENT,
  PG_FSDAX,
  PG_P2PDMA,
  PG_RESERVED,
  PG_TABLE,
  pageToPfn,
  pfnToPage,
} from './frames/table.ts';
export type { FrameTable } from './frames/table.ts';
export { zoneDeviceAlloc, zoneDeviceCreate, zoneDeviceRemove } from './frames/zone-device.ts';
export type { ZoneDevice } from './frames/zone-device.ts';
export {
  freeListOf,
  MAX_PAGE_ORDER,
  nrFreeBlocks,
  nrFreePages,
  ZONE_DMA32,
  ZONE_MOVABLE,
  ZONE_NORMAL,
} from './frames/zone.ts';
export type { Zone } from './frames/zone.ts';
export { daxBusyPages } from './fs/dax/layout.ts';
export { deviceDaxCreate, deviceDaxRemove } from './fs/dax/device-dax.ts';
export { deviceFileCreate } from './fs/device.ts';
export type { DeviceMemory } from './fs/device.ts';
export { extentCheck } from './fs/extent/check.ts';
export { blockAt as extentBlockAt } from './fs/extent/extents.ts';
export { extentRead, extentWrite } from './fs/extent/file.ts';
export { extentCreate, extentOpen, extentUnlink } from './fs/extent/inode.ts';
export { extentDioEnd, extentFallocate, extentMapBlocks } from './fs/extent/map.ts';
export { extentForget, extentMkfs, extentMount, extentUnmount } from './fs/extent/mount.ts';
export type { MkfsOptions } from './fs/extent/mount.ts';
export { extentFreeBlocks, extentSetSize, extentZeroRange } from './fs/extent/size.ts';
export type { DirtiedBehind, Extent, ExtentFs, ExtentInode } from './fs/extent/state.ts';
export { extentChecksumOf } from './fs/extent/sums.ts';
export { mappingGet, mappingPut } from './fs/mapping.ts';
export {
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  MFD_EXEC,
  MFD_HUGETLB,
  MFD_NOEXEC_SEAL,
  memfdAddSeals,
  memfdCreate,
  memfdGetSeals,
} from './fs/memfd.ts';
export { remoteDirectRead, remoteDirectWrite } from './fs/remote/direct.ts';
export {
  remoteFileCreate,
  remoteFileRead,
  remoteFileWrite,
  remoteServerCreate,
  remoteServerRemove,
} from './fs/remote/server.ts';
export type { RemoteFile, RemoteKind, RemoteRequest, RemoteServer } from './fs/remote/state.ts';
export {
  F_ALL_SEALS,
  F_SEAL_EXEC,
  F_SEAL_FUTURE_WRITE,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  F_SEAL_WRITE,
} from './fs/seals.ts';
export { secretmemCreate } from './fs/secretmem.ts';
export {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  guestMemfdConvert,
  guestMemfdCreate,
  guestMemfdFallocate,
} from './fs/guestmemfd.ts';
export {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdIsPrivate,
} from './fs/guestmemfd-state.ts';
export { filePunchHole, fileRead, fileTruncate, fileWrite, fileZeroRange } from './fs/file.ts';
export { shmemCreate, shmemRead, shmemWrite } from './fs/shmem.ts';
export { MEMORY_BLOCK_PAGES, offlinePages, onlinePages } from './hotplug/hotplug.ts';
export type { OfflineOptions, OfflineReport } from './hotplug/hotplug.ts';
export { faultInReadable, faultInSafeWriteable, faultInWriteable } from './gup/fault-in.ts';
export { procMemRead, procMemWrite, ptracePeek, ptracePoke } from './gup/proc-mem.ts';
export { processVmReadv, processVmWritev } from './gup/process-vm.ts';
export { accessRemoteVm, accessRemoteVmFlags } from './gup/remote.ts';
export { sendSignal, SIGNAL_FATAL, SIGNAL_NONE, SIGNAL_PENDING, signalHandled } from './signal.ts';
export type { Task } from './signal.ts';
export { gupTestGetFast, gupTestPut } from './gup/gup-test.ts';
export { GUP_USERS } from './gup/users.ts';
export type { GupHold, GupUse, GupUser, GupUserId } from './gup/users.ts';
export {
  copyFromIter,
  copyPageFromIter,
  copyPageToIter,
  copyToIter,
  iovIterZero,
} from './iov/copy.ts';
export {
  ITER_ALLOW_P2PDMA,
  iovIterExtractPages,
  iovIterExtractWillPin,
  iovIterGetPages2,
  iovIterGetPagesAlloc2,
  iovIterPutPages,
} from './iov/extract.ts';
export type { ExtractedPages } from './iov/extract.ts';
export {
  ITER_DEST,
  ITER_SOURCE,
  iovIterAdvance,
  iovIterBvec,
  iovIterDiscard,
  iovIterFolioq,
  iovIterIovec,
  iovIterIsAligned,
  iovIterIsUser,
  iovIterKvec,
  iovIterNpages,
  iovIterReexpand,
  iovIterRevert,
  iovIterTruncate,
  iovIterUbuf,
  iovIterXarray,
} from './iov/iter.ts';
export type { IoVec, IovIter, IovKind, IterDirection } from './iov/iter.ts';
export {
  fixedBufferRead,
  fixedBufferWrite,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
} from './io-uring/buffers.ts';
export type { FixedBuffer } from './io-uring/buffers.ts';
export { ibUmemGet, ibUmemRelease, umemPageAt } from './rdma/umem.ts';
export type { Umem } from './rdma/umem.ts';
export { vfioDmaMap, vfioDmaUnmap, vfioIovaToPage } from './vfio/type1.ts';
export type { VfioContainer, VfioDma } from './vfio/type1.ts';
export { hugetlbFileSetup } from './hugetlb/file.ts';
export { hugetlbGrowPool } from './hugetlb/grow.ts';
export { hugetlbSetPool } from './hugetlb/pool.ts';
export { HUGETLB_ORDER_1G, HUGETLB_ORDER_2M } from './hugetlb/state.ts';
export { countStat, createKernel } from './kernel.ts';
export type { KernelOptions } from './kernel.ts';
export { ksmScan } from './ksm/scan.ts';
export {
  mmuNotifierClearFlushYoung,
  mmuNotifierClearYoung,
  mmuNotifierRegister,
  mmuNotifierTestYoung,
  mmuNotifierUnregister,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
  notifyRangeStartNonblock,
} from './notifier/notifier.ts';
export {
  drive,
  YP_BIO_SUBMITTED,
  YP_BIO_TRANSFERRED,
  YP_COLLAPSE_CLEARED,
  YP_COLLAPSE_COPIED,
  YP_COMPACT,
  YP_DIO_MAPPED,
  YP_DMA_COMPLETING,
  YP_DMA_SUBMITTED,
  YP_FAULT_ALLOCATED,
  YP_FAULT_COPIED,
  YP_FAULT_DONE,
  YP_FAULT_LOCKED,
  YP_FORK_ENTRY,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_GUP_FAST_SEQ,
  YP_GUP_LOOKED_UP,
  YP_ISOLATED_BLOCKS,
  YP_KSM_PROTECTED,
  YP_LAYOUT_BREAK,
  YP_LONGTERM_UNPINNED,
  YP_LONGTERM_WAIT,
  YP_MEMSLOT,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_MKWRITE,
  YP_MOVE_ENTRY,
  YP_NET_ANSWERED,
  YP_NET_SENT,
  YP_NOTIFIER_END,
  YP_NOTIFIER_START,
  YP_PROTECT,
  YP_RECLAIM,
  YP_REMOTE_COPIED,
  YP_SEAL_WAIT,
  YP_SECONDARY_PFN,
  YP_SPLIT_UNMAPPED,
  YP_SWAP_READ,
  YP_SWAP_UNMAPPED,
  YP_SWAP_WRITTEN,
  YP_TRUNCATE_UNMAPPED,
  YP_WAIT,
  YP_WRITEBACK_CLEANED,
  YP_WRITEBACK_STARTED,
} from './path.ts';
export type { Path } from './path.ts';
export { createPipe, PIPE_BUFFERS, pipeRead, pipeRelease, pipeWrite, tee } from './pipe/pipe.ts';
export type { Pipe, PipeBuffer, PipeHold } from './pipe/pipe.ts';
export { spliceFileToPipe, splicePipeToFile } from './pipe/splice.ts';
export {
  SPLICE_F_GIFT,
  SPLICE_F_MOVE,
  SPLICE_F_NONBLOCK,
  vmspliceToPipe,
  vmspliceToUser,
} from './pipe/vmsplice.ts';
export {
  pteDirty,
  pteMkclean,
  ptePage,
  ptePresent,
  pteSpecial,
  pteWrite,
  pteWrprotect,
} from './pgtable/pte.ts';
export {
  leafLevel,
  leafPage,
  leafWord,
  levelPages,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  taskSize,
  walkLeaf,
  walkPte,
} from './pgtable/walk.ts';
export { createPolicy, GUP_APIS, isPolicyName, POLICY_NAMES, setPolicyApi } from './policy.ts';
export type { GupApi, Policy, PolicyName } from './policy.ts';
export { kpageFlagNames, procKpagecount, procKpageflags } from './proc/kpage.ts';
export { procMaps } from './proc/maps.ts';
export { procMeminfo } from './proc/meminfo.ts';
export { PM_PRESENT, PM_SWAP, procPagemap } from './proc/pagemap.ts';
export { procSmaps } from './proc/smaps.ts';
export { procVmstat } from './proc/vmstat.ts';
export { procBuddyinfo, procPagetypeinfo, procZoneinfo } from './proc/zones.ts';
export { HostProcess } from './process.ts';
export { explainFrame } from './provenance/explain.ts';
export type { FrameEntry, FrameHolders } from './provenance/explain.ts';
export { freedBy, nameGupUser, provenanceStart, provenanceStop } from './provenance/provenance.ts';
export type { Hold, Provenance } from './provenance/provenance.ts';
export { folioTryShareAnonRmap } from './rmap/rmap.ts';
export { createVmStat } from './stat.ts';
export {
  lruAddDrain,
  lruAddDrainAll,
  lruCacheDisable,
  lruCacheEnable,
  lruConfigure,
  lruSetCpu,
} from './lru/batch.ts';
export {
  LRU_ACTIVE_ANON,
  LRU_ACTIVE_FILE,
  LRU_BATCH_SIZE,
  LRU_INACTIVE_ANON,
  LRU_INACTIVE_FILE,
  LRU_UNEVICTABLE,
} from './lru/state.ts';
export { balanceZones, tryToFreePages } from './reclaim/reclaim.ts';
export { zoneWatermarks } from './reclaim/watermark.ts';
export { reclaimFolio } from './swap/out.ts';
export { swapon } from './swap/slots.ts';
export { collapseHugePage } from './thp/collapse.ts';
export { splitHugePage } from './thp/split.ts';
export { splitHugePmd } from './thp/split-pmd.ts';
export { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from './thp/state.ts';
export type { ThpState } from './thp/state.ts';
export {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_EXCLUSIVE,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_SOFT_DIRTY,
  MMU_NOTIFY_UNMAP,
} from './types.ts';
export type {
  AddressSpace,
  AnonVma,
  Kernel,
  KernelState,
  MmStruct,
  NotifierOps,
  NotifierRange,
  NotifierSubscription,
  Sabotage,
  TlbShootdown,
  Vma,
  VmStat,
} from './types.ts';
export {
  MADV_COLLAPSE,
  MADV_DOFORK,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_REMOVE,
  MADV_UNMERGEABLE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_HUGE_SHIFT,
  MAP_HUGETLB,
  MAP_LOCKED,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_EXEC,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  VM_PFNMAP,
  VM_WRITE,
} from './vma/flags.ts';
export { UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_SIGBUS } from './uffd/state.ts';
export {
  uffdOpen,
  uffdRead,
  uffdRegister,
  uffdUnregister,
  uffdWake,
  uffdWriteprotect,
} from './uffd/uffd.ts';
export { changeProtNuma } from './vma/change-protection.ts';
export { fork } from './vma/fork.ts';
export { clearRefsSoftDirty } from './vma/soft-dirty.ts';
export { madvise } from './vma/madvise.ts';
export { mmCreate, mmExit } from './vma/mm.ts';
export { mlock, munlock } from './vma/mlock.ts';
export { mmap, munmap } from './vma/mmap.ts';
export type { MmapRequest } from './vma/mmap.ts';
export { mprotect } from './vma/mprotect.ts';
export { MS_ASYNC, MS_INVALIDATE, MS_SYNC, msync } from './vma/msync.ts';
export { mremap } from './vma/mremap.ts';
export { findVma } from './vma/vma.ts';
