/*
 * bench-chase: loads that depend on each other, along a random ring of 64-byte nodes.
 *
 * Parameters: 0 = nodes (default 1,024), 1 = bytes between nodes (default 64: 64 KiB in all; 4160
 * puts every node on a page of its own), 2 = loads per pass (default 1,048,576), 3 = passes
 * (default 4). Sv39 with 4 KiB leaves, one frame per page.
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "sv39.h"

#define MAX_NODES 65536UL
#define MAX_PAGES 131072UL
#define WINDOW 0x1000000000UL

static sv39_table root, image_middle, middle;
static sv39_table last[MAX_PAGES / 512];
static u16 order[MAX_NODES];

/* Follows `loads` pointers, eight a turn; returns where it ends. */
static u64 chase(u64 node, u64 loads)
{
    for (u64 i = 0; i < loads; i += 8)
        __asm__ volatile("ld %0, 0(%0)\n\tld %0, 0(%0)\n\tld %0, 0(%0)\n\tld %0, 0(%0)\n\t"
                         "ld %0, 0(%0)\n\tld %0, 0(%0)\n\tld %0, 0(%0)\n\tld %0, 0(%0)"
                         : "+r"(node) :: "memory");
    return node;
}

int main(u64 hart, const void *fdt)
{
    u64 data = ((u64)_image_end + LARGE_PAGE_SIZE - 1) & ~(LARGE_PAGE_SIZE - 1);
    u64 memory_end = fdt_memory_end(fdt);
    u64 room = memory_end > data ? (memory_end - data) / PAGE_SIZE : 0;
    u64 nodes = parameter(0, 1024), spacing = parameter(1, 64) & ~7UL;
    u64 loads = parameter(2, 1 << 20), passes = parameter(3, 4);
    u64 pages = (nodes * spacing + PAGE_SIZE - 1) / PAGE_SIZE;
    (void)hart;
    if (nodes < 2 || nodes > MAX_NODES || spacing == 0 || pages > MAX_PAGES || pages > room) {
        print("bench-chase: %u nodes every %u bytes do not fit\n", nodes, spacing);
        return 1;
    }

    sv39_map_image(root, image_middle);
    root[sv39_index(WINDOW, 2)] = sv39_pointer(middle);
    for (u64 i = 0; i < MAX_PAGES / 512; i++)
        middle[i] = sv39_pointer(last[i]);
    for (u64 page = 0; page < pages; page++)
        last[page / 512][page % 512] =
            sv39_leaf(data + page * PAGE_SIZE, PTE_R | PTE_W | PTE_A | PTE_D);
    sv39_enable(root, 1);

    shuffle(order, (u32)nodes, 0x6368617365UL);
    for (u64 i = 0; i < nodes; i++)
        *(u64 *)(WINDOW + order[i] * spacing) = WINDOW + order[(i + 1) % nodes] * spacing;

    for (u64 pass = 1; pass <= passes; pass++) {
        u64 instructions = csr_read(instret), ticks = csr_read(time);
        u64 end = chase(WINDOW, loads);
        instructions = csr_read(instret) - instructions;
        ticks = csr_read(time) - ticks;
        print("bench-chase: pass %u nodes %u spacing %u loads %u instructions %u ticks %u end %x\n",
              pass, nodes, spacing, loads, instructions, ticks, end);
    }
    return 0;
}
