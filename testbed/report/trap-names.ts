/** Exception codes in words. Privileged ISA 1.13, tables 3.6 (mcause) and 15.6 (with the H extension). */

const NAMES: Record<number, string> = {
  0: 'instruction address misaligned',
  1: 'instruction access fault',
  2: 'illegal instruction',
  3: 'breakpoint',
  4: 'load address misaligned',
  5: 'load access fault',
  6: 'store/AMO address misaligned',
  7: 'store/AMO access fault',
  8: 'environment call from U/VU-mode',
  9: 'environment call from HS-mode',
  10: 'environment call from VS-mode',
  11: 'environment call from M-mode',
  12: 'instruction page fault',
  13: 'load page fault',
  15: 'store/AMO page fault',
  20: 'instruction guest-page fault',
  21: 'load guest-page fault',
  22: 'virtual instruction',
  23: 'store/AMO guest-page fault',
};

export const trapName = (cause: number): string => NAMES[cause] ?? `cause ${cause}`;

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
