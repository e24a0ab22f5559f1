/**
 * Registers of the RISC-V IOMMU: offsets, and the fields of each. RISC-V IOMMU 1.0, "Memory-mapped
 * register interface". 64-bit registers are two words; the names are those of the low word.
 */

export const IOMMU_REG_CAPABILITIES = 0x000;
export const IOMMU_REG_FCTL = 0x008;
export const IOMMU_REG_DDTP = 0x010;
export const IOMMU_REG_CQB = 0x018;
export const IOMMU_REG_CQH = 0x020;
export const IOMMU_REG_CQT = 0x024;
export const IOMMU_REG_FQB = 0x028;
export const IOMMU_REG_FQH = 0x030;
export const IOMMU_REG_FQT = 0x034;
export const IOMMU_REG_PQB = 0x038;
export const IOMMU_REG_PQH = 0x040;
export const IOMMU_REG_PQT = 0x044;
export const IOMMU_REG_CQCSR = 0x048;
export const IOMMU_REG_FQCSR = 0x04c;
export const IOMMU_REG_PQCSR = 0x050;
export const IOMMU_REG_IPSR = 0x054;
export const IOMMU_REG_IOCOUNTOVF = 0x058;
export const IOMMU_REG_IOCOUNTINH = 0x05c;
export const IOMMU_REG_IOHPMCYCLES = 0x060;
/** Counters 1 to 31, and what each counts: 8 bytes each. */
export const IOMMU_REG_IOHPMCTR = 0x068;
export const IOMMU_REG_IOHPMEVT = 0x160;
export const IOMMU_REG_TR_REQ_IOVA = 0x258;
export const IOMMU_REG_TR_REQ_CTL = 0x260;
export const IOMMU_REG_TR_RESPONSE = 0x268;
export const IOMMU_REG_ICVEC = 0x2f8;
/** 16 vectors of 16 bytes: address, data, control. */
export const IOMMU_REG_MSI_CFG_TBL = 0x300;
export const IOMMU_REG_END = 0x400;

/* ---- capabilities, low word ---- */
export const CAP_VERSION_1_0 = 0x10;
export const CAP_SV39 = 1 << 9;
export const CAP_SV48 = 1 << 10;
export const CAP_SV57 = 1 << 11;
export const CAP_SV39X4 = 1 << 17;
export const CAP_SV48X4 = 1 << 18;
export const CAP_SV57X4 = 1 << 19;
export const CAP_AMO_MRIF = 1 << 21;
export const CAP_MSI_FLAT = 1 << 22;
export const CAP_MSI_MRIF = 1 << 23;
export const CAP_AMO_HWAD = 1 << 24;
export const CAP_ATS = 1 << 25;
export const CAP_T2GPA = 1 << 26;
/** Interrupts by wire or by message, as fctl.WSI says. */
export const CAP_IGS_BOTH = 2 << 28;
export const CAP_HPM = 1 << 30;
export const CAP_DBG = 1 << 31;
/* ---- capabilities, high word: PAS below ---- */
export const CAP_HI_PD8 = 1 << 6;
export const CAP_HI_PD17 = 1 << 7;
export const CAP_HI_PD20 = 1 << 8;

/** fctl.WSI: interrupts are levels on wires. BE and GXL are fixed to 0. */
export const FCTL_WSI = 1 << 1;

/* ---- ddtp.iommu_mode ---- */
export const DDTP_MODE_OFF = 0;
export const DDTP_MODE_BARE = 1;
export const DDTP_MODE_1LVL = 2;
export const DDTP_MODE_2LVL = 3;
export const DDTP_MODE_3LVL = 4;
export const DDTP_MODE_MASK = 0xf;
/** PPN of ddtp and of the queues' bases: bits 53..10. */
export const PPN_LO_MASK = 0xffff_fc00 | 0;
export const PPN_HI_MASK = 0x003f_ffff;
/** LOG2SZ-1 of the queues' bases. */
export const QUEUE_LOG2SZ_MASK = 0x1f;

/* ---- cqcsr, fqcsr, pqcsr: what they have in common ---- */
export const QCSR_EN = 1 << 0;
export const QCSR_IE = 1 << 1;
/** Memory fault. */
export const QCSR_MF = 1 << 8;
export const QCSR_ON = 1 << 16;
/* ---- cqcsr alone ---- */
export const CQCSR_CMD_TO = 1 << 9;
export const CQCSR_CMD_ILL = 1 << 10;
export const CQCSR_FENCE_W_IP = 1 << 11;
/* ---- fqcsr, pqcsr: overflow ---- */
export const QCSR_OF = 1 << 9;

/* ---- ipsr; icvec has four bits for each, in this order ---- */
export const IPSR_CIP = 1 << 0;
export const IPSR_FIP = 1 << 1;
export const IPSR_PMIP = 1 << 2;
export const IPSR_PIP = 1 << 3;

/* ---- tr_req_ctl ---- */
export const TR_REQ_GO = 1 << 0;
export const TR_REQ_PRIV = 1 << 1;
export const TR_REQ_EXE = 1 << 2;
export const TR_REQ_NW = 1 << 3;
export const TR_REQ_PID_SHIFT = 12;
export const TR_REQ_HI_PV = 1 << 0;
export const TR_REQ_HI_DID_SHIFT = 8;
/* ---- tr_response ---- */
export const TR_RESPONSE_FAULT = 1 << 0;
export const TR_RESPONSE_S = 1 << 9;

/* ---- iohpmevt ---- */
export const HPM_EVENT_UNTRANSLATED = 1;
export const HPM_EVENT_TRANSLATED = 2;
export const HPM_EVENT_ATS = 3;
export const HPM_EVENT_TLB_MISS = 4;
export const HPM_EVENT_DDT_WALK = 5;
export const HPM_EVENT_PDT_WALK = 6;
export const HPM_EVENT_FIRST_STAGE_WALK = 7;
export const HPM_EVENT_SECOND_STAGE_WALK = 8;
