/**
 * GUP on DAX files, and what has to wait for it (1.8): the page is the block, so a short hold delays
 * truncation and a long one is refused. Compare fs/dax.c:dax_break_layout().
 */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  checkKernel,
  createPolicy,
  daxBusyPages,
  drive,
  EBUSY,
  EFAULT,
  EINTR,
  EOPNOTSUPP,
  explainFrame,
  extentCreate,
  extentUnlink,
  filePunchHole,
  fileRead,
  fileTruncate,
  fileWrite,
  folioMaybeDmaPinned,
  folioRefCount,
  gupTestGetFast,
  gupTestPut,
  ioUringRegisterBuffer,
  MAP_PRIVATE,
  mappingPut,
  memoryFailure,
  migrateFolio,
  munmap,
  type Path,
  provenanceStart,
  SIGNAL_PENDING,
  sendSignal,
  signalHandled,
  vfsFsync,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_LAYOUT_BREAK,
  YP_WAIT,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  nameGupUser,
  pinUserPagesFast,
  pinUserPagesUnlocked,
  unpinUserPages,
  unpinUserPagesDirtyLock,
  writePinnedPage,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import {
  AT,
  blockPage,
  type DaxWorld,
  daxWorld,
  mapFile,
  pageOf,
  powerFail,
  wordOf,
} from './dax-world.ts';
import { exit, pageAt, stepTo, settled } from './support.ts';

const pinFast = ({ k, p }: DaxWorld, pgoff: number, flags: number, pages: Int32Array): number =>
  drive(pinUserPagesFast(k, p.mm, AT + pgoff * PAGE_SIZE, pages.length, flags, pages));

/** A device stores a word at the beginning of a page that it has pinned. */
const dmaWrite = ({ k }: DaxWorld, page: number, value: number): void =>
  writePinnedPage(k, page, 0, pageOf(value), 0, 4);

/** Steps a path once with its yields taken: what it yielded, or that it is done. */
const step = <T>(d: DaxWorld, path: Path<T>): IteratorResult<number, T> => {
  d.k.watched = true;
  const result = path.next();
  d.k.watched = false;
  return result;
};

/** Goes on to the end. @throws Error where it waits for ever */
const finish = <T>(d: DaxWorld, path: Path<T>): T => {
  for (let i = 0; i < 1000; i++) {
    const result = step(d, path);
    if (result.done === true) return result.value;
  }
  throw new Error('the path does not end');
};

