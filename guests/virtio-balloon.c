/*
 * virtio-balloon: lends memory to the host, gets it back, and looks after the rest of it.
 *
 * All memory behind the program is its pool. Every page of it begins and ends with words of its own;
 * what the host has had may come back as zeroes instead, everything else must be as it was. First the
 * whole pool is reported as free. Then the program follows what the host wants, until that has been
 * more than nothing and is nothing again. Once, in between, it is short of memory: it takes pages back
 * unasked (DEFLATE_ON_OOM), uses them, and gives them again.
 *
 * Parameter 0 = features of the rings that are left alone: 1 packed, 2 indirect, 4 event index,
 * 8 notification data. Parameter 1 = 1: it does not wait for the host to want anything.
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "virtio-irq.h"

#define F_MUST_TELL_HOST (1UL << 0)
#define F_STATS_VQ (1UL << 1)
#define F_DEFLATE_ON_OOM (1UL << 2)
#define F_FREE_PAGE_HINT (1UL << 3)
#define F_PAGE_REPORTING (1UL << 5)

#define CONFIG_NUM_PAGES 0
#define CONFIG_ACTUAL 4

#define INFLATEQ 0
#define DEFLATEQ 1
#define STATSQ 2
#define REPORTING_VQ 4

#define STAT_MEMFREE 4
#define STAT_MEMTOT 5

#define BATCH_PAGES 256
#define REPORT_PAGES 512 /* in one piece */
#define SHORT_PAGES 64   /* taken back unasked */
#define PAGE_WORDS (PAGE_SIZE / 8)
#define SEED 0x62616c6cUL
#define MAX_REPORTS 8

struct stat {
    u16 tag;
    u64 value;
} __attribute__((packed));

static struct virtio_device device;
static struct virtq inflateq, deflateq, statsq, reporting_vq;
static u32 numbers[BATCH_PAGES];
static struct stat stats[2];
static u64 hart, first_page, nr_pages, nr_ballooned;
static u64 failures, given, returned, zeroed, reports, stats_sent;

static void failed(const char *what, u64 page, u64 got)
{
    if (failures++ < MAX_REPORTS)
        print("virtio-balloon: %s, page 0x%x: 0x%x\n", what, page, got);
}

/* ---- the pool: the balloon has its last `nr_ballooned` pages ---- */

static u64 *page_at(u64 index) { return (u64 *)((first_page + index) * PAGE_SIZE); }

static void fill(u64 index)
{
    page_at(index)[0] = mix64(SEED + index);
    page_at(index)[PAGE_WORDS - 1] = mix64(SEED - index);
}

static int is_ours(u64 index)
{
    return page_at(index)[0] == mix64(SEED + index) &&
           page_at(index)[PAGE_WORDS - 1] == mix64(SEED - index);
}

static void check_kept(u64 index)
{
    if (!is_ours(index))
        failed("a page that was not given has changed", first_page + index, page_at(index)[0]);
}

/* A page that the host has had. */
static void take_back(u64 index)
{
    if (page_at(index)[0] == 0 && page_at(index)[PAGE_WORDS - 1] == 0)
        zeroed++;
    else if (!is_ours(index))
        failed("a page came back with other bytes", first_page + index, page_at(index)[0]);
    fill(index);
}

/* ---- talking to the device ---- */

/* A buffer of statistics, whenever the device has used the last one. */
static void send_stats(void)
{
    struct virtq_segment segment = { stats, sizeof stats, 0 };
    stats[0] = (struct stat){ STAT_MEMTOT, nr_pages * PAGE_SIZE };
    stats[1] = (struct stat){ STAT_MEMFREE, (nr_pages - nr_ballooned) * PAGE_SIZE };
    virtq_add(&statsq, &segment, 1, &statsq);
    virtq_kick(&statsq);
    stats_sent++;
}

static void answer_stats(void)
{
    u32 written;
    if ((device.features & F_STATS_VQ) != 0 && virtq_get(&statsq, &written) != 0)
        send_stats();
}

/* Sleeps for an interrupt if there is nothing to be done; interrupts are off around the question. */
static void wait_for_used(struct virtq *q)
{
    u32 written;
    csr_clear(sstatus, SSTATUS_SIE);
    while (virtq_get(q, &written) == 0) {
        wait_for_interrupt();
        csr_set(sstatus, SSTATUS_SIE); /* the pending one is taken here */
        csr_clear(sstatus, SSTATUS_SIE);
        answer_stats();
    }
    csr_set(sstatus, SSTATUS_SIE);
}

/* Tells the device of `count` pages from the pool's `index` on, in whole. */
static void tell(struct virtq *q, u64 index, u32 count)
{
    for (u32 i = 0; i < count; i++)
        numbers[i] = (u32)(first_page + index + i);
    struct virtq_segment segment = { numbers, count * sizeof numbers[0], 0 };
    virtq_add(q, &segment, 1, q);
    virtq_kick(q);
    wait_for_used(q);
}

static void inflate(u64 wanted)
{
    u64 count = wanted - nr_ballooned < BATCH_PAGES ? wanted - nr_ballooned : BATCH_PAGES;
    u64 index = nr_pages - nr_ballooned - count;
    tell(&inflateq, index, (u32)count);
    nr_ballooned += count;
    given += count;
    virtio_config_write32(&device, CONFIG_ACTUAL, (u32)nr_ballooned);
}

