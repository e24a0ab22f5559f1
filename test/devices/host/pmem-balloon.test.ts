/** The host sides of virtio-pmem and virtio-balloon: what an fsync() makes durable, what is given up. */
import { describe, expect, it } from 'vitest';
import type { BalloonClient, BalloonJob, PmemClient, PmemFlush } from '#devices';
import { BalloonHost, PmemFile } from '#devices/host';
import { PAGE_SIZE } from '#emu';
import {
  blockCrashImage,
  drive,
  extentCreate,
  extentSetSize,
  HUGETLB_ORDER_2M,
  hugetlbFileSetup,
  nrFreePages,
  shmemCreate,
  YP_BIO_SUBMITTED,
} from '#mm';
import { createDiskWorld } from '../../mm/extent-support.ts';
import { createHugeWorld, HUGE } from '../../mm/hugetlb-world.ts';
import { createProcess, createWorld, mapAnon, mapOf, settled, stepTo } from '../../mm/support.ts';

const GUEST = 0x8000_0000;

/** Persistent memory of 8 pages behind a shared mapping, and flushes for it. */
const pmemOf = () => {
  const w = createDiskWorld();
  const p = createProcess(w);
  const file = extentCreate(w.k, w.fs);
  drive(extentSetSize(w.k, file, 8 * PAGE_SIZE));
  const hva = mapOf(p, file);
  const waiting: PmemFlush[] = [];
  const done: boolean[] = [];
  const client: PmemClient = {
    get nrWaiting() {
      return waiting.length;
    },
    nextFlush: () => waiting.shift(),
    complete: (_flush, durable) => done.push(durable),
  };
  const backend = new PmemFile({ kernel: w.k, file });
  const post = (): void => {
    waiting.push({ queue: 0, chain: undefined as never, void: false, ret: 0 });
    backend.post(client);
  };
  /** Words that a loss of power leaves on the disk, in any block. */
  const survives = (value: number): boolean =>
    [...blockCrashImage(w.dev, () => false).values()].some(
      ({ buffer, byteOffset }) => new DataView(buffer, byteOffset).getUint32(0, true) === value,
    );
  return { ...w, p, hva, backend, post, done, survives };
};

describe('virtio-pmem', () => {
  it('a store is durable by a flush, and by nothing else', () => {
    const vmm = pmemOf();
    vmm.p.store32(vmm.hva, 0x1234_5678);
    expect(vmm.survives(0x1234_5678)).toBe(false);
    vmm.post();
    expect(vmm.backend.pendingWork()).toBe(1);
    drive(vmm.backend.work());
    expect(vmm.done).toEqual([true]);
    expect(vmm.survives(0x1234_5678)).toBe(true);
    // The next store to the same page is noticed again.
    vmm.p.store32(vmm.hva, 0x9abc_def0);
    expect(vmm.survives(0x9abc_def0)).toBe(false);
    vmm.post();
    drive(vmm.backend.work());
    expect(vmm.survives(0x9abc_def0)).toBe(true);
    settled(vmm);
  });

  it('flushes that wait together are one fsync(), one that comes meanwhile is another', () => {
    const vmm = pmemOf();
    vmm.p.store32(vmm.hva, 1);
    vmm.post();
    vmm.post();
    const work = vmm.backend.work();
    stepTo(vmm.k, work, YP_BIO_SUBMITTED);
    vmm.post();
    expect(vmm.backend.pendingWork()).toBe(0);
    drive(work);
    expect([vmm.done, vmm.backend.syncs]).toEqual([[true, true, true], 2]);
  });

  it('an fsync() that fails is a flush that fails', () => {
    const vmm = pmemOf();
    for (let block = 0; block < vmm.dev.nrBlocks; block++) vmm.dev.badWrites.add(block);
    vmm.p.store32(vmm.hva, 1);
    vmm.post();
    drive(vmm.backend.work());
    expect([vmm.done, vmm.backend.failures]).toEqual([[false], 1]);
  });
});

type Vmm = { k: ReturnType<typeof createWorld>['k']; p: ReturnType<typeof createProcess> };

