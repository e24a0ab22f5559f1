/** iov_iter: moving over pieces, copying to them and from them, and who holds what of their pages (1.11). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  assertKernel,
  copyFromIter,
  copyPageFromIter,
  copyPageToIter,
  copyToIter,
  drive,
  EFAULT,
  type ExtractedPages,
  folioPinCount,
  folioRefCount,
  freePages,
  GFP_KERNEL,
  ITER_ALLOW_P2PDMA,
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterAdvance,
  iovIterBvec,
  iovIterDiscard,
  iovIterExtractPages,
  iovIterExtractWillPin,
  iovIterFolioq,
  iovIterGetPages2,
  iovIterGetPagesAlloc2,
  iovIterIovec,
  iovIterIsAligned,
  iovIterIsUser,
  iovIterKvec,
  iovIterNpages,
  iovIterPutPages,
  iovIterReexpand,
  iovIterRevert,
  iovIterTruncate,
  iovIterUbuf,
  iovIterXarray,
  iovIterZero,
  type HostProcess,
  type Kernel,
  PROT_READ,
  provenanceStart,
  shmemCreate,
  shmemRead,
  shmemWrite,
} from '#mm';
import { unpinUserPages } from '#mm/driver-api';
import { rng } from '../support/rng.ts';
import { expectNothingHeld, pattern, peek } from './iov-world.ts';
import { createProcess, createWorld, mapAnon, pageAt, type World } from './support.ts';

/** A process with `nr` written pages. */
const withPages = (nr: number): { w: World; p: HostProcess; hva: number } => {
  const w = createWorld(8 << 20);
  provenanceStart(w.k);
  const p = createProcess(w);
  const hva = mapAnon(p, nr);
  p.copyIn(hva, pattern(nr * PAGE_SIZE));
  return { w, p, hva };
};

const extract = (
  k: Kernel,
  p: HostProcess | null,
  it: IovIter,
  maxBytes = 1 << 20,
  maxPages = 256,
  flags = 0,
): ExtractedPages => {
  const got = drive(iovIterExtractPages(k, p?.mm ?? null, it, maxBytes, maxPages, flags));
  if (typeof got === 'number') throw new Error(`extract: ${got}`);
  return got;
};

const listOf = ({ pages, nrPages }: ExtractedPages): number[] => [...pages.subarray(0, nrPages)];

/** Frames of the kernel's own, next to each other. */
const frames = (k: Kernel, order: number): number => allocPages(k, order, GFP_KERNEL);

describe('moving over an iterator', () => {
  it('advance goes over pieces, empty ones too; revert goes back over them', () => {
    const it = iovIterIovec(ITER_DEST, [
      { hva: 100, lenBytes: 10 },
      { hva: 200, lenBytes: 0 },
      { hva: 300, lenBytes: 10 },
    ]);
    expect(it.count).toBe(20);
    iovIterAdvance(it, 10);
    expect([it.piece, it.done, it.count]).toEqual([2, 0, 10]);
    iovIterAdvance(it, 7);
    iovIterRevert(it, 12);
    expect([it.piece, it.done, it.count]).toEqual([0, 5, 15]);
    iovIterAdvance(it, 100);
    expect(it.count).toBe(0);
    iovIterRevert(it, 20);
    expect([it.piece, it.done, it.count]).toEqual([0, 0, 20]);
    expect(() => iovIterRevert(it, 1)).toThrow(/beginning/);
  });

  it('truncate and reexpand change where it ends', () => {
    const it = iovIterUbuf(ITER_SOURCE, 0, 100);
    iovIterTruncate(it, 30);
    iovIterAdvance(it, 20);
    expect(it.count).toBe(10);
    iovIterReexpand(it, 80);
    iovIterTruncate(it, 100);
    expect(it.count).toBe(80);
  });

  it('is aligned where every piece that is left begins and ends so', () => {
    const it = iovIterIovec(ITER_DEST, [
      { hva: 0x1200, lenBytes: 0x200 },
      { hva: 0x2000, lenBytes: 0x201 },
    ]);
    expect(iovIterIsAligned(it, 512)).toBe(false);
    iovIterTruncate(it, 0x400);
    expect(iovIterIsAligned(it, 512)).toBe(true);
    iovIterAdvance(it, 1);
    expect(iovIterIsAligned(it, 512)).toBe(false);
    expect(
      iovIterIsAligned(iovIterBvec(ITER_DEST, [{ page: 1, offset: 8, lenBytes: 512 }]), 512),
    ).toBe(false);
    expect(iovIterIsAligned(iovIterUbuf(ITER_DEST, 0x40_0000_0200, 512), 512)).toBe(true);
  });

  it('counts the pages that it touches', () => {
    const pieces = [
      { hva: PAGE_SIZE - 1, lenBytes: 2 },
      { hva: 0, lenBytes: 0 },
      { hva: 8 * PAGE_SIZE, lenBytes: PAGE_SIZE },
    ];
    expect(iovIterNpages(iovIterIovec(ITER_DEST, pieces), 100)).toBe(3);
    expect(iovIterNpages(iovIterIovec(ITER_DEST, pieces), 2)).toBe(2);
    expect(iovIterNpages(iovIterUbuf(ITER_DEST, 5, 0), 2)).toBe(0);
  });
});

