/**
 * The kernel's records, as plain data: functions elsewhere act on them, as C does on structs.
 *
 * No methods, no closures, no class instances: the whole graph, with its cycles, can be cloned by
 * the structured-clone algorithm, which is how a machine is saved. Compare
 * include/linux/mm_types.h, include/linux/rmap.h, include/linux/mmu_notifier.h.
 */
import type { PhysMemory } from '#emu';
import type { FrameTable } from './frames/table.ts';
import type { ZoneDevice } from './frames/zone-device.ts';
import type { ProcMemForce } from './gup/proc-mem.ts';
import type { Zone } from './frames/zone.ts';
import type { CmaArea } from './cma/state.ts';
import type { BlockDevice } from './block/state.ts';
import type { DaxState } from './fs/dax/state.ts';
import type { DeviceMemory } from './fs/device.ts';
import type { ExtentFs, ExtentInode } from './fs/extent/state.ts';
import type { GuestMemfdState } from './fs/guestmemfd-state.ts';
import type { RemoteServer } from './fs/remote/state.ts';
import type { HugetlbState, ResvMap } from './hugetlb/state.ts';
import type { FixedBuffer } from './io-uring/buffers.ts';
import type { KsmNode, KsmState } from './ksm/state.ts';
import type { LruState } from './lru/state.ts';
import type { SwapState } from './swap/state.ts';
import type { ThpState } from './thp/state.ts';
import type { Pipe } from './pipe/pipe.ts';
import type { Policy } from './policy.ts';
import type { Umem } from './rdma/umem.ts';
import type { UffdContext } from './uffd/state.ts';
import type { VfioContainer } from './vfio/type1.ts';
import type { Task } from './signal.ts';
import type { Provenance } from './provenance/provenance.ts';

/** A sleeping reader-writer lock: `readers` > 0, or `writer`, or free. */
export interface RwLock {
  readers: number;
  writer: boolean;
}

/** One contiguous mapping of an address space. Invariant: start < end, both page-aligned. */
export interface Vma {
  mm: MmStruct;
  /** First hva, and first hva after it. */
  start: number;
  end: number;
  /** VM_* (mm/vma/flags.ts). */
  flags: number;
  /** Offset of `start` in the file, in pages; for anonymous memory start >> PAGE_SHIFT at creation. */
  pgoff: number;
  /** Backing object of a file mapping; null = anonymous. */
  mapping: AddressSpace | null;
  /** Anon_vma that new anonymous pages of this VMA belong to; null before the first one. */
  anonVma: AnonVma | null;
  /** Every anon_vma this VMA may have pages of: its own and, after fork, its ancestors'. */
  anonChain: AnonVma[];
  /** Private hugetlb: what its maker was promised (HPAGE_RESV_OWNER); null after fork, or with MAP_NORESERVE. */
  resv: ResvMap | null;
  /** Private hugetlb: a page was taken back for its owner, so faults kill (HPAGE_RESV_UNMAPPED). */
  resvUnmapped: boolean;
}

/** What the rmap of anonymous pages starts from. Compare mm/rmap.c. */
export interface AnonVma {
  kind: 'anon';
  id: number;
  vmas: Vma[];
  /** The anon_vma of the VMA that was forked when this one was made; null for the first of a family. */
  parent: AnonVma | null;
  /** Anon_vmas that have it as their parent; the first of a family counts itself as one. */
  numChildren: number;
  /** VMAs whose new pages belong to it. */
  numActiveVmas: number;
  /** Somebody has the tables of one of its VMAs apart: nobody may put entries into them (rmapWait()). */
  locked: boolean;
}

/** A last-level table that is off its directory while its pages are collapsed into one folio. */
export interface DetachedTable {
  /** First address that it maps. */
  hva: number;
  table: number;
}

/**
 * A file's pages: the page cache and who maps it.
 *
 * `pages` has an entry for every page of a folio in the cache (pgoff -> page, not folio), and the
 * cache holds one reference for each; hugetlbfs has one entry, at the offset of the folio's first
 * page, and one reference.
 */
