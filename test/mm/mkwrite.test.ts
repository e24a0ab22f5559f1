/** Dirty tracking of shared file mappings: page_mkwrite(), writenotify, and S8 (facts sheet 1.7). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  EFAULT,
  fileTruncate,
  type HostProcess,
  MADV_DONTNEED,
  MAP_PRIVATE,
  madvise,
  migrateFolio,
  mprotect,
  mremap,
  munmap,
  PROT_READ,
  pteDirty,
  pteWrite,
  vfsFsync,
} from '#mm';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { writebackMapping } from '../../mm/cache/writeback.ts';
import { folioTestFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY } from '../../mm/frames/table.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPages } from '../../mm/gup/unpin.ts';
import { YP_FAULT_DONE, YP_MKWRITE, YP_WRITEBACK_STARTED } from '../../mm/path.ts';
import { MREMAP_MAYMOVE } from '../../mm/vma/flags.ts';
import { changeProtNuma } from '../../mm/vma/change-protection.ts';
import { clearRefsSoftDirty } from '../../mm/vma/soft-dirty.ts';
import { cached, type FileWorld, isDirty, onDevice, quiet, sync, withFile } from './file-world.ts';
import { createProcess, entryAt, forkMm, pageAt, RW, stepTo, mapOf } from './support.ts';

/** What an entry allows and says: `-`, `r`, `rd`, `rwd`, `rw`. */
const entryOf = (p: HostProcess, hva: number): string => {
  const entry = entryAt(p, hva);
  if (entry === 0) return '-';
  return `r${pteWrite(entry) ? 'w' : ''}${pteDirty(entry) ? 'd' : ''}`;
};

const isReserved = ({ inode }: FileWorld, pgoff: number): boolean => inode.reserved.has(pgoff);

describe('the first write to a page of a shared mapping asks the file system', () => {
  it('a read maps it read-only, also in a writable mapping', () => {
    const fw = withFile();
    expect(fw.p.load32(fw.hva)).toBe(1);
    expect(entryOf(fw.p, fw.hva)).toBe('r');
    expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([false, false]);
    quiet(fw);
  });

  it('a write as the first touch: do_shared_fault()', () => {
    const fw = withFile();
    fw.p.store32(fw.hva, 9);
    expect(entryOf(fw.p, fw.hva)).toBe('rwd');
    expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([true, true]);
    quiet(fw);
  });

  it('a write after a read: wp_page_shared()', () => {
    const fw = withFile();
    fw.p.load32(fw.hva);
    fw.p.store32(fw.hva, 9);
    expect(entryOf(fw.p, fw.hva)).toBe('rwd');
    expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([true, true]);
    quiet(fw);
  });

  it('a hole is promised a block, a written page that it may be written over', () => {
    const fw = withFile(2);
    drive(fileTruncate(fw.w.k, fw.file, 4 * PAGE_SIZE));
    const hva = mapOf(fw.p, fw.file);
    fw.p.store32(hva, 1);
    fw.p.store32(hva + 3 * PAGE_SIZE, 1);
    expect([fw.inode.reserved.get(0), fw.inode.reserved.get(3)]).toEqual(['mapped', 'delalloc']);
    expect(fw.fs.nrReserved).toBe(1);
    quiet(fw);
  });

  it('no space: SIGBUS, nothing is dirty; reading is possible', () => {
    const fw = withFile(1, { nrBlocks: 160 });
    const { w, p, fs, file } = fw;
    drive(fileTruncate(w.k, file, 200 * PAGE_SIZE));
    const hva = mapOf(p, file);
    const errors: number[] = [];
    for (let i = 1; i < 200; i++) errors.push(p.store32(hva + i * PAGE_SIZE, i));
    const failed = errors.indexOf(-EFAULT);
    expect(failed).toBeGreaterThan(0);
    expect(new Set(errors.slice(failed))).toEqual(new Set([-EFAULT]));
    expect(fs.nrFree - fs.nrReserved).toBe(0);
    expect(p.load32(hva + 199 * PAGE_SIZE)).toBe(0);
    expect(isDirty(fw, 199)).toBe(false);
    quiet(fw);
  });

  it('a page that was truncated while the file system was asked: the access tries again, and SIGBUS', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.load32(hva + PAGE_SIZE);
    const store = p.storePath(hva + PAGE_SIZE, 4, 7);
    stepTo(w.k, store, YP_MKWRITE);
    const truncate = fileTruncate(w.k, file, 0);
    stepTo(w.k, truncate, 0);
    drive(store);
    drive(truncate);
    expect([file.pages.size, p.load32(hva + PAGE_SIZE)]).toEqual([0, -EFAULT]);
    quiet(fw);
  });

  it('the entry has gone when the promise is there: it is not made writable, and the access tries again', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    p.load32(hva);
    const store = p.storePath(hva, 4, 7);
    stepTo(w.k, store, YP_MKWRITE);
    drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    stepTo(w.k, store, YP_FAULT_DONE);
    expect(entryOf(p, hva)).toBe('-');
    expect(drive(store)).toBe(0);
    expect([p.load32(hva), isDirty(fw, 0)]).toEqual([7, true]);
    quiet(fw);
  });
});