describe('GUP on a DAX file (1.3, 1.4)', () => {
  it('a short pin counts the block by 1024, slow and fast', () => {
    const d = daxWorld();
    const pages = new Int32Array(2);
    expect(drive(pinUserPagesUnlocked(d.k, d.p.mm, AT, 2, FOLL_WRITE, pages))).toBe(2);
    expect([...pages]).toEqual([blockPage(d, 0), blockPage(d, 1)]);
    expect(folioRefCount(d.k, pages[0] ?? 0)).toBe(1 + 1024);
    const again = new Int32Array(2);
    expect(pinFast(d, 0, FOLL_WRITE, again)).toBe(2);
    expect(folioRefCount(d.k, pages[0] ?? 0)).toBe(1 + 2 * 1024);
    unpinUserPages(d.k, pages, 2);
    unpinUserPages(d.k, again, 2);
    settled(d);
  });

  it('a plain reference is allowed as well', () => {
    const d = daxWorld();
    const pages = new Int32Array(1);
    d.p.load32(AT);
    expect(drive(gupTestGetFast(d.k, d.p.mm, AT, 1, 0, pages))).toBe(1);
    expect(folioRefCount(d.k, pages[0] ?? 0)).toBe(2);
    gupTestPut(d.k, pages, 1);
    settled(d);
  });

  it('what a device writes through the pin the process, read() and the medium have', () => {
    const d = daxWorld();
    const pages = new Int32Array(1);
    pinFast(d, 2, FOLL_WRITE, pages);
    dmaWrite(d, pages[0] ?? 0, 77);
    drive(unpinUserPagesDirtyLock(d.k, pages, 1, true));
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(77);
    const bytes = new Uint8Array(4);
    drive(fileRead(d.k, d.file, 2 * PAGE_SIZE, bytes));
    expect(wordOf(bytes)).toBe(77);
    settled(d);
  });

  it('a hole that is pinned for reading is the zero page, whose pins count nothing', () => {
    const d = daxWorld(2, false);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesUnlocked(d.k, d.p.mm, AT, 1, 0, pages))).toBe(1);
    expect(pages[0]).toBe(d.k.state.zeroPage);
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('a read-only pin of a private mapping takes the block, a write one the copy', () => {
    const d = daxWorld(2);
    drive(munmap(d.k, d.p.mm, AT, 2 * PAGE_SIZE));
    mapFile(d.p, d.file, 2, { flags: MAP_PRIVATE });
    const pages = new Int32Array(1);
    pinFast(d, 0, 0, pages);
    expect(pages[0]).toBe(blockPage(d, 0));
    unpinUserPages(d.k, pages, 1);
    pinFast(d, 0, FOLL_WRITE, pages);
    expect(pages[0]).toBe(pageAt(d.p, AT));
    expect(pages[0]).not.toBe(blockPage(d, 0));
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('every reference of a block is explained: entries and holds, and no cache', () => {
    const d = daxWorld(2);
    provenanceStart(d.k);
    const pages = new Int32Array(1);
    nameGupUser(d.k, 'dma-engine');
    pinFast(d, 0, FOLL_WRITE, pages);
    const { cache, entries, holds, pins, unexplained } = explainFrame(d.k, blockPage(d, 0));
    expect([cache, entries.length, pins]).toEqual([null, 1, 1]);
    expect(holds.map(({ user }) => user)).toEqual(['dma-engine']);
    expect(unexplained).toEqual({ pins: 0, references: 0 });
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('a block is never migrated: it is where it is', () => {
    const d = daxWorld();
    d.p.load32(AT);
    expect(drive(migrateFolio(d.k, blockPage(d, 0)))).toBeLessThan(0);
    expect(pageAt(d.p, AT)).toBe(blockPage(d, 0));
    settled(d);
  });
});

describe('FOLL_LONGTERM on a DAX file (1.8)', () => {
  for (const write of [0, FOLL_WRITE])
    for (const flags of ['shared', 'private'] as const)
      it(`is -EOPNOTSUPP, ${write === 0 ? 'for reading' : 'for writing'}, ${flags}, slow and fast`, () => {
        const d = daxWorld(2);
        if (flags === 'private') {
          drive(munmap(d.k, d.p.mm, AT, 2 * PAGE_SIZE));
          mapFile(d.p, d.file, 2, { flags: MAP_PRIVATE });
        }
        const pages = new Int32Array(2);
        const all = FOLL_LONGTERM | write;
        expect(pinFast(d, 0, all, pages)).toBe(-EOPNOTSUPP);
        // Mapped, so that GUP-fast finds the entries: it refuses the folio, and the slow walk the VMA.
        for (let i = 0; i < 2; i++)
          if (write === 0) d.p.load32(AT + i * PAGE_SIZE);
          else d.p.store32(AT + i * PAGE_SIZE, i);
        expect(pinFast(d, 0, all, pages)).toBe(
          flags === 'private' && write !== 0 ? 2 : -EOPNOTSUPP,
        );
        if (flags === 'private' && write !== 0) unpinUserPages(d.k, pages, 2);
        expect(drive(pinUserPagesUnlocked(d.k, d.p.mm, AT, 2, all, pages))).toBe(-EOPNOTSUPP);
        settled(d);
      });

  it('so fixed buffers of io_uring cannot be DAX', () => {
    const d = daxWorld();
    expect(drive(ioUringRegisterBuffer(d.k, d.p.mm, AT, PAGE_SIZE))).toBe(-EOPNOTSUPP);
    settled(d);
  });
});

describe('breaking a layout (1.8): truncation waits until nobody holds the page', () => {
  /** A file whose page 2 is pinned for writing, and a truncation to two pages that waits for it. */
  const waiting = (): { d: DaxWorld; pages: Int32Array; truncation: Path<number> } => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    pinFast(d, 2, FOLL_WRITE, pages);
    const truncation = fileTruncate(d.k, d.file, 2 * PAGE_SIZE);
    stepTo(d.k, truncation, YP_LAYOUT_BREAK);
    return { d, pages, truncation };
  };

  it('the page is unmapped, the block is still the file’s, and the device may write to it', () => {
    const { d, pages, truncation } = waiting();
    expect(pageAt(d.p, AT + 2 * PAGE_SIZE)).toBe(-1);
    expect(blockPage(d, 2)).toBe(pages[0]);
    expect(d.file.inode?.sizeBytes).toBe(4 * PAGE_SIZE);
    for (let i = 0; i < 10; i++)
      expect(step(d, truncation)).toEqual({ done: false, value: YP_WAIT });
    assertKernel(d.k);
    dmaWrite(d, pages[0] ?? 0, 9);
    drive(unpinUserPagesDirtyLock(d.k, pages, 1, true));
    expect(finish(d, truncation)).toBe(0);
    expect(blockPage(d, 2)).toBe(-1);
    settled(d);
  });

  it('it goes on when the pin goes, and not before; the next fault is SIGBUS (I14)', () => {
    const { d, pages, truncation } = waiting();
    unpinUserPages(d.k, pages, 1);
    expect(finish(d, truncation)).toBe(0);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(-EFAULT);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(101);
    settled(d);
  });

  it('no other file gets the block while somebody holds it, however full the file system is', () => {
    const { d, pages, truncation } = waiting();
    const other = extentCreate(d.k, d.fs);
    drive(fileWrite(d.k, other, 0, new Uint8Array(PAGE_SIZE * d.fs.nrFree)));
    const page = pages[0] ?? 0;
    for (const { block, nr } of other.inode?.extents ?? [])
      expect(page < d.dev.pmemPage + block || page >= d.dev.pmemPage + block + nr).toBe(true);
    dmaWrite(d, page, 1234);
    drive(unpinUserPagesDirtyLock(d.k, pages, 1, true));
    expect(finish(d, truncation)).toBe(0);
    expect(drive(fileWrite(d.k, other, 1 << 22, pageOf(1)))).toBe(PAGE_SIZE);
    const bytes = new Uint8Array(PAGE_SIZE);
    drive(fileRead(d.k, other, 1 << 22, bytes));
    expect(wordOf(bytes)).toBe(1);
    drive(mappingPut(d.k, other));
    settled(d);
  });

  it('a fault may map the page again while it waits: it is unmapped once more', () => {
    const { d, pages, truncation } = waiting();
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(102);
    expect(folioRefCount(d.k, pages[0] ?? 0)).toBe(1 + 1024);
    unpinUserPages(d.k, pages, 1);
    expect(step(d, truncation).done).toBe(false);
    expect(finish(d, truncation)).toBe(0);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(-EFAULT);
    settled(d);
  });

  it('a plain reference is waited for just the same', () => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    d.p.load32(AT + 3 * PAGE_SIZE);
    drive(gupTestGetFast(d.k, d.p.mm, AT + 3 * PAGE_SIZE, 1, 0, pages));
    const truncation = fileTruncate(d.k, d.file, 0);
    stepTo(d.k, truncation, YP_LAYOUT_BREAK);
    gupTestPut(d.k, pages, 1);
    expect(finish(d, truncation)).toBe(0);
    settled(d);
  });

  it('a signal ends the wait: the file is as long as it was', () => {
    const { d, pages, truncation } = waiting();
    step(d, truncation);
    sendSignal(d.k, SIGNAL_PENDING);
    expect(finish(d, truncation)).toBe(-EINTR);
    signalHandled(d.k);
    expect(d.file.inode?.sizeBytes).toBe(4 * PAGE_SIZE);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(102);
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('a page of the file that stays is not waited for', () => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    pinFast(d, 0, FOLL_WRITE, pages);
    expect(drive(fileTruncate(d.k, d.file, PAGE_SIZE))).toBe(0);
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('a page that the end cuts is zeroed behind it, and stays with whoever holds it', () => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    d.p.store32(AT + PAGE_SIZE + 100, 5);
    pinFast(d, 1, FOLL_WRITE, pages);
    expect(drive(fileTruncate(d.k, d.file, PAGE_SIZE + 50))).toBe(0);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(101);
    expect(d.p.load32(AT + PAGE_SIZE + 100)).toBe(0);
    unpinUserPages(d.k, pages, 1);
    settled(d);
  });

  it('punching a hole waits as well', () => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    pinFast(d, 1, FOLL_WRITE, pages);
    const punch = filePunchHole(d.k, d.file, 0, 3 * PAGE_SIZE);
    stepTo(d.k, punch, YP_LAYOUT_BREAK);
    expect(step(d, punch).value).toBe(YP_WAIT);
    unpinUserPages(d.k, pages, 1);
    expect(finish(d, punch)).toBe(0);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(0);
    settled(d);
  });

  it('the last put of an unlinked file waits for whoever still holds a page of it', () => {
    const d = daxWorld(4);
    const pages = new Int32Array(1);
    pinFast(d, 1, FOLL_WRITE, pages);
    exit(d.p);
    drive(extentUnlink(d.k, d.fs, d.file.inode?.ino ?? 0));
    const put = mappingPut(d.k, d.file);
    stepTo(d.k, put, YP_LAYOUT_BREAK);
    expect(step(d, put).value).toBe(YP_WAIT);
    assertKernel(d.k);
    unpinUserPages(d.k, pages, 1);
    finish(d, put);
    settled(d);
  });

  it('who is waited for is known by name', () => {
    const d = daxWorld(4);
    provenanceStart(d.k);
    const pages = new Int32Array(1);
    nameGupUser(d.k, 'dma-engine');
    pinFast(d, 2, FOLL_WRITE, pages);
    const truncation = fileTruncate(d.k, d.file, 0);
    stepTo(d.k, truncation, YP_LAYOUT_BREAK);
    const busy = daxBusyPages(d.k, d.file);
    expect(busy.map(({ pgoff, page }) => [pgoff, page])).toEqual([[2, pages[0]]]);
    expect(busy[0]?.holders.join()).toContain('dma-engine');
    unpinUserPages(d.k, pages, 1);
    finish(d, truncation);
    settled(d);
  });

  it('without the wait the sanitizer finds a block that is held and nobody’s', () => {
    const { d, pages } = waiting();
    const { mapping } = d.k.state.frames;
    const page = pages[0] ?? 0;
    mapping[page] = 0;
    d.file.dax?.entries.delete(2);
    expect(checkKernel(d.k).join('\n')).toContain(
      `page ${page} is held, and its block is no file's`,
    );
  });
});

describe('GUP-fast against a truncation', () => {
  it('an entry that was read before it was cleared gives no pin: the block is idle', () => {
    const d = daxWorld(4);
    d.p.store32(AT + 2 * PAGE_SIZE, 1);
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(d.k, d.p.mm, AT + 2 * PAGE_SIZE, 1, FOLL_WRITE, pages);
    stepTo(d.k, pin, YP_GUP_FAST_READ);
    expect(drive(fileTruncate(d.k, d.file, 0))).toBe(0);
    expect(finish(d, pin)).toBe(-EFAULT);
    settled(d);
  });

  it('a pin that was counted before the entry was cleared is given back, and truncation goes on', () => {
    const d = daxWorld(4);
    d.p.store32(AT + 2 * PAGE_SIZE, 1);
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(d.k, d.p.mm, AT + 2 * PAGE_SIZE, 1, FOLL_WRITE, pages);
    stepTo(d.k, pin, YP_GUP_FAST_PINNED);
    const truncation = fileTruncate(d.k, d.file, 0);
    stepTo(d.k, truncation, YP_LAYOUT_BREAK);
    expect(step(d, truncation).value).toBe(YP_WAIT);
    // Its entry is gone: it lets go, and the slow path waits for the file, or finds that it has ended.
    const outcomes: (number | undefined)[] = [undefined, undefined];
    for (let i = 0; i < 200 && outcomes.includes(undefined); i++)
      [truncation, pin].forEach((path, which) => {
        const result = outcomes[which] === undefined ? step(d, path) : undefined;
        if (result?.done === true) outcomes[which] = result.value;
      });
    expect(outcomes).toEqual([0, -EFAULT]);
    settled(d);
  });
});

describe('a device that writes after the flush (pinned-writeback)', () => {
  /** fsync(), then the device writes through its pin, which is then given back dirty; fsync(), power fails. */
  const afterFlush = (policy: 'linux-7' | 'target'): number => {
    const d = daxWorld(2);
    d.k.policy = createPolicy(policy);
    const pages = new Int32Array(1);
    pinFast(d, 0, FOLL_WRITE, pages);
    drive(vfsFsync(d.k, d.file));
    expect(folioMaybeDmaPinned(d.k, pages[0] ?? 0)).toBe(true);
    dmaWrite(d, pages[0] ?? 0, 5);
    drive(unpinUserPagesDirtyLock(d.k, pages, 1, true));
    drive(vfsFsync(d.k, d.file));
    exit(d.p);
    const file = powerFail(d, () => false);
    if (typeof file === 'number') return file;
    const bytes = new Uint8Array(4);
    drive(fileRead(d.k, file, 0, bytes));
    return wordOf(bytes);
  };

  it('under linux-7 the second fsync() has nothing to flush, and the bytes are lost', () => {
    expect(afterFlush('linux-7')).toBe(100);
  });

  it('under target the page of whoever may be pinned stays dirty, and the bytes are there', () => {
    expect(afterFlush('target')).toBe(5);
  });
});

describe('broken memory', () => {
  it('a block stays where it is: memory_failure() has no other frame for it', () => {
    const d = daxWorld(2);
    d.p.load32(AT);
    expect(drive(memoryFailure(d.k, blockPage(d, 0)))).toBe(-EBUSY);
    expect(drive(memoryFailure(d.k, blockPage(d, 1)))).toBe(-EBUSY);
    expect(d.p.load32(AT)).toBe(100);
    settled(d);
  });
});
