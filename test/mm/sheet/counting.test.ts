/**
 * Recipe 2.14: bugs of counting. A reference given back as a pin, a pin given back as a reference, and
 * the zero page pinned again and again for a device: what the counters and the sanitizer say.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { checkKernel, drive, folioRefCount, vfioDmaMap, vfioDmaUnmap } from '#mm';
import { FOLL_LONGTERM, FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { folioGet, folioPut } from '../../../mm/folio/folio.ts';
import { folioMaybeDmaPinned } from '../../../mm/folio/pin.ts';
import { createProcess, createWorld, mapAnon, pageAt, pinsLive } from '../support.ts';
import { createZonedWorld, MIB } from '../zone-world.ts';

/** A process with one written page. */
const onePage = () => {
  const w = createWorld();
  const p = createProcess(w);
  const hva = mapAnon(p, 1);
  p.store32(hva, 1);
  return { k: w.k, p, hva, page: pageAt(p, hva), pages: new Int32Array(1) };
};

describe('given back by the wrong function — 2.14', () => {
  it('a reference as a pin: the count goes below zero, which stops the kernel', () => {
    const { k, page } = onePage();
    folioGet(k, page);
    expect(() => unpinUserPages(k, Int32Array.of(page), 1)).toThrow(/references dropped/);
  });

  it('with other references enough to hide it, the statistics still show a pin that was never taken', () => {
    const { k, page } = onePage();
    for (let i = 0; i < 2000; i++) folioGet(k, page);
    expect(folioMaybeDmaPinned(k, page)).toBe(true);
    unpinUserPages(k, Int32Array.of(page), 1);
    expect(pinsLive(k)).toBe(-1);
    expect(checkKernel(k).filter((line) => line.startsWith('I11 pins'))).toHaveLength(1);
  });

  it('a pin as a reference: it is never given back, and the page never freed', () => {
    const { k, p, hva, pages } = onePage();
    expect(drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    folioPut(k, pages[0]!);
    expect(pinsLive(k)).toBe(1);
    const report = checkKernel(k);
    expect(report.filter((line) => line.startsWith('I11'))).not.toEqual([]);
  });
});

describe('the zero page and a device — 2.14', () => {
  it('a read-only mapping of memory that nobody wrote: pinned for good, it is replaced, and never counted', () => {
    const w = createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });
    const p = createProcess(w);
    const hva = mapAnon(p, 4);
    for (let i = 0; i < 4; i++) p.load32(hva + i * PAGE_SIZE);
    const { zeroPage } = w.k.state;
    const before = folioRefCount(w.k, zeroPage);
    const pages = new Int32Array(4);
    for (let round = 0; round < 100; round++) {
      expect(drive(pinUserPagesFast(w.k, p.mm, hva, 4, FOLL_LONGTERM, pages))).toBe(4);
      unpinUserPages(w.k, pages, 4);
    }
    expect(folioRefCount(w.k, zeroPage)).toBe(before);
    expect(pinsLive(w.k)).toBe(0);
    expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
  });

  it('mapped for VFIO, read-only: the loop ends', () => {
    const w = createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });
    const p = createProcess(w);
    p.mm.rlimitMemlock = MIB;
    const hva = mapAnon(p, 4);
    for (let i = 0; i < 4; i++) p.load32(hva + i * PAGE_SIZE);
    for (let round = 0; round < 20; round++) {
      const mapped = drive(vfioDmaMap(w.k, p.mm, hva, 0x1000, 4 * PAGE_SIZE, false));
      expect(typeof mapped).toBe('object');
      drive(vfioDmaUnmap(w.k, p.mm, 0x1000, 4 * PAGE_SIZE));
    }
    expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
  });
});
