/* Formatted output, one console write per call where it fits 256 bytes. */
#ifndef GUEST_PRINT_H
#define GUEST_PRINT_H

/*
 * %u = decimal, %x = hexadecimal without leading zeros, %p = hexadecimal with 16 digits (all of
 * them take 64-bit arguments: cast), %s = string, %% = percent.
 */
void print(const char *format, ...);

/* Provided by the console in use: sbi.c or uart.c. Sends `len` bytes as they are. */
void console_write(const char *bytes, unsigned long len);

#endif