export interface AddressSpace {
  /**
   * `extent` and `fsdax` are files of a file system on a block device (mm/fs/extent/): the one has a
   * page cache, of the other mappings show the blocks themselves. `gmem` is guest_memfd.
   */
  kind: 'shmem' | 'hugetlbfs' | 'secretmem' | 'gmem' | 'device' | 'extent' | 'fsdax';
  id: number;
  nrPages: number;
  /** pgoff -> page. */
  pages: Map<number, number>;
  /** shmem: pgoff -> slot, of pages that are swapped out. */
  swapped: Map<number, number>;
  /** F_SEAL_*, of a memfd (mm/fs/seals.ts). */
  seals: number;
  /** log2 of the pages of a folio: hugetlbfs always (9 or 18); shmem where it may (0 or 9). */
  hugeOrder: number;
  /** hugetlbfs: pages that are in the file or promised to its shared mappings; otherwise null. */
  resv: ResvMap | null;
  /** device: the frames that mappings of it show; otherwise null. */
  device: DeviceMemory | null;
  /** extent, fsdax: the file; otherwise null. */
  inode: ExtentInode | null;
  /** fsdax: what stands where others have a page cache; otherwise null. */
  dax: DaxState | null;
  /** gmem: which pages are private, and which memory slots show them; otherwise null. */
  gmem: GuestMemfdState | null;
  /**
   * invalidate_lock: for reading while a page is put into the cache, for writing while pages leave it
   * and what is behind them changes.
   */
  invalidateLock: RwLock;
  /** The first error of writeback that nobody has been told of yet, -errno; 0 = none. */
  wbErr: number;
  /** VMAs that map the file (i_mmap). */
  vmas: Vma[];
  /** References by open files and VMAs; the pages go when it drops to 0. */
  users: number;
}

/** A user's address space. */
export interface MmStruct {
  id: number;
  /** Root page-table page. */
  pgd: number;
  asid: number;
  /** Sorted by address, never overlapping. */
  vmas: Vma[];
  mmapLock: RwLock;
  /** MMF_HAS_PINNED: set by the first FOLL_PIN, never cleared. */
  hasPinned: boolean;
  /** Fork's write_protect_seq: one element, odd while a fork write-protects. */
  writeProtectSeq: Int32Array;
  notifiers: NotifierSubscription[];
  intervals: IntervalSubscriptions;
  /** Ranges whose start subscribers have been told of, and not yet their end. */
  openRanges: NotifierRange[];
  /** Who is told of writes that userfaultfd has protected; null: nobody. */
  uffd: UffdContext | null;
  /** Resident anonymous and file pages. */
  rssAnon: number;
  rssFile: number;
  /** Pages swapped out: swap entries in the tables. */
  rssSwap: number;
  /** Pages that hugetlb maps, which count nowhere else. */
  hugetlbUsage: number;
  /** Page-table pages, the root and the deposited ones among them. */
  nrTables: number;
  /** Tables kept back, one for each huge entry, so that a split never lacks one (pgtable_trans_huge_deposit()). */
  deposited: number[];
  /** The table that a collapse has taken off, under mmap_lock for writing (mm/thp/collapse.ts). */
  collapsing: DetachedTable | null;
  /** RLIMIT_MEMLOCK accounting of its users, in pages. */
  lockedVm: number;
  pinnedVm: number;
  /** RLIMIT_MEMLOCK, in bytes. */
  rlimitMemlock: number;
  exited: boolean;
}

export const MMU_NOTIFY_UNMAP = 0;
export const MMU_NOTIFY_CLEAR = 1;
export const MMU_NOTIFY_PROTECTION_VMA = 2;
export const MMU_NOTIFY_PROTECTION_PAGE = 3;
export const MMU_NOTIFY_SOFT_DIRTY = 4;
export const MMU_NOTIFY_RELEASE = 5;
export const MMU_NOTIFY_MIGRATE = 6;
export const MMU_NOTIFY_EXCLUSIVE = 7;

