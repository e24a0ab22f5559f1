/**
 * Memory regions of an RDMA NIC over the memory of processes: pinned for as long as they are registered,
 * or paged on demand; with recipe 2.10 of RDMA over DAX files. The NIC itself is tested under ../rdma/.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  deviceDaxCreate,
  drive,
  extentCreate,
  fileRead,
  fileTruncate,
  fileWrite,
  folioTestDirty,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  madvise,
  mappingPut,
  migrateFolio,
  mprotect,
  munmap,
  PROT_READ,
  vfsFsync,
} from '#mm';
import { AT, blockPage, daxWorld, mapFile, PMEM_PAGES } from '../../mm/dax-world.ts';
import {
  createProcess,
  createWorld,
  exit,
  forked,
  mapAnon,
  pageAt,
  pinsLive,
  RW,
  settled,
  type World,
} from '../../mm/support.ts';
import { OP, poll, post, postRecv, WC } from '../rdma/pair.ts';
import {
  ACCESS,
  type Kind,
  move,
  type Node,
  type RdmaWorld,
  rdmaWorld,
  register,
  registered,
} from './rdma-world.ts';

const EFAULT = 14;
const ENOMEM = 12;
const EOPNOTSUPP = 95;

interface Pair {
  w: World;
  k: Kernel;
  p: HostProcess;
  q: HostProcess;
  net: RdmaWorld;
  /** Keys of p's region at AT and of q's stage at AT. */
  mine: { lkey: number; rkey: number };
  stage: { lkey: number; rkey: number };
}

const PAGES = 16;

/** Process p with a region of the kind, and q with a pinned one that moves bytes to and from it. */
const pairOf = (kind: Kind): Pair => {
  const w = createWorld();
  const p = createProcess(w);
  const q = createProcess(w);
  mapAnon(p, PAGES, RW, AT);
  mapAnon(q, PAGES, RW, AT);
  const net = rdmaWorld(p, kind, q, 'pin');
  const mine = registered(net.a, AT, PAGES * PAGE_SIZE);
  const stage = registered(net.b, AT, PAGES * PAGE_SIZE);
  return { w, k: w.k, p, q, net, mine, stage };
};

/** q writes `value` to a place in p's memory, by RDMA. @returns the status */
const put = ({ q, net, mine, stage }: Pair, hva: number, value: number): number => {
  q.store32(AT, value);
  return move(net, net.b, OP.write, { at: AT, len: 4, key: stage.lkey }, hva, mine.rkey);
};

/** q reads a word of p's memory, by RDMA; -status. */
const get = ({ q, net, mine, stage }: Pair, hva: number): number => {
  q.store32(AT + 8, 0xdead_beef);
  const local = { at: AT + 8, len: 4, key: stage.lkey };
  const status = move(net, net.b, OP.read, local, hva, mine.rkey);
  return status === WC.ok ? q.load32(AT + 8) >>> 0 : -status;
};

/** Everything ends, and nothing is left. */
const over = ({ w, p, q, net }: Pair): void => {
  net.end();
  expect([net.a.regions.nrRegions, net.b.regions.nrRegions, pinsLive(w.k)]).toEqual([0, 0, 0]);
  for (const process of [p, q]) if (!process.mm.exited) exit(process);
  settled(w);
};

