/** Servers of files and what is on its way to them, as plain data: NFS, Ceph and FUSE, as far as direct I/O goes. */
import type { RwLock } from '../../types.ts';

export type RemoteKind = 'nfs' | 'ceph' | 'fuse';

/** One file at a server. */
export interface RemoteFile {
  ino: number;
  /** Id of the server. */
  server: number;
  sizeBytes: number;
  /** Block of 4096 bytes -> its bytes; one that is not there has zeroes. */
  blocks: Map<number, Uint8Array>;
  /** i_rwsem, of the client. */
  lock: RwLock;
}

/**
 * One request. It is in flight from remoteSend() until `done`; when its bytes move, memory is read (or
 * written) as it is at that moment.
 */
export interface RemoteRequest {
  op: 'read' | 'write';
  file: RemoteFile;
  /** Byte in the file. */
  offset: number;
  /** Bytes that lie next to each other in pages[0 .. nrPages), from `firstOffset` in the first on. */
  pages: Int32Array;
  nrPages: number;
  firstOffset: number;
  lenBytes: number;
  /** The answer, valid once `done`: bytes moved, 0 or -errno, and whether the file ends there. */
  moved: number;
  status: number;
  eof: boolean;
  done: boolean;
}

/** One server and its client's mount. */
export interface RemoteServer {
  id: number;
  kind: RemoteKind;
  files: Map<number, RemoteFile>;
  nextIno: number;
  /** Yields between a request and its answer, while somebody watches. */
  delay: number;
  /** Oldest first. */
  inFlight: RemoteRequest[];
  /** nfs: bytes of one READ and one WRITE at most. */
  rsize: number;
  wsize: number;
  /** ceph: bytes of an object; no request crosses its end. */
  objectBytes: number;
  /** fuse: pages of one request at most. */
  maxPages: number;
  /** Bytes that one answer to a read has at most, whatever was asked for: short reads. */
  maxReply: number;
  /** Bytes that the files may have together; more is -ENOSPC. */
  quotaBytes: number;
  /** Blocks of files that fail, as `${ino}:${block}`: -EIO. */
  badReads: Set<string>;
  badWrites: Set<string>;
  /** Answered so far. */
  nrReads: number;
  nrWrites: number;
}
