/**
 * A device that walks a process's own page tables: nothing is held, pages are asked for, and what the
 * kernel changes is forgotten by IOMMU and device before the change counts. Compare
 * drivers/iommu/iommu-sva.c and io-pgfault.c.
 */
import { describe, expect, it } from 'vitest';
import { Atc, BusPort, IommuPort } from '#devices';
import { type HostIommu, SvaPort } from '#devices/host';
import { DMA_FAULT, DMA_OK, DMA_WAIT, PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  type HostProcess,
  migrateFolio,
  MADV_DONTNEED,
  madvise,
  munmap,
  PROT_READ,
  type MmStruct,
} from '#mm';
import { createProcess, exit, forked, mapAnon, pageAt, pinsLive } from '../../mm/support.ts';
import { createIommuWorld, DEVICE, type IommuWorld, word } from './world.ts';

/** A device of mode sva that sends a process's addresses. */
const share = (world: IommuWorld, mm: MmStruct, id = DEVICE) => {
  const { host } = world;
  const device = host.attachDevice(id, { mode: 'sva', name: `gpu${id}` });
  if (typeof device === 'number') throw new Error(`attach: ${device}`);
  const written: number[] = [];
  const port = new SvaPort({
    host,
    device,
    mm,
    hvaOf: (hva) => hva,
    onWritten: (hva, lenBytes) => written.push(hva, lenBytes),
  });
  let calls = 0;
  port.onReady(() => {
    calls++;
  });
  return { device, port, written, calls: () => calls };
};

/** Tries until the port does not wait any more. */
const settle = (host: HostIommu, access: () => number): number => {
  for (let tries = 0; tries < 50; tries++) {
    const outcome = access();
    if (outcome !== DMA_WAIT) return outcome;
    drive(host.work());
  }
  return DMA_WAIT;
};

const load = (host: HostIommu, port: SvaPort, hva: number): number => {
  const bytes = new Uint8Array(4);
  const outcome = settle(host, () => port.read(hva, bytes, 0, 4));
  return outcome === DMA_OK ? new DataView(bytes.buffer).getUint32(0, true) : outcome;
};

const store = (host: HostIommu, port: SvaPort, hva: number, value: number): number =>
  settle(host, () => port.write(hva, word(value), 0, 4));

const settledWorld = (world: IommuWorld): void =>
  expect(checkKernel(world.k, { quiescent: true })).toEqual([]);

