/*
 * The DMA engine behind the IOMMU: what it reaches is what the IOMMU's tables say, and nothing else.
 *
 * Each round maps a source and a destination of 16 pages, scattered in memory, at contiguous bus
 * addresses, and lets the engine copy. Then the rules are tried: an address that is not mapped, a
 * page that may not be written, an entry that was changed and not invalidated, a second stage, a device
 * without a context. Whatever the engine is kept from must not change a byte, and be in the fault queue.
 *
 * Parameter 0: rounds. Default 4.
 */
#include "../include/dma.h"
#include "fdt.h"
#include "iommu.h"
#include "plic.h"
#include "print.h"
#include "sv39.h"

#define DEVICE 1U /* device_id of the DMA engine */
#define NR_PAGES 16U
#define SOURCE_IOVA 0x10000000UL
#define TARGET_IOVA 0x20000000UL
#define SPACE 5UL
#define GUEST 9UL
#define RING_SIZE 8U
/* Of a first stage: the device is a user. */
#define PTE_U (1UL << 4)
#define PTE_READ (PTE_R | PTE_U | PTE_A)
#define PTE_WRITE (PTE_READ | PTE_W | PTE_D)

static struct dma_descriptor ring[RING_SIZE];
static u32 posted;
static sv39_table root, middle, source_table, target_table;
/* Second stage: a root of four pages, whose entries are leaves of 1 GiB. */
static u64 guest_root[2048] __attribute__((aligned(16384)));
/* Twice as many pages as are mapped at a time. */
static u8 pool[4 * NR_PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
static u16 order[4 * NR_PAGES];
static u32 failures;
static volatile u32 fault_interrupts;
static u64 hart;

static void check(int ok, const char *what)
{
    if (ok)
        return;
    failures++;
    print("iommu: FAILED: %s\n", what);
}

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause == CAUSE_EXTERNAL_INTERRUPT) {
        u32 source = plic_claim(hart);
        if (source == IOMMU_IRQ_FAULTS) {
            mmio_write32(IOMMU_BASE + IOMMU_IPSR, IOMMU_IPSR_FAULTS);
            fault_interrupts++;
        }
        if (source != 0)
            plic_complete(hart, source);
        return;
    }
    if (frame->scause == CAUSE_LOAD_ACCESS && frame->stval >> 12 == IOMMU_BASE >> 12) {
        print("iommu: no IOMMU at 0x%x\n", IOMMU_BASE);
        guest_exit(1);
    }
    trap_unexpected(frame);
}

static void engine_init(void)
{
    mmio_write32(DMA_BASE + DMA_CONTROL, DMA_CONTROL_RESET);
    mmio_write32(DMA_BASE + DMA_LATENCY, 200);
    posted = 0;
}

/* The ring's own address is a bus address as well. */
static void engine_start(u64 ring_address)
{
    mmio_write32(DMA_BASE + DMA_RING_LO, (u32)ring_address);
    mmio_write32(DMA_BASE + DMA_RING_HI, (u32)(ring_address >> 32));
    mmio_write32(DMA_BASE + DMA_RING_SIZE, RING_SIZE);
    mmio_write32(DMA_BASE + DMA_CONTROL, DMA_CONTROL_ENABLE);
}

/* One copy. Returns the status that the engine has stored. */
static u32 copy(u64 to, u64 from, u32 len)
{
    struct dma_descriptor *d = &ring[posted % RING_SIZE];
    *d = (struct dma_descriptor){ .src = from, .dst = to, .len = len };
    fence_all();
    mmio_write32(DMA_BASE + DMA_TAIL, ++posted);
    while (mmio_read32(DMA_BASE + DMA_HEAD) != posted)
        ;
    fence_all();
    return d->status;
}

static void fill(u8 *page, u64 seed)
{
    for (u32 i = 0; i < PAGE_SIZE / 8; i++)
        ((u64 *)page)[i] = mix64(seed + i);
}

static int has(const u8 *page, u64 seed)
{
    for (u32 i = 0; i < PAGE_SIZE / 8; i++)
        if (((const u64 *)page)[i] != mix64(seed + i))
            return 0;
    return 1;
}