/** A balloon over guest memory at `hva`. */
const balloonOf = ({ k, p }: Vmm, hva: number, lenBytes: number) => {
  const waiting: BalloonJob[] = [];
  const done: BalloonJob[] = [];
  const client: BalloonClient = {
    get nrWaiting() {
      return waiting.length;
    },
    nextJob: () => waiting.shift(),
    complete: (job) => done.push(job),
  };
  const dirty: [number, number][] = [];
  const host = new BalloonHost({
    kernel: k,
    mm: p.mm,
    ram: [{ gpa: GUEST, lenBytes }],
    hvaOf: (gpa) => (gpa >= GUEST && gpa < GUEST + 2 * lenBytes ? hva + (gpa - GUEST) : -1),
    onWritten: (gpa, len) => dirty.push([gpa, len]),
  });
  const give = (...ranges: { gpa: number; lenBytes: number }[]): void => {
    waiting.push({ queue: 0, chain: undefined as never, void: false, ranges });
    host.post(client);
    drive(host.work());
  };
  return { host, give, dirty, done };
};

const page = (index: number, nr = 1): { gpa: number; lenBytes: number } => ({
  gpa: GUEST + index * PAGE_SIZE,
  lenBytes: nr * PAGE_SIZE,
});

describe('virtio-balloon', () => {
  for (const kind of ['private', 'shared'] as const)
    it(`${kind} memory that is given up is free, and zeroes when it is touched again`, () => {
      const w = createWorld();
      const p = createProcess(w);
      const hva = kind === 'private' ? mapAnon(p, 8) : mapOf(p, shmemCreate(w.k, 8));
      for (let i = 0; i < 8; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
      const free = nrFreePages(w.k);
      const { host, give, dirty, done } = balloonOf({ k: w.k, p }, hva, 8 * PAGE_SIZE);
      give(page(1, 2), page(5));
      expect(nrFreePages(w.k)).toBe(free + 3);
      expect([host.discardedBytes, host.keptBytes, done.length]).toEqual([3 * PAGE_SIZE, 0, 1]);
      expect(dirty).toEqual([
        [GUEST + PAGE_SIZE, 2 * PAGE_SIZE],
        [GUEST + 5 * PAGE_SIZE, PAGE_SIZE],
      ]);
      expect([0, 1, 2, 3, 4, 5, 6, 7].map((i) => p.load32(hva + i * PAGE_SIZE))).toEqual([
        1, 0, 0, 4, 5, 0, 7, 8,
      ]);
      settled(w);
    });

  it('of huge pages of hugetlbfs only whole ones go', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const file = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, (2 * HUGE) / PAGE_SIZE);
    if (typeof file === 'number') throw new Error(`hugetlb: ${file}`);
    const hva = mapOf(p, file);
    for (const at of [0, PAGE_SIZE, HUGE]) p.store32(hva + at, 7);
    const { host, give } = balloonOf({ k: w.k, p }, hva, 2 * HUGE);
    give(page(1));
    expect([host.discardedBytes, p.load32(hva + PAGE_SIZE)]).toEqual([0, 7]);
    give({ gpa: GUEST + PAGE_SIZE, lenBytes: 2 * HUGE - PAGE_SIZE });
    expect(host.discardedBytes).toBe(HUGE);
    expect([p.load32(hva), p.load32(hva + HUGE)]).toEqual([7, 0]);
  });

  it('what is not RAM of the guest is left alone, whatever the guest says', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 8);
    for (let i = 0; i < 8; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
    // The VMM has more behind it; the guest's RAM ends after 4 pages.
    const { host, give, done } = balloonOf({ k: w.k, p }, hva, 4 * PAGE_SIZE);
    give(page(3, 5), { gpa: 0x1000, lenBytes: PAGE_SIZE }, { gpa: 2 ** 44, lenBytes: 2 ** 32 });
    expect(host.discardedBytes).toBe(PAGE_SIZE);
    expect([2, 3, 4].map((i) => p.load32(hva + i * PAGE_SIZE))).toEqual([3, 0, 5]);
    expect(done).toHaveLength(1);
  });
});
