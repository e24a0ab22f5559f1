/**
 * A server of files at the other end of a network (or, of FUSE, a process), and the way to it.
 *
 * Nobody services a server but its waiter: remoteWait() lets time pass, moves the bytes and completes.
 * A path that is suspended at YP_NET_SENT is a request in flight. The client has no page cache: its
 * files cannot be mapped, and are read and written by direct I/O alone.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import { EIO, ENOSPC } from '../../errno.ts';
import type { ExtractedPages } from '../../iov/extract.ts';
import { type Path, YP_NET_ANSWERED, YP_NET_SENT } from '../../path.ts';
import { newId } from '../../rmap/anon-vma.ts';
import type { Kernel } from '../../types.ts';
import type { RemoteFile, RemoteKind, RemoteRequest, RemoteServer } from './state.ts';

/** A server with no files, known to the kernel until remoteServerRemove. @param delay yields of an answer */
export const remoteServerCreate = (k: Kernel, kind: RemoteKind, delay = 1): RemoteServer => {
  const server: RemoteServer = {
    id: newId(k),
    kind,
    files: new Map(),
    nextIno: 1,
    delay,
    inFlight: [],
    rsize: 256 * 1024,
    wsize: 256 * 1024,
    objectBytes: 4 * 1024 * 1024,
    maxPages: 32,
    maxReply: Number.MAX_SAFE_INTEGER,
    quotaBytes: Number.MAX_SAFE_INTEGER,
    badReads: new Set(),
    badWrites: new Set(),
    nrReads: 0,
    nrWrites: 0,
  };
  mapSet(k.state.remoteServers, server.id, server);
  return server;
};

/** Unmounted. @throws Error where requests are in flight */
export const remoteServerRemove = (k: Kernel, server: RemoteServer): void => {
  if (server.inFlight.length > 0) throw new Error(`server ${server.id} has requests in flight`);
  mapDelete(k.state.remoteServers, server.id);
};

/** A file of `sizeBytes` zeroes. */
export const remoteFileCreate = (server: RemoteServer, sizeBytes: number): RemoteFile => {
  const file: RemoteFile = {
    ino: server.nextIno,
    server: server.id,
    sizeBytes,
    blocks: new Map(),
    lock: { readers: 0, writer: false },
  };
  setField(server, 'nextIno', server.nextIno + 1);
  mapSet(server.files, file.ino, file);
  return file;
};

/** Calls `use` for each block's part of [offset, offset + lenBytes). */
const eachBlock = (
  offset: number,
  lenBytes: number,
  use: (block: number, inBlock: number, done: number, n: number) => void,
): void => {
  for (let done = 0; done < lenBytes; ) {
    const at = offset + done;
    const inBlock = at % PAGE_SIZE;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inBlock);
    use(Math.floor(at / PAGE_SIZE), inBlock, done, n);
    done += n;
  }
};

/** The server's own look at a file. @returns bytes, fewer than asked for at its end */
export const remoteFileRead = (file: RemoteFile, offset: number, into: Uint8Array): number => {
  const n = Math.max(0, Math.min(into.length, file.sizeBytes - offset));
  eachBlock(offset, n, (block, inBlock, done, part) => {
    const bytes = file.blocks.get(block);
    if (bytes === undefined) into.fill(0, done, done + part);
    else into.set(bytes.subarray(inBlock, inBlock + part), done);
  });
  return n;
};

/** What another client writes; the file grows if it ends before. */
export const remoteFileWrite = (file: RemoteFile, offset: number, from: Uint8Array): void => {
  eachBlock(offset, from.length, (block, inBlock, done, n) => {
    const old = file.blocks.get(block);
    const bytes = old === undefined ? new Uint8Array(PAGE_SIZE) : old.slice();
    bytes.set(from.subarray(done, done + n), inBlock);
    mapSet(file.blocks, block, bytes);
  });
  if (offset + from.length > file.sizeBytes) setField(file, 'sizeBytes', offset + from.length);
};

/** A request for the bytes that `of` has, not sent yet. */
export const remoteRequest = (
  op: RemoteRequest['op'],
  file: RemoteFile,
  offset: number,
  of: ExtractedPages,
): RemoteRequest => ({
  op,
  file,
  offset,
  pages: of.pages,
  nrPages: of.nrPages,
  firstOffset: of.offset,
  lenBytes: of.lenBytes,
  moved: 0,
  status: 0,
  eof: false,
  done: false,
});

