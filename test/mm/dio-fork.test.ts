/**
 * Direct I/O under way while a process forks (2.4), and into a mapping of a file that is written back
 * meanwhile (2.6): right with pins, and what goes wrong with plain references.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  createPolicy,
  drive,
  extentCreate,
  fileDirectRead,
  fileDirectWrite,
  fileRead,
  fileWrite,
  folioTestDirty,
  type HostProcess,
  ITER_DEST,
  ITER_SOURCE,
  iovIterUbuf,
  type Path,
  processVmWritev,
  type RemoteKind,
  remoteDirectRead,
  remoteDirectWrite,
  remoteFileCreate,
  remoteFileRead,
  remoteFileWrite,
  remoteServerCreate,
  setPolicyApi,
  vfsFsync,
  writebackMapping,
  YP_BIO_SUBMITTED,
  YP_NET_SENT,
  YP_REMOTE_COPIED,
} from '#mm';
import { contents, dioWorld, mapShared } from './dio-world.ts';
import { createHugeWorld, mapHuge } from './hugetlb-world.ts';
import { expectNothingHeld, pattern } from './iov-world.ts';
import {
  createProcess,
  createWorld,
  forked,
  mapAnon,
  pageAt,
  stepTo,
  type World,
  pinsLive,
} from './support.ts';

/** A read or write of one page that is in flight, and how it goes on. */
interface Transfer {
  w: World;
  p: HostProcess;
  /** The page of memory that it is about. */
  hva: number;
  path: Path<number>;
  /** The file's bytes, by its server or device. */
  stored: () => Uint8Array;
}

type User = 'block-dio' | 'nfs-dio' | 'ceph-dio' | 'fuse-dio';

/** The transfer is with the device or server, nothing has moved. Memory was full of ones, the file of twos. */
const inFlight = (user: User, api: 'get' | 'pin', write: boolean): Transfer =>
  user === 'block-dio' ? onDisk(api, write) : atServer(user, api, write);

const onDisk = (api: 'get' | 'pin', write: boolean): Transfer => {
  const d = dioWorld(new Uint8Array(PAGE_SIZE).fill(2), {}, api);
  const { w, p, hva, file } = d;
  p.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(1));
  const path = write
    ? fileDirectWrite(w.k, p.mm, file, 0, iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE))
    : fileDirectRead(w.k, p.mm, file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
  stepTo(w.k, path, YP_BIO_SUBMITTED);
  return { w, p, hva, path, stored: () => contents(d) };
};

const atServer = (
  user: Exclude<User, 'block-dio'>,
  api: 'get' | 'pin',
  write: boolean,
): Transfer => {
  const w = createWorld();
  expect(setPolicyApi(w.k.policy, user, api)).toBeNull();
  const server = remoteServerCreate(w.k, user.slice(0, -4) as RemoteKind);
  const file = remoteFileCreate(server, PAGE_SIZE);
  remoteFileWrite(file, 0, new Uint8Array(PAGE_SIZE).fill(2));
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(1));
  const path = write
    ? remoteDirectWrite(w.k, p.mm, file, 0, iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE))
    : remoteDirectRead(w.k, p.mm, file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
  stepTo(w.k, path, YP_NET_SENT);
  const stored = (): Uint8Array => {
    const into = new Uint8Array(PAGE_SIZE);
    remoteFileRead(file, 0, into);
    return into;
  };
  return { w, p, hva, path, stored };
};

const USERS: readonly User[] = ['block-dio', 'nfs-dio', 'ceph-dio', 'fuse-dio'];

describe('O_DIRECT and fork (2.4)', () => {
  for (const user of USERS) {
    it(`(a) ${user}=pin: the child has a copy at once, and the process gets what was read`, () => {
      const { w, p, hva, path } = inFlight(user, 'pin', false);
      const page = pageAt(p, hva);
      const child = forked(w, p);
      expect(pageAt(child, hva)).not.toBe(page);
      p.store8(hva + 9, 7);
      expect(pageAt(p, hva)).toBe(page);
      expect(drive(path)).toBe(PAGE_SIZE);
      expect(p.load8(hva + 8)).toBe(2);
      expect(child.load8(hva + 8)).toBe(1);
      expect(pinsLive(w.k)).toBe(0);
    });

    it(`(a) ${user}=get: the process moves to a copy, and misses what was read; the child has it`, () => {
      const { w, p, hva, path } = inFlight(user, 'get', false);
      const page = pageAt(p, hva);
      const child = forked(w, p);
      p.store8(hva + 9, 7);
      expect(pageAt(p, hva)).not.toBe(page);
      expect(pageAt(child, hva)).toBe(page);
      expect(drive(path)).toBe(PAGE_SIZE);
      expect(p.load8(hva + 8)).toBe(1);
      expect(child.load8(hva + 8)).toBe(2);
    });

    it(`(b) ${user}=pin: what the child writes stays out of the file`, () => {
      const { w, p, hva, path, stored } = inFlight(user, 'pin', true);
      const child = forked(w, p);
      p.store8(hva, 3);
      child.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(9));
      expect(drive(path)).toBe(PAGE_SIZE);
      const bytes = stored();
      expect([bytes[0], bytes[1]]).toEqual([3, 1]);
      expect(bytes.includes(9)).toBe(false);
    });

    it(`(b) ${user}=get: the process moves to a copy, and what it writes is not what is sent`, () => {
      const { w, p, hva, path, stored } = inFlight(user, 'get', true);
      const child = forked(w, p);
      p.store8(hva, 3);
      // Nor is what the child writes: the reference makes it copy as well.
      child.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(9));
      expect(drive(path)).toBe(PAGE_SIZE);
      expect([...new Set(stored())]).toEqual([1]);
    });
  }

  for (const { api, sent } of [
    { api: 'pin', sent: [3, 1] },
    { api: 'get', sent: [9, 9] },
  ] as const)
    it(`(b) ${api}, of a huge page: ${api === 'pin' ? 'as of any other' : 'the child, who maps it alone, scribbles over what is sent'}`, () => {
      const w = createHugeWorld(3);
      expect(setPolicyApi(w.k.policy, 'nfs-dio', api)).toBeNull();
      const file = remoteFileCreate(remoteServerCreate(w.k, 'nfs'), PAGE_SIZE);
      const p = createProcess(w);
      const hva = mapHuge(p, 1);
      p.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(1));
      const it = iovIterUbuf(ITER_SOURCE, hva, PAGE_SIZE);
      const path = remoteDirectWrite(w.k, p.mm, file, 0, it);
      stepTo(w.k, path, YP_NET_SENT);
      const child = forked(w, p);
      p.store8(hva, 3);
      child.copyIn(hva, new Uint8Array(PAGE_SIZE).fill(9));
      expect(drive(path)).toBe(PAGE_SIZE);
      const into = new Uint8Array(2);
      remoteFileRead(file, 0, into);
      expect([...into]).toEqual(sent);
    });

  it('what the policies say of it: nfs and ceph take references today, target nowhere', () => {
    const apis = (name: 'linux-6.5' | 'linux-7' | 'target'): string[] =>
      USERS.map((user) => createPolicy(name).apis[user]);
    expect(apis('linux-6.5')).toEqual(['pin', 'get', 'get', 'get']);
    expect(apis('linux-7')).toEqual(['pin', 'get', 'get', 'pin']);
    expect(apis('target')).toEqual(['pin', 'pin', 'pin', 'pin']);
  });
});

