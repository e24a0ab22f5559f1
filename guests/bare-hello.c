/*
 * bare-hello: the same greeting without anything underneath.
 *
 * M-mode on the memory map of QEMU's virt board: text leaves through the UART, and the machine
 * ends through the test finisher. Does the same under `qemu-system-riscv64 -M virt -bios none`.
 */
#include "print.h"
#include "runtime.h"

#define FINISHER_BASE 0x100000UL
#define FINISHER_PASS 0x5555

int main(void)
{
    print("hello from M-mode on hart %u\n", csr_read(mhartid));
    print("bare-hello: misa 0x%x, nothing underneath\n", csr_read(misa) & 0x1105);
    mmio_write32(FINISHER_BASE, FINISHER_PASS);
    return 0;
}