describe('copying', () => {
  it('to user memory and from it, across pieces; faults are taken', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 4);
    const pieces = [
      { hva: hva + 10, lenBytes: PAGE_SIZE },
      { hva: hva + 2 * PAGE_SIZE, lenBytes: 100 },
    ];
    const bytes = pattern(PAGE_SIZE + 100);
    const to = iovIterIovec(ITER_DEST, pieces);
    expect(drive(copyToIter(w.k, p.mm, to, bytes))).toBe(bytes.length);
    expect(to.count).toBe(0);
    expect(peek(p, hva + 10, PAGE_SIZE)).toEqual(bytes.subarray(0, PAGE_SIZE));
    const into = new Uint8Array(bytes.length + 5);
    expect(drive(copyFromIter(w.k, p.mm, iovIterIovec(ITER_SOURCE, pieces), into))).toBe(
      bytes.length,
    );
    expect(into.subarray(0, bytes.length)).toEqual(bytes);
  });

  it('ends where memory is missing, after what could be copied', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    const it = iovIterUbuf(ITER_DEST, hva + PAGE_SIZE - 3, 10);
    expect(drive(copyToIter(w.k, p.mm, it, new Uint8Array(10)))).toBe(3);
    expect(it.count).toBe(7);
  });

  it('with nofault takes none: what is not mapped cannot be reached', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 2);
    p.store8(hva, 1);
    const it = iovIterUbuf(ITER_DEST, hva, 2 * PAGE_SIZE);
    it.nofault = true;
    expect(drive(copyToIter(w.k, p.mm, it, new Uint8Array(2 * PAGE_SIZE)))).toBe(PAGE_SIZE);
    expect(pageAt(p, hva + PAGE_SIZE)).toBe(-1);
    expect(drive(iovIterExtractPages(w.k, p.mm, it, PAGE_SIZE, 1, 0))).toBe(-EFAULT);
    it.nofault = false;
    expect(drive(copyToIter(w.k, p.mm, it, new Uint8Array(1)))).toBe(1);
  });

  it('every kind of kernel memory: kvec and bvec by frame, folioq by folio, xarray by file', () => {
    const { k } = createWorld();
    const run = frames(k, 2);
    const bytes = pattern(3 * PAGE_SIZE);
    const file = shmemCreate(k, 4);
    drive(shmemWrite(k, file, 0, new Uint8Array(4 * PAGE_SIZE)));
    const iters: [string, () => IovIter][] = [
      ['kvec', () => iovIterKvec(0, [{ page: run, offset: 50, lenBytes: bytes.length }])],
      [
        'bvec',
        () =>
          iovIterBvec(0, [
            { page: run + 1, offset: 0, lenBytes: 5 },
            { page: run, offset: 9, lenBytes: bytes.length - 5 },
          ]),
      ],
      ['folioq', () => iovIterFolioq(k, 0, [run, run + 3, run + 2, run + 1], 77, bytes.length)],
      ['xarray', () => iovIterXarray(0, file, 99, bytes.length)],
    ];
    for (const [kind, make] of iters) {
      expect(drive(copyToIter(k, null, make(), bytes)), kind).toBe(bytes.length);
      const into = new Uint8Array(bytes.length);
      expect(drive(copyFromIter(k, null, make(), into)), kind).toBe(bytes.length);
      if (kind !== 'bvec') expect(into, kind).toEqual(bytes);
    }
    const into = new Uint8Array(3);
    shmemRead(k, file, 99, into);
    expect(into).toEqual(bytes.subarray(0, 3));
  });

  it('xarray ends at a page that the cache does not have; discard swallows everything', () => {
    const { k } = createWorld();
    const file = shmemCreate(k, 3);
    drive(shmemWrite(k, file, 0, new Uint8Array(PAGE_SIZE)));
    const it = iovIterXarray(ITER_DEST, file, PAGE_SIZE - 10, 100);
    expect(drive(copyToIter(k, null, it, new Uint8Array(100)))).toBe(10);
    const nowhere = iovIterDiscard(50);
    expect(drive(copyToIter(k, null, nowhere, new Uint8Array(100)))).toBe(50);
    expect(nowhere.count).toBe(0);
  });

  it('pages and zeroes, as well as bytes', () => {
    const { w, p, hva } = withPages(3);
    const page = frames(w.k, 0);
    w.k.memory.setBytes(w.k.memory.pageOffset(page), pattern(PAGE_SIZE, 9));
    const to = iovIterUbuf(ITER_DEST, hva + 100, 3000);
    expect(drive(copyPageToIter(w.k, p.mm, to, page, 1000, 2000))).toBe(2000);
    expect(peek(p, hva + 100, 2000)).toEqual(pattern(PAGE_SIZE, 9).subarray(1000, 3000));
    expect(drive(iovIterZero(w.k, p.mm, to, 5000))).toBe(1000);
    expect(peek(p, hva + 2100, 1000)).toEqual(new Uint8Array(1000));
    const from = iovIterUbuf(ITER_SOURCE, hva + PAGE_SIZE, PAGE_SIZE);
    expect(drive(copyPageFromIter(w.k, p.mm, from, page, 5, 10))).toBe(10);
    expect(w.k.memory.u8[w.k.memory.pageOffset(page) + 5]).toBe(pattern(3 * PAGE_SIZE)[PAGE_SIZE]);
    freePages(w.k, page, 0);
  });

  it('user memory without an address space is a bug', () => {
    const { k } = createWorld();
    const it = iovIterUbuf(ITER_DEST, 0, 1);
    expect(() => drive(copyToIter(k, null, it, new Uint8Array(1)))).toThrow(/address space/);
  });
});

