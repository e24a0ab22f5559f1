/*
 * virtio-pmem: stores all over a persistent memory, flushes now and then, and checks what is there.
 *
 * A page that was written has words that follow from its number and the version of the write. A run
 * begins by checking what the last one has left: every page must be zeroes or whole. Page 0 says which
 * version was flushed last.
 *
 * Parameter 0 = rounds (default 20). Parameter 1 = 1: the range is asked of the configuration space and
 * not of the shared memory region.
 */
#include "print.h"
#include "runtime.h"
#include "virtio-irq.h"

#define F_SHMEM_REGION 1UL
#define SHMEM_REGION_ID 0
#define CONFIG_START 0
#define CONFIG_SIZE 8
#define REQ_FLUSH 0
#define REQ_NONSENSE 1
#define FAILED (~0U)

#define DEFAULT_ROUNDS 20
#define STORES_A_ROUND 24
#define PAGE_WORDS (PAGE_SIZE / 8)
#define MAX_PAGES 65536
#define SEED 0x706d656dUL
#define MAGIC 0x6d656d70756767UL
#define MAX_REPORTS 8

/* Page 0. */
struct head {
    u64 magic;
    u64 flushed; /* this version and all before it are durable */
};

static struct virtio_device device;
static struct virtq queue;
static u64 hart, nr_pages, random_state = SEED;
static u64 *memory;
static u64 failures;
static u32 version_of[MAX_PAGES];

static void failed(const char *what, u64 page, u64 got)
{
    if (failures++ < MAX_REPORTS)
        print("virtio-pmem: %s in page %u: 0x%x\n", what, page, got);
}

static u64 page_word(u64 page, u64 version, u64 index)
{
    return index == 0 ? version : version == 0 ? 0 : mix64(page << 32 | version) + index;
}

static void store_page(u64 page, u64 version)
{
    u64 *word = memory + page * PAGE_WORDS;
    for (u64 i = 0; i < PAGE_WORDS; i++)
        word[i] = page_word(page, version, i);
    version_of[page] = (u32)version;
}

static void check_page(u64 page, u64 version)
{
    const u64 *word = memory + page * PAGE_WORDS;
    for (u64 i = 0; i < PAGE_WORDS; i++)
        if (word[i] != page_word(page, version, i)) {
            failed("other bytes", page, word[i]);
            return;
        }
}

/* One request. Returns what the device answers. */
static u32 request(u32 type)
{
    static u32 req;
    static volatile u32 ret;
    u32 written = 0;
    struct virtq_segment segments[2] = { { &req, sizeof req, 0 },
                                         { (const void *)&ret, sizeof ret, 1 } };
    req = type;
    ret = 77;
    fence_all();
    virtq_add(&queue, segments, 2, &req);
    virtq_kick(&queue);
    virtq_wait(&queue, &written);
    if (written != sizeof ret)
        failed("bytes written", 0, written);
    return ret;
}

/* What the last run has left, or zeroes. Returns the version it flushed last. */
static u64 check_left(void)
{
    const struct head *head = (const struct head *)memory;
    u64 written = 0, flushed = head->magic == MAGIC ? head->flushed : 0;
    for (u64 page = 1; page < nr_pages; page++) {
        u64 version = memory[page * PAGE_WORDS];
        version_of[page] = (u32)version;
        check_page(page, version);
        written += version != 0;
    }
    print("virtio-pmem: %u of %u pages written before, version %u\n", written, nr_pages, flushed);
    return flushed;
}

static int setup(int by_config, u64 *gpa, u64 *len)
{
    u64 wanted = VIRTIO_RING_FEATURES | (by_config ? 0 : F_SHMEM_REGION);
    if (!virtio_find(VIRTIO_ID_PMEM, &device) || !virtio_negotiate(&device, wanted))
        return 0;
    if ((device.features & F_SHMEM_REGION) == 0) {
        *gpa = virtio_config64(&device, CONFIG_START);
        *len = virtio_config64(&device, CONFIG_SIZE);
    } else if (!virtio_shared_memory(&device, SHMEM_REGION_ID, gpa, len)) {
        return 0;
    }
    if (!virtq_setup(&queue, &device, 0, 0))
        return 0;
    virtio_start(&device, hart);
    return 1;
}

int main(u64 this_hart, const void *fdt)
{
    (void)fdt;
    u64 gpa = 0, len = 0;
    hart = this_hart;
    if (!setup(parameter(1, 0) == 1, &gpa, &len)) {
        print("virtio-pmem: no persistent memory\n");
        return 1;
    }
    print("virtio-pmem: %u bytes at gpa 0x%x\n", len, gpa);
    memory = (u64 *)gpa;
    nr_pages = len / PAGE_SIZE < MAX_PAGES ? len / PAGE_SIZE : MAX_PAGES;
    struct head *head = (struct head *)memory;

    u64 version = check_left();
    u64 rounds = parameter(0, DEFAULT_ROUNDS), stores = 0;
    for (u64 round = 0; round < rounds; round++, version++) {
        for (u32 i = 0; i < STORES_A_ROUND; i++, stores++)
            store_page(1 + random_below(&random_state, (u32)nr_pages - 1), version + 1);
        if (request(REQ_FLUSH) != 0)
            failed("flush", 0, round);
        /* Durable by the next flush: it may say less than there is, never more. */
        head->flushed = version + 1;
        head->magic = MAGIC;
    }
    if (request(REQ_FLUSH) != 0 || request(REQ_NONSENSE) != FAILED)
        failed("answers", 0, 0);
    for (u64 page = 1; page < nr_pages; page++)
        check_page(page, version_of[page]);
    if (virtio_interrupts == 0)
        failed("interrupts", 0, 0);
    if (failures != 0) {
        print("virtio-pmem: FAILED, %u times\n", failures);
        return 1;
    }
    print("virtio-pmem: %u pages stored, %u flushes\nvirtio-pmem: ok\n", stores, rounds + 1);
    return 0;
}
