/*
 * bench-int: a loop of integer instructions and nothing else, to time instructions with.
 *
 * Parameters: 0 = iterations per pass (default 1,000,000), 1 = passes (default 4).
 */
#include "print.h"
#include "runtime.h"

/* Adds, shifts, logic, a multiply and a branch, in the proportions of ordinary code. */
static u64 mix_loop(u64 iterations)
{
    u64 a = 1, b = 0x9e3779b97f4a7c15UL, c = 3;
    for (u64 i = 0; i < iterations; i++) {
        a += b;
        c ^= a << 7;
        b = (b >> 3) + i;
        if (c & 4)
            a ^= c;
        else
            c += 5;
        c = c * 33 + (u32)a;
        a = (a & ~b) | (c >> 9);
        __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c));
    }
    return a ^ b ^ c;
}

int main(void)
{
    u64 iterations = parameter(0, 1000000), passes = parameter(1, 4);
    for (u64 pass = 1; pass <= passes; pass++) {
        u64 instructions = csr_read(instret), ticks = csr_read(time);
        u64 result = mix_loop(iterations);
        instructions = csr_read(instret) - instructions;
        ticks = csr_read(time) - ticks;
        print("bench-int: pass %u iterations %u instructions %u ticks %u result %x\n", pass,
              iterations, instructions, ticks, result);
    }
    return 0;
}