describe('clear_dirty_for_io(): after writeback the next write asks again', () => {
  it('the entry is read-only and clean, and the promise used up', () => {
    const fw = withFile();
    const { p, hva } = fw;
    p.store32(hva, 9);
    sync(fw);
    expect([entryOf(p, hva), isReserved(fw, 0), isDirty(fw, 0)]).toEqual(['r', false, false]);
    expect(onDevice(fw, 0)).toBe(9);
    p.store32(hva, 10);
    expect([entryOf(p, hva), isReserved(fw, 0), isDirty(fw, 0)]).toEqual(['rwd', true, true]);
    quiet(fw);
  });

  it('in every shared mapping, of every process; private ones are left alone', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    const q = createProcess(w, forkMm(w.k, p.mm));
    const own = mapOf(p, file, { flags: MAP_PRIVATE });
    p.store32(own, 50);
    for (const each of [p, q]) each.store32(hva, 9);
    sync(fw);
    expect([p, q].map((each) => entryOf(each, hva))).toEqual(['r', 'r']);
    expect(entryOf(p, own)).toBe('rwd');
    expect([onDevice(fw, 0), p.load32(own)]).toEqual([9, 50]);
    quiet(fw);
  });

  it('a store between cleaning and the end of writeback makes the page dirty again, with a promise', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    const writeback = writebackMapping(w.k, file);
    stepTo(w.k, writeback, YP_WRITEBACK_STARTED);
    expect(p.store32(hva, 10)).toBe(0);
    expect(isReserved(fw, 0)).toBe(true);
    drive(writeback);
    expect(isDirty(fw, 0)).toBe(true);
    sync(fw);
    expect(onDevice(fw, 0)).toBe(10);
    quiet(fw);
  });

  it('with stable pages that store waits until the device has the page', () => {
    const fw = withFile(4, { stablePages: true });
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    const writeback = writebackMapping(w.k, file);
    stepTo(w.k, writeback, YP_WRITEBACK_STARTED);
    const store = p.storePath(hva, 4, 10);
    stepTo(w.k, store, 0);
    drive(writeback);
    expect(onDevice(fw, 0)).toBe(9);
    drive(store);
    expect([p.load32(hva), isDirty(fw, 0)]).toEqual([10, true]);
    quiet(fw);
  });
});

describe('S8: an entry is never writable unless its page is dirty', () => {
  /** What is done to a mapping whose page has been written out; afterwards a store must ask. */
  const after: [string, (fw: FileWorld) => number][] = [
    [
      'mprotect() to read-only and back',
      ({ w, p, hva }) => {
        drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ));
        drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
        return hva;
      },
    ],
    [
      'migration',
      (fw) => {
        expect(drive(migrateFolio(fw.w.k, cached(fw, 0)))).toBe(0);
        return fw.hva;
      },
    ],
    [
      'mremap()',
      ({ w, p, hva }) => {
        // A VMA in the way makes it move.
        const at = drive(mremap(w.k, p.mm, hva, 4 * PAGE_SIZE, 4096 * PAGE_SIZE, MREMAP_MAYMOVE));
        expect(at).toBeGreaterThan(0);
        return at;
      },
    ],
    [
      'a NUMA hint',
      ({ w, p, hva }) => {
        drive(changeProtNuma(w.k, p.mm, hva, hva + PAGE_SIZE));
        return hva;
      },
    ],
    [
      'clear_refs',
      ({ w, p, hva }) => {
        drive(clearRefsSoftDirty(w.k, p.mm));
        return hva;
      },
    ],
    [
      'fork',
      ({ w, p, hva }) => {
        forkMm(w.k, p.mm);
        return hva;
      },
    ],
  ];
  for (const [what, act] of after) {
    it(`${what}: of a clean page the entry stays read-only`, () => {
      const fw = withFile();
      fw.p.store32(fw.hva, 9);
      sync(fw);
      fw.p.load32(fw.hva);
      const hva = act(fw);
      fw.p.load32(hva);
      expect(entryOf(fw.p, hva)).not.toContain('w');
      fw.p.store32(hva, 10);
      expect([entryOf(fw.p, hva), isReserved(fw, 0)]).toEqual(['rwd', true]);
      quiet(fw);
    });

    it(`${what}: of a dirty page nothing is forgotten`, () => {
      const fw = withFile();
      fw.p.store32(fw.hva, 9);
      const hva = act(fw);
      fw.p.store32(hva, 10);
      expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([true, true]);
      sync(fw);
      expect(onDevice(fw, 0)).toBe(10);
      expect(entryOf(fw.p, hva)).not.toContain('w');
      quiet(fw);
    });
  }

  it('mprotect() gives a dirty page its W back without a fault', () => {
    const fw = withFile();
    fw.p.store32(fw.hva, 9);
    drive(mprotect(fw.w.k, fw.p.mm, fw.hva, PAGE_SIZE, PROT_READ));
    expect(entryOf(fw.p, fw.hva)).toBe('rd');
    drive(mprotect(fw.w.k, fw.p.mm, fw.hva, PAGE_SIZE, RW));
    expect(entryOf(fw.p, fw.hva)).toBe('rwd');
    quiet(fw);
  });

  it('the sanitizer sees an entry that somebody made writable by himself (I6)', () => {
    const fw = withFile();
    const { k } = fw.w;
    fw.p.store32(fw.hva, 9);
    fw.inode.reserved.delete(0);
    const report = checkKernel(k);
    expect(report.some((line) => line.startsWith('I6 '))).toBe(true);
    expect(report.some((line) => line.startsWith('I7 '))).toBe(true);
  });
});

