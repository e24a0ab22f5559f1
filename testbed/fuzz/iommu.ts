/**
 * The IOMMU under attack from its guest: registers in any order, commands of every kind and none,
 * directories, tables and MSI tables that are nearly right, queues anywhere, devices that answer late or
 * not at all, memory that comes late. And the same around tables that are right: nothing but what they
 * map may be reached.
 */
import { Atc, createAtsCompletion, Iommu, IommuPort, type IommuState } from '#devices';
import { Clock, DMA_WAIT } from '#emu';
import type { Rng } from '../rng.ts';
import { IommuWindow, pageAt, WINDOW_PAGES } from './iommu-window.ts';
import type { FuzzTarget } from './target.ts';

const DDTP = 0x10;
const CQT = 0x24;
const QUEUES = [
  { base: 0x18, head: 0x20, tail: 0x24, csr: 0x48 },
  { base: 0x28, head: 0x30, tail: 0x34, csr: 0x4c },
  { base: 0x38, head: 0x40, tail: 0x44, csr: 0x50 },
] as const;
/** Pages with a part to play; tables are taken from the others. */
const CQ_PAGE = 0;
const FQ_PAGE = 1;
const ROOT_PAGE = 3;
const DEVICES = [0, 1, 2, 3];
const PROCESSES = [-1, 0, 1, 2, 255, 70_000];
/** Interrupts of one case that lines may see: there is no storm. */
const NO_LINE = { set: (): void => {} };

/** A word for a table, a directory or a context: mostly nearly right. */
const tableWord = (window: IommuWindow, rng: Rng, pa: number): void => {
  const page = pageAt(rng.below(WINDOW_PAGES + 1)) / 4096;
  const ppnLo = (page << 10) | 0;
  const ppnHi = page >>> 22;
  switch (rng.below(8)) {
    case 0:
      window.put(pa, rng.next(), rng.next());
      break;
    case 1: // a pointer field: MODE, an id, PPN
      window.put(pa, page, (rng.below(12) << 28) | (rng.below(4) << 12));
      break;
    case 2: // tc, ta
      window.put(pa, (rng.below(4) << 12) | rng.below(1024) | 1, 0);
      break;
    case 3:
      window.put(pa, ppnLo | 1, ppnHi);
      break;
    default:
      window.put(pa, ppnLo | 1 | (rng.below(128) << 1), ppnHi);
  }
};

/** An index that a walk is likely to take. */
const nearIndex = (rng: Rng): number => (rng.chance(80) ? rng.below(4) : rng.below(512));

const randomTables = (window: IommuWindow, rng: Rng): void => {
  for (let page = ROOT_PAGE; page < WINDOW_PAGES; page++)
    for (let n = 0; n < 6; n++) tableWord(window, rng, pageAt(page) + nearIndex(rng) * 8);
  // Contexts: several fields that fit each other.
  for (const device of DEVICES) {
    const at = pageAt(ROOT_PAGE) + device * 64;
    const page = (): number => pageAt(rng.below(WINDOW_PAGES)) / 4096;
    const mode = (): number => (rng.chance(80) ? 7 + rng.below(4) : rng.below(16)) << 28;
    window.put(at, 1 | (rng.below(512) << 1), rng.chance(5) ? rng.next() : 0);
    window.put(at + 8, page() & ~3, rng.chance(50) ? mode() | (rng.below(3) << 12) : 0);
    window.put(at + 16, rng.below(4) << 12, 0);
    window.put(at + 24, page(), rng.chance(50) ? mode() : rng.below(4) << 28);
    window.put(at + 32, page(), rng.chance(40) ? 1 << 28 : 0);
    window.put(at + 40, rng.below(16), 0);
    window.put(at + 48, page(), 0);
    window.put(at + 56, 0, 0);
  }
};

const randomIova = (rng: Rng): number => {
  if (rng.chance(20)) return pageAt(rng.below(WINDOW_PAGES)) + rng.below(4096);
  if (rng.chance(5)) return rng.next() * 2 ** 32 + rng.next();
  let page = 0;
  for (let level = 0; level < 3; level++) page = page * 512 + nearIndex(rng);
  return page * 4096 + rng.below(1024) * 4;
};