for (const kind of ['pin', 'odp'] as const)
  describe(`regions by ${kind}: the other end`, () => {
    it('reads what the process has stored, and the process what the other end has written', () => {
      const pair = pairOf(kind);
      pair.p.store32(AT + 5 * PAGE_SIZE, 77);
      expect(get(pair, AT + 5 * PAGE_SIZE)).toBe(77);
      expect(put(pair, AT + 5 * PAGE_SIZE + 4, 88)).toBe(WC.ok);
      expect(pair.p.load32(AT + 5 * PAGE_SIZE + 4)).toBe(88);
      over(pair);
    });

    it('sends messages that are larger than a page into pages nobody has touched', () => {
      const pair = pairOf(kind);
      const { p, q, net, mine, stage } = pair;
      for (let i = 0; i < 3; i++) q.store32(AT + i * PAGE_SIZE, 100 + i);
      postRecv(net.a.qp, 1, { at: AT + 100, len: 4 * PAGE_SIZE, key: mine.lkey });
      const pieces = [{ at: AT, len: 3 * PAGE_SIZE, key: stage.lkey }];
      post(net.b.qp, { op: OP.send, pieces });
      net.settle();
      expect(poll(net.a.qp)).toMatchObject([{ status: WC.ok, len: 3 * PAGE_SIZE }]);
      expect([0, 1, 2].map((i) => p.load32(AT + 100 + i * PAGE_SIZE))).toEqual([100, 101, 102]);
      over(pair);
    });

    it('adds to a counter of the process’s, which adds to it too', () => {
      const pair = pairOf(kind);
      const { p, net, mine, stage } = pair;
      for (let i = 0; i < 5; i++) {
        p.store32(AT, p.load32(AT) + 1);
        post(net.b.qp, {
          op: OP.add,
          operand: 10n,
          pieces: [{ at: AT, len: 8, key: stage.lkey }],
          remote: AT,
          rkey: mine.rkey,
        });
        net.settle();
      }
      expect(p.load32(AT)).toBe(55);
      over(pair);
    });

    it('tells the dirty log of exactly the bytes it wrote', () => {
      const pair = pairOf(kind);
      put(pair, AT + PAGE_SIZE - 2, 1);
      expect(pair.net.a.written).toEqual([
        [AT + PAGE_SIZE - 2, 2],
        [AT + PAGE_SIZE, 2],
      ]);
      over(pair);
    });

    it('is refused where the process never had the right', () => {
      const pair = pairOf(kind);
      const { p, net } = pair;
      drive(mprotect(pair.k, p.mm, AT, PAGE_SIZE, PROT_READ));
      const rights = ACCESS.local | ACCESS.write;
      if (kind === 'pin') expect(register(net.a, AT, PAGE_SIZE, rights)).toBe(EFAULT);
      else {
        // Registering looks at nothing; the access does.
        pair.mine = registered(net.a, AT, PAGE_SIZE, rights);
        expect(put(pair, AT, 1)).toBe(WC.remoteOp);
      }
      over(pair);
    });

    it('finds the region gone when the NIC is reset in the middle of a transfer', () => {
      const pair = pairOf(kind);
      const { net, mine, stage } = pair;
      const pieces = [{ at: AT, len: PAGES * PAGE_SIZE, key: stage.lkey }];
      post(net.b.qp, { op: OP.write, pieces, remote: AT, rkey: mine.rkey });
      // By on-demand paging it has stopped at the first page by then.
      for (let i = 0; i < 10 && net.clock.nextAt < Number.POSITIVE_INFINITY; i++) {
        net.clock.now = Math.max(net.clock.now, net.clock.nextAt);
        net.clock.deliverDue();
      }
      net.a.host.nic.reset();
      expect(net.a.regions.pendingWork()).toBeGreaterThan(0);
      net.settle();
      expect(poll(net.b.qp)).toMatchObject([{ status: WC.retries }]);
      over(pair);
    });
  });

