#include "iommu.h"

#define QUEUE_ENTRIES 64
#define QUEUE_LOG2 6

static struct iommu_command commands[QUEUE_ENTRIES] __attribute__((aligned(4096)));
static struct iommu_fault faults[QUEUE_ENTRIES] __attribute__((aligned(4096)));
static u64 directory[512] __attribute__((aligned(4096)));
static volatile u32 fence_word;
static u32 fences, tail;
/* Doublewords of a device context: 4, or 8 with MSI tables, which we leave off. */
static u32 context_words;

static u32 reg_read(u32 reg) { return mmio_read32(IOMMU_BASE + reg); }
static void reg_write(u32 reg, u32 value) { mmio_write32(IOMMU_BASE + reg, value); }

/* The high half first: the low one has what the IOMMU acts on. */
static void reg_write64(u32 reg, u64 value)
{
    reg_write(reg + 4, (u32)(value >> 32));
    reg_write(reg, (u32)value);
}

static u64 page_field(const void *table) { return (u64)table >> 12 << 10; }

static int start_queue(u32 base, u32 csr, const void *entries)
{
    reg_write64(base, page_field(entries) | (QUEUE_LOG2 - 1));
    reg_write(csr, IOMMU_QCSR_ENABLE | IOMMU_QCSR_IRQ_ENABLE);
    return (reg_read(csr) & IOMMU_QCSR_ON) != 0;
}

int iommu_init(void)
{
    u32 capabilities = reg_read(IOMMU_CAPABILITIES);
    if ((capabilities & 0xff) != 0x10)
        return 0;
    context_words = (capabilities & IOMMU_CAP_MSI_FLAT) != 0 ? 8 : 4;
    reg_write(IOMMU_FCTL, IOMMU_FCTL_WSI);
    /* Source n of the four goes to wire n. */
    reg_write(IOMMU_ICVEC, 0x3210);
    return start_queue(IOMMU_CQB, IOMMU_CQCSR, commands) &&
           start_queue(IOMMU_FQB, IOMMU_FQCSR, faults);
}

void iommu_enable(void) { reg_write64(IOMMU_DDTP, page_field(directory) | IOMMU_DDTP_1LVL); }
void iommu_bypass(void)
{
    /* Other modes are left by way of Off. */
    reg_write64(IOMMU_DDTP, IOMMU_DDTP_OFF);
    reg_write64(IOMMU_DDTP, IOMMU_DDTP_BARE);
}

static void put(u64 first, u64 second)
{
    commands[tail] = (struct iommu_command){ { first, second } };
    tail = (tail + 1) % QUEUE_ENTRIES;
}

/* One command, and a fence: when its word is there the command has been carried out. */
static void command(u64 first, u64 second)
{
    put(first, second);
    u32 number = ++fences;
    put(IOMMU_IOFENCE | IOMMU_AV | (u64)number << 32, (u64)&fence_word >> 2);
    fence_all();
    reg_write(IOMMU_CQT, tail);
    while (fence_word != number)
        if ((reg_read(IOMMU_CQCSR) & IOMMU_CQCSR_ERRORS) != 0)
            guest_exit(1);
}

void iommu_set_context(u32 device, u64 control, u64 second, u64 pscid, u64 first)
{
    volatile u64 *context = &directory[device * context_words];
    iommu_clear_context(device);
    context[1] = second;
    context[2] = pscid << IOMMU_PSCID_SHIFT;
    context[3] = first;
    fence_all();
    context[0] = control | IOMMU_TC_V; /* last, when the rest is there */
    fence_all();
}

void iommu_clear_context(u32 device)
{
    *(volatile u64 *)&directory[device * context_words] = 0;
    command(IOMMU_IODIR_DDT | IOMMU_DV | (u64)device << IOMMU_DID_SHIFT, 0);
}

void iommu_drop_page(u64 pscid, u64 iova)
{
    command(IOMMU_IOTINVAL_VMA | IOMMU_PSCV | IOMMU_AV | pscid << IOMMU_PSCID_SHIFT,
            iova >> 12 << 10);
}

void iommu_drop_space(u64 pscid)
{
    command(IOMMU_IOTINVAL_VMA | IOMMU_PSCV | pscid << IOMMU_PSCID_SHIFT, 0);
}

void iommu_drop_guest(u64 gscid)
{
    command(IOMMU_IOTINVAL_GVMA | IOMMU_GV | gscid << IOMMU_GSCID_SHIFT, 0);
    command(IOMMU_IOTINVAL_VMA | IOMMU_GV | gscid << IOMMU_GSCID_SHIFT, 0);
}

int iommu_take_fault(struct iommu_fault *fault)
{
    u32 head = reg_read(IOMMU_FQH);
    if (head == reg_read(IOMMU_FQT))
        return 0;
    fence_all();
    *fault = faults[head];
    reg_write(IOMMU_FQH, (head + 1) % QUEUE_ENTRIES);
    return 1;
}

u64 iommu_ask(u32 device, u64 iova, int write)
{
    reg_write64(IOMMU_TR_REQ_IOVA, iova);
    reg_write64(IOMMU_TR_REQ_CTL, (u64)device << IOMMU_DID_SHIFT | IOMMU_TR_REQ_GO |
                                      (write ? 0 : IOMMU_TR_REQ_NO_WRITE));
    while ((reg_read(IOMMU_TR_REQ_CTL) & IOMMU_TR_REQ_GO) != 0)
        ;
    u64 response = reg_read(IOMMU_TR_RESPONSE) | (u64)reg_read(IOMMU_TR_RESPONSE + 4) << 32;
    if ((response & IOMMU_TR_RESPONSE_FAULT) != 0)
        return ~0UL;
    return response >> 10 << 12 | (iova & (PAGE_SIZE - 1));
}
