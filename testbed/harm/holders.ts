/**
 * Who holds the pages while harm is measured: each kind of user takes the same pages of the same
 * process, UNIT_PAGES at a time, by the API that the policy gives it.
 */
import { odpDeregister, odpRegister, odpWrite } from '#devices/host';
import { PAGE_SIZE } from '#emu';
import { createVm, destroyVm, mapGuestPage, setMemSlot } from '#kvm';
import {
  blockDeviceCreate,
  blockDirectRead,
  drive,
  type GupApi,
  type GupUserId,
  ibUmemGet,
  ibUmemRelease,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  ITER_DEST,
  iovIterUbuf,
  type Path,
  pipeRelease,
  createPipe,
  type Policy,
  remoteDirectRead,
  remoteFileCreate,
  remoteServerCreate,
  vfioDmaMap,
  vfioDmaUnmap,
  vmspliceToPipe,
  YP_BIO_SUBMITTED,
  YP_NET_SENT,
} from '#mm';
import { createSecondaryPfn } from '#mm/secondary';
import { type HarmHost, must, UNIT_PAGES } from './host.ts';

const UNIT_BYTES = UNIT_PAGES * PAGE_SIZE;

/** Lets go of what was taken for one unit. */
type Release = () => void;

export interface Holder {
  name: string;
  /** In a few words, for people. */
  what: string;
  /** Row of the users table; null: nobody. */
  user: GupUserId | null;
  /** Takes the pages of one unit. */
  take: (host: HarmHost, hva: number, index: number) => Release;
  /** Before the first unit, and after the last is let go. */
  begin?: (host: HarmHost) => void;
  end?: (host: HarmHost) => void;
}

/** The API of a holder under a policy; - for nobody. */
export const apiOf = ({ user }: Holder, policy: Policy): GupApi | '-' =>
  user === null ? '-' : policy.apis[user];

/** Steps a request until it is with its device or server, and leaves it there. @returns its end */
const inFlight = ({ k }: HarmHost, path: Path<number>, point: number): Release => {
  k.watched = true;
  for (let step = path.next(); step.value !== point; step = path.next())
    if (step.done === true) throw new Error(`direct I/O ended with ${step.value}`);
  k.watched = false;
  return () => {
    must('direct I/O', drive(path));
  };
};

/** Device, server or VM that the holders of a host share: what `begin` makes for `take`. */
const shared = <T>(
  make: (host: HarmHost) => T,
): { begin: (host: HarmHost) => void; of: (host: HarmHost) => T } => {
  const made = new WeakMap<HarmHost, { value: T }>();
  return {
    begin: (host) => {
      made.set(host, { value: make(host) });
    },
    of: (host) => {
      const found = made.get(host);
      if (found === undefined) throw new Error('a holder takes pages before it begins');
      return found.value;
    },
  };
};

const disk = shared(({ k, sizes }) =>
  blockDeviceCreate(k, 'harm', Math.floor(sizes.loadBytes / PAGE_SIZE)),
);

const nfs = shared(({ k, sizes }) =>
  remoteFileCreate(remoteServerCreate(k, 'nfs'), sizes.loadBytes),
);

/** A guest whose memory is the process's. */
const guest = shared((host) => {
  const { kvm, mm, hva, sizes } = host;
  const vm = must('createVm', createVm(kvm, mm, { vmid: 1, nrVcpus: 1 }));
  setMemSlot(vm, { id: 0, gpa: 0, lenBytes: sizes.loadBytes, hva, flags: 0 });
  return { vm, pfn: createSecondaryPfn() };
});

const nobody: Holder = {
  name: 'nobody',
  what: 'memory that is mapped, and nothing else',
  user: null,
  take: () => () => {},
};

const vmsplice: Holder = {
  name: 'vmsplice',
  what: 'pipes that nobody reads',
  user: 'vmsplice',
  take: ({ k, mm }, hva) => {
    const pipe = createPipe(k);
    must('vmsplice', drive(vmspliceToPipe(k, mm, pipe, hva, UNIT_BYTES, 0)));
    return () => pipeRelease(k, pipe);
  },
};

const blockDio: Holder = {
  name: 'block-dio',
  what: 'reads of a block device that has not answered',
  user: 'block-dio',
  begin: disk.begin,
  take: (host, hva, index) => {
    const it = iovIterUbuf(ITER_DEST, hva, UNIT_BYTES);
    const path = blockDirectRead(host.k, host.mm, disk.of(host), index * UNIT_BYTES, it);
    return inFlight(host, path, YP_BIO_SUBMITTED);
  },
};

const nfsDio: Holder = {
  name: 'nfs-dio',
  what: 'reads of a server that has not answered',
  user: 'nfs-dio',
  begin: nfs.begin,
  take: (host, hva, index) => {
    const it = iovIterUbuf(ITER_DEST, hva, UNIT_BYTES);
    const path = remoteDirectRead(host.k, host.mm, nfs.of(host), index * UNIT_BYTES, it);
    return inFlight(host, path, YP_NET_SENT);
  },
};

const rdma: Holder = {
  name: 'rdma',
  what: 'memory regions of an RDMA adapter',
  user: 'rdma',
  take: ({ k, mm }, hva) => {
    const umem = must('ib_umem_get', drive(ibUmemGet(k, mm, hva, UNIT_BYTES, true)));
    return () => drive(ibUmemRelease(k, umem));
  },
};

const rdmaOdp: Holder = {
  name: 'rdma-odp',
  what: 'memory regions of an RDMA adapter, by on-demand paging',
  user: 'rdma-odp',
  take: ({ k, mm }, hva) => {
    const region = must('ODP region', drive(odpRegister(k, mm, hva, UNIT_BYTES, true)));
    for (let at = hva; at < hva + UNIT_BYTES; at += PAGE_SIZE)
      must('ODP write', drive(odpWrite(k, region, at, Uint8Array.of(1))));
    return () => drive(odpDeregister(k, region));
  },
};

const vfio: Holder = {
  name: 'vfio',
  what: 'memory of a guest with a device of its own',
  user: 'vfio',
  take: ({ k, mm, hva: first }, hva) => {
    const iova = hva - first;
    must('VFIO_IOMMU_MAP_DMA', drive(vfioDmaMap(k, mm, hva, iova, UNIT_BYTES, true)));
    return () => {
      must('VFIO_IOMMU_UNMAP_DMA', drive(vfioDmaUnmap(k, mm, iova, UNIT_BYTES)));
    };
  },
};

const ioUring: Holder = {
  name: 'io-uring-buffers',
  what: 'buffers registered with io_uring',
  user: 'io-uring-buffers',
  take: ({ k, mm }, hva) => {
    const buffer = must('register', drive(ioUringRegisterBuffer(k, mm, hva, UNIT_BYTES)));
    return () => ioUringUnregisterBuffer(k, buffer);
  },
};

const kvm: Holder = {
  name: 'kvm',
  what: 'memory of a guest, followed by notifiers',
  user: 'kvm',
  begin: guest.begin,
  take: (host, hva) => {
    const { vm, pfn } = guest.of(host);
    for (let at = hva; at < hva + UNIT_BYTES; at += PAGE_SIZE)
      must('G-stage fault', drive(mapGuestPage(host.kvm, vm, at - host.hva, true, pfn)));
    return () => {};
  },
  end: (host) => destroyVm(host.kvm, guest.of(host).vm),
};

/** In the order of the table. */
export const HOLDERS: readonly Holder[] = [
  nobody,
  kvm,
  rdmaOdp,
  blockDio,
  nfsDio,
  vmsplice,
  ioUring,
  rdma,
  vfio,
];