/** A range of an address space that is about to change: [start, end) in hva. */
export interface NotifierRange {
  mm: MmStruct;
  start: number;
  end: number;
  event: number;
  blockable: boolean;
  /** Who was told of the start: they, and nobody who subscribed since, are told of the end. */
  told: NotifierSubscription[];
}

/** A subscriber by the name of its operations (registered on the kernel) and its own id. */
export interface NotifierSubscription {
  ops: string;
  owner: number;
}

/**
 * What a subscriber provides. Plain functions: they take the subscriber's own lock and never sleep.
 * Either start and end, or archInvalidateSecondaryTlbs.
 */
export interface NotifierOps {
  /** @returns 0; -EAGAIN only where the range is not blockable, and where there is no end */
  invalidateRangeStart?(owner: number, range: NotifierRange): number;
  invalidateRangeEnd?(owner: number, range: NotifierRange): void;
  /** For hardware that walks the primary tables: entries of [start, end) have changed. */
  archInvalidateSecondaryTlbs?(owner: number, mm: MmStruct, start: number, end: number): void;
  /** Has the secondary MMU used the page? */
  testYoung?(owner: number, mm: MmStruct, hva: number): boolean;
  /** Has it used any of [start, end), and it has not from now on; the second form flushes its TLBs. */
  clearYoung?(owner: number, mm: MmStruct, start: number, end: number): boolean;
  clearFlushYoung?(owner: number, mm: MmStruct, start: number, end: number): boolean;
  /** The address space goes away: drop every secondary entry and create no more. */
  release?(owner: number, mm: MmStruct): void;
}

/**
 * Told of one entry of a secondary MMU: standing for `hva` it reaches the frames from `pfn` on, 2 ** order
 * of them (default: one).
 */
export type SecondaryVisitor = (
  mm: MmStruct,
  hva: number,
  pfn: number,
  writable: boolean,
  order?: number,
) => void;

/** One kind of secondary MMU, as the sanitizer knows it (mm/check/secondary.ts). */
export interface SecondaryUser {
  /**
   * Calls `visit` for every entry that hardware could use now: what it cached of an entry that is gone, too,
   * where that can be looked at. Changes nothing.
   * @param within only entries that meet this range are asked for; others may be shown as well
   */
  visitEntries(visit: SecondaryVisitor, within?: Pick<NotifierRange, 'mm' | 'start' | 'end'>): void;
  /** Its hardware walks the primary tables, and it is told after they have changed. */
  walksPrimary: boolean;
}

/** A memory slot that shows pages [pgoff, pgoff + nrPages) of a guest_memfd. Plain data. */
export interface GuestMemfdBinding {
  /** Name of the operations, and the VM's and the slot's own numbers. */
  ops: string;
  owner: number;
  slot: number;
  pgoff: number;
  nrPages: number;
}

/** Told of one entry that stands for a page of a file, and not for an address. */
export type FileEntryVisitor = (
  mapping: AddressSpace,
  pgoff: number,
  pfn: number,
  writable: boolean,
) => void;

/** What whoever binds a guest_memfd provides. Plain functions, under his own lock. */
export interface GuestMemfdOps {
  /** Before pages [first, end) of the file, which the binding shows, go or change: entries are dropped, and none made. */
  invalidateStart(binding: GuestMemfdBinding, first: number, end: number): void;
  invalidateEnd(binding: GuestMemfdBinding, first: number, end: number): void;
  /** The file is gone, and the binding with it. */
  released(binding: GuestMemfdBinding): void;
  /** Calls `visit` for every entry that stands for a page of a file. @param within as of SecondaryUser */
  visitFileEntries(
    visit: FileEntryVisitor,
    within?: { mapping: AddressSpace; first: number; end: number },
  ): void;
}