describe('a region that is pinned', () => {
  it('holds every page from REG_MR to DEREG_MR, and counts against RLIMIT_MEMLOCK', () => {
    const pair = pairOf('pin');
    const { k, p, net, mine } = pair;
    expect([pinsLive(k), p.mm.pinnedVm]).toEqual([2 * PAGES, PAGES]);
    expect(drive(migrateFolio(k, pageAt(p, AT)))).toBeLessThan(0);
    expect(net.a.host.deregister(mine.lkey)).toBe(0);
    expect([pinsLive(k), p.mm.pinnedVm]).toEqual([PAGES, 0]);
    expect(drive(migrateFolio(k, pageAt(p, AT)))).toBe(0);
    p.mm.rlimitMemlock = 4 * PAGE_SIZE;
    expect(register(net.a, AT, 5 * PAGE_SIZE)).toBe(ENOMEM);
    expect([pinsLive(k), p.mm.pinnedVm]).toEqual([PAGES, 0]);
    over(pair);
  });

  it('of which the end is not there is an error, and nothing stays pinned', () => {
    const pair = pairOf('pin');
    expect(register(pair.net.a, AT, (PAGES + 1) * PAGE_SIZE)).toBe(EFAULT);
    expect(pinsLive(pair.k)).toBe(2 * PAGES);
    over(pair);
  });

  it('goes its own way when the process unmaps it: the other end still writes to the old page', () => {
    const pair = pairOf('pin');
    const { k, p } = pair;
    const old = pageAt(p, AT);
    drive(madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED));
    expect(put(pair, AT, 5)).toBe(WC.ok);
    expect(p.load32(AT)).toBe(0);
    expect(k.memory.u8[k.memory.pageOffset(old)]).toBe(5);
    over(pair);
  });

  it('stays the parent’s across fork (I13)', () => {
    const pair = pairOf('pin');
    const child = forked(pair.w, pair.p);
    expect(put(pair, AT, 9)).toBe(WC.ok);
    expect([pair.p.load32(AT), child.load32(AT)]).toEqual([9, 0]);
    exit(child);
    over(pair);
  });
});

describe('a region by on-demand paging', () => {
  it('holds nothing, and needs no RLIMIT_MEMLOCK', () => {
    const pair = pairOf('odp');
    pair.p.mm.rlimitMemlock = 0;
    expect(put(pair, AT, 1)).toBe(WC.ok);
    expect([pinsLive(pair.k), pair.p.mm.pinnedVm]).toEqual([PAGES, 0]);
    over(pair);
  });

  it('waits for each page once, as long as nobody takes it away', () => {
    const pair = pairOf('odp');
    const { net } = pair;
    for (let i = 0; i < 5; i++) put(pair, AT + 4 * i, i);
    expect((net.a.regions as { faults?: number }).faults).toBe(1);
    expect(net.a.host.read(0x90)).toBe(1);
    over(pair);
  });

  const cases: [string, (pair: Pair) => void, number][] = [
    ['migration', ({ k, p }) => void drive(migrateFolio(k, pageAt(p, AT))), 7],
    ['DONTNEED', ({ k, p }) => void drive(madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED)), 0],
    ['fork', ({ w, p }) => exit(forked(w, p)), 7],
    ['munmap', ({ k, p }) => void drive(munmap(k, p.mm, AT, PAGE_SIZE)), -WC.remoteOp],
    ['the process’s end', ({ p }) => exit(p), -WC.remoteOp],
  ];
  for (const [name, act, after] of cases)
    it(`after ${name} the NIC finds what is there then`, () => {
      const pair = pairOf('odp');
      expect(put(pair, AT, 7)).toBe(WC.ok);
      act(pair);
      expect(get(pair, AT)).toBe(after);
      over(pair);
    });

  it('a page that goes while a message is on its way into it is found again: no byte is lost', () => {
    const pair = pairOf('odp');
    const { k, p, q, net, mine, stage } = pair;
    for (let i = 0; i < PAGES; i++) q.store32(AT + i * PAGE_SIZE, 1000 + i);
    const pieces = [{ at: AT, len: PAGES * PAGE_SIZE, key: stage.lkey }];
    post(net.b.qp, { op: OP.write, pieces, remote: AT, rkey: mine.rkey });
    let moved = 0;
    for (let i = 0; i < 4000 && net.clock.nextAt < Number.POSITIVE_INFINITY; i++) {
      for (const { regions } of [net.a, net.b])
        if (regions.pendingWork() > 0) drive(regions.work());
      net.clock.now = Math.max(net.clock.now, net.clock.nextAt);
      net.clock.deliverDue();
      const page = pageAt(p, AT + (i % PAGES) * PAGE_SIZE);
      if (page >= 0 && drive(migrateFolio(k, page)) === 0) moved++;
    }
    net.settle();
    expect(poll(net.b.qp)).toMatchObject([{ status: WC.ok }]);
    expect(moved).toBeGreaterThan(20);
    for (let i = 0; i < PAGES; i++) expect(p.load32(AT + i * PAGE_SIZE)).toBe(1000 + i);
    over(pair);
  });

  it('a transfer that meets the end of memory in the middle ends in error there', () => {
    const pair = pairOf('odp');
    const { k, p, q, net, mine, stage } = pair;
    q.store32(AT, 5);
    drive(munmap(k, p.mm, AT + 2 * PAGE_SIZE, PAGE_SIZE));
    const local = { at: AT, len: 4 * PAGE_SIZE, key: stage.lkey };
    expect(move(net, net.b, OP.write, local, AT, mine.rkey)).toBe(WC.remoteOp);
    expect(p.load32(AT)).toBe(5);
    over(pair);
  });
});