describe('iov_iter_extract_pages()', () => {
  it('pins user memory: for writing exactly where data flows into it', () => {
    const w = createWorld();
    provenanceStart(w.k);
    const p = createProcess(w);
    const hva = mapAnon(p, 1, PROT_READ);
    const to = iovIterUbuf(ITER_DEST, hva, 1);
    expect(drive(iovIterExtractPages(w.k, p.mm, to, 1, 1, 0))).toBe(-EFAULT);
    const from = iovIterUbuf(ITER_SOURCE, hva, 1);
    const got = extract(w.k, p, from);
    expect(got.nrPages).toBe(1);
    unpinUserPages(w.k, got.pages, got.nrPages);
    expectNothingHeld(w);
  });

  it('one piece a call, from an offset in the first page; the iterator goes on', () => {
    const { w, p, hva } = withPages(4);
    const it = iovIterIovec(ITER_DEST, [
      { hva, lenBytes: 0 },
      { hva: hva + 100, lenBytes: PAGE_SIZE },
      { hva: hva + 3 * PAGE_SIZE, lenBytes: 8 },
    ]);
    const first = extract(w.k, p, it);
    expect([first.offset, first.lenBytes]).toEqual([100, PAGE_SIZE]);
    expect(listOf(first)).toEqual([pageAt(p, hva), pageAt(p, hva + PAGE_SIZE)]);
    expect(folioPinCount(w.k, pageAt(p, hva))).toBe(1);
    const second = extract(w.k, p, it);
    expect([second.offset, second.lenBytes, second.nrPages]).toEqual([0, 8, 1]);
    expect(drive(iovIterExtractPages(w.k, p.mm, it, 1, 1, 0))).toBe(0);
    for (const { pages, nrPages } of [first, second]) unpinUserPages(w.k, pages, nrPages);
    expectNothingHeld(w);
  });

  it('no more bytes and no more pages than were asked for', () => {
    const { w, p, hva } = withPages(4);
    const it = iovIterUbuf(ITER_DEST, hva + 10, 4 * PAGE_SIZE - 10);
    const a = extract(w.k, p, it, 100);
    expect([a.nrPages, a.lenBytes]).toEqual([1, 100]);
    const b = extract(w.k, p, it, 1 << 20, 2);
    expect([b.nrPages, b.offset, b.lenBytes]).toEqual([2, 110, 2 * PAGE_SIZE - 110]);
    for (const { pages, nrPages } of [a, b]) unpinUserPages(w.k, pages, nrPages);
  });

  it('comes back short where memory ends, and the next call says why', () => {
    const { w, p, hva } = withPages(2);
    const it = iovIterUbuf(ITER_DEST, hva, 5 * PAGE_SIZE);
    const got = extract(w.k, p, it);
    expect(got.lenBytes).toBe(2 * PAGE_SIZE);
    expect(drive(iovIterExtractPages(w.k, p.mm, it, PAGE_SIZE, 1, 0))).toBe(-EFAULT);
    unpinUserPages(w.k, got.pages, got.nrPages);
    expectNothingHeld(w);
  });

  it('everything else is listed and held by nobody; discard has no pages', () => {
    const w = createWorld();
    const { k } = w;
    const run = frames(k, 2);
    const file = shmemCreate(k, 3);
    drive(shmemWrite(k, file, 0, new Uint8Array(2 * PAGE_SIZE)));
    const cases: [IovIter, number[], number, number][] = [
      [
        iovIterKvec(0, [{ page: run, offset: 10, lenBytes: PAGE_SIZE }]),
        [run, run + 1],
        10,
        PAGE_SIZE,
      ],
      [
        iovIterBvec(0, [
          { page: run, offset: 10, lenBytes: 20 },
          { page: run + 1, offset: 0, lenBytes: 1 },
        ]),
        [run],
        10,
        20,
      ],
      [iovIterFolioq(k, 0, [run, run + 2], 5, 5000), [run, run + 2], 5, 5000],
      [
        iovIterXarray(0, file, 100, 3 * PAGE_SIZE),
        [file.pages.get(0) ?? -1, file.pages.get(1) ?? -1],
        100,
        2 * PAGE_SIZE - 100,
      ],
    ];
    for (const [it, pages, offset, lenBytes] of cases) {
      expect(iovIterExtractWillPin(it), it.kind).toBe(false);
      const before = folioRefCount(k, pages[0] ?? -1);
      const got = extract(k, null, it);
      expect([listOf(got), got.offset, got.lenBytes], it.kind).toEqual([pages, offset, lenBytes]);
      expect(folioRefCount(k, pages[0] ?? -1), it.kind).toBe(before);
    }
    expect(drive(iovIterExtractPages(k, null, iovIterDiscard(1), 1, 1, 0))).toBe(-EFAULT);
    expect(iovIterExtractWillPin(iovIterUbuf(0, 0, 1))).toBe(true);
    assertKernel(k);
  });

  it('bvecs go on into the next where it begins a page and the last ended one', () => {
    const { k } = createWorld();
    const run = frames(k, 3);
    const it = iovIterBvec(ITER_SOURCE, [
      { page: run, offset: 100, lenBytes: PAGE_SIZE - 100 },
      { page: run + 4, offset: 0, lenBytes: 2 * PAGE_SIZE },
      { page: run + 2, offset: 1, lenBytes: 5 },
    ]);
    const got = extract(k, null, it);
    expect(listOf(got)).toEqual([run, run + 4, run + 5]);
    expect(got.lenBytes).toBe(3 * PAGE_SIZE - 100);
    expect(extract(k, null, it).offset).toBe(1);
  });

  it('asks for peer-to-peer memory only where the caller allows it', () => {
    const { w, p, hva } = withPages(1);
    const it = iovIterUbuf(ITER_SOURCE, hva, 1);
    const got = extract(w.k, p, it, 1, 1, ITER_ALLOW_P2PDMA);
    const hold = w.k.state.provenance?.holds.get(pageAt(p, hva))?.[0];
    expect((hold?.flags ?? 0) & (1 << 10)).not.toBe(0);
    unpinUserPages(w.k, got.pages, got.nrPages);
  });
});

