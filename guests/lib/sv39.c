/* Building and mending Sv39 tables. Tables are reached by their physical address (identity map). */
#include "sv39.h"

void sv39_map_image(u64 *root, u64 *middle)
{
    u64 first = (u64)_image_start & ~(LARGE_PAGE_SIZE - 1);
    for (u64 gpa = first; gpa < (u64)_image_end; gpa += LARGE_PAGE_SIZE)
        middle[sv39_index(gpa, 1)] =
            sv39_leaf(gpa, PTE_R | PTE_W | PTE_X | PTE_A | PTE_D);
    root[sv39_index(first, 2)] = sv39_pointer(middle);
}

int sv39_set_accessed(u64 *root, u64 gva, int store)
{
    u64 wanted = PTE_A | (store ? PTE_D : 0);
    u64 *table = root;
    for (int level = 2; level >= 0; level--) {
        u64 *pte = &table[sv39_index(gva, level)];
        if ((*pte & PTE_V) == 0)
            return 0;
        if ((*pte & (PTE_R | PTE_X)) == 0) {
            table = sv39_next(*pte);
            continue;
        }
        if ((*pte & wanted) == wanted || (store && (*pte & PTE_W) == 0))
            return 0;
        *pte |= wanted;
        sfence_vma_page(gva);
        return 1;
    }
    return 0;
}