describe('recipe 2.10: RDMA over a DAX file', () => {
  /** A NIC of the process that maps the file, and a peer with anonymous memory. */
  const daxPair = (kind: Kind) => {
    const d = daxWorld();
    const peer = createProcess(d.w);
    mapAnon(peer, 4, RW, AT);
    const net = rdmaWorld(d.p, kind, peer, 'pin');
    const stage = registered(net.b, AT, 4 * PAGE_SIZE);
    const write = (rkey: number, pgoff: number, value: number): number => {
      peer.store32(AT, value);
      const local = { at: AT, len: 4, key: stage.lkey };
      return move(net, net.b, OP.write, local, AT + pgoff * PAGE_SIZE, rkey);
    };
    const read = (rkey: number, pgoff: number): number => {
      const local = { at: AT + 8, len: 4, key: stage.lkey };
      const status = move(net, net.b, OP.read, local, AT + pgoff * PAGE_SIZE, rkey);
      return status === WC.ok ? peer.load32(AT + 8) : -status;
    };
    /** After an error the connection is made anew. */
    const reconnect = (): void => {
      for (const node of [net.a, net.b] as Node[]) {
        node.host.modify(node.qp, 0);
        Object.assign(node.qp, { posted: 0, received: 0 });
      }
      net.a.host.connect(net.a.qp, net.b.qp);
      net.b.host.connect(net.b.qp, net.a.qp);
    };
    return { d, net, write, read, reconnect };
  };

  it('a region that would be pinned is EOPNOTSUPP, for reading too', () => {
    const { net, d } = daxPair('pin');
    expect(register(net.a, AT, 8 * PAGE_SIZE)).toBe(EOPNOTSUPP);
    expect(register(net.a, AT, 8 * PAGE_SIZE, ACCESS.read)).toBe(EOPNOTSUPP);
    expect(d.p.mm.pinnedVm).toBe(0);
    net.end();
    settled(d);
  });

  it('over device-dax it is not, and flushes make what was written survive', () => {
    const w = createWorld();
    const [p, q] = [createProcess(w), createProcess(w)];
    const mapping = deviceDaxCreate(w.k, 8);
    if (typeof mapping === 'number') throw new Error(`deviceDaxCreate: ${mapping}`);
    mapFile(p, mapping, 8);
    mapAnon(q, 1, RW, AT);
    const net = rdmaWorld(p, 'pin', q, 'pin');
    const mine = registered(net.a, AT, 8 * PAGE_SIZE);
    const stage = registered(net.b, AT, PAGE_SIZE);
    q.store32(AT, 31);
    const local = { at: AT, len: 4, key: stage.lkey };
    expect(move(net, net.b, OP.write, local, AT + PAGE_SIZE, mine.rkey)).toBe(WC.ok);
    expect(p.load32(AT + PAGE_SIZE)).toBe(31);
    net.end();
    settled(w);
  });

  it('on demand the NIC reaches the blocks, and the file system knows of its writes', () => {
    const { d, net, write, read } = daxPair('odp');
    const { rkey } = registered(net.a, AT, 8 * PAGE_SIZE);
    expect(read(rkey, 3)).toBe(103);
    expect(write(rkey, 3, 55)).toBe(WC.ok);
    expect(d.file.dax?.dirty.has(3)).toBe(true);
    expect(d.p.load32(AT + 3 * PAGE_SIZE)).toBe(55);
    net.end();
    settled(d);
  });

  it('truncation does not wait: the NIC’s next access is an error, and nobody’s block is written to', () => {
    const { d, net, write, read, reconnect } = daxPair('odp');
    const { rkey } = registered(net.a, AT, 8 * PAGE_SIZE);
    for (let i = 0; i < 8; i++) expect(write(rkey, i, i)).toBe(WC.ok);
    const lost = blockPage(d, 5);
    expect(drive(fileTruncate(d.k, d.file, 2 * PAGE_SIZE))).toBe(0);
    drive(vfsFsync(d.k, d.file));
    // The block is another file's now.
    const other = extentCreate(d.k, d.fs);
    drive(fileWrite(d.k, other, 0, new Uint8Array(PAGE_SIZE * d.fs.nrFree).fill(0xaa)));
    const owner = { ...d, file: other };
    const pgoff = [...Array(PMEM_PAGES).keys()].find((at) => blockPage(owner, at) === lost) ?? -1;
    expect(pgoff).toBeGreaterThanOrEqual(0);
    expect(write(rkey, 5, 0x1111)).toBe(WC.remoteOp);
    reconnect();
    expect(read(rkey, 5)).toBe(-WC.remoteOp);
    reconnect();
    expect(write(rkey, 1, 9)).toBe(WC.ok);
    const bytes = new Uint8Array(4);
    drive(fileRead(d.k, other, pgoff * PAGE_SIZE, bytes));
    expect([...bytes]).toEqual([0xaa, 0xaa, 0xaa, 0xaa]);
    drive(mappingPut(d.k, other));
    net.end();
    settled(d);
  });

  it('fsync() takes the right to write away: the next write is found again, and flushed by the next', () => {
    const { d, net, write } = daxPair('odp');
    const { rkey } = registered(net.a, AT, 8 * PAGE_SIZE);
    expect(write(rkey, 0, 1)).toBe(WC.ok);
    drive(vfsFsync(d.k, d.file));
    expect(d.file.dax?.dirty.size).toBe(0);
    expect(write(rkey, 0, 2)).toBe(WC.ok);
    expect(d.file.dax?.dirty.has(0)).toBe(true);
    net.end();
    settled(d);
  });
});

