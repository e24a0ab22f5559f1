/*
 * The RISC-V IOMMU 1.0: the registers, structures and commands that guests use. A driver keeps a
 * directory of device contexts in memory, which say by which page tables each device's addresses are
 * translated; it tells the IOMMU by commands what it has changed, and reads from the fault queue what
 * the IOMMU did not let through. Addresses of all of these are physical: for a guest, guest-physical.
 */
#ifndef GUEST_IOMMU_REGISTERS_H
#define GUEST_IOMMU_REGISTERS_H

#define IOMMU_BASE 0x10020000UL
/* Sources at the PLIC: commands, faults, performance monitor, page requests. */
#define IOMMU_IRQ 17
#define IOMMU_IRQ_FAULTS (IOMMU_IRQ + 1)

#define IOMMU_CAPABILITIES 0x00
#define IOMMU_CAP_MSI_FLAT (1U << 22) /* contexts of 64 bytes */
#define IOMMU_FCTL 0x08
#define IOMMU_FCTL_WSI (1U << 1) /* interrupts are wires */
#define IOMMU_DDTP 0x10
#define IOMMU_DDTP_OFF 0UL
#define IOMMU_DDTP_BARE 1UL
#define IOMMU_DDTP_1LVL 2UL
#define IOMMU_CQB 0x18
#define IOMMU_CQH 0x20
#define IOMMU_CQT 0x24
#define IOMMU_FQB 0x28
#define IOMMU_FQH 0x30
#define IOMMU_FQT 0x34
#define IOMMU_CQCSR 0x48
#define IOMMU_CQCSR_ERRORS (7U << 8) /* memory fault, time-out, illegal command */
#define IOMMU_FQCSR 0x4c
#define IOMMU_QCSR_ENABLE (1U << 0)
#define IOMMU_QCSR_IRQ_ENABLE (1U << 1)
#define IOMMU_QCSR_ON (1U << 16)
#define IOMMU_IPSR 0x54
#define IOMMU_IPSR_FAULTS (1U << 1)
#define IOMMU_TR_REQ_IOVA 0x258
#define IOMMU_TR_REQ_CTL 0x260
#define IOMMU_TR_REQ_GO (1U << 0)
#define IOMMU_TR_REQ_NO_WRITE (1U << 3)
#define IOMMU_TR_RESPONSE 0x268
#define IOMMU_TR_RESPONSE_FAULT (1U << 0)
#define IOMMU_ICVEC 0x2f8

/* Device context, translation control. */
#define IOMMU_TC_V (1UL << 0)
#define IOMMU_TC_GADE (1UL << 7) /* A and D of the second stage are set by the IOMMU */
#define IOMMU_TC_SADE (1UL << 8) /* and of the first */
/* MODE of either stage. */
#define IOMMU_SV39 (8UL << 60)
#define IOMMU_GSCID_SHIFT 44
#define IOMMU_PSCID_SHIFT 12

/* First doublewords of commands. */
#define IOMMU_IOTINVAL_VMA 1UL
#define IOMMU_IOTINVAL_GVMA (1UL | 1UL << 7)
#define IOMMU_IOFENCE 2UL
#define IOMMU_IODIR_DDT 3UL
#define IOMMU_AV (1UL << 10)
#define IOMMU_PSCV (1UL << 32)
#define IOMMU_GV (1UL << 33)
#define IOMMU_DV (1UL << 33)
#define IOMMU_DID_SHIFT 40

struct iommu_command {
    unsigned long word[2];
};

struct iommu_fault {
    unsigned long what; /* cause 11..0, type of transaction 39..34, device 63..40 */
    unsigned long custom;
    unsigned long iova;
    unsigned long gpa; /* of a guest-page fault; its low bits are flags */
};

#define IOMMU_CAUSE_READ_PAGE 13
#define IOMMU_CAUSE_WRITE_PAGE 15
#define IOMMU_CAUSE_WRITE_GUEST_PAGE 23
#define IOMMU_CAUSE_NO_CONTEXT 258

#endif
