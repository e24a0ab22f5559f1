/* A driver for the RISC-V IOMMU: directory of one level, command queue, fault queue. */
#ifndef GUEST_IOMMU_H
#define GUEST_IOMMU_H

#include "../include/iommu.h"
#include "runtime.h"

/* Turns the queues on; the mode stays Bare. Returns 0 where there is no IOMMU of version 1.0. */
int iommu_init(void);

/* Translates by the directory from now on: devices without a context are kept out. */
void iommu_enable(void);
/* Lets every address through as it is. */
void iommu_bypass(void);

/*
 * The context of a device: `first` and `second` are MODE and page number of the stages' roots (0 =
 * Bare), `second` with the GSCID. What the IOMMU had of it before is dropped.
 */
void iommu_set_context(u32 device, u64 control, u64 second, u64 pscid, u64 first);
void iommu_clear_context(u32 device);

/* Drops translations of the first stage of an address space: of one iova, or of all. */
void iommu_drop_page(u64 pscid, u64 iova);
void iommu_drop_space(u64 pscid);
/* Drops those of the second stage of a guest, and what was made of them. */
void iommu_drop_guest(u64 gscid);

/* Takes the oldest fault. Returns 0 where there is none. */
int iommu_take_fault(struct iommu_fault *fault);

/* Asks the IOMMU how it would translate an address: gpa, or ~0 for a fault. */
u64 iommu_ask(u32 device, u64 iova, int write);

#endif
