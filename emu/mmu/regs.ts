/**
 * What address translation depends on besides memory: the fields of the control registers that a
 * hart copies here before it tells its MMU with contextChanged(). Privileged ISA 1.13, chapters 3.1.6
 * (mstatus), 12.1.11 (satp), 15.2 (hypervisor and VS registers).
 */

/** Privilege encodings, as in mstatus.MPP. */
export const PRIV_U = 0;
export const PRIV_S = 1;
export const PRIV_M = 3;
export type Privilege = typeof PRIV_U | typeof PRIV_S | typeof PRIV_M;

/** Plain data: numbers and booleans only. PPNs are up to 44 bits, in whole numbers. */
export interface TranslationRegs {
  /** Current nominal privilege, and V. */
  priv: Privilege;
  virt: boolean;
  /** satp, the HS-level one, whatever V is. MODE is one of ATP_MODE_*; ASID 16 bits. */
  satpMode: number;
  satpAsid: number;
  satpPpn: number;
  /** vsatp. Takes the place of satp while V=1. */
  vsatpMode: number;
  vsatpAsid: number;
  vsatpPpn: number;
  /** hgatp. VMID 14 bits; the low two bits of the PPN are zero unless MODE is Bare. */
  hgatpMode: number;
  hgatpVmid: number;
  hgatpPpn: number;
  /** mstatus.SUM and MXR, which are sstatus.SUM and MXR of HS-mode. MXR acts on both stages while V=1. */
  sum: boolean;
  mxr: boolean;
  /** vsstatus.SUM and MXR: the VS-stage while V=1. */
  vsum: boolean;
  vmxr: boolean;
  /** mstatus.MPRV, MPP and MPV: loads and stores as if in another mode. */
  mprv: boolean;
  mpp: Privilege;
  mpv: boolean;
  /** hstatus.SPVP: privilege of HLV, HLVX and HSV, PRIV_U or PRIV_S. */
  spvp: Privilege;
  /** menvcfg.ADUE: hardware updates A and D in the S-stage and the G-stage. Otherwise it faults. */
  adueHs: boolean;
  /** henvcfg.ADUE: the same for the VS-stage. */
  adueVs: boolean;
}

/** The state after reset: machine mode, nothing translated. */
export const createTranslationRegs = (): TranslationRegs => ({
  priv: PRIV_M,
  virt: false,
  satpMode: 0,
  satpAsid: 0,
  satpPpn: 0,
  vsatpMode: 0,
  vsatpAsid: 0,
  vsatpPpn: 0,
  hgatpMode: 0,
  hgatpVmid: 0,
  hgatpPpn: 0,
  sum: false,
  mxr: false,
  vsum: false,
  vmxr: false,
  mprv: false,
  mpp: PRIV_U,
  mpv: false,
  spvp: PRIV_U,
  adueHs: false,
  adueVs: false,
});
