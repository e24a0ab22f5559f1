/** Sanitizer: memory of devices, whose free pages are with the driver. */
import type { Kernel } from '../types.ts';
import { FREE_POOL } from './buddy.ts';
import type { Census } from './census.ts';

/** Checks the pages of every device, and marks the free ones; those in use are counted with the frames. */
export const checkZoneDevices = (k: Kernel, { free }: Census, report: string[]): void => {
  const { flags, refcount } = k.state.frames;
  for (const { id, type, firstPage, nrPages, free: pages } of k.state.zoneDevices) {
    for (const page of pages) {
      const say = (what: string): void => {
        report.push(`device ${id}: free page ${page}${what}`);
      };
      if (free[page] !== 0) say(' is free twice');
      if (refcount[page] !== 0) say(` has ${refcount[page]!} references`);
      if (flags[page] !== type) say(` says 0x${flags[page]!.toString(16)}, not what it is`);
      free[page] = FREE_POOL;
    }
    for (let page = firstPage; page < firstPage + nrPages; page++)
      if ((flags[page]! & type) === 0) report.push(`device ${id}: page ${page} is none of it`);
  }
};
