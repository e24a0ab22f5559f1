/**
 * A guest that counts in every one of its pages (guests/pagecount.c), its memory of one kind, on a host
 * that can have any of its memory taken out of use; and one of those pages, to which things happen.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PAGE_SIZE, parseElf } from '#emu';
import { gstagePfn } from '#kvm';
import {
  type AddressSpace,
  type Kernel,
  leafLevel,
  leafPage,
  leafWord,
  MEMORY_BLOCK_PAGES,
  type MmStruct,
  type Path,
  pfnToPage,
  ptePresent,
  swapon,
  walkLeaf,
} from '#mm';
import { fileById } from '../../../testbed/actors/targets.ts';
import type { BackingKind } from '../../../testbed/machine/backing.ts';
import { GUEST_RAM_GPA } from '../../../testbed/machine/guest-config.ts';
import type { Guest } from '../../../testbed/machine/guest.ts';
import { HostMachine } from '../../../testbed/machine/host.ts';
import { putParameters } from '../../../testbed/machine/parameters.ts';
import { ROOT } from '../../support/sources.ts';

const MIB = 2 ** 20;
const BLOCK_BYTES = MEMORY_BLOCK_PAGES * PAGE_SIZE;
const GUEST_BYTES = 8 * MIB;
/** Pages that the guest counts in, from here on. */
const DATA_GPA = GUEST_RAM_GPA + 4 * MIB;
export const NR_PAGES = 64;
/** The one that things happen to. */
const TARGET = 17;
export const PASSES = 400;
/** The guest has counted so often in the target before anything happens to it. */
export const COUNTED = 100;
/** The guest's instructions between two steps of what happens. */
const STEP = 40;
const FUEL = 4_000_000;

const program = putParameters(parseElf(readFileSync(join(ROOT, 'guests/bin/pagecount.elf'))), [
  NR_PAGES,
  PASSES,
]);

export class KindWorld {
  readonly machine: HostMachine;
  readonly guest: Guest;
  readonly k: Kernel;
  readonly mm: MmStruct;
  /** Of the target. */
  readonly hva: number;
  private fuel: number;

  constructor(backing: BackingKind) {
    this.machine = new HostMachine(
      {
        seed: 1,
        policy: 'linux-7',
        ramBytes: 2 * BLOCK_BYTES,
        movableBytes: BLOCK_BYTES,
        guests: [
          { name: 'pagecount', memoryBytes: GUEST_BYTES, harts: 1, activity: null, backing },
        ],
      },
      { checked: true },
    );
    this.guest = this.machine.guests[0]!;
    this.k = this.machine.k;
    this.mm = this.guest.mm;
    this.hva = this.guest.ranges[0]!.hva + DATA_GPA - GUEST_RAM_GPA + TARGET * PAGE_SIZE;
    this.fuel = FUEL;
    swapon(this.k, 4096);
    this.machine.boot(this.guest, program);
  }

  /** The memory block that all of the guest's movable pages are in. */
  get block(): { first: number; nrPages: number } {
    return { first: MEMORY_BLOCK_PAGES, nrPages: MEMORY_BLOCK_PAGES };
  }

  /** The file behind the guest's memory. */
  get file(): AddressSpace {
    return fileById(this.k, this.guest.ranges[0]!.mappingId!);
  }

  /** The target's first page in the file. */
  get fileOffset(): number {
    return this.hva - this.guest.ranges[0]!.hva;
  }

  /** Level of the host's entry for the target, or -1 where none is present. */
  get level(): number {
    const leaf = walkLeaf(this.k, this.mm, this.hva);
    return leaf > 0 && ptePresent(this.k.memory.i32[leafWord(leaf)]!) ? leafLevel(leaf) : -1;
  }

  /** The frame that the host has for the target: its tables, or its file where that gives pages to the guest. */
  get page(): number {
    if (this.guest.config.backing === 'gmem')
      return this.file.pages.get(this.fileOffset / PAGE_SIZE) ?? -1;
    const leaf = walkLeaf(this.k, this.mm, this.hva);
    if (leaf <= 0) return -1;
    const entry = this.k.memory.i32[leafWord(leaf)]!;
    return ptePresent(entry) ? leafPage(entry, leafLevel(leaf), this.hva) : -1;
  }

  /** The frame that the guest reaches by its G-stage tables, or -1. */
  get guestPage(): number {
    const gpa = DATA_GPA + TARGET * PAGE_SIZE;
    const pfn = gstagePfn(this.k, this.guest.vm.gstage, gpa);
    return pfn < 0 ? -1 : pfnToPage(pfn);
  }

  /** What the guest has counted to in a frame. */
  countIn(page: number): number {
    return this.k.memory.i32[this.k.memory.pageOffset(page) >>> 2]!;
  }

  /** One turn of the machine. @throws Error when the guest has ended, or takes too long */
  step(budget = STEP): void {
    if (this.guest.end !== null) throw new Error(`the guest has ended: ${this.output}`);
    if (this.fuel-- < 0) throw new Error('the guest does not come to an end');
    this.machine.step(budget);
  }

  /** The guest goes on by so many instructions. */
  run(instructions: number): void {
    const until = this.machine.retired + instructions;
    while (this.machine.retired < until) this.step(until - this.machine.retired);
  }

  /** Runs the guest until it has the target mapped for writing and has counted in it so often. */
  runUntilCounted(count: number): void {
    while (this.guestPage < 0 || this.countIn(this.guestPage) < count || !this.machine.quiet)
      this.step();
  }

  /** Does something while the guest goes on. @param budget instructions between two of its steps */
  during<T>(path: Path<T>, budget = STEP): T {
    for (;;) {
      const step = path.next();
      if (step.done === true) return step.value;
      this.step(budget);
    }
  }

  /** The guest counts to its end; the machine is checked, and nothing of it is left. @returns what is wrong */
  finish(): string[] {
    while (this.guest.end === null) this.step(2000);
    while (!this.machine.done && this.machine.step(2000)) {
      // what is still under way
    }
    this.machine.sanitize();
    this.machine.tearDown();
    return this.machine.violations;
  }

  get output(): string {
    return this.guest.console.lines.join('\n');
  }
}
