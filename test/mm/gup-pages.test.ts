/** Which pages GUP takes, and how it counts them: facts sheet 1.2 steps 4 and 5, 1.3, 1.6, 1.8, 2.14. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PTE_D } from '#emu';
import { migrateToDevice } from '../../mm/compact/device.ts';
import { EBUSY, EEXIST, EFAULT, ENOMEM, EREMOTEIO } from '../../mm/errno.ts';
import { folioGet, folioPut, folioRefCount, pageAnonExclusive } from '../../mm/folio/folio.ts';
import {
  folioAddPins,
  folioIsLongtermPinnable,
  folioMaybeDmaPinned,
  folioPinCount,
  GUP_PIN_COUNTING_BIAS,
} from '../../mm/folio/pin.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_DEVICE_COHERENT, PG_P2PDMA, pageToPfn } from '../../mm/frames/table.ts';
import {
  zoneDeviceAlloc,
  zoneDeviceCreate,
  zoneDeviceRemove,
} from '../../mm/frames/zone-device.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFast, getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import {
  FOLL_DUMP,
  FOLL_FORCE,
  FOLL_LONGTERM,
  FOLL_NOFAULT,
  FOLL_PCI_P2PDMA,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import { getUserPages, getUserPagesUnlocked, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage, unpinUserPages } from '../../mm/gup/unpin.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { drive, YP_WAIT } from '../../mm/path.ts';
import {
  pteClearSoftDirty,
  pteMkuffdWp,
  pteSpecial,
  pteWrite,
  pteWrprotect,
} from '../../mm/pgtable/pte.ts';
import { setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../../mm/types.ts';
import {
  MADV_MERGEABLE,
  MAP_PRIVATE,
  PROT_READ,
  VM_MIXEDMAP,
  VM_SOFTDIRTY,
  VM_UFFD_WP,
} from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { mmapRead } from '../../mm/vma/lock.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import { vmfInsertMixed, vmInsertPage } from '../../mm/vma/pfnmap.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createWorld,
  entryAt,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(8);
const USER = 'access-remote-vm';

const pin = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesUnlocked(k, mm, hva, n, flags, pages));
const pinFast = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesFast(k, mm, hva, n, flags, pages));
const get = (hva: number, n: number, flags: number): number =>
  drive(getUserPagesUnlocked(k, USER, mm, hva, n, flags, pages));
const vmaAt = (hva: number): Vma => {
  const vma = findVma(mm, hva);
  if (vma === null) throw new Error('no VMA');
  return vma;
};
/** A written anonymous page. */
const written = (): { hva: number; page: number } => {
  const hva = mapAnon(k, mm, 1);
  store(k, mm, hva, 1);
  return { hva, page: pageAt(k, mm, hva) };
};
/** Sets flags of a page for as long as `test` runs. */
const withFlags = (page: number, bits: number, test: () => void): void => {
  const { flags } = k.state.frames;
  const was = flags[page]!;
  flags[page] = was | bits;
  test();
  flags[page] = flags[page]! & ~bits;
};

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

describe('an entry without a struct page — 1.2 step 4', () => {
  /** A frame that a driver has put into a mapping without having it counted. */
  const special = (): number => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    vmaAt(hva).flags |= VM_MIXEDMAP;
    expect(vmfInsertMixed(k, vmaAt(hva), hva, pageToPfn(allocPages(k, 0, GFP_KERNEL)))).toBe(0);
    return hva;
  };

  it('-EEXIST where pages are wanted, and nothing where they are only to be there', () => {
    const hva = special();
    expect(pin(hva, 1, 0)).toBe(-EEXIST);
    expect(get(hva, 1, FOLL_WRITE)).toBe(-EEXIST);
    const populate = mmapRead(mm, getUserPages(k, USER, mm, hva, 1, 0, null));
    expect(drive(populate)).toBe(1);
    expect(pinsLive(k)).toBe(0);
  });

  it('TOUCH sets its A and D bits all the same', () => {
    const hva = special();
    get(hva, 1, FOLL_WRITE);
    expect(entryAt(k, mm, hva) & PTE_D).toBe(PTE_D);
    expect(pteSpecial(entryAt(k, mm, hva))).toBe(true);
  });

  it('DUMP is -EFAULT; GUP-fast passes it by', () => {
    const hva = special();
    expect(get(hva, 1, FOLL_DUMP)).toBe(-EFAULT);
    expect(drive(getUserPagesFastOnly(k, USER, mm, hva, 1, 0, pages))).toBe(0);
    expect(pinFast(hva, 1, 0)).toBe(-EEXIST);
  });
});