static u8 *source_page(u32 i) { return pool[order[i]]; }
static u8 *target_page(u32 i) { return pool[order[NR_PAGES + i]]; }

/* The tables of SPACE: source read-only, target writable; the ring where it is. */
static void build_tables(void)
{
    root[0] = sv39_pointer(middle);
    root[sv39_index((u64)ring, 2)] = sv39_leaf(0x80000000UL, PTE_WRITE);
    middle[sv39_index(SOURCE_IOVA, 1)] = sv39_pointer(source_table);
    middle[sv39_index(TARGET_IOVA, 1)] = sv39_pointer(target_table);
    for (u32 i = 0; i < NR_PAGES; i++) {
        source_table[i] = sv39_leaf((u64)source_page(i), PTE_READ);
        target_table[i] = sv39_leaf((u64)target_page(i), PTE_WRITE);
    }
}

static void expect_fault(u32 cause, u64 iova)
{
    struct iommu_fault fault;
    int found = iommu_take_fault(&fault);
    check(found && (fault.what & 0xfff) == cause && fault.iova >> 12 == iova >> 12 &&
              fault.what >> 40 == DEVICE,
          "the fault queue says what was kept out");
    if (found && (fault.what & 0xfff) != cause)
        print("iommu: cause %u at iova 0x%x\n", fault.what & 0xfff, fault.iova);
    check(!iommu_take_fault(&fault), "and nothing else");
}

static void copies_scattered_pages(u64 seed)
{
    for (u32 i = 0; i < NR_PAGES; i++) {
        fill(source_page(i), seed + i);
        memset(target_page(i), 0, PAGE_SIZE);
    }
    check(copy(TARGET_IOVA, SOURCE_IOVA, NR_PAGES * PAGE_SIZE) == DMA_DONE, "a copy is done");
    for (u32 i = 0; i < NR_PAGES; i++)
        check(has(target_page(i), seed + i), "every page has what was copied to it");
}

static void keeps_out_what_is_not_mapped(u64 seed)
{
    u64 hole = TARGET_IOVA + NR_PAGES * PAGE_SIZE;
    check(copy(hole, SOURCE_IOVA, 64) == DMA_BUS_ERROR, "a write to nowhere is an error");
    expect_fault(IOMMU_CAUSE_WRITE_PAGE, hole);
    check(copy(TARGET_IOVA, hole, 64) == DMA_BUS_ERROR, "and a read");
    expect_fault(IOMMU_CAUSE_READ_PAGE, hole);
    check(copy(SOURCE_IOVA, TARGET_IOVA, 64) == DMA_BUS_ERROR, "and a write to what is read-only");
    expect_fault(IOMMU_CAUSE_WRITE_PAGE, SOURCE_IOVA);
    check(has(source_page(0), seed), "which has not changed");
    check(iommu_ask(DEVICE, SOURCE_IOVA + 24, 0) == (u64)source_page(0) + 24, "asked, it says where");
    check(iommu_ask(DEVICE, SOURCE_IOVA, 1) == ~0UL, "and where it would not");
    expect_fault(IOMMU_CAUSE_WRITE_PAGE, SOURCE_IOVA);
}

/* Returns how often the old entry was used after it was changed: a cache may keep it, or not. */
static u32 uses_what_was_invalidated_last(u64 seed)
{
    u8 *other = pool[order[2 * NR_PAGES]];
    fill(other, seed + 1000);
    check(copy(TARGET_IOVA, SOURCE_IOVA, PAGE_SIZE) == DMA_DONE, "the entry is used");
    source_table[0] = sv39_leaf((u64)other, PTE_READ);
    check(copy(TARGET_IOVA, SOURCE_IOVA, PAGE_SIZE) == DMA_DONE, "it is changed");
    u32 stale = (u32)has(target_page(0), seed);
    check(stale || has(target_page(0), seed + 1000), "the old page or the new one");
    iommu_drop_page(SPACE, SOURCE_IOVA);
    check(copy(TARGET_IOVA, SOURCE_IOVA, PAGE_SIZE) == DMA_DONE, "it is invalidated");
    check(has(target_page(0), seed + 1000), "now the new page");
    source_table[0] = sv39_leaf((u64)source_page(0), PTE_READ);
    iommu_drop_page(SPACE, SOURCE_IOVA);
    return stale;
}