/** Off it goes. Its pages are the request's until it is done. */
export const remoteSend = (server: RemoteServer, request: RemoteRequest): void =>
  listPush(server.inFlight, request);

/** Waits for the answer. */
export function* remoteWait(k: Kernel, server: RemoteServer, request: RemoteRequest): Path<void> {
  for (let i = 0; k.watched && i < server.delay; i++) yield YP_NET_SENT;
  if (request.op === 'read') serveRead(k, server, request);
  else serveWrite(k, server, request);
  if (k.watched) yield YP_NET_ANSWERED;
  setField(request, 'done', true);
  listRemoveAt(server.inFlight, server.inFlight.indexOf(request));
}

/** Bytes from the request's first on that lie before the first block that fails. */
const goodBytes = (request: RemoteRequest, lenBytes: number, bad: Set<string>): number => {
  const { file, offset } = request;
  if (bad.size === 0) return lenBytes;
  for (let at = offset; at < offset + lenBytes; at += PAGE_SIZE - (at % PAGE_SIZE))
    if (bad.has(`${file.ino}:${Math.floor(at / PAGE_SIZE)}`)) return at - offset;
  return lenBytes;
};

/** Calls `use` with the place in RAM of each page's part of the request's first `lenBytes` bytes. */
const eachPart = (
  k: Kernel,
  { pages, firstOffset }: RemoteRequest,
  lenBytes: number,
  use: (at: number, done: number, n: number) => void,
): void => {
  for (let done = 0, i = 0; done < lenBytes; i++) {
    const inPage = i === 0 ? firstOffset : 0;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inPage);
    use(k.memory.pageOffset(pages[i]!) + inPage, done, n);
    done += n;
  }
};

const answer = (request: RemoteRequest, moved: number, status: number, eof: boolean): void => {
  setField(request, 'moved', moved);
  setField(request, 'status', status);
  setField(request, 'eof', eof);
};

/** Bytes from `offset` on up to the end of what an object has; the blocks behind it were never written. */
const objectBytes = ({ file, offset }: RemoteRequest, lenBytes: number): number => {
  let end = offset + lenBytes;
  while (end > offset && !file.blocks.has(Math.floor((end - 1) / PAGE_SIZE)))
    end -= ((end - 1) % PAGE_SIZE) + 1;
  return Math.max(0, end - offset);
};

/** Bytes that an answer to a read has, or -EIO. A ceph server answers whole, but for the end of an object. */
const readable = (server: RemoteServer, request: RemoteRequest): number => {
  const there = Math.max(0, Math.min(request.lenBytes, request.file.sizeBytes - request.offset));
  const good = goodBytes(request, there, server.badReads);
  if (server.kind === 'ceph') return good < there ? -EIO : objectBytes(request, there);
  return good === 0 && there > 0 ? -EIO : Math.min(good, server.maxReply);
};

const serveRead = (k: Kernel, server: RemoteServer, request: RemoteRequest): void => {
  const { file, offset } = request;
  setField(server, 'nrReads', server.nrReads + 1);
  const found = readable(server, request);
  const n = Math.max(0, found);
  eachPart(k, request, n, (at, done, part) => {
    remoteFileRead(file, offset + done, k.memory.u8.subarray(at, at + part));
    k.memory.wrote(at, part);
  });
  answer(request, n, Math.min(0, found), offset + n >= file.sizeBytes);
};

const usedBytes = (server: RemoteServer): number => {
  let sum = 0;
  for (const { sizeBytes } of server.files.values()) sum += sizeBytes;
  return sum;
};

const serveWrite = (k: Kernel, server: RemoteServer, request: RemoteRequest): void => {
  const { file, offset } = request;
  setField(server, 'nrWrites', server.nrWrites + 1);
  const room = file.sizeBytes + server.quotaBytes - usedBytes(server) - offset;
  const fits = Math.max(0, Math.min(request.lenBytes, room));
  const good = goodBytes(request, fits, server.badWrites);
  const n = server.kind === 'ceph' && good < fits ? 0 : good;
  eachPart(k, request, n, (at, done, part) =>
    remoteFileWrite(file, offset + done, k.memory.u8.subarray(at, at + part)),
  );
  const error = fits === 0 ? -ENOSPC : n === 0 ? -EIO : 0;
  answer(request, n, error, false);
};