describe('the zero page — 1.1, 1.3', () => {
  it('GET counts, PIN and unpin do not', () => {
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    const { zeroPage } = k.state;
    const before = folioRefCount(k, zeroPage);
    expect(get(hva, 1, 0)).toBe(1);
    expect([pages[0], folioRefCount(k, zeroPage)]).toEqual([zeroPage, before + 1]);
    folioPut(k, zeroPage);
    for (const take of [pin, pinFast]) {
      expect(take(hva, 1, 0)).toBe(1);
      expect([pages[0], folioRefCount(k, zeroPage)]).toEqual([zeroPage, before]);
      unpinUserPage(k, zeroPage);
    }
    expect(folioRefCount(k, zeroPage)).toBe(before);
    expect(k.state.stat.nr_foll_pin_acquired).toBe(0);
    expect(k.state.stat.nr_foll_pin_released).toBe(0);
  });

  it('a longterm pin replaces it, so that a later write of the process is seen: 2.5', () => {
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    expect(pinFast(hva, 1, FOLL_LONGTERM)).toBe(1);
    store(k, mm, hva, 5);
    expect(pageAt(k, mm, hva)).toBe(pages[0]);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});

describe('memory of a PCI peer — 1.1', () => {
  it('slow: -EREMOTEIO without FOLL_PCI_P2PDMA, by reference and by pin', () => {
    const { hva, page } = written();
    withFlags(page, PG_P2PDMA, () => {
      expect(pin(hva, 1, 0)).toBe(-EREMOTEIO);
      expect(get(hva, 1, FOLL_WRITE)).toBe(-EREMOTEIO);
      expect(pin(hva, 1, FOLL_PCI_P2PDMA)).toBe(1);
      unpinUserPage(k, page);
    });
    expect(violations(k)).toEqual([]);
  });

  it('as a driver maps it: a pin keeps the device from being unplugged', () => {
    const device = zoneDeviceCreate(k, PG_P2PDMA, 4);
    if (typeof device === 'number') throw new Error(`device: ${device}`);
    const page = zoneDeviceAlloc(k, device);
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    expect(vmInsertPage(k, vmaAt(hva), hva, page)).toBe(0);
    folioPut(k, page);
    expect([pin(hva, 1, 0), pinFast(hva, 1, 0)]).toEqual([-EREMOTEIO, -EREMOTEIO]);
    expect(pinFast(hva, 1, FOLL_PCI_P2PDMA)).toBe(1);
    drive(mmExit(k, mm));
    const removing = zoneDeviceRemove(k, device);
    expect(removing.next().value).toBe(YP_WAIT);
    unpinUserPage(k, page);
    expect(removing.next().done).toBe(true);
    expect(violations(k)).toEqual([]);
  });

  it('fast: left to the slow path, which refuses it; behind other pages the walk ends there', () => {
    const hva = mapAnon(k, mm, 2);
    store(k, mm, hva, 1);
    store(k, mm, hva + PAGE_SIZE, 1);
    withFlags(pageAt(k, mm, hva + PAGE_SIZE), PG_P2PDMA, () => {
      expect(drive(getUserPagesFastOnly(k, USER, mm, hva, 2, 0, pages))).toBe(1);
      folioPut(k, pages[0]!);
      expect(pinFast(hva + PAGE_SIZE, 1, 0)).toBe(-EREMOTEIO);
      expect(pinFast(hva, 2, 0)).toBe(1);
      unpinUserPage(k, pages[0]!);
      expect(pinFast(hva, 2, FOLL_PCI_P2PDMA)).toBe(2);
      unpinUserPages(k, pages, 2);
    });
    expect(violations(k)).toEqual([]);
  });
});

describe('longterm pins — 1.8', () => {
  it('memory of a device that has to move back is not pinnable for long; the zero page is', () => {
    const { page } = written();
    expect(folioIsLongtermPinnable(k, page)).toBe(true);
    expect(folioIsLongtermPinnable(k, k.state.zeroPage)).toBe(true);
    withFlags(page, PG_DEVICE_COHERENT, () => expect(folioIsLongtermPinnable(k, page)).toBe(false));
  });

  it('coherent memory that somebody holds: -EBUSY, and all pins of the call given back; a short pin is taken', () => {
    const hva = mapAnon(k, mm, 3);
    for (let i = 0; i < 3; i++) store(k, mm, hva + i * PAGE_SIZE, 7);
    const device = zoneDeviceCreate(k, PG_DEVICE_COHERENT, 1);
    if (typeof device === 'number') throw new Error(`device: ${device}`);
    expect(drive(migrateToDevice(k, pageAt(k, mm, hva + PAGE_SIZE), device))).toBe(0);
    const far = pageAt(k, mm, hva + PAGE_SIZE);
    folioGet(k, far);
    expect(pin(hva, 3, FOLL_WRITE | FOLL_LONGTERM)).toBe(-EBUSY);
    expect(pinsLive(k)).toBe(0);
    expect(pin(hva, 3, FOLL_WRITE)).toBe(3);
    unpinUserPages(k, pages, 3);
    // The fast path has one page in hand, whose pin it keeps.
    expect(pinFast(hva, 3, FOLL_WRITE | FOLL_LONGTERM)).toBe(1);
    unpinUserPages(k, pages, 1);
    folioPut(k, far);
    expect(pin(hva, 3, FOLL_WRITE | FOLL_LONGTERM)).toBe(3);
    expect(pageAt(k, mm, hva + PAGE_SIZE)).not.toBe(far);
    expect(load(k, mm, hva + PAGE_SIZE)).toBe(7);
    unpinUserPages(k, pages, 3);
    expect(violations(k)).toEqual([]);
  });
});

describe('merged pages — 1.5', () => {
  it('are never exclusive: a read-only pin gets a copy, a reference the merged page', () => {
    const hva = mapAnon(k, mm, 2);
    for (const at of [hva, hva + PAGE_SIZE]) store(k, mm, at, 9);
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    for (let i = 0; i < 3; i++) drive(ksmScan(k, mm));
    const merged = pageAt(k, mm, hva);
    expect(pageAt(k, mm, hva + PAGE_SIZE)).toBe(merged);
    expect(get(hva, 1, 0)).toBe(1);
    expect(pages[0]).toBe(merged);
    folioPut(k, merged);
    expect(pinFast(hva, 1, 0)).toBe(1);
    expect(pages[0]).not.toBe(merged);
    expect([pages[0], pageAnonExclusive(k, pages[0]!)]).toEqual([pageAt(k, mm, hva), true]);
    expect(pageAt(k, mm, hva + PAGE_SIZE)).toBe(merged);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});

describe('FOLL_FORCE for writing through a read-only entry — 1.6', () => {
  const force = FOLL_WRITE | FOLL_FORCE;
  /** A page whose COW is broken, in memory that is read-only now. */
  const broken = (): { hva: number; page: number } => {
    const found = written();
    drive(mprotect(k, mm, found.hva, PAGE_SIZE, PROT_READ));
    return found;
  };
  const faultsOf = (call: () => number): number => {
    const before = k.state.stat.pgfault;
    expect(call()).toBe(1);
    folioPut(k, pages[0]!);
    return k.state.stat.pgfault - before;
  };

  it('anonymous and exclusive: followed without a fault', () => {
    const { hva, page } = broken();
    expect(faultsOf(() => get(hva, 1, force))).toBe(0);
    expect(pages[0]).toBe(page);
  });

  it('shared by fork: a fault breaks COW first', () => {
    const { hva, page } = broken();
    const child = drive(fork(k, mm));
    expect(faultsOf(() => get(hva, 1, force))).toBe(1);
    expect(pages[0]).not.toBe(page);
    if (typeof child !== 'number') drive(mmExit(k, child));
  });

  it('of a private file mapping: the copy is followed, never the page of the file', () => {
    const file = shmemCreate(k, 1);
    const hva = mapFile(k, mm, file, MAP_PRIVATE, PROT_READ);
    load(k, mm, hva);
    expect(pageAt(k, mm, hva)).toBe(file.pages.get(0));
    expect(faultsOf(() => get(hva, 1, force))).toBe(1);
    expect(pages[0]).not.toBe(file.pages.get(0));
    expect(faultsOf(() => get(hva, 1, force))).toBe(0);
  });

  it('in a writable VMA it takes the ordinary write fault', () => {
    const { hva } = written();
    setPteAt(k, walkPte(k, mm, hva, false), pteWrprotect(entryAt(k, mm, hva)));
    expect(faultsOf(() => get(hva, 1, force))).toBe(1);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(true);
  });

  it('with soft-dirty tracking on a clean entry a fault is due', () => {
    const { hva } = broken();
    vmaAt(hva).flags &= ~VM_SOFTDIRTY;
    setPteAt(k, walkPte(k, mm, hva, false), pteClearSoftDirty(entryAt(k, mm, hva)));
    expect(faultsOf(() => get(hva, 1, force))).toBe(1);
    expect(faultsOf(() => get(hva, 1, force))).toBe(0);
  });

  it('with userfaultfd write protection a fault is due, and nobody handles it here', () => {
    const { hva } = broken();
    vmaAt(hva).flags |= VM_UFFD_WP;
    setPteAt(k, walkPte(k, mm, hva, false), pteMkuffdWp(entryAt(k, mm, hva)));
    expect(get(hva, 1, force)).toBe(-EFAULT);
    expect(get(hva, 1, force | FOLL_NOFAULT)).toBe(-EFAULT);
  });

  it('gives GUP-fast nothing: it falls back', () => {
    const { hva, page } = broken();
    expect(drive(getUserPagesFastOnly(k, USER, mm, hva, 1, force, pages))).toBe(0);
    expect(drive(getUserPagesFast(k, USER, mm, hva, 1, force, pages))).toBe(1);
    expect(pages[0]).toBe(page);
    folioPut(k, page);
  });
});

describe('counting — 1.3, 2.14', () => {
  const setRefs = (page: number, refs: number): void => {
    k.state.frames.refcount[page] = refs;
  };

  it('1024 references look like a pin: fork copies, and never the other way round', () => {
    const { hva, page } = written();
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    unpinUserPage(k, page);
    const many = new Int32Array(1);
    for (let i = 0; i < GUP_PIN_COUNTING_BIAS - 1; i++)
      drive(getUserPagesFast(k, USER, mm, hva, 1, 0, many));
    expect(folioMaybeDmaPinned(k, page)).toBe(true);
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(k.state.stat.fork_copied_pinned).toBe(1);
    expect(pageAt(k, child, hva)).not.toBe(page);
    folioPut(k, page, GUP_PIN_COUNTING_BIAS - 1);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('overflow is refused: slow -ENOMEM, fast nothing, by reference and by pin', () => {
    const { hva, page } = written();
    for (const [refs, gets, pins] of [
      [2 ** 31 - 1, false, false],
      [2 ** 31 - 2, true, false],
      [2 ** 31 - 1 - GUP_PIN_COUNTING_BIAS, true, true],
    ] as const) {
      setRefs(page, refs);
      expect(get(hva, 1, 0)).toBe(gets ? 1 : -ENOMEM);
      setRefs(page, refs);
      expect(pin(hva, 1, 0)).toBe(pins ? 1 : -ENOMEM);
      setRefs(page, refs);
      expect(pinFast(hva, 1, 0)).toBe(pins ? 1 : -ENOMEM);
      setRefs(page, refs);
      expect(k.state.frames.refcount[page]).toBeGreaterThan(0);
    }
    setRefs(page, -1);
    expect(get(hva, 1, 0)).toBe(-ENOMEM);
    expect(drive(getUserPagesFastOnly(k, USER, mm, hva, 1, 0, pages))).toBe(0);
    setRefs(page, 1);
  });

  it('folio_add_pins: only what is pinned already, and each counts', () => {
    const { hva, page } = written();
    expect(() => folioAddPins(k, page)).toThrow(/there was none/);
    expect(pin(hva, 1, FOLL_WRITE)).toBe(1);
    expect(folioAddPins(k, page)).toBe(0);
    expect(folioAddPins(k, page, 3)).toBe(0);
    expect([folioPinCount(k, page), pinsLive(k)]).toEqual([5, 5]);
    unpinUserPages(k, Int32Array.of(page, page, page, page, page), 5);
    expect([folioPinCount(k, page), pinsLive(k)]).toEqual([0, 0]);
    expect(folioAddPins(k, k.state.zeroPage, 4)).toBe(0);
    expect(violations(k)).toEqual([]);
  });
});
