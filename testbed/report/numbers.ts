/** Numbers as people read them. */

/** "0x80200000". @param value not negative */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** 1234567 -> "1,234,567". */
export const withCommas = (n: number): string => n.toLocaleString('en-US');

/** Millions of instructions a second; 0 where no time has passed. */
export const mips = (instructions: number, seconds: number): number =>
  seconds > 0 ? instructions / seconds / 1e6 : 0;

/** "12.3 M instructions, 45 MIPS". */
export const speedLine = (instructions: number, seconds: number): string =>
  `${(instructions / 1e6).toFixed(1)} M instructions, ${mips(instructions, seconds).toFixed(0)} MIPS`;
