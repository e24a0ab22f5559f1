/** COW, AnonExclusive and unsharing, rule by rule. Compare mm/memory.c:do_wp_page(), copy_present_ptes(). */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  drive,
  EFAULT,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  folioRefCount,
  fork,
  type HostProcess,
  handleMmFault,
  MAP_PRIVATE,
  mmap,
  nrFreePages,
  pageAnonExclusive,
  pageMapcount,
  pteDirty,
  pteSpecial,
  pteWrite,
  shmemCreate,
} from '#mm';
import { pinUserPagesUnlocked as pinUserPages, unpinUserPages, FOLL_WRITE } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import {
  forked,
  createProcess,
  createWorld,
  entryAt,
  exit,
  mapAnon,
  pageAt,
  RW,
  withPage,
} from './support.ts';

const unshare = (p: HostProcess, hva: number): number =>
  drive(handleMmFault(p.k, p.mm, hva, FAULT_FLAG_UNSHARE));

describe('first touch of anonymous memory', () => {
  it('a read maps the zero page, uncounted and read-only', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    expect(p.load32(hva)).toBe(0);
    expect(pageAt(p, hva)).toBe(w.k.state.zeroPage);
    expect(pteSpecial(entryAt(p, hva))).toBe(true);
    expect(pteWrite(entryAt(p, hva))).toBe(false);
    expect(pageMapcount(w.k, w.k.state.zeroPage)).toBe(0);
    expect(p.mm.rssAnon).toBe(0);
  });

  it('a write maps a page that is exclusive, writable and dirty', () => {
    const { w, p, hva, page } = withPage();
    expect(pageAnonExclusive(w.k, page)).toBe(true);
    expect(pteWrite(entryAt(p, hva)) && pteDirty(entryAt(p, hva))).toBe(true);
    expect(folioRefCount(w.k, page)).toBe(1);
    expect(p.mm.rssAnon).toBe(1);
  });

  it('a write after a read replaces the zero page by a page of zeros', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.load32(hva);
    p.store32(hva + 8, 3);
    expect(pageAt(p, hva)).not.toBe(w.k.state.zeroPage);
    expect(p.load32(hva)).toBe(0);
    expect(p.mm.rssAnon).toBe(1);
  });
});