/** A file system with two files: one is read into a shared mapping of the other. */
const readIntoMapping = (policy: 'linux-7' | 'target') => {
  const d = dioWorld(pattern(PAGE_SIZE, 2));
  const { w, p, fs } = d;
  w.k.policy = createPolicy(policy);
  const target = extentCreate(w.k, fs);
  drive(fileWrite(w.k, target, 0, new Uint8Array(PAGE_SIZE).fill(1)));
  drive(vfsFsync(w.k, target));
  const hva = mapShared(p, target, 1);
  return { d, w, p, fs, target, hva };
};

/** What is on the device of a file, by nobody's cache. */
const onDevice = (w: World, file: AddressSpace): Uint8Array => {
  const into = new Uint8Array(PAGE_SIZE);
  expect(drive(vfsFsync(w.k, file))).toBe(0);
  expect(drive(fileRead(w.k, file, 0, into))).toBe(PAGE_SIZE);
  return into;
};

describe('a page of a file dirtied behind its file system (2.6)', () => {
  it('linux-7: writeback comes between the pin and the bytes, and the page is dirty without a promise', () => {
    const { d, w, p, fs, target, hva } = readIntoMapping('linux-7');
    const path = fileDirectRead(w.k, p.mm, d.file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    const page = pageAt(p, hva);
    expect(target.inode?.reserved.has(0)).toBe(true);
    expect(drive(writebackMapping(w.k, target))).toBe(0);
    expect(target.inode?.reserved.has(0)).toBe(false);
    expect(drive(path)).toBe(PAGE_SIZE);
    expect(folioTestDirty(w.k, page)).toBe(true);
    expect(target.inode?.reserved.has(0)).toBe(false);
    expect(fs.dirtiedBehind).toBe(0);
    drive(writebackMapping(w.k, target));
    expect(fs.dirtiedBehind).toBe(1);
  });

  it('target: writeback writes a copy of what may be pinned, and leaves page and promise as they are', () => {
    const { d, w, p, fs, target, hva } = readIntoMapping('target');
    const path = fileDirectRead(w.k, p.mm, d.file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
    stepTo(w.k, path, YP_BIO_SUBMITTED);
    expect(drive(writebackMapping(w.k, target))).toBe(0);
    expect(target.inode?.reserved.has(0)).toBe(true);
    expect(drive(path)).toBe(PAGE_SIZE);
    drive(writebackMapping(w.k, target));
    expect([fs.dirtiedBehind, fs.lostPages]).toEqual([0, 0]);
    expect(onDevice(w, target)).toEqual(pattern(PAGE_SIZE, 2));
    expectNothingHeld(w);
  });

  it('process_vm_writev() does it too, with linux-7, and not under target', () => {
    for (const { policy, behind } of [
      { policy: 'linux-7', behind: 1 },
      { policy: 'target', behind: 0 },
    ] as const) {
      const { w, p, fs, target, hva } = readIntoMapping(policy);
      const q = createProcess(w);
      const from = mapAnon(q, 1);
      q.copyIn(from, new Uint8Array(PAGE_SIZE).fill(5));
      const piece = (at: number) => [{ hva: at, lenBytes: 100 }];
      const path = processVmWritev(w.k, q.mm, piece(from), p.mm, piece(hva));
      stepTo(w.k, path, YP_REMOTE_COPIED);
      drive(writebackMapping(w.k, target));
      expect(drive(path)).toBe(100);
      drive(writebackMapping(w.k, target));
      expect(fs.dirtiedBehind, policy).toBe(behind);
      expect(onDevice(w, target)[99], policy).toBe(5);
    }
  });
});
