/** SBI TIME: the next timer interrupt, through vstimecmp (Sstc). RISC-V SBI 2.0, chapter 6. */
import { CSR_VSTIMECMP } from '#emu';
import {
  argOf,
  REG_A0,
  SBI_DONE,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_TIME,
  type SbiCaller,
  type SbiExtension,
  sbiError,
} from './sbi.ts';

/**
 * Sets the time of the next interrupt. vstimecmp makes VSTIP level: pending exactly while the time
 * has been reached, so a later time clears it as the call promises.
 */
export const setTimer = (caller: SbiCaller, stimeValue: bigint): void =>
  caller.hart.writeCsr(CSR_VSTIMECMP, stimeValue);

export const time: SbiExtension = {
  name: 'TIME',
  firstEid: SBI_EXT_TIME,
  lastEid: SBI_EXT_TIME,
  call(caller, _eid, fid, ret) {
    if (fid !== 0) return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    setTimer(caller, argOf(caller, REG_A0));
    return SBI_DONE;
  },
};
