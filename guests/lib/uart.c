/* Console of bare-metal programs: the NS16550 at its place on QEMU's virt board, polled. */
#include "print.h"
#include "runtime.h"

#define UART_BASE 0x10000000UL
#define UART_THR 0 /* transmit holding register */
#define UART_LSR 5 /* line status register */
#define UART_LSR_THRE (1 << 5) /* the holding register is empty */

void console_write(const char *bytes, u64 len)
{
    volatile u8 *uart = (volatile u8 *)UART_BASE;
    for (; len > 0; len--) {
        while ((uart[UART_LSR] & UART_LSR_THRE) == 0)
            ;
        uart[UART_THR] = (u8)*bytes++;
    }
}
