/**
 * Who uses GUP, and by which API: the one table that says who may take FOLL_GET.
 *
 * A row gives a user's API under each policy preset, and for every API that it may take what that
 * means: how long the pages are held, who marks them dirty, whether notifiers reach the user, and
 * what is unsafe about it. Code that takes a FOLL_GET reference names its row; a row whose API
 * under the active policy is another one is refused, and so is everybody without a row. Modules
 * (mm/driver-api.ts) never get here. `gupbed audit` prints it.
 */
import type { GupApi, Policy, PolicyName } from '../policy.ts';

/** How long pages are held: not at all, until the kernel is done, or until somebody pleases. */
export type GupHold = 'none' | 'bounded' | 'unbounded';

/** What one API means for one user. */
export interface GupUse {
  hold: GupHold;
  /** What ends the hold. */
  until: string;
  /** Who marks the folio dirty, and when. */
  dirty: string;
  /** Do MMU notifiers take the access away when the page goes? */
  notifier: string;
  /** What can go wrong, or why nothing can. */
  unsafe: string;
}

/** One user of GUP. */
export interface GupUser {
  id: GupUserId;
  /** What it is, in Linux's terms. */
  what: string;
  api: Readonly<Record<PolicyName, GupApi>>;
  /** By API, those that the model can do for this user. */
  uses: Readonly<Partial<Record<GupApi, GupUse>>>;
  since: string;
}

export type GupUserId =
  | 'kvm'
  | 'kvm-map'
  | 'mirror-port'
  | 'dma-engine'
  | 'access-remote-vm'
  | 'process-vm'
  | 'vmsplice'
  | 'io-uring-buffers'
  | 'memfd-pin-folios'
  | 'block-dio'
  | 'nfs-dio'
  | 'ceph-dio'
  | 'fuse-dio'
  | 'rdma'
  | 'rdma-odp'
  | 'vfio'
  | 'iommu-sva'
  | 'gup-test';

