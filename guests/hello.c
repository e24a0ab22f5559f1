/*
 * hello: says so from every hart that can be started, and shuts the machine down.
 *
 * Runs in VS-mode under gupbed and in S-mode under any SBI firmware; a guest cannot tell the two
 * apart. The other harts are started one after the other (SBI HSM), so that lines never mix.
 */
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "sbi.h"

#define MAX_HARTS 8
#define STACK_BYTES 4096

static u8 stacks[MAX_HARTS][STACK_BYTES] __attribute__((aligned(16)));
static volatile u32 greeted;

static void greet(u64 hart)
{
    print("hello from VS-mode on hart %u\n", hart);
}

void secondary_main(u64 hart)
{
    greet(hart);
    __atomic_store_n(&greeted, 1, __ATOMIC_RELEASE);
}

int main(u64 hart, const void *fdt)
{
    greet(hart);
    for (u64 other = 0; other < MAX_HARTS; other++) {
        if (other == hart)
            continue;
        greeted = 0;
        fence_all();
        if (sbi_hart_start(other, stacks[other] + STACK_BYTES) != 0)
            continue;
        while (__atomic_load_n(&greeted, __ATOMIC_ACQUIRE) == 0)
            ;
    }
    u64 end = fdt_memory_end(fdt);
    if (end != 0)
        print("hello: memory up to 0x%x, console %s\n", end,
              sbi_has(SBI_EXT_DBCN) ? "DBCN" : "legacy");
    return 0;
}
