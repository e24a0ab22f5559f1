/* Calls to the supervisor's execution environment (RISC-V SBI 2.0; chapter of each call below). */
#ifndef GUEST_SBI_H
#define GUEST_SBI_H

#include "runtime.h"

struct sbi_result {
    s64 error; /* 0 = done, negative = SBI_ERR_* */
    s64 value;
};

#define SBI_EXT_BASE 0x10UL
#define SBI_EXT_TIME 0x54494d45UL
#define SBI_EXT_HSM 0x48534dUL
#define SBI_EXT_SRST 0x53525354UL
#define SBI_EXT_DBCN 0x4442434eUL
/* Legacy calls (chapter 5): the extension is the function. */
#define SBI_LEGACY_PUTCHAR 1UL
#define SBI_LEGACY_SHUTDOWN 8UL

#define SBI_RESET_REASON_NONE 0UL
#define SBI_RESET_REASON_FAILURE 1UL

/* One call: extension in a7, function in a6 (chapter 3). */
struct sbi_result sbi_call(u64 extension, u64 function, u64 a0, u64 a1, u64 a2);

/* Does the environment have this extension? (BASE, function 3) */
int sbi_has(u64 extension);

/* Starts a stopped hart at secondary_start with `stack_top` in a1 (HSM, function 0). 0 = started. */
s64 sbi_hart_start(u64 hart, void *stack_top);

/* Shuts the machine down (SRST, function 0; legacy shutdown where there is no SRST). */
void sbi_shutdown(u64 reason) __attribute__((noreturn));

#endif