/** A subscription to a part of an address space (mm/notifier/interval.ts). */
export interface IntervalNotifier {
  mm: MmStruct;
  /** Name of its operations, and the subscriber's own number. */
  ops: string;
  owner: number;
  /** [start, end) in hva. */
  start: number;
  end: number;
  /** The address space's number when it was last invalidated. Always odd. */
  seq: number;
  /** False for one that waits for invalidations to end before it is told of any. */
  inTree: boolean;
}

/** What it provides. Plain functions, under the subscriber's own lock. */
export interface IntervalNotifierOps {
  /**
   * Entries that `range` covers are about to change: calls mmuIntervalSetSeq(subscription, seq) and drops
   * what it has of them.
   * @returns false: it would have to block; only where the range is not blockable
   */
  invalidate(subscription: IntervalNotifier, range: NotifierRange, seq: number): boolean;
  /** Second pass, after every subscription has been told: waits for what the first has begun. */
  invalidateFinish?(subscription: IntervalNotifier, range: NotifierRange): void;
}

/** An address space's interval notifiers, and its number. */
export interface IntervalSubscriptions {
  /** There has been one: ranges are built and told from then on. */
  used: boolean;
  /** Odd while a range that meets a subscription is open. */
  seq: number;
  /** Open ranges, whether they meet one or not. */
  active: number;
  list: IntervalNotifier[];
  /** Those that come or go when the last open range ends. */
  deferred: IntervalNotifier[];
}

/** The TLBs of every hart, as the kernel's shootdowns reach them. */
export interface TlbShootdown {
  /** Drops what any hart caches of one page of an address space. */
  flushPage(asid: number, hva: number): void;
  flushRange(asid: number, start: number, end: number): void;
  flushAsid(asid: number): void;
}

/** Counted since boot, spelled as /proc/vmstat and the summary spell them. */
export interface VmStat {
  pgfault: number;
  pgalloc: number;
  pgfree: number;
  nr_foll_pin_acquired: number;
  nr_foll_pin_released: number;
  pgmigrate_success: number;
  pgmigrate_fail: number;
  cma_alloc_success: number;
  cma_alloc_fail: number;
  cow_copied: number;
  cow_reused: number;
  fork_copied_pinned: number;
  wrprotect: number;
  thp_fault_alloc: number;
  thp_fault_fallback: number;
  thp_collapse_alloc: number;
  thp_split_page: number;
  thp_split_page_failed: number;
  thp_split_pmd: number;
  thp_zero_page_alloc: number;
  pswpin: number;
  pswpout: number;
  ksm_merged: number;
  ksm_cow: number;
  unshare_copied: number;
  notifier_invalidations: number;
  tlb_shootdowns: number;
  numa_hint_faults: number;
}

/** Everything of the kernel that is saved with a machine. */
export interface KernelState {
  frames: FrameTable;
  zones: Zone[];
  /** Allocations keep to pageblocks of their migratetype; otherwise there is one type, MOVABLE. */
  groupByMobility: boolean;
  cmaAreas: CmaArea[];
  /** Memory of devices, taken out of the zones. */
  zoneDevices: ZoneDevice[];
  mms: Map<number, MmStruct>;
  mappings: Map<number, AnonVma | AddressSpace | KsmNode>;
  nextId: number;
  nextAsid: number;
  /** The page that read faults of anonymous memory map. */
  zeroPage: number;
  /** The 2 MiB folio that read faults of huge anonymous memory map; -1 before the first. */
  hugeZeroFolio: number;
  lru: LruState;
  thp: ThpState;
  swap: SwapState;
  ksm: KsmState;
  hugetlb: HugetlbState;
  /** Open pipes, and buffers registered with io_uring, by id: they hold pages. */
  pipes: Map<number, Pipe>;
  fixedBuffers: Map<number, FixedBuffer>;
  /** Memory regions of RDMA by id; what processes have mapped for devices, by the id of their mm. */
  umems: Map<number, Umem>;
  vfioContainers: Map<number, VfioContainer>;
  /** Block devices and the file systems on them, by id. */
  blockDevices: Map<number, BlockDevice>;
  filesystems: Map<number, ExtentFs>;
  /** Servers of remote files, by id. */
  remoteServers: Map<number, RemoteServer>;
  /** Who holds what by GUP; null: not recorded. */
  provenance: Provenance | null;
  /** Entries of secondary MMUs that were there when an invalidation of theirs ended (mm/check/secondary.ts). */
  secondaryFaults: string[];
  /** What users of mm/secondary.ts keep, by their names. */
  secondaryStates: Map<string, unknown>;
  stat: VmStat;
}

