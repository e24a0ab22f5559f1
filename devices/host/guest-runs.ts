/**
 * Ranges of guest memory as runs in the VMM's address space, for what a VMM does to its guest's memory
 * by system calls: reading a file into it, giving it up.
 */
import { PAGE_SIZE } from '#emu';

/** A run of guest memory that follows one another in the VMM too. */
export interface GuestRun {
  gpa: number;
  hva: number;
  lenBytes: number;
}

/**
 * Appends the runs of [gpa, +lenBytes) to `runs`. Pages where the guest has no memory are left out.
 * @param hvaOf host virtual address of a guest physical one, or -1
 */
export const addGuestRuns = (
  runs: GuestRun[],
  hvaOf: (gpa: number) => number,
  gpa: number,
  lenBytes: number,
): void => {
  const end = gpa + lenBytes;
  for (let at = gpa, next = 0; at < end; at = next) {
    next = Math.min(end, at - (at % PAGE_SIZE) + PAGE_SIZE);
    const hva = hvaOf(at);
    if (hva < 0) continue;
    const last = runs.at(-1);
    if (last !== undefined && last.gpa + last.lenBytes === at && last.hva + last.lenBytes === hva)
      last.lenBytes += next - at;
    else runs.push({ gpa: at, hva, lenBytes: next - at });
  }
};
