/** SBI BASE: version, who implements it, which extensions there are. RISC-V SBI 2.0, chapter 4. */
import { isExtensionPresent } from './table.ts';
import {
  argOf,
  REG_A0,
  SBI_ERR_NOT_SUPPORTED,
  SBI_EXT_BASE,
  type SbiExtension,
  sbiError,
  sbiValue,
} from './sbi.ts';

/** Major 2 in bits 30..24, minor 0 below. */
export const SBI_SPEC_VERSION = 2n << 24n;
/** KVM's number: what is implemented is what KVM does. */
export const SBI_IMPL_ID = 3n;
export const SBI_IMPL_VERSION = 1n;

export const base: SbiExtension = {
  name: 'BASE',
  firstEid: SBI_EXT_BASE,
  lastEid: SBI_EXT_BASE,
  call(caller, _eid, fid, ret) {
    switch (fid) {
      case 0: // sbi_get_spec_version
        return sbiValue(ret, SBI_SPEC_VERSION);
      case 1: // sbi_get_impl_id
        return sbiValue(ret, SBI_IMPL_ID);
      case 2: // sbi_get_impl_version
        return sbiValue(ret, SBI_IMPL_VERSION);
      case 3: // sbi_probe_extension
        return sbiValue(ret, isExtensionPresent(argOf(caller, REG_A0)) ? 1n : 0n);
      case 4: // sbi_get_mvendorid
      case 5: // sbi_get_marchid
      case 6: // sbi_get_mimpid
        return sbiValue(ret, 0n);
      default:
        return sbiError(ret, SBI_ERR_NOT_SUPPORTED);
    }
  },
};
