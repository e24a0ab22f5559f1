/**
 * A seeded driver: several paths of the kernel at once, stepped in an order that the seed decides,
 * with a shadow of what every page must hold.
 *
 * A shadow cell is one byte of one page. A store is known to have happened at the step at which its
 * path ends; where a zap or a fork overlaps with it, either outcome is right, and the cell says
 * UNKNOWN until the next store.
 */
import { PAGE_SIZE } from '#emu';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { writeProtectRange } from '../../mm/cache/write-protect.ts';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { folioOf, folioPut } from '../../mm/folio/folio.ts';
import { pfnToPage } from '../../mm/frames/table.ts';
import { mappingPut } from '../../mm/fs/mapping.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFast, pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { accessRemoteVm } from '../../mm/gup/remote.ts';
import { getUserPagesUnlocked, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPagesDirtyLock } from '../../mm/gup/unpin.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { type Path, YP_WAIT } from '../../mm/path.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import type { AddressSpace, Kernel, MmStruct } from '../../mm/types.ts';
import { fork } from '../../mm/vma/fork.ts';
import {
  MADV_DONTNEED,
  MADV_MERGEABLE,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
} from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmExit, mmTryCreate } from '../../mm/vma/mm.ts';
import { mmap, munmap } from '../../mm/vma/mmap.ts';
import { type Rng, rng } from '../support/rng.ts';
import { loadPath, RW, storePath } from './gup-world.ts';
import { createSecondaryMmu, type SecondaryMmu, secondaryFault } from './secondary-mmu.ts';

const UNKNOWN = -1;
/** Where in a page the shadowed byte is, and where a debugger writes without being shadowed. */
const BYTE = 8;
const DEBUGGER_BYTE = 2048;
const MAX_PATHS = 3;
const MAX_MMS = 4;
const MAX_REGIONS = 5;
const MAX_HELD = 6;

interface Cell {
  value: number;
  /** Zaps under way. */
  zapping: number;
  /** Stores and zaps so far. */
  changes: number;
  zaps: number;
}
interface Region {
  hva: number;
  cells: Cell[];
  /** Its cells are the file's: a zap loses nothing. */
  shared: boolean;
}
interface Process {
  mm: MmStruct;
  regions: Region[];
  secondary: SecondaryMmu | null;
}
interface Actor {
  name: string;
  process: Process | null;
  hva: number;
  path: Path<unknown>;
  done: (result: never) => void;
}
/** Pages held between two paths: by a device, or by a reference. */
interface Held {
  process: Process;
  hva: number;
  pages: Int32Array;
  n: number;
  kind: 'write' | 'read' | 'get';
  /** Pages of a file stay the file's pages, whatever becomes of the mapping. */
  shared: boolean;
  cells: (Cell | undefined)[];
  zaps: number[];
}

/** What else goes on, beside what always does. */
export interface Disturbances {
  /** Folios are swapped out: the kernel has a device. */
  swap?: boolean;
  /** Anonymous memory is VM_MERGEABLE, and scanned. */
  ksm?: boolean;
}

const newCell = (value: number): Cell => ({ value, zapping: 0, changes: 0, zaps: 0 });

export class RandomDriver {
  readonly k: Kernel;
  readonly counts: Map<string, number>;
  private readonly random: Rng;
  private readonly processes: Process[];
  private readonly actors: Actor[];
  private readonly held: Held[];
  private readonly files: { mapping: AddressSpace; cells: Cell[] }[];
  private readonly also: Disturbances;
  private waits: number;
  private owner: number;

  constructor(k: Kernel, seed: number, also: Disturbances = {}) {
    this.k = k;
    this.also = also;
    this.counts = new Map();
    this.random = rng(seed);
    this.processes = [];
    this.actors = [];
    this.held = [];
    this.files = [];
    this.waits = 0;
    this.owner = 0;
    k.watched = true;
    for (let i = 0; i < 2; i++)
      this.files.push({
        mapping: shmemCreate(k, 6),
        cells: Array.from({ length: 6 }, () => newCell(0)),
      });
    this.addProcess(mmTryCreate(k), []);
  }

  /** Begins an operation where there is room for one, or steps one. */
  step(): void {
    const { random } = this;
    if (this.actors.length < MAX_PATHS && random.chance(0.4)) this.begin();
    else if (this.actors.length > 0) this.advance(random.below(this.actors.length));
  }

  /** Runs every path to its end. */
  drain(): void {
    while (this.actors.length > 0) this.advance(this.random.below(this.actors.length));
  }

  /** What the sanitizer says; at rest after drain(). */
  violations(quiescent: boolean): string[] {
    const gets = this.held.reduce((sum, h) => sum + (h.kind === 'get' ? h.n : 0), 0);
    return checkKernel(this.k, { quiescent, gets });
  }

