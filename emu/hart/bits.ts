/**
 * Fields of the status registers, interrupt bits and exception codes that the hart uses, spelled as
 * in the manual: Privileged ISA 1.13, chapters 3.1, 12.1, 15.2 and 15.6.
 */

/* ---- mstatus and its views sstatus, vsstatus: low half ---- */
export const MSTATUS_SIE = 1 << 1;
export const MSTATUS_MIE = 1 << 3;
export const MSTATUS_SPIE = 1 << 5;
export const MSTATUS_MPIE = 1 << 7;
export const MSTATUS_SPP = 1 << 8;
export const MSTATUS_MPP_SHIFT = 11;
export const MSTATUS_MPP = 3 << MSTATUS_MPP_SHIFT;
export const MSTATUS_MPRV = 1 << 17;
export const MSTATUS_SUM = 1 << 18;
export const MSTATUS_MXR = 1 << 19;
export const MSTATUS_TVM = 1 << 20;
export const MSTATUS_TW = 1 << 21;
export const MSTATUS_TSR = 1 << 22;
/** What sstatus and vsstatus let through; FS, VS and XS are zero without F and V. */
export const SSTATUS_MASK = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_SUM | MSTATUS_MXR;
/* high half: bit 32 is bit 0 here */
/** UXL = 64 bits, read-only. */
export const STATUS_UXL_64_HI = 2;
/** SXL = 64 bits, read-only. */
export const MSTATUS_SXL_64_HI = 2 << 2;
export const MSTATUS_GVA_HI = 1 << 6;
export const MSTATUS_MPV_HI = 1 << 7;

/* ---- hstatus ---- */
export const HSTATUS_GVA = 1 << 6;
export const HSTATUS_SPV = 1 << 7;
export const HSTATUS_SPVP = 1 << 8;
export const HSTATUS_HU = 1 << 9;
export const HSTATUS_VTVM = 1 << 20;
export const HSTATUS_VTW = 1 << 21;
export const HSTATUS_VTSR = 1 << 22;
/** VSXL = 64 bits, read-only. */
export const HSTATUS_VSXL_64_HI = 2;

/* ---- bits of mip, mie and their views; the bit number is the cause ---- */
export const IRQ_SSI = 1;
export const IRQ_VSSI = 2;
export const IRQ_MSI = 3;
export const IRQ_STI = 5;
export const IRQ_VSTI = 6;
export const IRQ_MTI = 7;
export const IRQ_SEI = 9;
export const IRQ_VSEI = 10;
export const IRQ_MEI = 11;
export const MIP_SSIP = 1 << IRQ_SSI;
export const MIP_VSSIP = 1 << IRQ_VSSI;
export const MIP_MSIP = 1 << IRQ_MSI;
export const MIP_STIP = 1 << IRQ_STI;
export const MIP_VSTIP = 1 << IRQ_VSTI;
export const MIP_MTIP = 1 << IRQ_MTI;
export const MIP_SEIP = 1 << IRQ_SEI;
export const MIP_VSEIP = 1 << IRQ_VSEI;
export const MIP_MEIP = 1 << IRQ_MEI;
export const MIP_M_BITS = MIP_MSIP | MIP_MTIP | MIP_MEIP;
export const MIP_S_BITS = MIP_SSIP | MIP_STIP | MIP_SEIP;
export const MIP_VS_BITS = MIP_VSSIP | MIP_VSTIP | MIP_VSEIP;

/* ---- menvcfg, henvcfg and senvcfg: low half; the first two: high half ---- */
export const ENVCFG_FIOM = 1 << 0;
/** CBO.INVAL in lower modes: 0 traps, 1 flushes, 3 invalidates. */
export const ENVCFG_CBIE_SHIFT = 4;
export const ENVCFG_CBIE = 3 << ENVCFG_CBIE_SHIFT;
export const ENVCFG_CBCFE = 1 << 6;
export const ENVCFG_CBZE = 1 << 7;
export const ENVCFG_ADUE_HI = 1 << 29;
export const ENVCFG_STCE_HI = 1 << 31;

/* ---- mcounteren, scounteren, hcounteren ---- */
export const COUNTEREN_CY = 1 << 0;
export const COUNTEREN_TM = 1 << 1;
export const COUNTEREN_IR = 1 << 2;
/** The counters beyond these three do not count, and are accessible to M-mode alone. */
export const COUNTEREN_MASK = COUNTEREN_CY | COUNTEREN_TM | COUNTEREN_IR;

/* ---- exception codes ---- */
export const CAUSE_FETCH_ACCESS = 1;
export const CAUSE_ILLEGAL_INSTRUCTION = 2;
export const CAUSE_BREAKPOINT = 3;
export const CAUSE_MISALIGNED_LOAD = 4;
export const CAUSE_LOAD_ACCESS = 5;
export const CAUSE_MISALIGNED_STORE = 6;
export const CAUSE_STORE_ACCESS = 7;
export const CAUSE_USER_ECALL = 8;
export const CAUSE_SUPERVISOR_ECALL = 9;
export const CAUSE_VIRTUAL_SUPERVISOR_ECALL = 10;
export const CAUSE_MACHINE_ECALL = 11;
export const CAUSE_FETCH_PAGE_FAULT = 12;
export const CAUSE_LOAD_PAGE_FAULT = 13;
export const CAUSE_STORE_PAGE_FAULT = 15;
/** Corrupted or uncorrectable data: the load of a poisoned byte. */
export const CAUSE_HARDWARE_ERROR = 19;
export const CAUSE_FETCH_GUEST_PAGE_FAULT = 20;
export const CAUSE_LOAD_GUEST_PAGE_FAULT = 21;
export const CAUSE_VIRTUAL_INSTRUCTION = 22;
export const CAUSE_STORE_GUEST_PAGE_FAULT = 23;
/** Bit 63 of a cause register, in its high half. */
export const CAUSE_INTERRUPT_HI = 0x8000_0000 | 0;

/** Exceptions that M-mode may delegate (3.1.8): all but the environment call from M-mode. */
export const MEDELEG_MASK = 0x00fc_b7ff;
/** Exceptions that HS-mode may delegate to VS-mode (table 15.2.2). */
export const HEDELEG_MASK = 0x000c_b1ff;
