/** A VMM process with guest memory in two slots, and a DMA engine over a pinned port into it. */
import { DmaEngine } from '#devices';
import { PinnedPort } from '#devices/host';
import { PAGE_SIZE, PhysMemory } from '#emu';
import {
  accessRemoteVm,
  checkKernel,
  createKernel,
  createPolicy,
  drive,
  type Kernel,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  type MmStruct,
  mmap,
  mmCreate,
  PROT_READ,
  PROT_WRITE,
  type Path,
  ptePage,
  ptePresent,
  shmemCreate,
  walkPte,
} from '#mm';
import { Clock, probedLine, runTo } from '../support/wires.ts';

export const GUEST = 0x8000_0000;
export const SLOT_PAGES = 256;
export const SECOND = GUEST + SLOT_PAGES * PAGE_SIZE;
/** Read-only slot, far away. */
export const ROM = 0x4000_0000;

export const RING = GUEST + 0x1000;
export const LIST = GUEST + 0x2000;
export const SRC = GUEST + 0x2_0000;
export const DST = SECOND + 0x3000;

export const CONTROL = 0x08;
export const STATUS = 0x0c;
export const HEAD = 0x1c;
export const TAIL = 0x20;
export const IRQ_STATUS = 0x24;
export const LATENCY = 0x28;

export interface Descriptor {
  src?: number;
  dst?: number;
  len?: number;
  flags?: number;
}

/** Engine and port over an address space; also what a restored machine is built from. */
export const attach = (k: Kernel, mm: MmStruct, hvaOf: (gpa: number) => number, clock: Clock) => {
  const irq = probedLine();
  const written: [number, number][] = [];
  const port = new PinnedPort({
    kernel: k,
    mm,
    hvaOf,
    onWritten: (gpa, lenBytes) => written.push([gpa, lenBytes]),
  });
  const engine = new DmaEngine({ clock, irq, port });
  return { irq, written, port, engine };
};

/** Two slots that follow one another for the guest, not for the host: anonymous, then shmem. */
export const createVmm = () => {
  const k = createKernel({
    memory: new PhysMemory(16 << 20),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('linux-7'),
  });
  k.checked = true;
  const mm = mmCreate(k);
  const lenBytes = SLOT_PAGES * PAGE_SIZE;
  const prot = PROT_READ | PROT_WRITE;
  const mapping = shmemCreate(k, SLOT_PAGES);
  const second = drive(mmap(k, mm, { lenBytes, prot, flags: MAP_SHARED, mapping }));
  const first = drive(mmap(k, mm, { lenBytes, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS }));
  const rom = drive(
    mmap(k, mm, { lenBytes: PAGE_SIZE, prot: PROT_READ, flags: MAP_PRIVATE | MAP_ANONYMOUS }),
  );
  const hvaOf = (gpa: number): number => {
    if (gpa >= GUEST && gpa < GUEST + lenBytes) return first + (gpa - GUEST);
    if (gpa >= SECOND && gpa < SECOND + lenBytes) return second + (gpa - SECOND);
    return gpa >= ROM && gpa < ROM + PAGE_SIZE ? rom + (gpa - ROM) : -1;
  };
  const clock = new Clock();
  return { k, mm, hvaOf, clock, ...guestOf(k, mm, hvaOf), ...attach(k, mm, hvaOf, clock) };
};

/** The guest's memory as the VMM's owner sees it. */
export const guestOf = (k: Kernel, mm: MmStruct, hvaOf: (gpa: number) => number) => {
  const put = (gpa: number, bytes: Uint8Array): void => {
    for (let done = 0; done < bytes.length; ) {
      const run = Math.min(bytes.length - done, PAGE_SIZE - ((gpa + done) % PAGE_SIZE));
      drive(accessRemoteVm(k, mm, hvaOf(gpa + done), bytes.subarray(done, done + run), true));
      done += run;
    }
  };
  const get = (gpa: number, lenBytes: number): Uint8Array => {
    const bytes = new Uint8Array(lenBytes);
    for (let done = 0; done < lenBytes; ) {
      const run = Math.min(lenBytes - done, PAGE_SIZE - ((gpa + done) % PAGE_SIZE));
      drive(accessRemoteVm(k, mm, hvaOf(gpa + done), bytes.subarray(done, done + run), false));
      done += run;
    }
    return bytes;
  };
  const describeAt = (index: number, d: Descriptor = {}): void => {
    const bytes = new Uint8Array(32);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(d.src ?? SRC), true);
    view.setBigUint64(8, BigInt(d.dst ?? DST), true);
    view.setUint32(16, d.len ?? 64, true);
    view.setUint32(20, d.flags ?? 0, true);
    view.setUint32(24, 0xdead_beef, true);
    put(RING + 32 * (index % 8), bytes);
  };
  const listAt = (gpa: number, entries: readonly (readonly [number, number])[]): void => {
    const bytes = new Uint8Array(16 * entries.length);
    const view = new DataView(bytes.buffer);
    entries.forEach(([piece, len], i) => {
      view.setBigUint64(16 * i, BigInt(piece), true);
      view.setUint32(16 * i + 8, len, true);
      view.setUint32(16 * i + 12, i === entries.length - 1 ? 1 : 0, true);
    });
    put(gpa, bytes);
  };
  const status = (index: number): number =>
    new DataView(get(RING + 32 * (index % 8) + 24, 4).buffer).getUint32(0, true);
  /** Frame behind a guest page, -1 when none is mapped. */
  const frameOf = (gpa: number): number => {
    const word = walkPte(k, mm, hvaOf(gpa), false);
    const pte = word > 0 ? k.memory.i32[word]! : 0;
    return ptePresent(pte) ? ptePage(pte) : -1;
  };
  return { put, get, describeAt, listAt, status, frameOf };
};

type Board = Pick<ReturnType<typeof createVmm>, 'k' | 'engine' | 'port' | 'clock'>;

/** The registers, by 32-bit words. */
export const registersOf = ({ engine }: Board) => ({
  read: (offset: number): number => engine.read(offset, 4) >>> 0,
  write: (offset: number, value: number): void => engine.write(offset, 4, value),
});

export const start = (board: Board): void => {
  const { write } = registersOf(board);
  write(0x10, RING);
  write(0x18, 8);
  write(CONTROL, 3);
};

/** What the scheduler does between slices. */
export const work = ({ port }: Board): void => {
  if (port.pendingWork() > 0) drive(port.work());
};

/** Runs clock and port until nothing is due before `when`. */
export const settle = (board: Board, when: number): void => {
  work(board);
  while (board.clock.nextAt <= when) {
    runTo(board.clock, board.clock.nextAt);
    work(board);
  }
  runTo(board.clock, when);
};

export const pinsLive = (k: Kernel): number =>
  k.state.stat.nr_foll_pin_acquired - k.state.stat.nr_foll_pin_released;

export const violations = (k: Kernel): string[] => checkKernel(k, { quiescent: true });

/** Steps a path to its n-th yield of `point`, watched. Returns false when it ends before. */
export const stepTo = (k: Kernel, path: Path<void>, point: number, nth = 1): boolean => {
  k.watched = true;
  let left = nth;
  for (let step = path.next(); ; step = path.next()) {
    if (step.done === true || (step.value === point && --left === 0)) {
      k.watched = false;
      return step.done !== true;
    }
  }
};
