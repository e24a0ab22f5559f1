/** What may still be done to a memfd. Compare mm/memfd.c:memfd_add_seals(). */

/** F_SEAL_*, as in include/uapi/linux/fcntl.h. */
export const F_SEAL_SEAL = 0x01; // no seal more
export const F_SEAL_SHRINK = 0x02;
export const F_SEAL_GROW = 0x04;
export const F_SEAL_WRITE = 0x08;
export const F_SEAL_FUTURE_WRITE = 0x10; // as WRITE, but mappings that can write already stay
export const F_SEAL_EXEC = 0x20;
export const F_ALL_SEALS =
  F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;
