/** SBI SRST: shutdown and reboot, which both end the run. RISC-V SBI 2.0, chapter 10. */
import {
  argOf,
  REG_A0,
  REG_A1,
  SBI_ERR_INVALID_PARAM,
  SBI_EXT_SRST,
  SBI_ERR_NOT_SUPPORTED,
  SBI_SHUTDOWN,
  type SbiExtension,
  sbiError,
} from './sbi.ts';

export const SBI_RESET_SHUTDOWN = 0;
export const SBI_RESET_COLD_REBOOT = 1;
export const SBI_RESET_WARM_REBOOT = 2;
export const SBI_RESET_REASON_NONE = 0;
export const SBI_RESET_REASON_FAILURE = 1;
/** Reasons from here on are an implementation's or a platform's: passed on as they are. */
const REASON_SPECIFIC_FIRST = 0xe000_0000;

export const srst: SbiExtension = {
  name: 'SRST',
  firstEid: SBI_EXT_SRST,
  lastEid: SBI_EXT_SRST,
  call(caller, _eid, fid, ret) {
    if (fid !== 0) return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    // Both parameters are 32 bits wide.
    const type = Number(argOf(caller, REG_A0) & 0xffff_ffffn);
    const reason = Number(argOf(caller, REG_A1) & 0xffff_ffffn);
    if (type > SBI_RESET_WARM_REBOOT) return sbiError(ret, SBI_ERR_INVALID_PARAM);
    if (reason > SBI_RESET_REASON_FAILURE && reason < REASON_SPECIFIC_FIRST)
      return sbiError(ret, SBI_ERR_INVALID_PARAM);
    ret.resetType = type;
    ret.resetReason = reason;
    return SBI_SHUTDOWN;
  },
};