describe('zapping moves the D bit of an entry to the folio', () => {
  it('a page that was written through an entry is dirty after munmap(), and is written out', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    p.store32(hva, 9);
    drive(folioWriteProtect(w.k, cached(fw, 0)));
    p.store32(hva, 10);
    // Whatever the folio says, the entry knows.
    expect(folioTestFlags(w.k, cached(fw, 0), PG_DIRTY)).toBe(true);
    drive(munmap(w.k, p.mm, hva, 4 * PAGE_SIZE));
    expect(isDirty(fw, 0)).toBe(true);
    sync(fw);
    expect(onDevice(fw, 0)).toBe(10);
    quiet(fw);
  });
});

describe('private file mappings', () => {
  it('a write copies from the page cache, and the file never sees it', () => {
    const fw = withFile();
    const own = mapOf(fw.p, fw.file, { flags: MAP_PRIVATE });
    fw.p.store32(own, 50);
    expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([false, false]);
    sync(fw);
    expect([onDevice(fw, 0), fw.p.load32(own), fw.p.load32(fw.hva)]).toEqual([1, 50, 1]);
    quiet(fw);
  });

  it('what others write to the file is seen until the first write', () => {
    const fw = withFile();
    const own = mapOf(fw.p, fw.file, { flags: MAP_PRIVATE });
    expect(fw.p.load32(own)).toBe(1);
    fw.p.store32(fw.hva, 2);
    expect(fw.p.load32(own)).toBe(2);
    fw.p.store32(own + 4, 7);
    fw.p.store32(fw.hva, 3);
    expect([fw.p.load32(own), fw.p.load32(own + 4)]).toEqual([2, 7]);
    quiet(fw);
  });

  it('a long-term pin for reading breaks COW first; a short one takes the page of the file', () => {
    const fw = withFile();
    const { w, p, file } = fw;
    const own = mapOf(p, file, { flags: MAP_PRIVATE });
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, own, 1, 0, pages))).toBe(1);
    expect(pages[0]).toBe(cached(fw, 0));
    unpinUserPages(w.k, pages, 1);
    expect(drive(pinUserPagesFast(w.k, p.mm, own, 1, FOLL_LONGTERM, pages))).toBe(1);
    expect(pages[0]).not.toBe(cached(fw, 0));
    expect(pages[0]).toBe(pageAt(p, own));
    unpinUserPages(w.k, pages, 1);
    quiet(fw);
  });

  it('of a shared mapping a long-term pin for writing is -EFAULT, a short one asks the file system', () => {
    const fw = withFile();
    const { w, p, hva } = fw;
    const pages = new Int32Array(1);
    const longterm = FOLL_LONGTERM | FOLL_WRITE;
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, longterm, pages))).toBe(-EFAULT);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect([isReserved(fw, 0), isDirty(fw, 0)]).toEqual([true, true]);
    unpinUserPages(w.k, pages, 1);
    quiet(fw);
  });
});

it("the file system's word is good: a page that was promised is written, fsync() says 0", () => {
  const fw = withFile(8, { checksums: true });
  for (let i = 0; i < 8; i++) fw.p.store32(fw.hva + i * PAGE_SIZE, 100 + i);
  expect(drive(vfsFsync(fw.w.k, fw.file))).toBe(0);
  expect([0, 7].map((i) => onDevice(fw, i))).toEqual([100, 107]);
  quiet(fw);
});