describe('iov_iter_get_pages2()', () => {
  it('takes a plain reference of user memory, under the name of its row', () => {
    const { w, p, hva } = withPages(2);
    const it = iovIterUbuf(ITER_DEST, hva, 2 * PAGE_SIZE);
    const got = drive(iovIterGetPagesAlloc2(w.k, 'nfs-dio', p.mm, it, 1 << 20));
    if (typeof got === 'number') throw new Error(`get: ${got}`);
    const page = pageAt(p, hva);
    expect([folioRefCount(w.k, page), folioPinCount(w.k, page)]).toEqual([2, 0]);
    expect(w.k.state.provenance?.holds.get(page)?.[0]?.user).toBe('nfs-dio');
    iovIterPutPages(w.k, 'nfs-dio', got.pages, got.nrPages);
    expectNothingHeld(w);
  });

  it('is refused where the policy gives the row something else', () => {
    const { w, p, hva } = withPages(1);
    const it = iovIterUbuf(ITER_DEST, hva, 1);
    expect(() => drive(iovIterGetPages2(w.k, 'block-dio', p.mm, it, 1, 1))).toThrow(/block-dio/);
  });

  it('takes a reference of bvec, folioq and xarray pages; kvec and discard are -EFAULT', () => {
    const w = createWorld();
    provenanceStart(w.k);
    const { k } = w;
    const page = frames(k, 0);
    const file = shmemCreate(k, 1);
    drive(shmemWrite(k, file, 0, new Uint8Array(1)));
    const cached = file.pages.get(0) ?? -1;
    const cases: [IovIter, number][] = [
      [iovIterBvec(0, [{ page, offset: 0, lenBytes: 1 }]), page],
      [iovIterFolioq(k, 0, [page], 0, 1), page],
      [iovIterXarray(0, file, 0, 1), cached],
    ];
    for (const [it, held] of cases) {
      const got = drive(iovIterGetPages2(k, 'ceph-dio', null, it, 1, 1));
      if (typeof got === 'number') throw new Error(`${it.kind}: ${got}`);
      expect(folioRefCount(k, held), it.kind).toBe(2);
      iovIterPutPages(k, 'ceph-dio', got.pages, got.nrPages);
      expect(folioRefCount(k, held), it.kind).toBe(1);
    }
    const kvec = iovIterKvec(0, [{ page, offset: 0, lenBytes: 1 }]);
    expect(drive(iovIterGetPages2(k, 'ceph-dio', null, kvec, 1, 1))).toBe(-EFAULT);
    expect(drive(iovIterGetPages2(k, 'ceph-dio', null, iovIterDiscard(1), 1, 1))).toBe(-EFAULT);
    freePages(k, page, 0);
    expectNothingHeld(w);
  });
});

