#include "labels.h"
#include "nvdimm.h"

#define INDEX_MAX_BYTES 1024
#define NR_WORDS(bytes) ((u32)(bytes) / 4)

/* A word of whatever a structure has there. */
typedef u32 __attribute__((may_alias)) word;

/* An index block; a bit of `free` is set for each label that is not in use. */
struct index_block {
    char signature[16];
    u8 flags[3], label_size;
    u32 seq;
    u64 my_offset, my_size, other_offset, label_offset;
    u32 nr_slots;
    u16 major, minor;
    u64 checksum;
    u8 free[INDEX_MAX_BYTES - 72];
};

static struct index_block blocks[2];

static void read_area(u32 offset, word *words, u32 len)
{
    mmio_write32(NVDIMM_BASE + NVDIMM_LABEL_OFFSET, offset);
    for (u32 i = 0; i < NR_WORDS(len); i++)
        words[i] = mmio_read32(NVDIMM_BASE + NVDIMM_LABEL_DATA);
}

/* Fletcher's checksum is among the words, from byte `at` on, and counts as zero there. */
static int checksum_right(const word *words, u32 len, u32 at)
{
    u64 high = 0;
    u32 low = 0, first = NR_WORDS(at);
    for (u32 i = 0; i < NR_WORDS(len); i++) {
        if (i != first && i != first + 1)
            low += words[i];
        high += low;
    }
    return words[first] == low && words[first + 1] == (u32)high;
}

static int signature_right(const char *signature)
{
    const char *expected = "NAMESPACE_INDEX";
    for (u32 i = 0; i < 16; i++)
        if (signature[i] != expected[i])
            return 0;
    return 1;
}

/* Reads the index block at an offset. Returns 0 where there is no valid one. */
static int read_index(u32 offset, struct index_block *block)
{
    u32 size = mmio_read32(NVDIMM_BASE + NVDIMM_LABEL_SIZE);
    read_area(offset, (word *)block, sizeof *block);
    if (!signature_right(block->signature) || block->my_size > INDEX_MAX_BYTES)
        return 0;
    return block->my_offset == offset && block->seq >= 1 && block->seq <= 3 &&
           block->label_size == 1 && block->nr_slots <= 8 * sizeof block->free &&
           block->label_offset + (u64)block->nr_slots * sizeof(struct nvdimm_label) <= size &&
           checksum_right((word *)block, (u32)block->my_size,
                          __builtin_offsetof(struct index_block, checksum));
}

/* The index block that counts: the newer one, by sequence numbers 1, 2, 3, 1. */
static const struct index_block *current_index(void)
{
    int first = read_index(0, &blocks[0]);
    /* Where the second one is only the first one's size says; without it, 256 is as small as it gets. */
    u32 second_at = first ? (u32)blocks[0].other_offset : 256;
    int second = read_index(second_at, &blocks[1]);
    if (first && second)
        return &blocks[blocks[1].seq == blocks[0].seq % 3 + 1];
    return first ? &blocks[0] : second ? &blocks[1] : 0;
}

int labels_next(u32 *slot, struct nvdimm_label *label)
{
    const struct index_block *index = current_index();
    if (index == 0)
        return 0;
    while (*slot < index->nr_slots) {
        u32 number = (*slot)++;
        if ((index->free[number / 8] >> number % 8 & 1) != 0)
            continue;
        read_area((u32)index->label_offset + number * (u32)sizeof *label, (word *)label,
                  sizeof *label);
        if (checksum_right((word *)label, sizeof *label,
                           __builtin_offsetof(struct nvdimm_label, checksum)) &&
            label->slot == number && (label->flags & LABEL_FLAG_UPDATING) == 0)
            return 1;
    }
    return 0;
}
