/** What pins promise, page by page, with provenance on: I2, I4 and I13 of the facts sheet, section 6. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  type HostProcess,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  type Kernel,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  madvise,
  memoryFailure,
  mmap,
  mremap,
  munmap,
  pageAnonExclusive,
  provenanceStart,
  shmemCreate,
} from '#mm';
import { FOLL_LONGTERM, FOLL_WRITE, pinUserPagesFast, unpinUserPage } from '#mm/driver-api';
import { PG_ANON_EXCLUSIVE } from '../../mm/frames/table.ts';
import { forked, createProcess, createWorld, mapAnon, pageAt, RW, type World } from './support.ts';

const MREMAP_MAYMOVE_FIXED = 3;

let w: World;
let k: Kernel;
let p: HostProcess;
let hva: number;
beforeEach(() => {
  w = createWorld(32 << 20);
  k = w.k;
  p = createProcess(w);
  hva = mapAnon(p, 4);
  for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, i);
  provenanceStart(k);
  k.checked = false;
});

const check = (): string => checkKernel(k, { quiescent: true }).join('\n');
/** @returns the page */
const pin = (at = hva, flags = FOLL_WRITE): number => {
  const pages = new Int32Array(1);
  expect(drive(pinUserPagesFast(k, p.mm, at, 1, flags, pages))).toBe(1);
  return pages[0]!;
};
const forkOf = (): HostProcess => forked(w, p);

describe('I4: the page that was pinned is the page that is mapped', () => {
  it('through fork and writes on both sides, for a pin of either sort', () => {
    pin();
    const child = forkOf();
    pin(hva + PAGE_SIZE, FOLL_LONGTERM);
    for (const q of [p, child])
      for (let i = 0; i < 4; i++) expect(q.store32(hva + i * PAGE_SIZE, 9)).toBe(0);
    expect(check()).toBe('');
  });

  it('is broken where a read-only pin does not unshare, and the process writes', () => {
    forkOf();
    k.sabotage.neverUnshare = true;
    pin(hva, FOLL_LONGTERM);
    p.store32(hva, 9);
    expect(check()).toMatch(
      /^I4 mm \d+: hva 0x\w+: page \d+, pinned by somebody \(pin_user_pages_fast\(\), call 1\), is not mapped there any more/m,
    );
  });

  it('is broken where fork shares what is pinned, and the process writes', () => {
    pin();
    k.sabotage.forkSharesPinned = true;
    forkOf();
    p.store32(hva, 9);
    expect(check()).toMatch(/^I4 /m);
  });

  it('asks for nothing after the memory was unmapped', () => {
    for (const unmap of [
      () => madvise(k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED),
      () => munmap(k, p.mm, hva + PAGE_SIZE, PAGE_SIZE),
    ]) {
      pin();
      pin(hva + PAGE_SIZE);
      expect(drive(unmap())).toBe(0);
      if (p.store32(hva, 5) === 0) expect(check()).toBe('');
    }
    const again = { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_PRIVATE | MAP_ANONYMOUS };
    expect(drive(mmap(k, p.mm, { ...again, hva: hva + PAGE_SIZE }))).toBe(hva + PAGE_SIZE);
    p.store32(hva + PAGE_SIZE, 6);
    expect(check()).toBe('');
  });

  it('goes along when mremap moves the mapping', () => {
    const page = pin();
    const to = 0x5000_0000;
    const moved = drive(
      mremap(k, p.mm, hva, 4 * PAGE_SIZE, 4 * PAGE_SIZE, MREMAP_MAYMOVE_FIXED, to),
    );
    expect(moved).toBe(to);
    expect(pageAt(p, moved)).toBe(page);
    expect(check()).toBe('');
    expect(k.state.provenance!.holds.get(page)).toMatchObject([{ hva: moved, zapped: false }]);
    k.sabotage.forkSharesPinned = true;
    forkOf();
    p.store32(moved, 9);
    expect(check()).toMatch(new RegExp(`^I4 mm \\d+: hva 0x${moved.toString(16)}`, 'm'));
  });

  it("of a file's page in a private mapping: a long pin for reading is unshared, a short one is not", () => {
    const mapping = shmemCreate(k, 2);
    const request = { lenBytes: 2 * PAGE_SIZE, prot: RW, flags: MAP_PRIVATE, mapping, pgoff: 0 };
    const at = drive(mmap(k, p.mm, request));
    p.load32(at);
    const short = pin(at, 0);
    p.store32(at, 1);
    expect(pageAt(p, at)).not.toBe(short);
    expect(check()).toBe('');
    p.load32(at + PAGE_SIZE);
    const long = pin(at + PAGE_SIZE, FOLL_LONGTERM);
    p.store32(at + PAGE_SIZE, 1);
    expect(pageAt(p, at + PAGE_SIZE)).toBe(long);
    expect(check()).toBe('');
  });

  it('is no promise against memory that breaks', () => {
    const page = pin();
    drive(memoryFailure(k, page));
    expect(check()).toBe('');
  });

  it('hugetlb: through fork and copies', () => {
    hugetlbSetPool(k, HUGETLB_ORDER_2M, 4);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    const at = drive(mmap(k, p.mm, { lenBytes: 2 << 20, prot: RW, flags }));
    p.store32(at, 1);
    pin(at + 3 * PAGE_SIZE);
    const child = forkOf();
    for (const q of [p, child]) q.store32(at, 2);
    expect(check()).toBe('');
  });
});

describe('I2, page by page', () => {
  it('of a large folio the page itself must be exclusive, not any other', () => {
    k.state.thp.always = 1 << 9;
    const at = mapAnon(p, 512, RW, 0x4000_0000);
    p.store32(at, 1);
    const page = pin(at + 3 * PAGE_SIZE);
    expect(check()).toBe('');
    // By one entry the head says it; by entries of their own each page does.
    drive(madvise(k, p.mm, at + 9 * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
    expect(pageAnonExclusive(k, page)).toBe(true);
    expect(check()).toBe('');
    k.state.frames.flags[page]! &= ~PG_ANON_EXCLUSIVE;
    expect(check()).toMatch(
      new RegExp(`^I2 page ${page}: pinned by somebody .* not exclusive`, 'm'),
    );
    k.state.frames.flags[page]! |= PG_ANON_EXCLUSIVE;
    unpinUserPage(k, page);
  });
});

describe('I13: what is written for one process no other one sees', () => {
  it('a child gets bytes of its own for what is pinned', () => {
    pin();
    forkOf();
    expect(check()).toBe('');
  });

  it('is broken where fork shares what is pinned', () => {
    pin();
    k.sabotage.forkSharesPinned = true;
    const child = forkOf();
    drive(munmap(k, p.mm, hva, PAGE_SIZE));
    expect(check()).toMatch(
      new RegExp(
        `^I13 page \\d+: .* writes it for mm ${p.mm.id}, and mm ${child.mm.id} sees it`,
        'm',
      ),
    );
  });
});
