/* The parts of runtime.h that are no one-liners, and the memory functions a compiler may call. */
#include "print.h"
#include "runtime.h"
#include "sbi.h"

void *memcpy(void *to, const void *from, u64 len)
{
    u8 *d = to;
    const u8 *s = from;
    /* Words where both sides allow it: after the first bytes, or never. */
    if ((((u64)d ^ (u64)s) & 7) == 0) {
        for (; len > 0 && ((u64)d & 7) != 0; len--)
            *d++ = *s++;
        for (; len >= 8; len -= 8, d += 8, s += 8)
            *(u64 *)d = *(const u64 *)s;
    }
    while (len-- > 0)
        *d++ = *s++;
    return to;
}

void *memset(void *to, int value, u64 len)
{
    u8 *d = to;
    while (len-- > 0)
        *d++ = (u8)value;
    return to;
}

void shuffle(u16 *order, u32 count, u64 seed)
{
    for (u32 i = 0; i < count; i++)
        order[i] = (u16)i;
    for (u32 i = count - 1; i > 0; i--) {
        u32 j = random_below(&seed, i + 1);
        u16 swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

void trap_unexpected(const struct trap_frame *frame)
{
    print("guest: unexpected trap: scause 0x%x sepc 0x%x stval 0x%x\n", frame->scause, frame->sepc,
          frame->stval);
    guest_exit(1);
}

__attribute__((weak)) void trap_handler(struct trap_frame *frame)
{
    trap_unexpected(frame);
}

/* Programs with a single hart need not define it. */
__attribute__((weak)) void secondary_main(void)
{
}

void guest_exit(int code)
{
    sbi_shutdown(code == 0 ? SBI_RESET_REASON_NONE : SBI_RESET_REASON_FAILURE);
}