describe('fork', () => {
  it('shares a page read-only on both sides, and it stops being exclusive', () => {
    const { w, p, hva, page } = withPage();
    const c = forked(w, p);
    expect(pageAt(c, hva)).toBe(page);
    expect(pteWrite(entryAt(p, hva)) || pteWrite(entryAt(c, hva))).toBe(false);
    expect(pageAnonExclusive(w.k, page)).toBe(false);
    expect(pageMapcount(w.k, page)).toBe(2);
    expect(folioRefCount(w.k, page)).toBe(2);
  });

  it('flushes the parent: its next store faults although the TLB had the page writable', () => {
    const { w, p, hva } = withPage();
    const c = forked(w, p);
    p.store32(hva, 2);
    expect(c.load32(hva)).toBe(1);
    expect(p.load32(hva)).toBe(2);
  });

  it('copies an exclusive page that is pinned at once; the parent keeps it, writable', () => {
    const { w, p, hva, page } = withPage();
    const pages = new Int32Array(1);
    expect(drive(pinUserPages(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    const c = forked(w, p);
    expect(w.k.state.stat.fork_copied_pinned).toBe(1);
    expect(pageAt(p, hva)).toBe(page);
    expect(pageAt(c, hva)).not.toBe(page);
    expect(pteWrite(entryAt(p, hva)) && pteWrite(entryAt(c, hva))).toBe(true);
    expect(pageAnonExclusive(w.k, page) && pageAnonExclusive(w.k, pageAt(c, hva))).toBe(true);
    expect(c.load32(hva)).toBe(1);
    unpinUserPages(w.k, pages, 1);
    assertKernel(w.k, { quiescent: true });
  });

  it('shares it all the same when forkSharesPinned takes the rule away, and the pin loses the page', () => {
    const { w, p, hva, page } = withPage();
    const pages = new Int32Array(1);
    drive(pinUserPages(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    w.k.sabotage.forkSharesPinned = true;
    forked(w, p);
    p.store32(hva, 2);
    expect(pageAt(p, hva)).not.toBe(page);
  });

  it('shares a page with 1024 plain references while the address space never pinned', () => {
    const { w, p, hva, page } = withPage();
    for (let i = 0; i < 1024; i++) folioGet(w.k, page);
    const c = forked(w, p);
    expect(pageAt(c, hva)).toBe(page);
    folioPut(w.k, page, 1024);
  });

  it('without memory for a pinned page is -ENOMEM, and nothing is left of the child', () => {
    const { w, p, hva } = withPage();
    drive(pinUserPages(w.k, p.mm, hva, 1, FOLL_WRITE, new Int32Array(1)));
    const before = w.k.state.mms.size;
    const hog = createProcess(w);
    const nrPages = nrFreePages(w.k);
    const big = mapAnon(hog, nrPages);
    let at = 0;
    while (nrFreePages(w.k) > 3 && hog.store32(big + at * PAGE_SIZE, 1) === 0) at++;
    expect(typeof drive(fork(w.k, p.mm))).toBe('number');
    exit(hog);
    expect(w.k.state.mms.size).toBe(before);
    expect(p.load32(hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });
});

describe('a write fault on a private page', () => {
  it('reuses an exclusive page whatever its reference count', () => {
    const { w, p, hva, page } = withPage();
    folioGet(w.k, page);
    expect(drive(handleMmFault(w.k, p.mm, hva, FAULT_FLAG_WRITE))).toBe(0);
    expect(pageAt(p, hva)).toBe(page);
    folioPut(w.k, page);
  });

  it('copies a shared page, and the last one left reuses it', () => {
    const { w, p, hva, page } = withPage();
    const c = forked(w, p);
    c.store32(hva, 2);
    expect(pageAt(c, hva)).not.toBe(page);
    p.store32(hva, 3);
    expect(pageAt(p, hva)).toBe(page);
    expect(pageAnonExclusive(w.k, page)).toBe(true);
    expect(w.k.state.stat.cow_copied).toBe(1);
    expect(w.k.state.stat.cow_reused).toBe(1);
  });

  it('copies a page that is not exclusive and that somebody else holds: the holder keeps the old one', () => {
    const { w, p, hva, page } = withPage();
    const c = forked(w, p);
    exit(c);
    folioGet(w.k, page);
    p.store32(hva, 9);
    expect(pageAt(p, hva)).not.toBe(page);
    expect(w.k.memory.u8[w.k.memory.pageOffset(page)]).toBe(1);
    folioPut(w.k, page);
    assertKernel(w.k, { quiescent: true });
  });

  it('of a private file mapping copies, and the file stays as it is', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_PRIVATE, mapping }),
    );
    p.load32(hva);
    const filePage = pageAt(p, hva);
    p.store32(hva, 7);
    expect(pageAt(p, hva)).not.toBe(filePage);
    expect(w.k.memory.u8[w.k.memory.pageOffset(filePage)]).toBe(0);
    expect([p.mm.rssAnon, p.mm.rssFile]).toEqual([1, 0]);
  });
});

describe('FAULT_FLAG_UNSHARE', () => {
  it('on a shared page copies into one that is exclusive and still read-only', () => {
    const { w, p, hva, page } = withPage();
    forked(w, p);
    expect(unshare(p, hva)).toBe(0);
    expect(pageAt(p, hva)).not.toBe(page);
    expect(pageAnonExclusive(w.k, pageAt(p, hva))).toBe(true);
    expect(pteWrite(entryAt(p, hva))).toBe(false);
    expect(pteDirty(entryAt(p, hva))).toBe(false);
    expect(p.load32(hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('on a page with a single user only makes it exclusive', () => {
    const { w, p, hva, page } = withPage();
    exit(forked(w, p));
    expect(pageAnonExclusive(w.k, page)).toBe(false);
    expect(unshare(p, hva)).toBe(0);
    expect(pageAt(p, hva)).toBe(page);
    expect(pageAnonExclusive(w.k, page)).toBe(true);
    expect(pteWrite(entryAt(p, hva))).toBe(false);
  });

  it('on an exclusive page changes nothing', () => {
    const { p, hva } = withPage();
    const entry = entryAt(p, hva);
    expect(unshare(p, hva)).toBe(0);
    expect(pageAt(p, hva)).toBe(pageAt(p, hva));
    expect(pteWrite(entryAt(p, hva))).toBe(pteWrite(entry));
  });

  it('together with WRITE is refused', () => {
    const { p, hva } = withPage();
    expect(drive(handleMmFault(p.k, p.mm, hva, FAULT_FLAG_UNSHARE | FAULT_FLAG_WRITE))).toBe(
      -EFAULT,
    );
  });
});
