/*
 * pagecount: adds one to a word of every page, pass after pass, and knows what each must hold.
 *
 * Whoever owns the memory underneath may do anything to it that keeps its bytes. A page that holds
 * nothing at all where a count is expected was cut off and has come back empty: that is told, and
 * counting begins again there. Any other difference is a lost or a stale page.
 *
 * Parameters: 0 = pages (default 64, at most 4096), 1 = passes (default 300), 2 = bytes from one page to
 * the next (default 4096).
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"

#define MAX_PAGES 4096UL
#define LARGE_PAGE_SIZE (2UL << 20)
#define MAX_REPORTS 8

static u64 expected[MAX_PAGES];

int main(u64 hart, const void *fdt)
{
    /* At a 2 MiB boundary, so that the host can have it in large pages. */
    u64 data = ((u64)_image_end + LARGE_PAGE_SIZE - 1) & ~(LARGE_PAGE_SIZE - 1);
    u64 pages = parameter(0, 64), passes = parameter(1, 300), stride = parameter(2, PAGE_SIZE);
    u64 mismatches = 0, cut = 0;
    (void)hart;
    if (pages > MAX_PAGES)
        pages = MAX_PAGES;
    if (data + pages * stride > fdt_memory_end(fdt)) {
        print("pagecount: no memory for %u pages at 0x%x\n", pages, data);
        return 1;
    }
    print("pagecount: %u pages at 0x%x\n", pages, data);
    for (u64 pass = 0; pass < passes; pass++) {
        for (u64 i = 0; i < pages; i++) {
            volatile u64 *word = (volatile u64 *)(data + i * stride);
            u64 count = *word;
            if (count == 0 && expected[i] != 0) {
                print("pagecount: page %u is empty after %u counts\n", i, expected[i]);
                expected[i] = 0;
                cut++;
            } else if (count != expected[i] && mismatches++ < MAX_REPORTS) {
                print("pagecount: MISMATCH page %u expected %u got %u\n", i, expected[i], count);
            }
            *word = ++expected[i];
        }
    }
    for (u64 i = 0; i < pages; i++)
        if (*(volatile u64 *)(data + i * stride) != expected[i] && mismatches++ < MAX_REPORTS)
            print("pagecount: MISMATCH page %u at the end\n", i);
    print("pagecount: %u passes, %u pages empty, %u mismatches\n", passes, cut, mismatches);
    return mismatches != 0;
}