/** What the sabotage tests take away, one rule each. All false in every real run. */
export interface Sabotage {
  /** fork shares pinned pages instead of copying them. */
  forkSharesPinned: boolean;
  /** fork leaves the exclusive flag on pages that it shares. */
  forkKeepsExclusive: boolean;
  /** A read-only pin takes a page that is not the process's own as it is. */
  neverUnshare: boolean;
  /** A forced write whose fault has broken COW is looked up again as a read (CVE-2016-5195). */
  forceDropsWrite: boolean;
  /** A write takes a page that one entry maps as its own, whoever has references (CVE-2020-29374). */
  reuseByMapcount: boolean;
  /** A write to a shared hugetlb page never copies it. */
  hugetlbAlwaysReuses: boolean;
  /** Migration ignores the pins of a folio. */
  migratePinned: boolean;
  /** A pin for writing and for good takes pages of a file that has to know of first writes. */
  longtermPinsTracked: boolean;
  /** GUP-fast pins whatever the fork sequence says. */
  gupFastSkipsSeq: boolean;
  /** GUP-fast does not read an entry again after counting its page. */
  gupFastSkipsRecheck: boolean;
  /** GUP-fast sets MMF_HAS_PINNED after its pins instead of before. */
  gupFastMarksLate: boolean;
  /** splice() leaves a file's page in a pipe as write() left the buffer before: open to be appended to. */
  spliceKeepsMerge: boolean;
  /** A page of a guest_memfd becomes private whoever holds it. */
  gmemConvertsHeld: boolean;
  /** kvm: the notifier zaps G-stage entries but leaves them in the TLBs. */
  notifierKeepsTlb: boolean;
  /** kvm: a fault installs its pfn without looking at the invalidate sequence. */
  faultSkipsRetry: boolean;
  /** kvm: a write to a logged page makes the entry that is there writable, whatever the host says. */
  logWritesUnasked: boolean;
}

/** The kernel: its state and what it is wired to. */
export interface Kernel {
  memory: PhysMemory;
  state: KernelState;
  policy: Policy;
  tlb: TlbShootdown;
  /** ATP_MODE_SV39 or ATP_MODE_SV48: format of every address space's tables. */
  satpMode: number;
  /** Somebody steps the paths: their guarded yields are taken. */
  watched: boolean;
  /** Run the sanitizer's cheap checks inline (always in tests). */
  checked: boolean;
  sabotage: Sabotage;
  /** Who the next call of GUP is for (mm/provenance/); empty: nobody has said. */
  currentUser: string;
  /** For what the reference that is dropped now is dropped (mm/provenance/); empty: nobody has said. */
  dropping: string;
  /** Whom the kernel works for: signals that are pending for it end waits and GUP. */
  task: Task;
  /** 0, 1, 2 ...: runs of page numbers to copy from (mm/gup/follow.ts). Never written. */
  pageNumbers: Int32Array;
  /** Boot parameter proc_mem.force_override (mm/gup/proc-mem.ts). */
  procMemForce: ProcMemForce;
  notifierOps: Map<string, NotifierOps>;
  intervalOps: Map<string, IntervalNotifierOps>;
  /** By name, who is told of changes of a guest_memfd. */
  guestMemfdOps: Map<string, GuestMemfdOps>;
  /** By the same names, how the sanitizer sees their entries. */
  secondaryUsers: Map<string, SecondaryUser>;
}
