/**
 * S1: direct I/O of Ceph, FUSE and NFS took FOLL_GET pages, by iov_iter_get_pages_alloc2(). Which of
 * them still does, under which policy, and what the process sees of it (facts sheet 0, 1.11, 2.4).
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  createPolicy,
  drive,
  EAGAIN,
  EBUSY,
  fork,
  type HostProcess,
  ITER_DEST,
  iovIterUbuf,
  migrateFolio,
  mmExit,
  type Path,
  type PolicyName,
  provenanceStart,
  type RemoteKind,
  remoteDirectRead,
  remoteFileCreate,
  remoteFileWrite,
  remoteServerCreate,
  YP_NET_SENT,
} from '#mm';
import { createProcess, createWorld, mapAnon, pageAt, stepTo, type World } from '../support.ts';

const KINDS = ['ceph', 'fuse', 'nfs'] as const;

/** A read of one page from a server, which has the request and has not answered. */
const reading = (
  kind: RemoteKind,
  policy: PolicyName,
): { w: World; p: HostProcess; hva: number; page: number; path: Path<number> } => {
  const w = createWorld();
  w.k.policy = createPolicy(policy);
  provenanceStart(w.k);
  const file = remoteFileCreate(remoteServerCreate(w.k, kind), PAGE_SIZE);
  remoteFileWrite(file, 0, new Uint8Array(PAGE_SIZE).fill(0x55));
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.store32(hva, 1);
  const page = pageAt(p, hva);
  const path = remoteDirectRead(w.k, p.mm, file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
  stepTo(w.k, path, YP_NET_SENT);
  return { w, p, hva, page, path };
};

/** Who takes what, today and as the mail wants it. */
const TAKES: Record<PolicyName, Record<(typeof KINDS)[number], 'get' | 'pin'>> = {
  'linux-6.5': { ceph: 'get', fuse: 'get', nfs: 'get' },
  'linux-7': { ceph: 'get', fuse: 'pin', nfs: 'get' },
  target: { ceph: 'pin', fuse: 'pin', nfs: 'pin' },
};

for (const [policy, takes] of Object.entries(TAKES) as [PolicyName, (typeof TAKES)[PolicyName]][])
  describe(`S1, under ${policy}`, () => {
    for (const kind of KINDS) {
      const how = takes[kind];

      it(`${kind} has the page of a read by ${how === 'get' ? 'FOLL_GET' : 'FOLL_PIN'} until the server has answered`, () => {
        const { w, page, path } = reading(kind, policy);
        const holds = w.k.state.provenance?.holds;
        expect(holds?.get(page)?.map(({ user, kind: hold }) => [user, hold])).toEqual([
          [`${kind}-dio`, how],
        ]);
        // So nobody can tell it from a passing reference; or everybody can.
        expect(drive(migrateFolio(w.k, page))).toBe(how === 'get' ? -EAGAIN : -EBUSY);
        expect(drive(path)).toBe(PAGE_SIZE);
        expect(holds?.get(page)).toBeUndefined();
        assertKernel(w.k, { quiescent: true });
      });

      it(`${kind}: fork, and a write beside what is read: the process ${how === 'get' ? 'misses the data' : 'has both'} (2.4 a)`, () => {
        const { w, p, hva, path } = reading(kind, policy);
        const child = drive(fork(w.k, p.mm));
        if (typeof child === 'number') throw new Error(`fork: ${child}`);
        // Another thread's, of a part of the page that is not being read into: so it thinks.
        p.store32(hva, 2);
        expect(drive(path)).toBe(PAGE_SIZE);
        expect(p.load32(hva + 8)).toBe(how === 'get' ? 0 : 0x55555555);
        const c = createProcess(w, child);
        expect(c.load32(hva + 8)).toBe(how === 'get' ? 0x55555555 : 0);
        drive(mmExit(w.k, child));
      });
    }
  });
