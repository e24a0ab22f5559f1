/* Formatted output into a buffer on the stack, and from there to the console. */
#include "print.h"

#include <stdarg.h>

#include "runtime.h"

#define LINE_BYTES 256

struct line {
    u64 used;
    char bytes[LINE_BYTES];
};

static void put(struct line *line, char c)
{
    if (line->used == LINE_BYTES) {
        console_write(line->bytes, line->used);
        line->used = 0;
    }
    line->bytes[line->used++] = c;
}

/* `value` in `base`, with at least `digits` digits. */
static void put_number(struct line *line, u64 value, u32 base, u32 digits)
{
    char reversed[20];
    u32 n = 0;
    while (value != 0 || n < digits) {
        reversed[n++] = "0123456789abcdef"[value % base];
        value /= base;
    }
    while (n > 0)
        put(line, reversed[--n]);
}

void print(const char *format, ...)
{
    struct line line;
    va_list args;
    line.used = 0;
    va_start(args, format);
    for (; *format != 0; format++) {
        if (*format != '%') {
            put(&line, *format);
            continue;
        }
        switch (*++format) {
        case 'u':
            put_number(&line, va_arg(args, u64), 10, 1);
            break;
        case 'x':
            put_number(&line, va_arg(args, u64), 16, 1);
            break;
        case 'p':
            put_number(&line, va_arg(args, u64), 16, 16);
            break;
        case 's':
            for (const char *s = va_arg(args, const char *); *s != 0; s++)
                put(&line, *s);
            break;
        default:
            put(&line, *format);
        }
    }
    va_end(args);
    if (line.used != 0)
        console_write(line.bytes, line.used);
}