const randomCommand = (window: IommuWindow, rng: Rng, index: number): void => {
  const at = pageAt(CQ_PAGE) + index * 16;
  const opcode = rng.chance(90) ? 1 + rng.below(4) : rng.below(128);
  const reserved = rng.chance(5) ? rng.next() : 0;
  const lo = opcode | (rng.below(rng.chance(95) ? 2 : 8) << 7) | (rng.below(16) << 10);
  window.put(
    at,
    lo | (rng.below(4) << 12) | reserved,
    rng.chance(50) ? rng.below(1024) : rng.next(),
  );
  if (opcode === 2) window.put(at + 8, pageAt(rng.below(WINDOW_PAGES)) / 4 + rng.below(1024), 0);
  else if (opcode === 3) window.put(at + 8, 0, 0);
  else
    window.put(
      at + 8,
      (pageAt(rng.below(WINDOW_PAGES)) / 4) & ~0x3ff,
      rng.chance(80) ? 0 : rng.next(),
    );
};

interface Attack {
  window: IommuWindow;
  clock: Clock;
  iommu: Iommu;
  ports: IommuPort[];
  atcs: Atc[];
  /** Answers of a device to invalidations: never, late, at once. */
  slow: { answers: number; tags: number[] };
  fresh: IommuState;
  bytes: Uint8Array;
}

const createAttack = (): Attack => {
  const window = new IommuWindow();
  const clock = new Clock();
  const iommu = new Iommu({
    memory: window.memory,
    port: window,
    irq: [NO_LINE, NO_LINE, NO_LINE, NO_LINE],
    name: 'iommu',
    clock,
  });
  const atcs = [new Atc(), new Atc()];
  const ports = DEVICES.map((deviceId) => {
    const atc = atcs[deviceId - 2];
    return new IommuPort({
      iommu,
      deviceId,
      memory: window,
      ...(atc === undefined ? {} : { atc, pageRequests: true }),
    });
  });
  const slow = { answers: 0, tags: [] as number[] };
  iommu.setAtsDevice(1, {
    invalidate: (_invalidation, tag) => {
      if (slow.answers === 2) return true;
      if (slow.answers === 1) slow.tags.push(tag);
      return false;
    },
    pageGroupResponse: () => {},
  });
  return {
    window,
    clock,
    iommu,
    ports,
    atcs,
    slow,
    fresh: iommu.save(),
    bytes: new Uint8Array(8192),
  };
};

const begin = ({ window, iommu, ports, atcs, slow, fresh, clock }: Attack, rng: Rng): void => {
  window.begin(rng);
  window.onAccess = () => {};
  clock.now = 0;
  clock.cancel('iommu', 0);
  iommu.restore(fresh);
  for (const atc of atcs) atc.clear();
  slow.answers = rng.below(3);
  slow.tags.length = 0;
  for (const port of ports) port.processId = PROCESSES[rng.below(PROCESSES.length)]!;
};

/** Rings of one page and the directory, as a driver sets them up. */
const startQueues = ({ iommu }: Attack, rng: Rng, mode: number): void => {
  QUEUES.forEach(({ base, csr }, i) => {
    iommu.write(base + 4, 4, pageAt(i) / 2 ** 34);
    iommu.write(base, 4, ((pageAt(i) / 4) & ~0x3ff) | rng.below(4));
    iommu.write(csr, 4, 1 | (rng.below(2) << 1));
  });
  iommu.write(DDTP + 4, 4, 0);
  iommu.write(DDTP, 4, ((pageAt(ROOT_PAGE) / 4) & ~0x3ff) | mode);
};

const randomRegister = ({ iommu }: Attack, rng: Rng): void => {
  const offset = rng.chance(70) ? rng.below(0x60) & ~3 : rng.below(0x410) & ~3;
  const size = rng.chance(95) ? 4 : 1 + rng.below(2);
  if (rng.chance(30)) iommu.read(offset, size);
  else if (rng.chance(60)) iommu.write(offset, size, rng.below(64));
  else iommu.write(offset, size, rng.next());
};

