/** SBI sPI: software interrupts to other harts, through hvip.VSSIP. RISC-V SBI 2.0, chapter 7. */
import { CSR_HVIP } from '#emu';
import type { VcpuState } from '../vm.ts';
import {
  hartList,
  hartOf,
  SBI_DONE,
  SBI_ERR_INVALID_PARAM,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_IPI,
  type SbiCaller,
  type SbiExtension,
  sbiError,
} from './sbi.ts';

/** hvip.VSSIP: the guest sees it as sip.SSIP and clears it itself. */
const HVIP_VSSIP = 1n << 2n;

/** Makes the interrupt pending on these vCPUs. */
export const sendIpi = (caller: SbiCaller, vcpus: readonly VcpuState[]): void => {
  for (const vcpu of vcpus) {
    const hart = hartOf(caller, vcpu);
    hart.writeCsr(CSR_HVIP, hart.readCsr(CSR_HVIP) | HVIP_VSSIP);
  }
};

/** @returns whether one was pending */
export const clearIpi = (caller: SbiCaller): boolean => {
  const hvip = caller.hart.readCsr(CSR_HVIP);
  caller.hart.writeCsr(CSR_HVIP, hvip & ~HVIP_VSSIP);
  return (hvip & HVIP_VSSIP) !== 0n;
};

export const ipi: SbiExtension = {
  name: 'IPI',
  firstEid: SBI_EXT_IPI,
  lastEid: SBI_EXT_IPI,
  call(caller, _eid, fid, ret) {
    if (fid !== 0) return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    const vcpus = hartList(caller);
    if (vcpus === undefined) return sbiError(ret, SBI_ERR_INVALID_PARAM);
    sendIpi(caller, vcpus);
    return SBI_DONE;
  },
};
