/*
 * bench-touch: one word of every page, page after page, through Sv39 tables with 4 KiB leaves.
 *
 * Two and a quarter instructions a page, so that the time is the translation's. With more pages
 * than a TLB has entries every access is a miss. Each page has a frame of its own.
 *
 * Parameters: 0 = pages (default 65,536; fewer where memory does not hold them), 1 = passes of
 * each kind (default 4; loads first, then stores), 2 = how often a pass goes over the pages
 * (default 1; more for few pages, so that a pass takes much longer than the line it prints), 3 = 1
 * for loads alone, 2 for stores alone (default both).
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "sv39.h"

#define MAX_PAGES 65536UL
#define WINDOW 0x1000000000UL

static sv39_table root, image_middle, middle;
static sv39_table last[MAX_PAGES / 512];

/* Eight pages a turn, and a word at another offset in each, for the caches' sake. */
#define EACH_OF_EIGHT(access)                                                                      \
    access "0(%0)\n\tadd %0, %0, %1\n\t" access "64(%0)\n\tadd %0, %0, %1\n\t"                     \
    access "128(%0)\n\tadd %0, %0, %1\n\t" access "192(%0)\n\tadd %0, %0, %1\n\t"                  \
    access "256(%0)\n\tadd %0, %0, %1\n\t" access "320(%0)\n\tadd %0, %0, %1\n\t"                  \
    access "384(%0)\n\tadd %0, %0, %1\n\t" access "448(%0)\n\tadd %0, %0, %1"

static void load_pass(u64 pages)
{
    u64 gva = WINDOW, end = WINDOW + pages * PAGE_SIZE;
    while (gva != end)
        __asm__ volatile(EACH_OF_EIGHT("ld t0, ") : "+r"(gva) : "r"(PAGE_SIZE) : "t0", "memory");
}

static void store_pass(u64 pages)
{
    u64 gva = WINDOW, end = WINDOW + pages * PAGE_SIZE;
    while (gva != end)
        __asm__ volatile(EACH_OF_EIGHT("sd zero, ") : "+r"(gva) : "r"(PAGE_SIZE) : "memory");
}

static void measure(const char *kind, void (*run)(u64), u64 pages, u64 passes, u64 times)
{
    for (u64 pass = 1; pass <= passes; pass++) {
        u64 instructions = csr_read(instret), ticks = csr_read(time);
        for (u64 i = 0; i < times; i++)
            run(pages);
        instructions = csr_read(instret) - instructions;
        ticks = csr_read(time) - ticks;
        print("bench-touch: %s pass %u pages %u touches %u instructions %u ticks %u\n", kind, pass,
              pages, pages * times, instructions, ticks);
    }
}

int main(u64 hart, const void *fdt)
{
    u64 data = ((u64)_image_end + LARGE_PAGE_SIZE - 1) & ~(LARGE_PAGE_SIZE - 1);
    u64 memory_end = fdt_memory_end(fdt);
    u64 room = memory_end > data ? (memory_end - data) / PAGE_SIZE : 0;
    u64 pages = parameter(0, MAX_PAGES);
    (void)hart;
    if (pages > MAX_PAGES)
        pages = MAX_PAGES;
    if (pages > room)
        pages = room;
    pages &= ~7UL; /* the loops do eight at a time */
    if (pages == 0) {
        print("bench-touch: no memory after 0x%x\n", data);
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

    store_pass(pages); /* every frame exists from here on */
    if (parameter(3, 3) & 1)
        measure("load", load_pass, pages, parameter(1, 4), parameter(2, 1));
    if (parameter(3, 3) & 2)
        measure("store", store_pass, pages, parameter(1, 4), parameter(2, 1));
    return 0;
}