  /** Lets go of everything: afterwards every frame is free again. */
  finish(): void {
    this.drain();
    while (this.held.length > 0) this.release(0);
    this.drain();
    for (const process of [...this.processes]) this.exit(process);
    this.drain();
    for (const { mapping } of this.files) this.start('put', null, 0, mappingPut(this.k, mapping));
    this.drain();
  }

  private count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  private start<T>(
    name: string,
    process: Process | null,
    hva: number,
    path: Path<T>,
    done: (result: T) => void = () => {},
  ): void {
    this.actors.push({ name, process, hva, path, done });
  }

  private advance(i: number): void {
    const actor = this.actors[i];
    if (actor === undefined) return;
    const step = actor.path.next();
    if (step.done === true) {
      this.actors.splice(i, 1);
      this.waits = 0;
      this.count(actor.name);
      actor.done(step.value as never);
      return;
    }
    this.waits = step.value === YP_WAIT ? this.waits + 1 : 0;
    if (this.waits > 2000)
      throw new Error(`deadlock among ${this.actors.map((a) => a.name).join(', ')}`);
  }

  private addProcess(mm: MmStruct | null, regions: Region[]): void {
    if (mm === null) return;
    const secondary = this.random.chance(0.6) ? createSecondaryMmu(this.k, mm, ++this.owner) : null;
    this.processes.push({ mm, regions, secondary });
  }

  private cellAt(process: Process, hva: number): Cell | undefined {
    for (const { hva: start, cells } of process.regions)
      if (hva >= start && hva < start + cells.length * PAGE_SIZE)
        return cells[Math.floor((hva - start) / PAGE_SIZE)];
    return undefined;
  }

  /** A store that is known to have happened now. */
  private wrote(process: Process, hva: number, byte: number): void {
    const cell = this.cellAt(process, hva);
    if (cell !== undefined) this.set(cell, byte);
    // A munmap is under way, perhaps of a file that others map.
    else for (const file of this.files) for (const other of file.cells) this.set(other, UNKNOWN);
  }

  private set(cell: Cell, byte: number): void {
    cell.changes++;
    cell.value = cell.zapping > 0 ? UNKNOWN : byte;
  }

  private mustHold(what: string, cell: Cell | undefined, byte: number): void {
    if (cell === undefined || cell.value === UNKNOWN || cell.value === byte) return;
    throw new Error(`${what}: ${byte}, stored was ${cell.value}`);
  }

  private begin(): void {
    const { random, k } = this;
    const process = this.processes[random.below(this.processes.length)];
    if (process === undefined) {
      this.addProcess(mmTryCreate(k), []);
      return;
    }
    const region = process.regions[random.below(process.regions.length)];
    if (region === undefined) {
      this.beginMmap(process);
      return;
    }
    if (this.disturb(process)) return;
    const page = random.below(region.cells.length);
    const hva = region.hva + page * PAGE_SIZE + BYTE;
    const dice = random.below(100);
    if (dice < 22) this.beginStore(process, hva);
    else if (dice < 34) this.beginLoad(process, hva);
    else if (dice < 42) this.beginHold(process, region, page);
    else if (dice < 50 && this.held.length > 0) this.release(random.below(this.held.length));
    else if (dice < 62) this.start('migrate', null, 0, migrateFolio(k, this.anyPage(process, hva)));
    else if (dice < 68)
      this.start('protect', null, 0, folioWriteProtect(k, this.anyPage(process, hva)));
    else if (dice < 71) {
      const end = region.hva + region.cells.length * PAGE_SIZE;
      this.start('range', process, hva, writeProtectRange(k, process.mm, region.hva, end));
    } else if (dice < 81) this.beginSecondary(process, hva);
    else if (dice < 86) this.beginRemote(process, hva);
    else if (dice < 91) this.beginZap(process, region, page);
    else if (dice < 94) this.beginFork(process);
    else if (dice < 97) this.beginMmap(process);
    else if (dice < 99) this.beginMunmap(process, region);
    else if (this.processes.length > 1) this.exit(process);
  }

  /** What `also` asks for, now and then. */
  private disturb(process: Process): boolean {
    const { random, k, also } = this;
    if (also.swap === true && random.chance(0.15)) {
      const cached = [...k.state.swap.cache.values()];
      const page =
        cached.length > 0 && random.chance(0.3) ? random.pick(cached) : this.anyPage(process, 0);
      this.start('reclaim', null, 0, reclaimFolio(k, page), (error) => {
        if (error === 0) this.count('reclaimed');
      });
      return true;
    }
    if (also.ksm === true && random.chance(0.06)) {
      const mm = random.chance(0.5) ? process.mm : null;
      this.start('scan', null, 0, ksmScan(k, mm), (merged) => {
        if (merged > 0) this.count('merged');
      });
      return true;
    }
    return false;
  }

