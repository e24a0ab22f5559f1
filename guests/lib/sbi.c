/* SBI calls, and a console on top of them: DBCN where it exists, else one legacy call per byte. */
#include "sbi.h"

#include "print.h"

extern void secondary_start(void);

struct sbi_result sbi_call(u64 extension, u64 function, u64 a0, u64 a1, u64 a2)
{
    register u64 r0 __asm__("a0") = a0;
    register u64 r1 __asm__("a1") = a1;
    register u64 r2 __asm__("a2") = a2;
    register u64 r6 __asm__("a6") = function;
    register u64 r7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(r0), "+r"(r1) : "r"(r2), "r"(r6), "r"(r7) : "memory");
    return (struct sbi_result){ (s64)r0, (s64)r1 };
}

int sbi_has(u64 extension)
{
    struct sbi_result found = sbi_call(SBI_EXT_BASE, 3, extension, 0, 0);
    return found.error == 0 && found.value != 0;
}

s64 sbi_hart_start(u64 hart, void *stack_top)
{
    return sbi_call(SBI_EXT_HSM, 0, hart, (u64)secondary_start, (u64)stack_top).error;
}

void sbi_shutdown(u64 reason)
{
    sbi_call(SBI_EXT_SRST, 0, 0 /* type: shutdown */, reason, 0);
    sbi_call(SBI_LEGACY_SHUTDOWN, 0, 0, 0, 0);
    for (;;)
        wait_for_interrupt();
}

/* Whether to use DBCN; unknown before the first output. */
static enum { CONSOLE_UNKNOWN, CONSOLE_DBCN, CONSOLE_LEGACY } console;

/*
 * DBCN takes a physical address. Guests that turn translation on map their image and stack where
 * they are, so that a pointer to either is its own physical address.
 */
void console_write(const char *bytes, u64 len)
{
    if (console == CONSOLE_UNKNOWN)
        console = sbi_has(SBI_EXT_DBCN) ? CONSOLE_DBCN : CONSOLE_LEGACY;
    while (console == CONSOLE_DBCN && len > 0) {
        struct sbi_result written = sbi_call(SBI_EXT_DBCN, 0, len, (u64)bytes, 0);
        if (written.error != 0)
            return;
        bytes += written.value; /* it may take fewer bytes than it was given */
        len -= (u64)written.value;
    }
    for (; len > 0; len--)
        sbi_call(SBI_LEGACY_PUTCHAR, 0, (u8)*bytes++, 0, 0);
}
