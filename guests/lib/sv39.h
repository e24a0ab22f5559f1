/* Sv39 page tables (privileged manual, chapter "Sv39: Page-Based 39-bit Virtual-Memory System"). */
#ifndef GUEST_SV39_H
#define GUEST_SV39_H

#include "runtime.h"

#define PTE_V (1UL << 0)
#define PTE_R (1UL << 1)
#define PTE_W (1UL << 2)
#define PTE_X (1UL << 3)
#define PTE_A (1UL << 6)
#define PTE_D (1UL << 7)

#define SATP_MODE_SV39 (8UL << 60)
#define SATP_ASID_SHIFT 44

#define LARGE_PAGE_SIZE (2UL << 20)
#define GIGA_PAGE_SIZE (1UL << 30)

/* One table: a page of 512 entries. */
typedef u64 sv39_table[512] __attribute__((aligned(4096)));

/* Index of a gva in a table of `level` (2 = root, 0 = last). */
static inline u64 sv39_index(u64 gva, int level) { return gva >> (12 + 9 * level) & 511; }
static inline u64 sv39_leaf(u64 gpa, u64 flags) { return gpa >> 12 << 10 | flags | PTE_V; }
static inline u64 sv39_pointer(const u64 *table) { return (u64)table >> 12 << 10 | PTE_V; }
static inline u64 *sv39_next(u64 pte) { return (u64 *)(pte >> 10 << 12); }

/* Turns translation on with the tables below `root`. */
static inline void sv39_enable(const u64 *root, u64 asid)
{
    csr_write(satp, SATP_MODE_SV39 | asid << SATP_ASID_SHIFT | (u64)root >> 12);
    sfence_vma_all();
}

/*
 * Maps the image where it is, by 2 MiB pages, all permissions, A and D set: code, data, stack and
 * the page tables themselves stay reachable. `middle` is a zeroed table of level 1.
 */
void sv39_map_image(u64 *root, u64 *middle);

/*
 * Sets what a page fault may be about where the hardware does not do it: A, and D for a store.
 * Returns 1 when an entry of the tables at `root` was changed, so that the access is worth another
 * try, and 0 when the fault is a real one.
 */
int sv39_set_accessed(u64 *root, u64 gva, int store);

#endif
