/**
 * SBI HSM: starting, stopping and asking for harts. RISC-V SBI 2.0, chapter 9.
 * Suspend has the retentive form only, which is a wait for an interrupt.
 */
import { setField } from '#cells';
import { gpaToMemSlot } from '../memslot.ts';
import { HSM_START_PENDING, HSM_STOPPED, type VcpuState } from '../vm.ts';
import {
  argOf,
  REG_A0,
  REG_A1,
  REG_A2,
  SBI_DONE,
  SBI_ERR_ALREADY_AVAILABLE,
  SBI_ERR_INVALID_ADDRESS,
  SBI_ERR_INVALID_PARAM,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_HSM,
  SBI_STOP,
  SBI_WAIT,
  type SbiCaller,
  type SbiExtension,
  type SbiOutcome,
  type SbiRet,
  sbiError,
  sbiValue,
} from './sbi.ts';

/** suspend_type of the default retentive and the default non-retentive suspend. */
const SUSPEND_RETENTIVE = 0;
const SUSPEND_NON_RETENTIVE = 0x8000_0000;

const vcpuOf = (caller: SbiCaller, hartid: bigint): VcpuState | undefined =>
  hartid < BigInt(caller.vm.vcpus.length) ? caller.vm.vcpus[Number(hartid)] : undefined;

const hartStart = (caller: SbiCaller, ret: SbiRet): SbiOutcome => {
  const target = vcpuOf(caller, argOf(caller, REG_A0));
  const startGpa = argOf(caller, REG_A1);
  if (target === undefined) return sbiError(ret, SBI_ERR_INVALID_PARAM);
  if (target.hsm !== HSM_STOPPED) return sbiError(ret, SBI_ERR_ALREADY_AVAILABLE);
  if (gpaToMemSlot(caller.vm.slots, Number(startGpa)) === undefined)
    return sbiError(ret, SBI_ERR_INVALID_ADDRESS);
  setField(target, 'startPc', startGpa);
  setField(target, 'startOpaque', argOf(caller, REG_A2));
  setField(target, 'hsm', HSM_START_PENDING);
  return SBI_DONE;
};

export const hsm: SbiExtension = {
  name: 'HSM',
  firstEid: SBI_EXT_HSM,
  lastEid: SBI_EXT_HSM,
  call(caller, _eid, fid, ret) {
    switch (fid) {
      case 0: // sbi_hart_start
        return hartStart(caller, ret);
      case 1: // sbi_hart_stop
        setField(caller.state, 'hsm', HSM_STOPPED);
        return SBI_STOP;
      case 2: {
        // sbi_hart_get_status
        const target = vcpuOf(caller, argOf(caller, REG_A0));
        if (target === undefined) return sbiError(ret, SBI_ERR_INVALID_PARAM);
        return sbiValue(ret, BigInt(target.hsm));
      }
      case 3: // sbi_hart_suspend
        switch (Number(argOf(caller, REG_A0) & 0xffff_ffffn)) {
          case SUSPEND_RETENTIVE:
            return SBI_WAIT;
          case SUSPEND_NON_RETENTIVE:
            return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
          default:
            return sbiError(ret, SBI_ERR_INVALID_PARAM);
        }
      default:
        return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    }
  },
};
