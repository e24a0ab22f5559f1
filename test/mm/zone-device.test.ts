/** Memory of devices: pages that return to their driver. Compare mm/memremap.c, drivers/pci/p2pdma.c. */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  checkKernel,
  deviceFileCreate,
  drive,
  EBUSY,
  EINVAL,
  ENOMEM,
  EREMOTEIO,
  folioRefCount,
  type HostProcess,
  MAP_SHARED,
  MAX_PAGE_ORDER,
  migrateFolio,
  mmap,
  munmap,
  nrFreePages,
  PG_DEVICE_COHERENT,
  PG_P2PDMA,
  pageToPfn,
  YP_WAIT,
  type ZoneDevice,
  zoneDeviceAlloc,
  zoneDeviceCreate,
  zoneDeviceRemove,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_PCI_P2PDMA,
  FOLL_WRITE,
  pinUserPagesUnlocked,
  pinUserPagesFast,
  unpinUserPages,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioPut } from '../../mm/folio/folio.ts';
import { createProcess, createWorld, exit, pageAt, RW, type World } from './support.ts';

const create = (w: World, type: number, nrPages: number): ZoneDevice => {
  const device = zoneDeviceCreate(w.k, type, nrPages);
  if (typeof device === 'number') throw new Error(`zoneDeviceCreate: ${device}`);
  return device;
};

/** A process that maps `nr` pages of a device, counted. */
const mapped = (w: World, device: ZoneDevice, nr: number): { p: HostProcess; hva: number } => {
  const p = createProcess(w);
  const mapping = deviceFileCreate(w.k, nr, {
    how: 'insert-page',
    firstPfn: pageToPfn(device.firstPage),
  });
  const request = { lenBytes: nr * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
  return { p, hva: drive(mmap(w.k, p.mm, request)) };
};

describe('a device’s memory', () => {
  it('is taken out of the buddy allocator, and not handed out by it', () => {
    const w = createWorld();
    const device = create(w, PG_P2PDMA, 5);
    expect(device.nrPages).toBe(8);
    expect(w.freeAtStart - nrFreePages(w.k)).toBe(8);
    expect(device.free).toHaveLength(8);
    for (const page of device.free) expect(folioRefCount(w.k, page)).toBe(0);
    assertKernel(w.k, { quiescent: true });
    const large = create(w, PG_DEVICE_COHERENT, (1 << MAX_PAGE_ORDER) + 1);
    expect(large.nrPages).toBe(2 << MAX_PAGE_ORDER);
    expect(zoneDeviceCreate(w.k, PG_P2PDMA, 100 << MAX_PAGE_ORDER)).toBe(-ENOMEM);
    assertKernel(w.k, { quiescent: true });
  });

  it('is handed out page by page with one reference; the last one gives the page back to the driver', () => {
    const w = createWorld();
    const device = create(w, PG_DEVICE_COHERENT, 2);
    const free = nrFreePages(w.k);
    const [a, b] = [zoneDeviceAlloc(w.k, device), zoneDeviceAlloc(w.k, device)];
    expect([a, b]).toEqual([device.firstPage, device.firstPage + 1]);
    expect(zoneDeviceAlloc(w.k, device)).toBe(-ENOMEM);
    expect(folioRefCount(w.k, a)).toBe(1);
    folioPut(w.k, a);
    expect(device.free).toEqual([a]);
    expect(nrFreePages(w.k)).toBe(free);
    expect(zoneDeviceAlloc(w.k, device)).toBe(a);
    assertKernel(w.k, { quiescent: true });
  });

  it('is mapped by pages that live as long as somebody maps or holds them', () => {
    const w = createWorld();
    const device = create(w, PG_P2PDMA, 4);
    const { p, hva } = mapped(w, device, 4);
    expect(device.free).toHaveLength(0);
    p.store32(hva + PAGE_SIZE, 5);
    expect(pageAt(p, hva + PAGE_SIZE)).toBe(device.firstPage + 1);
    expect(folioRefCount(w.k, device.firstPage)).toBe(1);
    assertKernel(w.k, { quiescent: true });
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    expect(device.free).toEqual([device.firstPage]);
    exit(p);
    expect(device.free).toHaveLength(4);
    assertKernel(w.k, { quiescent: true });
  });

  it('does not migrate as pages of a file do', () => {
    const w = createWorld();
    const device = create(w, PG_P2PDMA, 1);
    const { p, hva } = mapped(w, device, 1);
    expect(drive(migrateFolio(w.k, pageAt(p, hva)))).toBe(-EINVAL);
  });

  it('whose free page has a reference, or no type, is reported by the sanitizer', () => {
    const w = createWorld();
    const device = create(w, PG_P2PDMA, 1);
    const { refcount, flags } = w.k.state.frames;
    refcount[device.firstPage] = 1;
    expect(checkKernel(w.k).join()).toContain('has 1 references');
    refcount[device.firstPage] = 0;
    flags[device.firstPage] = 0;
    expect(checkKernel(w.k).join()).toContain('is none of it');
  });
});

describe('GUP and memory of a PCI peer (1.1)', () => {
  it('-EREMOTEIO for whoever does not say FOLL_PCI_P2PDMA, slow and fast', () => {
    const w = createWorld();
    const { p, hva } = mapped(w, create(w, PG_P2PDMA, 1), 1);
    p.store32(hva, 1);
    const pages = new Int32Array(1);
    for (const pin of [pinUserPagesUnlocked, pinUserPagesFast]) {
      expect(drive(pin(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(-EREMOTEIO);
      expect(drive(pin(w.k, p.mm, hva, 1, FOLL_WRITE | FOLL_PCI_P2PDMA, pages))).toBe(1);
      expect(pages[0]).toBe(pageAt(p, hva));
      unpinUserPages(w.k, pages, 1);
    }
    assertKernel(w.k, { quiescent: true });
  });
});

describe('a device that is unplugged — memunmap_pages()', () => {
  it('gives its frames to the buddy allocator', () => {
    const w = createWorld();
    for (const nr of [8, 2 << MAX_PAGE_ORDER]) {
      const device = create(w, PG_P2PDMA, nr);
      drive(zoneDeviceRemove(w.k, device));
      expect(nrFreePages(w.k)).toBe(w.freeAtStart);
      expect(w.k.state.zoneDevices).toEqual([]);
      assertKernel(w.k, { quiescent: true });
    }
  });

  it('waits for whoever holds a page, which is why a pin for long is not legal', () => {
    const w = createWorld();
    const device = create(w, PG_P2PDMA, 1);
    const { p, hva } = mapped(w, device, 1);
    const pages = new Int32Array(1);
    const flags = FOLL_WRITE | FOLL_PCI_P2PDMA;
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, flags | FOLL_LONGTERM, pages))).toBe(-EINVAL);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, flags, pages))).toBe(1);
    exit(p);
    const removing = zoneDeviceRemove(w.k, device);
    expect(removing.next()).toEqual({ done: false, value: YP_WAIT });
    unpinUserPages(w.k, pages, 1);
    drive(removing);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('coherent memory is not pinned for long where it is', () => {
    const w = createWorld();
    const { p, hva } = mapped(w, create(w, PG_DEVICE_COHERENT, 1), 1);
    p.store32(hva, 1);
    const pages = new Int32Array(1);
    const flags = FOLL_WRITE | FOLL_LONGTERM;
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, flags, pages))).toBe(-EBUSY);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    unpinUserPages(w.k, pages, 1);
    assertKernel(w.k, { quiescent: true });
  });
});