describe('what was written', () => {
  for (const kind of ['pin', 'odp'] as const)
    it(`is dirty when a region by ${kind} goes`, () => {
      const pair = pairOf(kind);
      const { k, p, net, mine } = pair;
      put(pair, AT, 1);
      const page = pageAt(p, AT);
      net.a.host.deregister(mine.lkey);
      expect(folioTestDirty(k, page)).toBe(true);
      over(pair);
    });
});

describe('a saved machine', () => {
  it('has its regions again, also one that waits for a page', () => {
    const pair = pairOf('odp');
    const { net, mine, stage, q } = pair;
    q.store32(AT, 5);
    const pieces = [{ at: AT, len: 4, key: stage.lkey }];
    post(net.b.qp, { op: OP.write, pieces, remote: AT + PAGE_SIZE, rkey: mine.rkey });
    net.settle(false);
    const before = net.a.regions.save();
    expect(before.wanted).toHaveLength(1);
    const copy = structuredClone(before);
    net.a.regions.restore(copy as never);
    expect(net.a.regions.save()).toEqual(before);
    net.settle();
    expect(pair.p.load32(AT + PAGE_SIZE)).toBe(5);
    over(pair);
  });

  it('is not made in the middle of work()', () => {
    const pair = pairOf('pin');
    const { regions, host } = pair.net.a;
    pair.k.watched = true;
    // REG_MR, which pins.
    for (const [i, arg] of [host.pd, 1, AT, 0, AT, 0, PAGE_SIZE, 0].entries())
      host.write(0x40 + 4 * i, arg);
    host.write(0x70, 3);
    const work = regions.work();
    expect(work.next().done).toBe(false);
    expect(() => regions.save()).toThrow('in the middle of work()');
    expect(regions.pendingWork()).toBe(0);
    drive(work);
    pair.k.watched = false;
    over(pair);
  });
});
