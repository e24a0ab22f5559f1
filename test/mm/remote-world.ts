/** A server with one file, and a process that reads and writes it with O_DIRECT. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  type HostProcess,
  ITER_DEST,
  ITER_SOURCE,
  iovIterUbuf,
  type Path,
  provenanceStart,
  type RemoteFile,
  type RemoteKind,
  type RemoteServer,
  remoteDirectRead,
  remoteDirectWrite,
  remoteFileCreate,
  remoteFileRead,
  remoteFileWrite,
  remoteServerCreate,
  setPolicyApi,
} from '#mm';
import { createProcess, createWorld, mapAnon, type World } from './support.ts';

export interface RemoteWorld {
  w: World;
  server: RemoteServer;
  file: RemoteFile;
  p: HostProcess;
  hva: number;
}

/** @param bytes of the file @param api of the client's row */
export const remoteWorld = (
  kind: RemoteKind,
  bytes: Uint8Array,
  api: 'get' | 'pin' = 'get',
): RemoteWorld => {
  const w = createWorld(8 << 20);
  provenanceStart(w.k);
  return atServer(w, createProcess(w), kind, bytes, api);
};

/** The same for a process that there is. */
export const atServer = (
  w: World,
  p: HostProcess,
  kind: RemoteKind,
  bytes: Uint8Array,
  api: 'get' | 'pin',
): RemoteWorld => {
  setPolicyApi(w.k.policy, `${kind}-dio`, api);
  const server = remoteServerCreate(w.k, kind);
  const file = remoteFileCreate(server, 0);
  remoteFileWrite(file, 0, bytes);
  return { w, server, file, p, hva: mapAnon(p, 64) };
};

export const readPath = (r: RemoteWorld, offset: number, n: number, into = 0): Path<number> =>
  remoteDirectRead(r.w.k, r.p.mm, r.file, offset, iovIterUbuf(ITER_DEST, r.hva + into, n));

export const writePath = (r: RemoteWorld, offset: number, n: number, from = 0): Path<number> =>
  remoteDirectWrite(r.w.k, r.p.mm, r.file, offset, iovIterUbuf(ITER_SOURCE, r.hva + from, n));

export const remoteRead = (r: RemoteWorld, offset: number, n: number, into = 0): number =>
  drive(readPath(r, offset, n, into));

export const remoteWrite = (r: RemoteWorld, offset: number, n: number, from = 0): number =>
  drive(writePath(r, offset, n, from));

/** What the server has. */
export const served = ({ file }: RemoteWorld): Uint8Array => {
  const into = new Uint8Array(file.sizeBytes);
  remoteFileRead(file, 0, into);
  return into;
};

/** Marks a block of the file as one that cannot be read, or written. */
export const badBlock = (
  { server, file }: RemoteWorld,
  which: 'badReads' | 'badWrites',
  at: number,
): void => {
  server[which].add(`${file.ino}:${Math.floor(at / PAGE_SIZE)}`);
};
