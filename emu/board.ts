/**
 * The memory map and the interrupt wiring of the board: those of QEMU's `virt` machine for RISC-V
 * (hw/riscv/virt.c), without PCI, flash and the platform bus, and with a DMA engine of our own.
 *
 *   physical base   size         what
 *   0x0010_0000     0x1000       test finisher
 *   0x0010_1000     0x1000       real-time clock
 *   0x0200_0000     0x1_0000     ACLINT in the CLINT's layout: MSWI, MTIMER
 *   0x0c00_0000     0x60_0000    PLIC
 *   0x1000_0000     0x100        NS16550 UART
 *   0x1000_1000     8 x 0x1000   virtio-mmio slots
 *   0x1001_0000     0x1000       DMA engine (not on QEMU's board: this hole is free there, as the next)
 *   0x1002_0000     0x1000       IOMMU
 *   0x1003_0000     2 x 0x1000   RDMA NICs
 *   0x1004_0000     0x1000       control of the NVDIMM
 *   0x8000_0000     configured   RAM (emu/layout.ts)
 *   0x2_0000_0000   configured   memory of virtio-pmem
 *   0x3_0000_0000   configured   NVDIMM
 */

export const FINISHER_BASE = 0x10_0000;
export const FINISHER_BYTES = 0x1000;

export const RTC_BASE = 0x10_1000;
export const RTC_BYTES = 0x1000;

export const ACLINT_BASE = 0x0200_0000;
export const ACLINT_BYTES = 0x1_0000;

export const PLIC_BASE = 0x0c00_0000;
export const PLIC_BYTES = 0x60_0000;
/** Highest interrupt source; source 0 does not exist. */
export const PLIC_NR_SOURCES = 96;

export const UART_BASE = 0x1000_0000;
export const UART_BYTES = 0x100;

export const VIRTIO_BASE = 0x1000_1000;
export const VIRTIO_STRIDE = 0x1000;
export const VIRTIO_SLOTS = 8;

export const DMA_ENGINE_BASE = 0x1001_0000;
export const DMA_ENGINE_BYTES = 0x1000;

export const IOMMU_BASE = 0x1002_0000;
export const IOMMU_BYTES = 0x1000;

/** One behind the other. */
export const RDMA_BASE = 0x1003_0000;
export const RDMA_BYTES = 0x1000;
export const RDMA_NICS = 2;

export const NVDIMM_CONTROL_BASE = 0x1004_0000;
export const NVDIMM_CONTROL_BYTES = 0x1000;

/** Where persistent memory begins, of each kind. Above all RAM that a board can have. */
export const VIRTIO_PMEM_GPA = 0x2_0000_0000;
export const NVDIMM_GPA = 0x3_0000_0000;

/* ---- device_id at the IOMMU: the RDMA NICs and the virtio slots have consecutive ones ---- */
export const IOMMU_DEVICE_DMA = 1;
export const IOMMU_DEVICE_RDMA = 2;
export const IOMMU_DEVICE_VIRTIO = 8;

/* ---- PLIC sources: the virtio slots have 1..8 ---- */
export const VIRTIO_IRQ_BASE = 1;
export const UART_IRQ = 10;
export const RTC_IRQ = 11;
export const DMA_ENGINE_IRQ = 16;
/** Command queue, fault queue, performance monitor, page-request queue. */
export const IOMMU_IRQ_BASE = 17;
export const IOMMU_NR_IRQS = 4;
export const RDMA_IRQ_BASE = 24;
