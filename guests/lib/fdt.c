/* A walk over a flattened device tree, as far as its memory node. */
#include "fdt.h"

#define FDT_MAGIC 0xd00dfeed
#define FDT_BEGIN_NODE 1
#define FDT_END_NODE 2
#define FDT_PROP 3
#define FDT_NOP 4

/* Everything in the tree is big-endian. */
static u32 be32(const u8 *p)
{
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static u64 be64(const u8 *p)
{
    return (u64)be32(p) << 32 | be32(p + 4);
}

static int starts_with(const u8 *text, const char *prefix)
{
    while (*prefix != 0)
        if (*text++ != (u8)*prefix++)
            return 0;
    return 1;
}

u64 fdt_memory_end(const void *fdt)
{
    const u8 *tree = fdt;
    if (tree == 0 || be32(tree) != FDT_MAGIC)
        return 0;
    const u8 *p = tree + be32(tree + 8); /* off_dt_struct */
    const u8 *strings = tree + be32(tree + 12); /* off_dt_strings */
    int in_memory = 0;
    for (;;) {
        u32 token = be32(p);
        p += 4;
        switch (token) {
        case FDT_BEGIN_NODE:
            in_memory = starts_with(p, "memory");
            while (*p++ != 0)
                ;
            p = (const u8 *)(((u64)p + 3) & ~3UL);
            break;
        case FDT_PROP: {
            u32 len = be32(p);
            const u8 *name = strings + be32(p + 4);
            p += 8;
            if (in_memory && len >= 16 && starts_with(name, "reg") && name[3] == 0)
                return be64(p) + be64(p + 8);
            p += (len + 3) & ~3U;
            break;
        }
        case FDT_END_NODE:
        case FDT_NOP:
            break;
        default: /* the end, or not a tree after all */
            return 0;
        }
    }
}
