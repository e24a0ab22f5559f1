#include "pmem.h"
#include "nvdimm.h"
#include "print.h"
#include "virtio.h"

static u64 kind;
static u32 capabilities; /* of the NVDIMM */
static struct virtio_device device;
static struct virtq queue;

static u64 reg_read64(u32 reg)
{
    return mmio_read32(NVDIMM_BASE + reg) | (u64)mmio_read32(NVDIMM_BASE + reg + 4) << 32;
}

static u64 nvdimm_find(u64 *len)
{
    if (mmio_read32(NVDIMM_BASE + NVDIMM_ID) != NVDIMM_ID_VALUE)
        return 0;
    capabilities = mmio_read32(NVDIMM_BASE + NVDIMM_CAPABILITIES);
    *len = reg_read64(NVDIMM_SIZE);
    return reg_read64(NVDIMM_GPA);
}

static u64 virtio_pmem_find(u64 *len)
{
    u64 gpa;
    if (!virtio_find(VIRTIO_ID_PMEM, &device))
        return 0;
    if (!virtio_negotiate(&device, VIRTIO_RING_FEATURES | 1))
        return 0;
    /* 5.19.2: the region if there is one, else the configuration. */
    if ((device.features & 1) == 0) {
        gpa = virtio_config64(&device, 0);
        *len = virtio_config64(&device, 8);
    } else if (!virtio_shared_memory(&device, 0, &gpa, len)) {
        return 0;
    }
    if (!virtq_setup(&queue, &device, 0, 0))
        return 0;
    virtio_ready(&device);
    return gpa;
}

u64 pmem_find(u64 wanted, u64 *len)
{
    kind = wanted;
    return kind == PMEM_VIRTIO ? virtio_pmem_find(len) : nvdimm_find(len);
}

/* CBO.CLEAN: written as numbers, so that no assembler has to know of Zicbom. */
static inline void cbo_clean(u64 line) { __asm__ volatile(".insn i 0x0f, 2, x0, %0, 1" ::"r"(line) : "memory"); }

void pmem_flush(const volatile void *from, u64 len)
{
    if (kind != PMEM_NVDIMM || (capabilities & NVDIMM_CAP_CACHE_FLUSH) != 0)
        return;
    for (u64 line = (u64)from & -PMEM_LINE; line < (u64)from + len; line += PMEM_LINE)
        cbo_clean(line);
}

/* One request of virtio-pmem, and its answer. */
static void virtio_flush(void)
{
    static u32 request; /* 0 = flush */
    static volatile u32 answer;
    u32 written;
    struct virtq_segment segments[2] = { { &request, sizeof request, 0 },
                                         { (const void *)&answer, sizeof answer, 1 } };
    answer = ~0U;
    fence_all();
    virtq_add(&queue, segments, 2, &queue);
    virtq_kick(&queue);
    while (virtq_get(&queue, &written) == 0)
        ;
    if (answer != 0) {
        print("pmem: the device cannot make it durable\n");
        guest_exit(1);
    }
}

void pmem_drain(void)
{
    if (kind == PMEM_VIRTIO) {
        virtio_flush();
        return;
    }
    /* Before what is stored next, and before what is said next. */
    __asm__ volatile("fence w, ow" ::: "memory");
    if ((capabilities & (NVDIMM_CAP_CACHE_FLUSH | NVDIMM_CAP_MEM_FLUSH)) == 0) {
        mmio_write32(NVDIMM_BASE + NVDIMM_FLUSH_HINT, 1);
        fence_all();
    }
}