export const GUP_USERS: readonly GupUser[] = [
  {
    id: 'kvm',
    what: 'second-level page tables: virt/kvm/kvm_main.c, hva_to_pfn()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'secondary' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the entry is installed, or found stale',
        dirty:
          'at installation of a writable entry, under mmu_lock: early, so that no writeback can have passed the notifier',
        notifier: 'yes: they alone keep the entry right',
        unsafe:
          'the reference protects nothing that the invalidate sequence does not; a migration, split or collapse that meets it fails for no reason',
      },
      secondary: {
        hold: 'none',
        until: 'nothing is held',
        dirty: 'at installation of a writable entry, under mmu_lock',
        notifier: 'yes: they alone keep the entry right',
        unsafe:
          'the pfn is a hint until the lock is held and the sequence has not moved: without that check the guest reads a freed page',
      },
    },
    since: 'FOLL_GET from the start; struct kvm_follow_pfn since 6.13',
  },
  {
    id: 'kvm-map',
    what: "a guest's page that the hypervisor maps for itself: virt/kvm/kvm_main.c, kvm_vcpu_map()",
    api: { 'linux-6.5': 'pin', 'linux-7': 'pin', target: 'pin' },
    uses: {
      pin: {
        hold: 'unbounded',
        until: 'the hypervisor unmaps it',
        dirty: 'set_page_dirty() at unmapping, without the folio lock, before the pin goes',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio, unless it looks for pins',
      },
    },
    since: 'FOLL_PIN since 6.13; FOLL_GET before, which is not modelled',
  },
  {
    id: 'mirror-port',
    what: 'rings that a device of a guest looks at for ever: virt/kvm/pfncache.c, hva_to_pfn_retry()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'secondary' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the frame is in the table of the port, or found stale',
        dirty: 'when it is entered for writing, under the lock of the port',
        notifier: 'yes: they alone keep the table right',
        unsafe:
          'the reference protects nothing that the invalidate sequence does not; a migration that meets it fails for no reason',
      },
      secondary: {
        hold: 'none',
        until: 'nothing is held',
        dirty: 'when it is entered for writing, under the lock of the port',
        notifier: 'yes: they alone keep the table right',
        unsafe:
          'nothing while the device can wait for a page; without the look at the sequence it would use a page that was freed',
      },
    },
    since: 'gfn_to_pfn_cache since 5.17',
  },
  {
    id: 'dma-engine',
    what: 'a driver that lets a device read and write user pages: pin_user_pages_fast()',
    api: { 'linux-6.5': 'pin', 'linux-7': 'pin', target: 'pin' },
    uses: {
      pin: {
        hold: 'bounded',
        until: 'the transfer completes',
        dirty: 'unpin_user_pages_dirty_lock() at completion, before the pin goes',
        notifier: 'no: the device has the frame',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio',
      },
    },
    since: 'pin_user_pages() since 5.6',
  },
  {
    id: 'access-remote-vm',
    what: 'ptrace, /proc/PID/mem, what a VMM loads into its guest: __access_remote_vm()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'copy' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the bytes of one page are copied',
        dirty: 'set_page_dirty_lock() after the copy',
        notifier: 'no',
        unsafe:
          'in a shared file mapping writeback may come between lookup and copy: dirty without page_mkwrite()',
      },
      pin: {
        hold: 'bounded',
        until: 'the bytes of one page are copied',
        dirty: 'before the unpin',
        notifier: 'no',
        unsafe:
          'nothing where writeback looks for pins (pinned-writeback=bounce); where it does not, the same race',
      },
      copy: {
        hold: 'none',
        until: 'nothing is held',
        dirty:
          'the entry is made dirty with the copy, under the page-table lock, as a store of the CPU would',
        notifier: 'no need',
        unsafe:
          'nothing: the entry is writable while the bytes go in, so the file system has been asked, and whoever makes it read-only later finds it dirty',
      },
    },
    since: 'FOLL_GET from the start',
  },
  {
    id: 'process-vm',
    what: 'process_vm_readv(), process_vm_writev(): process_vm_rw_pages()',
    api: { 'linux-6.5': 'pin', 'linux-7': 'pin', target: 'pin' },
    uses: {
      pin: {
        hold: 'bounded',
        until: 'a batch of pages is copied',
        dirty: 'unpin_user_pages_dirty_lock() after a write',
        notifier: 'no',
        unsafe:
          'in a shared file mapping as the driver above: the pin says that bytes may come, nobody waits for them',
      },
    },
    since: 'pin_user_pages_remote() since 5.6',
  },
  {
    id: 'vmsplice',
    what: 'vmsplice() of user memory to a pipe: fs/splice.c, iter_to_pipe()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'pin-longterm' },
    uses: {
      get: {
        hold: 'unbounded',
        until: 'somebody reads the pipe, or closes it',
        dirty: 'not needed: the pipe only reads',
        notifier: 'no',
        unsafe:
          'no unsharing, so the reader and the process may come to have different pages, and of hugetlb the reader sees what another process writes later; no RLIMIT_MEMLOCK; CMA, offlining and compaction wait for ever',
      },
      'pin-longterm': {
        hold: 'unbounded',
        until: 'somebody reads the pipe, or closes it',
        dirty: 'not needed: the pipe only reads',
        notifier: 'no',
        unsafe:
          'unshared first, so reader and process agree; the pages leave CMA and movable memory before, and cannot move while the pipe holds them',
      },
      copy: {
        hold: 'none',
        until: 'nothing is held',
        dirty: 'not needed',
        notifier: 'no need',
        unsafe:
          'nothing: the reader gets the bytes as they were; costs a copy, and SPLICE_F_GIFT means nothing',
      },
    },
    since: 'FOLL_GET since 2.6.17; copying was queued for 7.2 and is not what 7.2.13 does',
  },
  {
    id: 'io-uring-buffers',
    what: 'io_uring fixed buffers: io_uring/rsrc.c, io_pin_pages()',
    api: { 'linux-6.5': 'pin-longterm', 'linux-7': 'pin-longterm', target: 'pin-longterm' },
    uses: {
      'pin-longterm': {
        hold: 'unbounded',
        until: 'the buffer is unregistered, or the ring goes',
        dirty: 'the requests that write mark what they wrote',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory: FOLL_WRITE breaks COW at registration, fork copies; RLIMIT_MEMLOCK bounds it',
      },
    },
    since: 'FOLL_PIN | FOLL_LONGTERM since 5.7',
  },
  {
    id: 'memfd-pin-folios',
    what: 'udmabuf, iommufd over a memfd: mm/gup.c, memfd_pin_folios()',
    api: { 'linux-6.5': 'pin-longterm', 'linux-7': 'pin-longterm', target: 'pin-longterm' },
    uses: {
      'pin-longterm': {
        hold: 'unbounded',
        until: 'the dma-buf is closed',
        dirty: 'not needed: shmem and hugetlbfs are not written back',
        notifier: 'no',
        unsafe:
          'one pin a folio, not a page: whoever unpins page by page needs folio_add_pins() first',
      },
    },
    since:
      'memfd_pin_folios() since 6.11; udmabuf took plain references before, which is not modelled',
  },
  {
    id: 'block-dio',
    what: 'direct I/O of block devices and of file systems by iomap: bio_iov_iter_get_pages()',
    api: { 'linux-6.5': 'pin', 'linux-7': 'pin', target: 'pin' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the bio completes',
        dirty: 'bio_set_pages_dirty() before the transfer, again at completion',
        notifier: 'no',
        unsafe:
          "fork, and the next write to the buffer goes to a copy: what is read is missed, what is sent is older, and of a huge page another process's; nothing is unshared; CMA, offlining and compaction wait for the device",
      },
      pin: {
        hold: 'bounded',
        until: 'the bio completes',
        dirty:
          'bio_set_pages_dirty() before the transfer of a read, bio_check_pages_dirty() at completion',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio, unless it looks for pins',
      },
    },
    since: 'iov_iter_extract_pages() since 6.5; FOLL_GET before',
  },
  {
    id: 'nfs-dio',
    what: 'direct I/O of NFS: fs/nfs/direct.c, nfs_direct_read_schedule_iovec()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'pin' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the server has answered',
        dirty: 'nfs_direct_read_completion() after the answer, of small folios',
        notifier: 'no',
        unsafe:
          "fork, and the next write to the buffer goes to a copy: what is read is missed, what is sent is older, and of a huge page another process's; nothing is unshared; CMA, offlining and compaction wait for the server",
      },
      pin: {
        hold: 'bounded',
        until: 'the server has answered',
        dirty: 'after the answer, before the pin goes',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio, unless it looks for pins',
      },
    },
    since: 'iov_iter_get_pages_alloc2(), FOLL_GET; not converted in anything that was read',
  },
  {
    id: 'ceph-dio',
    what: 'direct I/O of Ceph: fs/ceph/file.c, __iter_get_bvecs()',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'pin' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the server has answered',
        dirty: 'put_bvecs() after the answer, of a read',
        notifier: 'no',
        unsafe:
          "fork, and the next write to the buffer goes to a copy: what is read is missed, what is sent is older, and of a huge page another process's; nothing is unshared; CMA, offlining and compaction wait for the server",
      },
      pin: {
        hold: 'bounded',
        until: 'the server has answered',
        dirty: 'after the answer, before the pin goes',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio, unless it looks for pins',
      },
    },
    since: 'iov_iter_get_pages2(), FOLL_GET; a conversion was posted and not seen merged',
  },
  {
    id: 'fuse-dio',
    what: 'direct I/O of FUSE: fs/fuse/file.c, fuse_get_user_pages()',
    api: { 'linux-6.5': 'get', 'linux-7': 'pin', target: 'pin' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the daemon has answered',
        dirty: 'fuse_release_user_pages() after the answer',
        notifier: 'no',
        unsafe:
          "fork, and the next write to the buffer goes to a copy: what is read is missed, what is sent is older, and of a huge page another process's; nothing is unshared; CMA, offlining and compaction wait for the daemon",
      },
      pin: {
        hold: 'bounded',
        until: 'the daemon has answered',
        dirty: 'fuse_release_user_pages() after the answer, before the pin goes',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory; in a shared file mapping the bytes may land after writeback has cleaned the folio, unless it looks for pins',
      },
    },
    since: 'iov_iter_extract_pages() in the newest that was read; FOLL_GET in 6.5',
  },
  {
    id: 'rdma',
    what: 'memory regions of RDMA: drivers/infiniband/core/umem.c, ib_umem_get()',
    api: { 'linux-6.5': 'pin-longterm', 'linux-7': 'pin-longterm', target: 'pin-longterm' },
    uses: {
      'pin-longterm': {
        hold: 'unbounded',
        until: 'the region is deregistered',
        dirty: 'unpin_user_page_range_dirty_lock() at deregistration',
        notifier: 'no',
        unsafe:
          'nothing for anonymous memory, shmem and hugetlb; files that are written back and DAX are refused; pinned_vm against RLIMIT_MEMLOCK bounds it',
      },
    },
    since: 'FOLL_LONGTERM since 4.15, FOLL_PIN since 5.6; writable files refused since 6.5',
  },
  {
    id: 'rdma-odp',
    what: 'RDMA by on-demand paging: drivers/infiniband/core/umem_odp.c, hmm_range_fault()',
    api: { 'linux-6.5': 'secondary', 'linux-7': 'secondary', target: 'secondary' },
    uses: {
      secondary: {
        hold: 'none',
        until: 'nothing is held',
        dirty:
          'the primary entry is writable before the device may write; the folio is marked when the entry goes',
        notifier: 'yes: an interval notifier takes the access away',
        unsafe: 'nothing while the device can wait for a fault; DAX files are allowed',
      },
    },
    since: 'hmm_range_fault() since 5.10',
  },
  {
    id: 'vfio',
    what: "memory that a guest's device reaches: drivers/vfio/vfio_iommu_type1.c, vaddr_get_pfns()",
    api: { 'linux-6.5': 'pin-longterm', 'linux-7': 'pin-longterm', target: 'pin-longterm' },
    uses: {
      'pin-longterm': {
        hold: 'unbounded',
        until: 'the range is unmapped from the IOMMU',
        dirty: 'unpin_user_pages_dirty_lock() when it is unmapped, where it was writable',
        notifier: 'no',
        unsafe:
          "all of a guest's memory cannot move while the device is assigned; locked_vm against RLIMIT_MEMLOCK bounds it",
      },
    },
    since: 'pin_user_pages_remote() with FOLL_LONGTERM since 5.6',
  },
  {
    id: 'iommu-sva',
    what: "devices that walk a process's own page tables: drivers/iommu/io-pgfault.c, handle_mm_fault()",
    api: { 'linux-6.5': 'secondary', 'linux-7': 'secondary', target: 'secondary' },
    uses: {
      secondary: {
        hold: 'none',
        until: 'nothing is held',
        dirty:
          "the IOMMU sets D in the process's own entry, which is writable before the device may write",
        notifier: 'yes: told with every TLB flush, so that IOMMU and device forget too',
        unsafe:
          'nothing while the device can wait for a page, and while the flush does not return before IOMMU and device have forgotten: otherwise it writes to a page that was freed',
      },
    },
    since: 'iommu_sva_handle_mm() since 6.1',
  },
  {
    id: 'gup-test',
    what: 'the benchmark of GUP itself, in kernels built for testing: mm/gup_test.c',
    api: { 'linux-6.5': 'get', 'linux-7': 'get', target: 'get' },
    uses: {
      get: {
        hold: 'bounded',
        until: 'the call that took them ends',
        dirty: 'not needed: it looks at no byte',
        notifier: 'no',
        unsafe: 'nothing: it is root that asks for it',
      },
    },
    since: 'gup_benchmark since 4.15',
  },
];

/** The API each user takes under a preset, as the policy carries it. */
export const apisOf = (name: PolicyName): Record<GupUserId, GupApi> => {
  const apis: Partial<Record<GupUserId, GupApi>> = {};
  for (const user of GUP_USERS) apis[user.id] = user.api[name];
  return apis as Record<GupUserId, GupApi>;
};

/** The row of a user by its id, undefined for a name that is none. */
export const gupUserOf = (id: string): GupUser | undefined =>
  GUP_USERS.find((user) => user.id === id);

/** True where the policy lets this user take plain references. */
export const mayTakeGet = (policy: Policy, user: GupUserId): boolean => policy.apis[user] === 'get';

/**
 * To be called by everything that is about to take FOLL_GET.
 * @throws Error when the active policy does not give this user FOLL_GET: a bug of the caller's
 */
export const checkGetUser = (policy: Policy, user: GupUserId): void => {
  if (!mayTakeGet(policy, user))
    throw new Error(
      `FOLL_GET by '${user}': policy ${policy.name} gives it '${policy.apis[user] ?? 'nothing'}' (mm/gup/users.ts)`,
    );
};
