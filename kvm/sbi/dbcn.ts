/**
 * SBI DBCN: the debug console. RISC-V SBI 2.0, chapter 12.
 *
 * Write and read move bytes of guest memory as the VMM would, through its address space, which may
 * sleep: they are paths. They move at most one page a call, as the specification allows.
 */
import { PAGE_SIZE } from '#emu';
import type { Path } from '#mm/secondary';
import { markGuestDirty } from '../dirty-log.ts';
import { vmReadGuest, vmWriteGuest } from '../guest-memory.ts';
import { gpaToMemSlot } from '../memslot.ts';
import {
  argOf,
  REG_A0,
  REG_A1,
  REG_A2,
  SBI_DONE,
  SBI_ERR_FAILED,
  SBI_ERR_INVALID_PARAM,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_DBCN,
  SBI_NEEDS_PATH,
  type SbiCaller,
  type SbiExtension,
  type SbiRet,
  sbiError,
} from './sbi.ts';

const FID_WRITE = 0;
const FID_READ = 1;
const FID_WRITE_BYTE = 2;

/** The buffer a call names lies in the guest's memory, all of it. */
const bufferIsMemory = (caller: SbiCaller): boolean => {
  const lenBytes = argOf(caller, REG_A0);
  const gpa = argOf(caller, REG_A1);
  if (argOf(caller, REG_A2) !== 0n || lenBytes > 0xffff_ffffn || gpa > 0xffff_ffff_ffffn)
    return false;
  let at = Number(gpa);
  const end = at + Number(lenBytes);
  while (at < end) {
    const slot = gpaToMemSlot(caller.vm.slots, at);
    if (slot === undefined) return false;
    at = slot.gpa + slot.lenBytes;
  }
  return true;
};

/** How much of the buffer one call moves. */
const chunkOf = (caller: SbiCaller): number => Math.min(Number(argOf(caller, REG_A0)), PAGE_SIZE);

function* consoleWrite(caller: SbiCaller, ret: SbiRet): Path<void> {
  const bytes = new Uint8Array(chunkOf(caller));
  const error = yield* vmReadGuest(caller.kvm, caller.vm, Number(argOf(caller, REG_A1)), bytes);
  if (error < 0) {
    ret.error = SBI_ERR_FAILED;
    return;
  }
  for (const byte of bytes) caller.console.put(byte);
  ret.value = BigInt(bytes.length);
}

function* consoleRead(caller: SbiCaller, ret: SbiRet): Path<void> {
  const gpa = Number(argOf(caller, REG_A1));
  const room = chunkOf(caller);
  const bytes: number[] = [];
  while (bytes.length < room) {
    const byte = caller.console.get();
    if (byte < 0) break;
    bytes.push(byte);
  }
  if (bytes.length === 0) return;
  const error = yield* vmWriteGuest(caller.kvm, caller.vm, gpa, Uint8Array.from(bytes));
  if (error < 0) {
    ret.error = SBI_ERR_FAILED;
    return;
  }
  // Written for the guest, so it counts as the guest's write.
  markGuestDirty(caller.vm, gpa, bytes.length);
  ret.value = BigInt(bytes.length);
}

export const dbcn: SbiExtension = {
  name: 'DBCN',
  firstEid: SBI_EXT_DBCN,
  lastEid: SBI_EXT_DBCN,
  call(caller, _eid, fid, ret) {
    switch (fid) {
      case FID_WRITE:
      case FID_READ:
        if (!bufferIsMemory(caller)) return sbiError(ret, SBI_ERR_INVALID_PARAM);
        return argOf(caller, REG_A0) === 0n ? SBI_DONE : SBI_NEEDS_PATH;
      case FID_WRITE_BYTE:
        caller.console.put(Number(argOf(caller, REG_A0) & 0xffn));
        return SBI_DONE;
      default:
        return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    }
  },
  path(caller, fid, ret) {
    return fid === FID_WRITE ? consoleWrite(caller, ret) : consoleRead(caller, ret);
  },
};
