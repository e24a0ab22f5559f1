/**
 * The legacy extensions 0x00..0x08. RISC-V SBI 2.0, chapter 5.
 *
 * Their hart masks are behind a virtual address of the guest's: a mask that cannot be read is the
 * guest's page fault, with sepc at the ECALL, as the chapter says.
 */
import { ACCESS_READ, MMU_FAULT, MMU_MMIO } from '#emu';
import type { VcpuState } from '../vm.ts';
import { clearIpi, sendIpi } from './ipi.ts';
import { remoteSfenceVma } from './rfence.ts';
import {
  argOf,
  hartsOfMask,
  REG_A0,
  REG_A1,
  REG_A2,
  REG_A3,
  SBI_DONE,
  SBI_ERR_INVALID_PARAM,
  SBI_EXT_LEGACY_FIRST,
  SBI_EXT_LEGACY_LAST,
  SBI_REDIRECT,
  SBI_RESTART,
  SBI_SHUTDOWN,
  type SbiCaller,
  type SbiExtension,
  type SbiOutcome,
  type SbiRet,
  sbiError,
} from './sbi.ts';
import { setTimer } from './time.ts';

export const SBI_LEGACY_SET_TIMER = 0;
export const SBI_LEGACY_PUTCHAR = 1;
export const SBI_LEGACY_GETCHAR = 2;
export const SBI_LEGACY_CLEAR_IPI = 3;
export const SBI_LEGACY_SEND_IPI = 4;
export const SBI_LEGACY_REMOTE_FENCE_I = 5;
export const SBI_LEGACY_REMOTE_SFENCE_VMA = 6;
export const SBI_LEGACY_REMOTE_SFENCE_VMA_ASID = 7;
export const SBI_LEGACY_SHUTDOWN = 8;

const CAUSE_LOAD_ACCESS = 5;
const CAUSE_LOAD_GUEST_PAGE_FAULT = 21;

/**
 * The vCPUs of a mask in guest memory; a null pointer stands for all, as in Linux and OpenSBI.
 * @returns their states, or an outcome that ends or restarts the call
 */
const hartsInMemory = (caller: SbiCaller, ret: SbiRet): VcpuState[] | SbiOutcome => {
  const maskGva = argOf(caller, REG_A0);
  if (maskGva === 0n) return [...caller.vm.vcpus];
  const { mmu } = caller.hart;
  let mask = 0n;
  // Byte by byte: the pointer need not be aligned, nor its bytes on one page.
  for (let i = 0n; i < 8n; i++) {
    const gva = maskGva + i;
    const offset = mmu.guestAccessSlow(
      Number(BigInt.asIntN(32, gva)),
      Number(BigInt.asIntN(32, gva >> 32n)),
      ACCESS_READ,
    );
    if (offset === MMU_FAULT && mmu.faultCause === CAUSE_LOAD_GUEST_PAGE_FAULT) {
      ret.gpa = mmu.faultGpa;
      return SBI_RESTART;
    }
    if (offset === MMU_FAULT || offset === MMU_MMIO) {
      ret.cause = offset === MMU_FAULT ? mmu.faultCause : CAUSE_LOAD_ACCESS;
      ret.value = gva;
      return SBI_REDIRECT;
    }
    mask |= BigInt(caller.kvm.memory.u8[offset]!) << (8n * i);
  }
  return hartsOfMask(caller, mask, 0n) ?? sbiError(ret, SBI_ERR_INVALID_PARAM);
};

const fenceOrIpi = (caller: SbiCaller, eid: number, ret: SbiRet): SbiOutcome => {
  const vcpus = hartsInMemory(caller, ret);
  if (typeof vcpus === 'number') return vcpus;
  if (eid === SBI_LEGACY_SEND_IPI) sendIpi(caller, vcpus);
  else if (eid !== SBI_LEGACY_REMOTE_FENCE_I) {
    const asid =
      eid === SBI_LEGACY_REMOTE_SFENCE_VMA_ASID
        ? Number(argOf(caller, REG_A3) & 0xffffn)
        : undefined;
    remoteSfenceVma(caller, vcpus, argOf(caller, REG_A1), argOf(caller, REG_A2), asid);
  }
  return SBI_DONE;
};

export const legacy: SbiExtension = {
  name: 'LEGACY',
  firstEid: SBI_EXT_LEGACY_FIRST,
  lastEid: SBI_EXT_LEGACY_LAST,
  call(caller, eid, _fid, ret) {
    ret.a0Only = true;
    switch (eid) {
      case SBI_LEGACY_SET_TIMER:
        setTimer(caller, argOf(caller, REG_A0));
        return SBI_DONE;
      case SBI_LEGACY_PUTCHAR:
        caller.console.put(Number(argOf(caller, REG_A0) & 0xffn));
        return SBI_DONE;
      case SBI_LEGACY_GETCHAR:
        ret.error = caller.console.get();
        return SBI_DONE;
      case SBI_LEGACY_CLEAR_IPI:
        ret.error = clearIpi(caller) ? 1 : 0;
        return SBI_DONE;
      case SBI_LEGACY_SHUTDOWN:
        return SBI_SHUTDOWN;
      default:
        return fenceOrIpi(caller, eid, ret);
    }
  },
};