static void sets_accessed_and_dirty(void)
{
    target_table[1] &= ~(PTE_A | PTE_D);
    iommu_drop_page(SPACE, TARGET_IOVA + PAGE_SIZE);
    check(copy(TARGET_IOVA + PAGE_SIZE, SOURCE_IOVA, 8) == DMA_DONE, "a page without A and D");
    fence_all();
    u64 both = PTE_A | PTE_D;
    check((*(volatile u64 *)&target_table[1] & both) == both, "has both after a write");
}

/* First stage and second one; the second one is the identity, without the right to write at first. */
static void goes_through_two_stages(u64 seed)
{
    u64 ram = 0x80000000UL;
    guest_root[ram >> 30] = sv39_leaf(ram, PTE_R | PTE_W | PTE_U | PTE_A | PTE_D);
    iommu_set_context(DEVICE, IOMMU_TC_SADE, IOMMU_SV39 | GUEST << IOMMU_GSCID_SHIFT |
                      (u64)guest_root >> 12, SPACE, IOMMU_SV39 | (u64)root >> 12);
    copies_scattered_pages(seed);
    /* Nothing of that memory may be written now, the engine's ring included: it stands still. */
    guest_root[ram >> 30] = sv39_leaf(ram, PTE_R | PTE_U | PTE_A | PTE_D);
    iommu_drop_guest(GUEST);
    check(iommu_ask(DEVICE, TARGET_IOVA, 1) == ~0UL, "the second stage forbids it");
    struct iommu_fault fault;
    check(iommu_take_fault(&fault) && (fault.what & 0xfff) == IOMMU_CAUSE_WRITE_GUEST_PAGE &&
              fault.gpa >> 12 == (u64)target_page(0) >> 12,
          "and the fault has the address in the guest");
    guest_root[ram >> 30] = sv39_leaf(ram, PTE_R | PTE_W | PTE_U | PTE_A | PTE_D);
    iommu_drop_guest(GUEST);
    check(iommu_ask(DEVICE, TARGET_IOVA, 1) == (u64)target_page(0), "until it allows it again");
}

int main(u64 boot_hart, const void *fdt)
{
    u32 rounds = (u32)parameter(0, 4), stale = 0;
    (void)fdt;
    hart = boot_hart;
    if (!iommu_init()) {
        print("iommu: no IOMMU of version 1.0\n");
        return 1;
    }
    plic_enable(hart, IOMMU_IRQ_FAULTS);
    for (u32 round = 0; round < rounds; round++) {
        u64 seed = (round + 1) * 100000UL;
        shuffle(order, 4 * NR_PAGES, round + 1);
        build_tables();

        engine_init();
        engine_start((u64)ring);
        fill(source_page(0), seed);
        check(copy((u64)target_page(0), (u64)source_page(0), PAGE_SIZE) == DMA_DONE,
              "Bare: bus addresses are physical");
        check(has(target_page(0), seed), "and the copy is there");

        iommu_set_context(DEVICE, IOMMU_TC_SADE, 0, SPACE, IOMMU_SV39 | (u64)root >> 12);
        iommu_drop_space(SPACE);
        iommu_enable();
        copies_scattered_pages(seed);
        keeps_out_what_is_not_mapped(seed);
        stale += uses_what_was_invalidated_last(seed);
        sets_accessed_and_dirty();
        goes_through_two_stages(seed + 50000);

        iommu_clear_context(DEVICE);
        check(iommu_ask(DEVICE, SOURCE_IOVA, 0) == ~0UL, "without a context nothing is let through");
        expect_fault(IOMMU_CAUSE_NO_CONTEXT, SOURCE_IOVA);
        iommu_bypass();
        print("iommu: round %u, %u copies, stale entries used %u times\n", (u64)round + 1,
              (u64)posted, (u64)stale);
    }
    check(fault_interrupts != 0, "faults have interrupted");
    print("iommu: %u failures\n", (u64)failures);
    if (failures == 0)
        print("iommu: ok\n");
    return failures != 0;
}