  /** Mostly the page mapped there, sometimes any frame of RAM. */
  private anyPage(process: Process, hva: number): number {
    const secondary = process.secondary?.entries.get(hva - BYTE);
    if (secondary !== undefined && this.random.chance(0.5)) return pfnToPage(secondary.pfn);
    const { mapcount } = this.k.state.frames;
    const from = this.random.below(mapcount.length);
    for (let i = 0; i < mapcount.length; i++) {
      const page = (from + i) % mapcount.length;
      if (mapcount[page]! > 0) return page;
    }
    return from;
  }

  private beginStore(process: Process, hva: number): void {
    const byte = this.random.below(256);
    this.start('store', process, hva, storePath(this.k, process.mm, hva, byte), (error) => {
      if (error === 0) this.wrote(process, hva, byte);
    });
  }

  private beginLoad(process: Process, hva: number): void {
    this.start('load', process, hva, loadPath(this.k, process.mm, hva), (byte) => {
      if (byte >= 0) this.mustHold(`mm ${process.mm.id} load`, this.cellAt(process, hva), byte);
    });
  }

  private beginMmap(process: Process): void {
    const { random, k } = this;
    if (process.regions.length >= MAX_REGIONS) return;
    const file = this.files[random.below(4)];
    const nrPages = file === undefined ? 1 + random.below(6) : file.cells.length;
    const shared = file !== undefined && random.chance(0.7);
    const flags = (shared ? MAP_SHARED : MAP_PRIVATE) | (file === undefined ? MAP_ANONYMOUS : 0);
    const lenBytes = nrPages * PAGE_SIZE;
    const request = { lenBytes, prot: RW, flags, ...(file && { mapping: file.mapping, pgoff: 0 }) };
    this.start('mmap', process, 0, mmap(k, process.mm, request), (hva) => {
      if (hva < 0) return;
      const own = Array.from({ length: nrPages }, () => newCell(file === undefined ? 0 : UNKNOWN));
      const cells = shared && file !== undefined ? file.cells : own;
      process.regions.push({ hva, cells, shared });
      if (this.also.ksm === true) {
        const advice = madvise(k, process.mm, hva, lenBytes, MADV_MERGEABLE);
        this.start('advice', process, hva, advice);
      }
      // Whoever was on his way to what lay here before may have met the new mapping already.
      for (const actor of this.actors)
        if (actor.process === process && actor.hva >= hva && actor.hva < hva + lenBytes + PAGE_SIZE)
          for (const cell of cells) cell.value = UNKNOWN;
    });
  }

  private forget(process: Process, region: Region): void {
    process.regions.splice(process.regions.indexOf(region), 1);
  }

  private beginMunmap(process: Process, region: Region): void {
    this.forget(process, region);
    const lenBytes = region.cells.length * PAGE_SIZE;
    this.start('munmap', process, region.hva, munmap(this.k, process.mm, region.hva, lenBytes));
  }

  private beginZap(process: Process, region: Region, first: number): void {
    const n = 1 + this.random.below(region.cells.length - first);
    const cells = region.shared ? [] : region.cells.slice(first, first + n);
    const before = cells.map((cell) => ++cell.changes);
    for (const cell of cells) {
      cell.value = UNKNOWN;
      cell.zapping++;
      cell.zaps++;
    }
    const hva = region.hva + first * PAGE_SIZE;
    this.start(
      'dontneed',
      process,
      hva,
      madvise(this.k, process.mm, hva, n * PAGE_SIZE, MADV_DONTNEED),
      () =>
        cells.forEach((cell, i) => {
          cell.zapping--;
          cell.zaps++;
          cell.changes++;
          if (
            cell.zapping === 0 &&
            cell.changes === (before[i] ?? 0) + 1 &&
            this.isAnon(process, hva)
          )
            cell.value = 0;
        }),
    );
  }

  /** Zapped anonymous memory reads zero; a private file's page is the file's again. */
  private isAnon(process: Process, hva: number): boolean {
    const vma = process.mm.vmas.find(({ start, end }) => hva >= start && hva < end);
    return vma !== undefined && vma.mapping === null;
  }