static void deflate(u64 wanted)
{
    u64 count = nr_ballooned - wanted < BATCH_PAGES ? nr_ballooned - wanted : BATCH_PAGES;
    u64 index = nr_pages - nr_ballooned;
    tell(&deflateq, index, (u32)count);
    for (u64 i = 0; i < count; i++)
        take_back(index + i);
    nr_ballooned -= count;
    returned += count;
    virtio_config_write32(&device, CONFIG_ACTUAL, (u32)nr_ballooned);
}

/* All of the pool is free: the host may have it until it is used again. */
static void report_free(void)
{
    if ((device.features & F_PAGE_REPORTING) == 0)
        return;
    for (u64 at = 0; at < nr_pages;) {
        struct virtq_segment segments[4];
        u32 count = 0;
        u64 first = at;
        for (; count < 4 && at < nr_pages; count++) {
            u64 pages = nr_pages - at < REPORT_PAGES ? nr_pages - at : REPORT_PAGES;
            segments[count] = (struct virtq_segment){ page_at(at), (u32)(pages * PAGE_SIZE), 1 };
            at += pages;
        }
        virtq_add(&reporting_vq, segments, count, &reporting_vq);
        virtq_kick(&reporting_vq);
        wait_for_used(&reporting_vq);
        for (u64 i = first; i < at; i++)
            take_back(i);
        reports++;
    }
}

/* The pages that are the program's, all along. */
static void check_pool(void)
{
    for (u64 i = 0; i < nr_pages - nr_ballooned; i++)
        check_kept(i);
}

/* The program needs more than it has, whatever the host wants. */
static void be_short_of_memory(void)
{
    u64 all = nr_ballooned;
    if ((device.features & F_DEFLATE_ON_OOM) == 0 || all < SHORT_PAGES)
        return;
    deflate(all - SHORT_PAGES);
    check_pool();
    while (nr_ballooned < all)
        inflate(all);
}

static void follow_host(void)
{
    for (int has_given = 0;;) {
        answer_stats();
        u64 wanted = virtio_config32(&device, CONFIG_NUM_PAGES);
        if (wanted > nr_pages)
            wanted = nr_pages;
        if (nr_ballooned < wanted) {
            inflate(wanted);
            if (nr_ballooned == wanted && !has_given) {
                has_given = 1;
                check_pool();
                be_short_of_memory();
            }
        } else if (nr_ballooned > wanted) {
            deflate(wanted);
        } else if (has_given && wanted == 0) {
            return;
        } else {
            csr_clear(sstatus, SSTATUS_SIE);
            if (virtio_config32(&device, CONFIG_NUM_PAGES) == wanted)
                wait_for_interrupt();
            csr_set(sstatus, SSTATUS_SIE);
        }
    }
}

static int setup(u64 left_alone)
{
    u64 wanted = virtio_ring_features(left_alone) | F_MUST_TELL_HOST | F_STATS_VQ |
                 F_DEFLATE_ON_OOM | F_FREE_PAGE_HINT | F_PAGE_REPORTING;
    if (!virtio_find(VIRTIO_ID_BALLOON, &device) || !virtio_negotiate(&device, wanted) ||
        !virtq_setup(&inflateq, &device, INFLATEQ, 0) ||
        !virtq_setup(&deflateq, &device, DEFLATEQ, 0))
        return 0;
    if ((device.features & F_STATS_VQ) != 0 && !virtq_setup(&statsq, &device, STATSQ, 0))
        return 0;
    /* Where free_page_vq is not there, some devices have this one in its place. */
    if ((device.features & F_PAGE_REPORTING) != 0 &&
        !virtq_setup(&reporting_vq, &device, REPORTING_VQ, 0) &&
        !virtq_setup(&reporting_vq, &device, REPORTING_VQ - 1, 0))
        return 0;
    virtio_start(&device, hart);
    if ((device.features & F_STATS_VQ) != 0)
        send_stats();
    return 1;
}

int main(u64 this_hart, const void *fdt)
{
    hart = this_hart;
    if (!setup(parameter(0, 0))) {
        print("virtio-balloon: no balloon\n");
        return 1;
    }
    u64 memory_end = fdt_memory_end(fdt);
    /* The device tree is somewhere at the end: the pool ends before it. */
    u64 pool_end = (u64)fdt > (u64)_image_end && (u64)fdt < memory_end ? (u64)fdt : memory_end;
    first_page = ((u64)_image_end + PAGE_SIZE - 1) / PAGE_SIZE;
    nr_pages = pool_end / PAGE_SIZE - first_page;
    for (u64 i = 0; i < nr_pages; i++)
        fill(i);
    print("virtio-balloon: %u pages\n", nr_pages);

    report_free();
    if (parameter(1, 0) != 1)
        follow_host();
    check_pool();
    if (virtio_interrupts == 0)
        failed("no interrupts", 0, 0);
    print("virtio-balloon: %u pages given, %u returned, %u reports\n", given, returned, reports);
    print("virtio-balloon: %u pages came back as zeroes, %u statistics\n", zeroed, stats_sent);
    if (failures != 0) {
        print("virtio-balloon: FAILED, %u times\n", failures);
        return 1;
    }
    print("virtio-balloon: ok\n");
    return 0;
}