const deviceRequest = (attack: Attack, rng: Rng): void => {
  const { iommu, ports, bytes } = attack;
  const deviceId = rng.below(DEVICES.length);
  const port = ports[deviceId]!;
  const iova = randomIova(rng);
  const len = 1 + rng.below(rng.chance(80) ? 64 : 6000);
  switch (rng.below(9)) {
    case 0:
      port.atomicAdd32(iova - (iova % 4), 1);
      break;
    case 1:
      port.copy(iova, randomIova(rng), len);
      break;
    case 2: {
      const into = createAtsCompletion();
      const processId = PROCESSES[rng.below(PROCESSES.length)]!;
      const flags = rng.below(8);
      iommu.atsRequest(
        {
          deviceId,
          processId,
          iova,
          supervisor: (flags & 1) !== 0,
          exec: (flags & 2) !== 0,
          noWrite: (flags & 4) !== 0,
        },
        into,
      );
      break;
    }
    case 3: {
      const flags = rng.below(32);
      iommu.pageRequest({
        deviceId,
        processId: PROCESSES[rng.below(PROCESSES.length)]!,
        supervisor: (flags & 1) !== 0,
        exec: (flags & 2) !== 0,
        read: (flags & 4) !== 0,
        write: (flags & 8) !== 0,
        last: (flags & 16) !== 0,
        group: rng.below(512),
        iova: iova - (iova % 4096),
      });
      break;
    }
    case 4:
      iommu.write(0x258, 4, iova >>> 0);
      iommu.write(0x260, 4, 1 | (rng.below(8) << 1));
      iommu.write(0x264, 4, deviceId << 8);
      iommu.read(0x268, 4);
      break;
    case 5:
      port.read(iova, bytes, 0, len);
      break;
    default:
      port.write(iova, bytes, 0, len);
  }
};

/** Something between two requests: memory comes, a device answers, time goes by, tables change. */
const interlude = (attack: Attack, rng: Rng): void => {
  const { window, iommu, slow, clock } = attack;
  switch (rng.below(4)) {
    case 0:
      window.ready();
      break;
    case 1:
      for (const tag of slow.tags.splice(0)) iommu.invalidationDone(1, tag);
      break;
    case 2:
      clock.now += rng.below(2_000_000);
      clock.deliverDue();
      break;
    default:
      tableWord(
        window,
        rng,
        pageAt(ROOT_PAGE + rng.below(WINDOW_PAGES - ROOT_PAGE)) + nearIndex(rng) * 8,
      );
  }
};

/** What must be true of the registers, whatever was written. */
const checkRegisters = (iommu: Iommu): string | null => {
  for (const { base, head, tail, csr } of QUEUES) {
    const entries = 2 ** ((iommu.read(base, 4) & 0x1f) + 1);
    if (iommu.read(head, 4) >= entries || iommu.read(tail, 4) >= entries)
      return `a queue of ${entries} entries has head ${iommu.read(head, 4)}, tail ${iommu.read(tail, 4)}`;
    const status = iommu.read(csr, 4);
    if (((status & 1) !== 0) !== ((status & 0x1_0000) !== 0))
      return `a queue's control register is 0x${status.toString(16)}`;
  }
  return (iommu.read(DDTP, 4) & 0xf) <= 4 ? null : 'ddtp has a mode that does not exist';
};

const finish = ({ window, iommu }: Attack): string | null => {
  window.settle();
  if (!window.intact) return 'memory outside of what the IOMMU was given has changed';
  return checkRegisters(iommu);
};

const sendCommands = ({ window, iommu }: Attack, rng: Rng): void => {
  for (let n = 0; n < 4; n++) randomCommand(window, rng, rng.below(8));
  iommu.write(CQT, 4, rng.below(16));
};

const hostile: FuzzTarget = {
  name: 'iommu',
  describe:
    'registers, commands, directories, tables and MSI tables of the IOMMU, all of them hostile',
  create: () => {
    const attack = createAttack();
    return (rng) => {
      begin(attack, rng);
      randomTables(attack.window, rng);
      startQueues(attack, rng, rng.below(5));
      for (let step = 2 + rng.below(10); step > 0; step--) {
        if (rng.chance(20)) randomRegister(attack, rng);
        if (rng.chance(30)) sendCommands(attack, rng);
        deviceRequest(attack, rng);
        if (rng.chance(40)) interlude(attack, rng);
      }
      return finish(attack);
    };
  },
};

