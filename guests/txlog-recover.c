/*
 * txlog-recover: what a loss of power has left of txlog's memory, and whether that is all it promised.
 *
 * Bare metal, so that whoever enumerates such images can run it on nothing but the image. Passes where
 * recovery ends in the state after a transaction not before the last promised one.
 *
 * Parameter 0 = number of the last transaction that was promised; 1 = bytes of the memory, which is at
 * 0x300000000.
 */
#include "print.h"
#include "runtime.h"
#include "txlog.h"

#define PMEM_GPA 0x300000000UL
#define FINISHER_BASE 0x100000UL
#define FINISHER_PASS 0x5555
#define FINISHER_FAIL 0x3333

static u64 balance[TXLOG_ACCOUNTS];

/* The image is only looked at. */
static void persist(const volatile void *from, u64 len)
{
    (void)from;
    (void)len;
}

static void finish(u32 how)
{
    for (;;)
        mmio_write32(FINISHER_BASE, how);
}

int main(void)
{
    volatile struct txlog *log = (volatile struct txlog *)PMEM_GPA;
    u64 promised = guest_parameters[0], len = guest_parameters[1], last = 0;
    if (len < TXLOG_BYTES) {
        print("txlog-recover: %u bytes are no log\n", len);
        finish(FINISHER_FAIL);
    }
    const char *wrong = txlog_recover(log, &last, persist);
    if (wrong == 0 && log->magic == TXLOG_MAGIC)
        wrong = txlog_verify(log, last, balance);
    if (wrong != 0)
        print("txlog-recover: %s, after transaction %u\n", wrong, last);
    else if (last < promised)
        print("txlog-recover: transaction %u was committed, the log ends with %u\n", promised, last);
    finish(wrong == 0 && last >= promised ? FINISHER_PASS : FINISHER_FAIL);
    return 0;
}