  private beginFork(process: Process): void {
    if (this.processes.length >= MAX_MMS) return;
    const before = process.regions.map((region) => ({
      region,
      changes: region.cells.map((cell) => cell.changes),
    }));
    this.start('fork', process, 0, fork(this.k, process.mm), (child) => {
      if (typeof child === 'number') return;
      const regions: Region[] = [];
      for (const region of process.regions) {
        const changes = before.find((b) => b.region === region)?.changes;
        const cells = region.cells.map((cell, i) =>
          newCell(cell.changes === changes?.[i] && cell.zapping === 0 ? cell.value : UNKNOWN),
        );
        regions.push({ ...region, cells: region.shared ? region.cells : cells });
      }
      this.addProcess(
        child,
        regions.filter((r) => this.isMapped(child, r)),
      );
    });
  }

  private isMapped(mm: MmStruct, region: Region): boolean {
    return mm.vmas.some(({ start, end }) => region.hva >= start && region.hva < end);
  }

  private exit(process: Process): void {
    if (this.actors.some((actor) => actor.process === process)) return;
    this.processes.splice(this.processes.indexOf(process), 1);
    this.start('exit', process, 0, mmExit(this.k, process.mm));
  }

  private beginHold(process: Process, region: Region, first: number): void {
    const { random, k } = this;
    if (this.held.length >= MAX_HELD) return;
    const kind = random.pick(['write', 'write', 'read', 'get'] as const);
    const asked = 1 + random.below(region.cells.length - first);
    const hva = region.hva + first * PAGE_SIZE;
    const pages = new Int32Array(asked);
    const cells = region.cells.slice(first, first + asked);
    const zaps = cells.map((cell) => cell.zaps);
    const flags = kind === 'write' ? FOLL_WRITE : kind === 'read' ? FOLL_LONGTERM : 0;
    const { mm } = process;
    const { shared } = region;
    const fast = random.chance(0.5);
    let path: Path<number>;
    if (kind !== 'get')
      path = (fast ? pinUserPagesFast : pinUserPagesUnlocked)(k, mm, hva, asked, flags, pages);
    else
      path = (fast ? getUserPagesFast : getUserPagesUnlocked)(
        k,
        'gup-test',
        mm,
        hva,
        asked,
        0,
        pages,
      );
    this.start(`hold ${kind}`, process, hva, path, (n) => {
      if (n <= 0) return;
      this.held.push({ process, hva, pages, n, kind, shared, cells, zaps });
      // Unmapped meanwhile, and perhaps something else mapped: whose pages these are is unknown.
      if (!process.regions.includes(region)) this.release(this.held.length - 1, false);
    });
  }

  /** The transfer, if there is to be one, and then the release. */
  private release(i: number, transfer = true): void {
    const held = this.held[i];
    if (held === undefined) return;
    this.held.splice(i, 1);
    const { process, hva, pages, n, kind, shared, cells, zaps } = held;
    if (kind === 'get') {
      for (let j = 0; j < n; j++) folioPut(this.k, folioOf(this.k, pages[j]!));
      return;
    }
    for (let j = 0; j < n && transfer; j++) {
      const cell = cells[j];
      const same =
        shared || (this.cellAt(process, hva + j * PAGE_SIZE) === cell && cell?.zaps === zaps[j]);
      const offset = this.k.memory.pageOffset(pages[j]!) + BYTE;
      if (kind === 'read') {
        if (same)
          this.mustHold(`device read of page ${pages[j]!}`, cell, this.k.memory.u8[offset]!);
        continue;
      }
      const byte = this.random.below(256);
      this.k.memory.u8[offset] = byte;
      if (same && cell !== undefined) this.set(cell, byte);
      else this.wrote(process, hva + j * PAGE_SIZE, UNKNOWN);
    }
    this.start('unpin', null, 0, unpinUserPagesDirtyLock(this.k, pages, n, kind === 'write'));
  }

  /** A guest's access through the secondary MMU, without a fault where it has an entry. */
  private beginSecondary(process: Process, hva: number): void {
    const { secondary } = process;
    if (secondary === null) return;
    const write = this.random.chance(0.6);
    const entry = secondary.entries.get(hva - BYTE);
    if (entry === undefined || (write && !entry.writable)) {
      const path = secondaryFault(this.k, secondary, hva, write);
      this.start('secondary fault', process, hva, path);
      return;
    }
    this.count('secondary hit');
    const offset = this.k.memory.pageOffset(pfnToPage(entry.pfn)) + BYTE;
    if (write) {
      const byte = this.random.below(256);
      this.k.memory.u8[offset] = byte;
      this.wrote(process, hva, byte);
    } else this.mustHold('guest load', this.cellAt(process, hva), this.k.memory.u8[offset]!);
  }

  private beginRemote(process: Process, hva: number): void {
    const at = hva - BYTE + DEBUGGER_BYTE;
    const write = this.random.chance(0.5);
    const path = accessRemoteVm(this.k, process.mm, at, new Uint8Array(16), write);
    this.start('remote', process, hva, path);
  }
}