describe('shared virtual addressing', () => {
  it('reads and writes what the process has, at its addresses, and holds nothing', () => {
    const world = createIommuWorld();
    const { p, host } = world;
    const hva = mapAnon(p, 2);
    p.store32(hva, 7);
    const { port, written } = share(world, p.mm);
    expect(load(host, port, hva)).toBe(7);
    expect(store(host, port, hva, 8)).toBe(DMA_OK);
    expect([p.load32(hva), pinsLive(world.k), written]).toEqual([8, 0, [hva, 4]]);
    settledWorld(world);
  });

  it('asks for a page that is not there, and goes on when it has been faulted in', () => {
    const world = createIommuWorld();
    const { p, host } = world;
    const hva = mapAnon(p, 1);
    const { port, calls } = share(world, p.mm);
    expect(port.write(hva, word(5), 0, 4)).toBe(DMA_WAIT);
    expect([host.pendingWork(), calls()]).toEqual([1, 0]);
    drive(host.work());
    expect(calls()).toBe(1);
    expect(port.write(hva, word(5), 0, 4)).toBe(DMA_OK);
    expect(p.load32(hva)).toBe(5);
    expect(host.sva.counts).toMatchObject({ pages: 1, groups: 1, refused: 0 });
    settledWorld(world);
  });

  it('is refused where the process has nothing, or may not write; once, and the next is asked for anew', () => {
    const world = createIommuWorld();
    const { p, host } = world;
    const readOnly = mapAnon(p, 1, PROT_READ);
    const { port } = share(world, p.mm);
    expect(load(host, port, 0x7000_0000)).toBe(DMA_FAULT);
    expect(load(host, port, readOnly)).toBe(0);
    expect(store(host, port, readOnly, 1)).toBe(DMA_FAULT);
    expect(store(host, port, readOnly, 1)).toBe(DMA_FAULT);
    expect(host.sva.counts.refused).toBe(3);
    settledWorld(world);
  });

  it('breaks COW as a store of the process does', () => {
    const world = createIommuWorld();
    const { w, p, host } = world;
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const { port } = share(world, p.mm);
    expect(store(host, port, hva, 2)).toBe(DMA_OK);
    const child = forked(w, p);
    expect(store(host, port, hva, 3)).toBe(DMA_OK);
    expect([p.load32(hva), child.load32(hva)]).toEqual([3, 2]);
    settledWorld(world);
  });

  for (const [what, change] of [
    ['munmap', (p: HostProcess, hva: number) => drive(munmap(p.k, p.mm, hva, PAGE_SIZE))],
    [
      'MADV_DONTNEED',
      (p: HostProcess, hva: number) => drive(madvise(p.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED)),
    ],
    ['migration', (p: HostProcess, hva: number) => drive(migrateFolio(p.k, pageAt(p, hva)))],
  ] as const)
    it(`has forgotten the page when ${what} returns`, () => {
      const world = createIommuWorld();
      const { p, host, k } = world;
      const hva = mapAnon(p, 1);
      p.store32(hva, 1);
      const { port } = share(world, p.mm);
      store(host, port, hva, 2);
      const before = pageAt(p, hva);
      change(p, hva);
      expect(checkKernel(k)).toEqual([]);
      const outcome = store(host, port, hva, 3);
      // After MADV_DONTNEED the new page may have the old frame.
      if (what !== 'MADV_DONTNEED') expect(k.memory.u8[k.memory.pageOffset(before)]).not.toBe(3);
      if (what === 'munmap') expect(outcome).toBe(DMA_FAULT);
      else expect([outcome, p.load32(hva)]).toEqual([DMA_OK, 3]);
      expect(host.sva.counts.invalidations).toBeGreaterThan(0);
      settledWorld(world);
    });

  it('ends when the process exits, before its pages go: every access is a fault then', () => {
    const world = createIommuWorld();
    const { p, host, k } = world;
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const { device, port } = share(world, p.mm);
    store(host, port, hva, 2);
    const page = pageAt(p, hva);
    exit(p);
    expect(store(host, port, hva, 99)).toBe(DMA_FAULT);
    expect(k.memory.u8[k.memory.pageOffset(page)]).not.toBe(99);
    port.close();
    host.releaseDevice(device);
    settledWorld(world);
  });

  it('has one number for a process, whatever devices share it; each goes by itself', () => {
    const world = createIommuWorld();
    const { w, p, host } = world;
    const other = createProcess(w);
    const hva = mapAnon(p, 1);
    mapAnon(other, 1, undefined, hva);
    p.store32(hva, 1);
    other.store32(hva, 2);
    const one = share(world, p.mm, 5);
    const two = share(world, p.mm, 6);
    const three = share(world, other.mm, 7);
    expect([one, two, three].map(({ port }) => port.processId)).toEqual([1, 1, 2]);
    expect([one, two, three].map(({ port }) => load(host, port, hva))).toEqual([1, 1, 2]);
    one.port.close();
    expect([one, two, three].map(({ port }) => load(host, port, hva))).toEqual([DMA_FAULT, 1, 2]);
  });

  it('gives nothing to a device that sends another process_id, or none', () => {
    const world = createIommuWorld();
    const { k, p, host } = world;
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const { device } = share(world, p.mm);
    const rogue = new IommuPort({
      iommu: host.model,
      deviceId: device.id,
      memory: new BusPort(k.memory),
    });
    for (const processId of [-1, 0, 2, 200]) {
      rogue.processId = processId;
      expect(rogue.write(hva, word(9), 0, 4)).toBe(DMA_FAULT);
    }
    drive(host.work());
    expect(device.violations).toHaveLength(4);
    expect(p.load32(hva)).toBe(1);
  });

  it('is found out by the sanitizer where a device keeps what it was told to forget (P3)', () => {
    const world = createIommuWorld();
    const { k, p, host } = world;
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const { device, port } = share(world, p.mm);
    store(host, port, hva, 2);
    const deaf = new Atc();
    host.model.setAtsDevice(device.id, deaf);
    drive(munmap(k, p.mm, hva, PAGE_SIZE));
    expect(checkKernel(k)).toEqual([
      expect.stringMatching(/^I10 secondary entry of iommu-sva iommu .* which is free \(P3\)/),
    ]);
  });
});