describe('any way through an iterator (seeded)', () => {
  it('copying, extracting and going back visit the same bytes in the same order', () => {
    const { w, p, hva } = withPages(16);
    for (let seed = 1; seed <= 40; seed++) {
      const random = rng(seed);
      const all = pattern(16 * PAGE_SIZE);
      const pieces = Array.from({ length: 1 + random.below(6) }, () => {
        const at = random.below(12 * PAGE_SIZE);
        return { hva: hva + at, lenBytes: random.below(4 * PAGE_SIZE) };
      });
      const wanted = pieces.flatMap((v) => [
        ...all.subarray(v.hva - hva, v.hva - hva + v.lenBytes),
      ]);
      const it = iovIterIovec(ITER_SOURCE, pieces);
      expect(iovIterIsUser(it)).toBe(true);
      const seen: number[] = [];
      while (it.count > 0) {
        const most = 1 + random.below(3 * PAGE_SIZE);
        if (random.below(2) === 0) {
          const into = new Uint8Array(most);
          const n = drive(copyFromIter(w.k, p.mm, it, into));
          seen.push(...into.subarray(0, n));
        } else {
          const { pages, nrPages, offset, lenBytes } = extract(
            w.k,
            p,
            it,
            most,
            1 + random.below(3),
          );
          for (let i = 0; i < lenBytes; i++) {
            const page = pages[Math.floor((offset + i) / PAGE_SIZE)] ?? -1;
            seen.push(
              w.k.memory.u8[w.k.memory.pageOffset(page) + ((offset + i) % PAGE_SIZE)] ?? -1,
            );
          }
          unpinUserPages(w.k, pages, nrPages);
        }
        if (random.below(4) === 0) {
          const back = random.below(seen.length + 1);
          iovIterRevert(it, back);
          seen.length -= back;
        }
      }
      expect(Buffer.compare(Buffer.from(seen), Buffer.from(wanted)), `seed ${seed}`).toBe(0);
      expectNothingHeld(w);
    }
  });
});
