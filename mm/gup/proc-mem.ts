/**
 * /proc/PID/mem and ptrace: how debuggers come to access_remote_vm(). Compare fs/proc/base.c,
 * mem_rw() and proc_mem_foll_force(), and kernel/ptrace.c, ptrace_access_vm().
 *
 * Both override the permissions of private mappings (FOLL_FORCE). For /proc/PID/mem the boot
 * parameter proc_mem.force_override may take that away, from all or from whoever is no tracer.
 * Whether somebody may open the file, or attach, is not asked.
 */
import { EIO } from '../errno.ts';
import type { Path } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { FOLL_FORCE, FOLL_WRITE } from './flags.ts';
import { accessRemoteVmFlags } from './remote.ts';

/** Values of proc_mem.force_override. */
export type ProcMemForce = 'always' | 'ptrace' | 'never';

/** May this user of /proc/PID/mem override permissions? @param tracer it has attached by ptrace */
const mayForce = (k: Kernel, tracer: boolean): boolean =>
  k.procMemForce === 'always' || (k.procMemForce === 'ptrace' && tracer);

function* memRw(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  write: boolean,
  tracer: boolean,
): Path<number> {
  if (mm.exited || buf.length === 0) return 0;
  const flags = (write ? FOLL_WRITE : 0) | (mayForce(k, tracer) ? FOLL_FORCE : 0);
  const done = yield* accessRemoteVmFlags(k, mm, hva, buf, flags);
  return done > 0 ? done : -EIO;
}

/**
 * read() of /proc/PID/mem at offset `hva`.
 * @param tracer the reader has attached to the process by ptrace
 * @returns bytes read, fewer where memory ends; -EIO where there is none; 0 of a process that is gone
 */
export const procMemRead = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  into: Uint8Array,
  tracer = false,
): Path<number> => memRw(k, mm, hva, into, false, tracer);

/** write() to /proc/PID/mem. @returns as procMemRead */
export const procMemWrite = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  from: Uint8Array,
  tracer = false,
): Path<number> => memRw(k, mm, hva, from, true, tracer);

/** PTRACE_PEEKDATA of buf.length bytes: one word in Linux. @returns 0, or -EIO with nothing to be relied on */
export function* ptracePeek(k: Kernel, mm: MmStruct, hva: number, into: Uint8Array): Path<number> {
  const done = yield* accessRemoteVmFlags(k, mm, hva, into, FOLL_FORCE);
  return done === into.length ? 0 : -EIO;
}

/** PTRACE_POKEDATA. @returns 0, or -EIO: a part may have been written */
export function* ptracePoke(k: Kernel, mm: MmStruct, hva: number, from: Uint8Array): Path<number> {
  const done = yield* accessRemoteVmFlags(k, mm, hva, from, FOLL_FORCE | FOLL_WRITE);
  return done === from.length ? 0 : -EIO;
}