/** Pages that the tables of the second target map, and where its tables are. */
const OFFERED = [20, 21, 22, 23];
const TABLES = { root: 4, middle: 5, leaf: 6 };

/** Tables of device 0 that map some pages at iova 0, 4096 ..., with random rights. */
const goodTables = (window: IommuWindow, rng: Rng): boolean[] => {
  const pointer = (page: number, flags: number): [number, number] => [
    ((pageAt(page) / 4096) << 10) | flags,
    (pageAt(page) / 4096) >>> 22,
  ];
  const context = pageAt(ROOT_PAGE);
  window.put(context, 1 | (rng.chance(50) ? 1 << 8 : 0), 0);
  window.put(context + 16, 7 << 12, 0);
  window.put(context + 24, pageAt(TABLES.root) / 4096, 8 << 28);
  window.put(pageAt(TABLES.root), ...pointer(TABLES.middle, 1));
  window.put(pageAt(TABLES.middle), ...pointer(TABLES.leaf, 1));
  return OFFERED.map((page, i) => {
    const writable = rng.chance(50);
    window.put(pageAt(TABLES.leaf) + i * 8, ...pointer(page, writable ? 0xd7 : 0x53));
    return writable;
  });
};

/** The IOMMU's own accesses go by; those of the device's data must be to pages that are mapped. */
const bounds: FuzzTarget = {
  name: 'iommu-bounds',
  describe:
    'a device behind right tables, with wrong addresses and hostile commands: what it reaches',
  create: () => {
    const attack = createAttack();
    const { window, iommu, bytes } = attack;
    let writable: boolean[] = [];
    let problem: string | null = null;
    const data = {
      read: (pa: number, into: Uint8Array, at: number, len: number): number => {
        note(pa, false);
        return window.read(pa, into, at, len);
      },
      write: (pa: number, from: Uint8Array, at: number, len: number): number => {
        note(pa, true);
        return window.write(pa, from, at, len);
      },
      atomicAdd32: (pa: number, delta: number): number | undefined => {
        note(pa, true);
        return window.atomicAdd32(pa, delta);
      },
      translate: (pa: number, write: boolean): number => window.translate(pa, write),
    };
    const note = (pa: number, write: boolean): void => {
      const at = OFFERED.findIndex((page) => pa >= pageAt(page) && pa < pageAt(page + 1));
      if (at < 0 || (write && !writable[at]!))
        problem ??= `a ${write ? 'write' : 'read'} reached 0x${pa.toString(16)}, which is not mapped so`;
    };
    const port = new IommuPort({ iommu, deviceId: 0, memory: data });
    return (rng) => {
      begin(attack, rng);
      problem = null;
      writable = goodTables(window, rng);
      startQueues(attack, rng, 2);
      // Fences store where they are told to: to the fault queue's page only.
      for (let step = 4 + rng.below(8); step > 0; step--) {
        if (rng.chance(30)) {
          for (let n = 0; n < 3; n++) {
            randomCommand(window, rng, n);
            const opcode =
              window.memory.i32[window.memory.offsetOf(pageAt(CQ_PAGE) + n * 16) >>> 2]! & 0x7f;
            if (opcode === 2)
              window.put(pageAt(CQ_PAGE) + n * 16 + 8, pageAt(FQ_PAGE) / 4 + 512, 0);
          }
          iommu.write(CQT, 4, rng.below(4));
        }
        const iova = rng.chance(70) ? rng.below(6) * 4096 + rng.below(4096) : randomIova(rng);
        const len = 1 + rng.below(5000);
        if (rng.chance(40)) port.read(iova, bytes, 0, len);
        else if (rng.chance(80)) port.write(iova, bytes, 0, len);
        else if (port.copy(iova, rng.below(4) * 4096, len) === DMA_WAIT) window.ready();
        if (rng.chance(30)) window.ready();
      }
      return problem ?? finish(attack);
    };
  },
};

export const IOMMU_TARGETS: readonly FuzzTarget[] = [hostile, bounds];
