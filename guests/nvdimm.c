/*
 * nvdimm: what an NVDIMM says of itself, and what becomes of a range of its media that cannot be read.
 *
 * Lists its namespaces, makes a range bad, finds it by a scrub and by loading from it (a hardware error),
 * and makes it good in both ways there are: by the command, and by zeroing it line by line. What was
 * around it must not change. Overwrites the last 64 KiB of the memory.
 */
#include "labels.h"
#include "nvdimm.h"
#include "pmem.h"
#include "print.h"
#include "runtime.h"

#define CAUSE_HARDWARE_ERROR 19
#define BAD_UNIT 256UL
#define TEST_BYTES 65536UL
#define BAD_AT 4096UL /* of those bytes: this many units from here on are made bad */
#define BAD_UNITS 3UL

static u64 failures, test_at;
static volatile u64 hardware_errors;
static volatile u64 *test_words;

/* What is in the test range where it is good. */
static u64 pattern(u64 word) { return mix64(word) | 1; }

/* A load that fails is skipped: it is a ld of 4 bytes or a c.ld of 2. */
void trap_handler(struct trap_frame *frame)
{
    if (frame->scause == CAUSE_LOAD_ACCESS && frame->stval == NVDIMM_BASE) {
        print("nvdimm: there is none\n");
        guest_exit(1);
    }
    if (frame->scause != CAUSE_HARDWARE_ERROR)
        trap_unexpected(frame);
    hardware_errors++;
    frame->sepc += (*(const u16 *)frame->sepc & 3) == 3 ? 4 : 2;
}

static void expect(const char *what, u64 got, u64 expected)
{
    if (got == expected)
        return;
    failures++;
    print("nvdimm: %s: %u, not %u\n", what, got, expected);
}

static u32 reg_read(u32 reg) { return mmio_read32(NVDIMM_BASE + reg); }
static u64 reg_read64(u32 reg) { return reg_read(reg) | (u64)reg_read(reg + 4) << 32; }
static void reg_write64(u32 reg, u64 value)
{
    mmio_write32(NVDIMM_BASE + reg, (u32)value);
    mmio_write32(NVDIMM_BASE + reg + 4, (u32)(value >> 32));
}

static u32 command(u32 number, u64 start, u64 len)
{
    reg_write64(NVDIMM_RANGE_START, start);
    reg_write64(NVDIMM_RANGE_LENGTH, len);
    mmio_write32(NVDIMM_BASE + NVDIMM_COMMAND, number);
    return reg_read(NVDIMM_COMMAND_STATUS);
}

/* Looks at the test range. Returns the bytes of it that cannot be read. */
static u64 scrub(void)
{
    u64 bad = 0;
    expect("status of a scrub", command(NVDIMM_COMMAND_SCRUB, test_at, TEST_BYTES),
           NVDIMM_COMMAND_OK);
    while ((reg_read(NVDIMM_STATUS) & NVDIMM_STATUS_SCRUB) != 0)
        ;
    u32 records = reg_read(NVDIMM_RECORDS);
    for (u32 i = 0; i < records; i++) {
        mmio_write32(NVDIMM_BASE + NVDIMM_RECORD_INDEX, i);
        bad += reg_read64(NVDIMM_RECORD_LENGTH);
    }
    return bad;
}

/* Loads every word of the test range. Returns how many loads failed. */
static u64 failing_loads(void)
{
    hardware_errors = 0;
    for (u64 i = 0; i < TEST_BYTES / 8; i++)
        (void)test_words[i];
    return hardware_errors;
}

static void make_bad(void)
{
    expect("status of an injection",
           command(NVDIMM_COMMAND_INJECT, test_at + BAD_AT + 10, (BAD_UNITS - 1) * BAD_UNIT),
           NVDIMM_COMMAND_OK);
    expect("bad bytes", scrub(), BAD_UNITS * BAD_UNIT);
    expect("failing loads", failing_loads(), BAD_UNITS * BAD_UNIT / 8);
}

/* The range can be read again: zeroes where it was bad, and all else as before. */
static void check_good(void)
{
    expect("bad bytes left", scrub(), 0);
    expect("loads that fail still", failing_loads(), 0);
    for (u64 i = 0; i < TEST_BYTES / 8; i++) {
        u64 at = i * 8;
        u64 was_bad = at >= BAD_AT && at < BAD_AT + BAD_UNITS * BAD_UNIT;
        if (test_words[i] != (was_bad ? 0 : pattern(i))) {
            expect("a word", test_words[i], was_bad ? 0 : pattern(i));
            return;
        }
    }
}

static void list_namespaces(u64 size)
{
    struct nvdimm_label label;
    u32 slot = 0, found = 0;
    for (; labels_next(&slot, &label); found++) {
        label.name[sizeof label.name - 1] = 0;
        print("nvdimm: namespace %s: %u bytes at %u\n", label.name, label.raw_size, label.dpa);
        if (label.dpa > size || label.raw_size > size - label.dpa)
            expect("a namespace ends inside", 0, 1);
    }
    print("nvdimm: %u namespaces\n", (u64)found);
}

int main(void)
{
    u64 size, base = pmem_find(PMEM_NVDIMM, &size);
    u32 capabilities = reg_read(NVDIMM_CAPABILITIES), status = reg_read(NVDIMM_STATUS);
    if (base == 0 || size < TEST_BYTES) {
        print("nvdimm: no memory of %u bytes\n", TEST_BYTES);
        return 1;
    }
    print("nvdimm: %u bytes at 0x%x, %s survive a loss of power, %u of them so far%s\n", size, base,
          capabilities & NVDIMM_CAP_CACHE_FLUSH ? "caches"
          : capabilities & NVDIMM_CAP_MEM_FLUSH ? "queues"
                                                : "neither caches nor queues",
          (u64)reg_read(NVDIMM_UNSAFE_SHUTDOWNS),
          status & NVDIMM_STATUS_UNSAFE ? ", one just now" : "");
    list_namespaces(size);

    test_at = size - TEST_BYTES;
    test_words = (volatile u64 *)(base + test_at);
    expect("bad bytes at first", scrub(), 0);
    for (u64 i = 0; i < TEST_BYTES / 8; i++)
        test_words[i] = pattern(i);

    make_bad();
    expect("status of CLEAR", command(NVDIMM_COMMAND_CLEAR, test_at, TEST_BYTES),
           NVDIMM_COMMAND_OK);
    expect("bytes that were cleared", reg_read64(NVDIMM_RANGE_LENGTH), BAD_UNITS * BAD_UNIT);
    check_good();

    make_bad();
    for (u64 at = BAD_AT; at < BAD_AT + BAD_UNITS * BAD_UNIT; at += PMEM_LINE)
        pmem_zero_line(base + test_at + at);
    check_good();

    print("nvdimm: %s\n", failures == 0 ? "ok" : "FAILED");
    return failures != 0;
}
