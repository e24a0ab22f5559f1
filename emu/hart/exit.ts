/** Why Hart.run() returns. */

/** run() has retired its whole budget. */
export const EXIT_BUDGET = 0;
/** The hart waits (WFI, retired) and no enabled interrupt is pending. */
export const EXIT_WFI = 1;
/** A trap was taken to HS-mode, which TypeScript plays (hostIsHs). */
export const EXIT_HOST_TRAP = 2;

/**
 * Exceptions follow each other and nothing retires between them: the trap vector leads to code that
 * traps at once. The hart would do this for ever, at no cost in machine time.
 */
export const EXIT_TRAP_LOOP = 3;
