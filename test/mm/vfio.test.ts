/** VFIO's mappings: pinned run by run, counted in locked_vm, undone whole. Compare drivers/vfio/vfio_iommu_type1.c. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import {
  drive,
  explainFrame,
  findVma,
  folioMaybeDmaPinned,
  folioTestDirty,
  type HostProcess,
  type Kernel,
  MAP_SHARED,
  shmemCreate,
  mlock,
  mmap,
  type Path,
  PROT_READ,
  type VfioDma,
  vfioDmaMap,
  vfioDmaUnmap,
  vfioIovaToPage,
} from '#mm';
import { EEXIST, EFAULT, EINVAL, ENOMEM } from '../../mm/errno.ts';
import { folioClearFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { remapPfnRange } from '../../mm/vma/pfnmap.ts';
import {
  createProcess,
  createWorld,
  exit,
  forked,
  mapAnon,
  pageAt,
  RW,
  type World,
  pinsLive,
  settled,
} from './support.ts';

const IOVA = 0x10_0000;
const MIB = 2 ** 20;

let w: World;
let k: Kernel;
let p: HostProcess;

beforeEach(() => {
  w = createWorld();
  k = w.k;
  p = createProcess(w);
});

const map = (hva: number, nrPages: number, iova = IOVA, writable = true): VfioDma | number =>
  drive(vfioDmaMap(k, p.mm, hva, iova, nrPages * PAGE_SIZE, writable));

const mapped = (hva: number, nrPages: number, iova = IOVA, writable = true): VfioDma => {
  const dma = map(hva, nrPages, iova, writable);
  if (typeof dma === 'number') throw new Error(`VFIO_IOMMU_MAP_DMA: ${dma}`);
  return dma;
};

const unmap = (iova: number, nrPages: number): number =>
  drive(vfioDmaUnmap(k, p.mm, iova, nrPages * PAGE_SIZE));

describe('VFIO_IOMMU_MAP_DMA', () => {
  it('pins every page once, counts them in locked_vm, and shows them at bus addresses', () => {
    const hva = mapAnon(p, 700);
    const dma = mapped(hva, 700);
    expect([p.mm.lockedVm, pinsLive(k)]).toEqual([700, 700]);
    for (const at of [0, 1, 511, 512, 699])
      expect(vfioIovaToPage(k, p.mm, IOVA + at * PAGE_SIZE + 5)).toBe(
        pageAt(p, hva + at * PAGE_SIZE),
      );
    for (const iova of [IOVA - 1, IOVA + 700 * PAGE_SIZE])
      expect(vfioIovaToPage(k, p.mm, iova)).toBe(-1);
    expect(dma.runs.length).toBeLessThan(700);
    settled(w);
    expect(unmap(IOVA, 700)).toBe(700 * PAGE_SIZE);
    expect([p.mm.lockedVm, pinsLive(k), k.state.vfioContainers.size]).toEqual([0, 0, 0]);
    settled(w);
  });

  it('counts beside mlock(), against one limit; what does not fit is undone whole', () => {
    const hva = mapAnon(p, 8);
    p.mm.rlimitMemlock = 6 * PAGE_SIZE;
    drive(mlock(k, p.mm, mapAnon(p, 2), 2 * PAGE_SIZE));
    // Every other page is a run of its own, so the limit is met in the middle.
    const filler = mapAnon(p, 8);
    for (let i = 0; i < 8; i++) {
      p.store8(hva + i * PAGE_SIZE, i);
      p.store8(filler + i * PAGE_SIZE, i);
    }
    expect(map(hva, 5)).toBe(-ENOMEM);
    expect([p.mm.lockedVm, pinsLive(k), k.state.vfioContainers.size]).toEqual([2, 0, 0]);
    mapped(hva, 4);
    expect(p.mm.lockedVm).toBe(6);
    settled(w);
  });

  it('of a range whose end is not there nothing is left pinned', () => {
    const hva = mapAnon(p, 600);
    expect(map(hva, 601)).toBe(-EFAULT);
    expect([p.mm.lockedVm, pinsLive(k), k.state.vfioContainers.size]).toEqual([0, 0, 0]);
    settled(w);
  });

  it.each([
    { what: 'nothing', hva: 0, iova: IOVA, nr: 0 },
    { what: 'half a page', hva: 0, iova: IOVA, nr: 0.5 },
    { what: 'an address within a page', hva: 8, iova: IOVA, nr: 1 },
    { what: 'a bus address within a page', hva: 0, iova: IOVA + 8, nr: 1 },
  ])('$what: -EINVAL', ({ hva, iova, nr }) => {
    expect(map(mapAnon(p, 1) + hva, nr, iova)).toBe(-EINVAL);
  });

  it('bus addresses that are in use: -EEXIST; those of another process are its own', () => {
    const hva = mapAnon(p, 4);
    mapped(hva, 2);
    expect(map(hva, 2, IOVA + PAGE_SIZE)).toBe(-EEXIST);
    mapped(hva, 2, IOVA + 2 * PAGE_SIZE);
    const child = forked(w, p);
    const theirs = drive(vfioDmaMap(k, child.mm, hva, IOVA, PAGE_SIZE, true));
    expect(theirs).toMatchObject({ iova: IOVA });
    expect(vfioIovaToPage(k, child.mm, IOVA)).not.toBe(vfioIovaToPage(k, p.mm, IOVA));
    settled(w);
  });

  it('memory that may only be read can be shown for reading alone', () => {
    const hva = mapAnon(p, 1, PROT_READ);
    expect(map(hva, 1)).toBe(-EFAULT);
    mapped(hva, 1, IOVA, false);
    expect(folioMaybeDmaPinned(k, pageAt(p, hva))).toBe(true);
    settled(w);
  });

  it('registers of a device are mapped, and neither pinned nor counted (VM_PFNMAP)', () => {
    const file = shmemCreate(k, 2);
    const hva = drive(
      mmap(k, p.mm, {
        lenBytes: 2 * PAGE_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    const bar = k.memory.nrPages + 16;
    expect(remapPfnRange(k, findVma(p.mm, hva)!, hva, RAM_PFN_BASE + bar, 2 * PAGE_SIZE)).toBe(0);
    const dma = mapped(hva, 2);
    expect([dma.pinned, p.mm.lockedVm, pinsLive(k)]).toEqual([false, 0, 0]);
    expect(vfioIovaToPage(k, p.mm, IOVA + PAGE_SIZE)).toBe(bar + 1);
    expect(unmap(IOVA, 2)).toBe(2 * PAGE_SIZE);
  });

  it('two that map at once wait for each other', () => {
    const hva = mapAnon(p, 4);
    const run = (iova: number): Path<VfioDma | number> =>
      vfioDmaMap(k, p.mm, hva, iova, 4 * PAGE_SIZE, true);
    const paths = [run(IOVA), run(IOVA + 2 * PAGE_SIZE)];
    const outcomes: (VfioDma | number)[] = [];
    k.watched = true;
    for (let i = 0; outcomes.length < 2; i++) {
      const step = paths[i % 2]!.next();
      if (step.done === true && step.value !== undefined) outcomes.push(step.value);
    }
    k.watched = false;
    expect(outcomes).toEqual([expect.objectContaining({ iova: IOVA }), -EEXIST]);
    expect([p.mm.lockedVm, pinsLive(k)]).toEqual([4, 4]);
    settled(w);
  });
});

describe('VFIO_IOMMU_UNMAP_DMA', () => {
  it('takes whole ranges: a part of one is -EINVAL, several at once are fine, none is 0 bytes', () => {
    const hva = mapAnon(p, 4);
    mapped(hva, 2);
    mapped(hva + 2 * PAGE_SIZE, 2, IOVA + 2 * PAGE_SIZE);
    expect(unmap(IOVA, 1)).toBe(-EINVAL);
    expect(unmap(IOVA + PAGE_SIZE, 3)).toBe(-EINVAL);
    expect(unmap(IOVA + MIB, 4)).toBe(0);
    expect(p.mm.lockedVm).toBe(4);
    expect(unmap(IOVA, 4)).toBe(4 * PAGE_SIZE);
    expect([p.mm.lockedVm, pinsLive(k)]).toEqual([0, 0]);
  });

  it('what the device could write is dirty afterwards', () => {
    const file = shmemCreate(k, 2);
    const hva = drive(
      mmap(k, p.mm, {
        lenBytes: 2 * PAGE_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    for (const [i, writable] of [true, false].entries()) {
      p.load8(hva + i * PAGE_SIZE);
      mapped(hva + i * PAGE_SIZE, 1, IOVA, writable);
      const page = vfioIovaToPage(k, p.mm, IOVA);
      // Written out meanwhile.
      folioClearFlags(k, page, PG_DIRTY);
      unmap(IOVA, 1);
      expect(folioTestDirty(k, page)).toBe(writable);
    }
  });

  it('after the process has gone', () => {
    mapped(mapAnon(p, 3), 3);
    exit(p);
    expect(pinsLive(k)).toBe(3);
    expect(unmap(IOVA, 3)).toBe(3 * PAGE_SIZE);
    expect([pinsLive(k), k.state.vfioContainers.size]).toEqual([0, 0]);
    settled(w);
  });
});

it('who holds such a page is known by its bus address', () => {
  const hva = mapAnon(p, 2);
  mapped(hva, 2);
  expect(explainFrame(k, pageAt(p, hva))).toMatchObject({
    longterm: [{ user: 'vfio', mm: p.mm.id, at: IOVA, pins: 1 }],
    unexplained: { pins: 0, references: 0 },
  });
});
