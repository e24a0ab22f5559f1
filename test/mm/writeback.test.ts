/** Writeback: what goes to the device and when, what is waited for, and who is told of errors (mm/page-writeback.c, fs/sync.c). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  drive,
  EIO,
  ENOSPC,
  fileRead,
  fileTruncate,
  fileWrite,
  migrateFolio,
  nrFreePages,
  type Path,
  vfsFsync,
} from '#mm';
import { folioTestWriteback } from '../../mm/cache/clean.ts';
import { removeMapping } from '../../mm/cache/remove.ts';
import { invalidateInodePages2Range } from '../../mm/cache/truncate.ts';
import { writebackMapping } from '../../mm/cache/writeback.ts';
import { EBUSY } from '../../mm/errno.ts';
import {
  folioGet,
  folioMarkDirty,
  folioPut,
  folioRefCount,
  folioTrylock,
  folioUnlock,
} from '../../mm/folio/folio.ts';
import { blockAt } from '../../mm/fs/extent/extents.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPages, unpinUserPagesDirtyLock } from '../../mm/gup/unpin.ts';
import {
  YP_BIO_SUBMITTED,
  YP_PROTECT,
  YP_WAIT,
  YP_WRITEBACK_CLEANED,
  YP_WRITEBACK_STARTED,
} from '../../mm/path.ts';
import { createPolicy } from '../../mm/policy.ts';
import { nameGupUser } from '../../mm/provenance/provenance.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { MADV_DONTNEED } from '../../mm/vma/flags.ts';
import { rng } from '../support/rng.ts';
import {
  cached,
  type FileWorld,
  isDirty,
  onDevice,
  pageOfBytes,
  quiet,
  sync,
  withFile,
} from './file-world.ts';
import { interleave, stepTo } from './support.ts';

/** Writes a word through a page's frame, as a device does. */
const scribble = ({ w }: FileWorld, page: number, value: number): void => {
  w.k.memory.i32[w.k.memory.pageOffset(page) >>> 2] = value;
};

describe('writeback of a file', () => {
  it('writes the dirty pages, and no others', () => {
    const fw = withFile();
    const { dev, p, hva, w, file } = fw;
    const before = dev.nrWrites;
    p.store32(hva + PAGE_SIZE, 20);
    p.store32(hva + 3 * PAGE_SIZE, 40);
    expect(drive(writebackMapping(w.k, file))).toBe(0);
    expect(dev.nrWrites - before).toBe(2);
    expect([0, 1, 2, 3].map((i) => onDevice(fw, i))).toEqual([1, 20, 3, 40]);
    expect(drive(writebackMapping(w.k, file))).toBe(0);
    expect(dev.nrWrites - before).toBe(2);
    quiet(fw);
  });

  it('of a range, those that touch it', () => {
    const fw = withFile();
    for (let i = 0; i < 4; i++) fw.p.store32(fw.hva + i * PAGE_SIZE, 10 * i);
    drive(writebackMapping(fw.w.k, fw.file, PAGE_SIZE + 1, 2 * PAGE_SIZE + 1));
    expect([0, 1, 2, 3].map((i) => isDirty(fw, i))).toEqual([true, false, false, true]);
    quiet(fw);
  });

  it('the folio is under writeback, and unlocked, from when its bytes are sent until the device has them', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    const writeback = writebackMapping(w.k, file);
    stepTo(w.k, writeback, YP_WRITEBACK_CLEANED);
    const folio = cached(fw, 0);
    expect([folioTestWriteback(w.k, folio), folioTrylock(w.k, folio)]).toEqual([false, false]);
    stepTo(w.k, writeback, YP_BIO_SUBMITTED);
    expect([folioTestWriteback(w.k, folio), folioTrylock(w.k, folio)]).toEqual([true, true]);
    folioUnlock(w.k, folio);
    drive(writeback);
    expect(folioTestWriteback(w.k, folio)).toBe(false);
    quiet(fw);
  });

  it('for data integrity waits for what somebody else has sent; in the background it does not', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    const first = writebackMapping(w.k, file);
    stepTo(w.k, first, YP_WRITEBACK_STARTED);
    expect(drive(writebackMapping(w.k, file, 0, PAGE_SIZE, false))).toBe(0);
    const fsync = vfsFsync(w.k, file);
    stepTo(w.k, fsync, YP_WAIT);
    drive(first);
    expect(drive(fsync)).toBe(0);
    expect(onDevice(fw, 0)).toBe(9);
    quiet(fw);
  });

  it('truncation and migration wait for it', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva + PAGE_SIZE, 9);
    const writeback = writebackMapping(w.k, file);
    stepTo(w.k, writeback, YP_WRITEBACK_STARTED);
    const truncate = fileTruncate(w.k, file, 0);
    stepTo(w.k, truncate, YP_WAIT);
    drive(writeback);
    drive(truncate);
    expect([file.pages.size, onDevice(fw, 1)]).toEqual([0, 0]);
    quiet(fw);
  });

  it('PG_WRITEBACK of a folio that nobody writes is a violation', () => {
    const fw = withFile();
    fw.p.store32(fw.hva, 9);
    const writeback = writebackMapping(fw.w.k, fw.file);
    stepTo(fw.w.k, writeback, YP_WRITEBACK_STARTED);
    const found = checkKernel(fw.w.k, { quiescent: true });
    expect(found.some((line) => line.includes('under writeback by nobody'))).toBe(true);
    drive(writeback);
    quiet(fw);
  });
});

describe('errors are reported once: errseq', () => {
  it('EIO by the fsync() that meets it, and not by the next', () => {
    const fw = withFile();
    const { w, p, dev, file, hva } = fw;
    p.store32(hva, 9);
    dev.badWrites.add(blockAt(fw.inode, 0));
    expect(drive(vfsFsync(w.k, file))).toBe(-EIO);
    expect(drive(vfsFsync(w.k, file))).toBe(0);
    dev.badWrites.clear();
    p.store32(hva, 10);
    sync(fw);
    expect(onDevice(fw, 0)).toBe(10);
    quiet(fw);
  });

  it('an error of background writeback waits for the next fsync()', () => {
    const fw = withFile();
    const { w, p, dev, file, hva } = fw;
    p.store32(hva, 9);
    dev.badWrites.add(blockAt(fw.inode, 0));
    drive(writebackMapping(w.k, file, 0, PAGE_SIZE, false));
    expect(file.wbErr).toBe(-EIO);
    expect([1, 2].map(() => drive(vfsFsync(w.k, file)))).toEqual([-EIO, 0]);
  });

  it('the other pages are written all the same', () => {
    const fw = withFile();
    const { w, p, dev, file, hva } = fw;
    for (let i = 0; i < 4; i++) p.store32(hva + i * PAGE_SIZE, 10 * i);
    dev.badWrites.add(blockAt(fw.inode, 1));
    expect(drive(vfsFsync(w.k, file))).toBe(-EIO);
    expect([0, 1, 2, 3].map((i) => onDevice(fw, i))).toEqual([0, 2, 20, 30]);
  });

  it('ENOSPC: a page that was dirtied behind the file system, and there is no block for it (2.6)', () => {
    const fw = withFile(1, { nrBlocks: 160 });
    const { w, p, file, fs, hva } = fw;
    const { k } = w;
    // A hole, read into the cache; then the device fills up.
    drive(fileTruncate(k, file, 2 * PAGE_SIZE));
    drive(fileRead(k, file, PAGE_SIZE, new Uint8Array(4)));
    for (let i = 2; fs.nrFree > fs.nrReserved; i++)
      if (drive(fileWrite(k, file, i * PAGE_SIZE, pageOfBytes(i))) < 0) break;
    sync(fw);
    const page = cached(fw, 1);
    folioGet(k, page);
    scribble(fw, page, 7);
    folioMarkDirty(k, page);
    const found = checkKernel(k).filter((line) => line.startsWith('I7 '));
    expect(found).toHaveLength(1);
    expect(drive(vfsFsync(k, file))).toBe(-ENOSPC);
    expect([fs.dirtiedBehind, fs.lostPages]).toEqual([1, 1]);
    expect(drive(vfsFsync(k, file))).toBe(0);
    folioPut(k, page);
    expect(p.load32(hva)).toBe(1);
  });
});

describe('pins and writeback', () => {
  const pin = ({ w, p, hva }: FileWorld): Int32Array => {
    const pages = new Int32Array(1);
    nameGupUser(w.k, 'dma-engine');
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    return pages;
  };

  it('linux: a page that was cleaned under a pin is dirty without a promise when the pin ends (I7, by name)', () => {
    const fw = withFile();
    const pages = pin(fw);
    sync(fw);
    expect(isDirty(fw, 0)).toBe(false);
    scribble(fw, pages[0]!, 77);
    nameGupUser(fw.w.k, 'dma-engine');
    drive(unpinUserPagesDirtyLock(fw.w.k, pages, 1, true));
    const found = checkKernel(fw.w.k).filter((line) => line.startsWith('I7 '));
    expect(found).toHaveLength(1);
    expect(found[0]).toContain('by dma-engine');
  });

  it('linux: bytes that land after writeback, and nobody marks the page: lost, and clean (I8, by name)', () => {
    const fw = withFile();
    const pages = pin(fw);
    sync(fw);
    scribble(fw, pages[0]!, 77);
    nameGupUser(fw.w.k, 'dma-engine');
    unpinUserPages(fw.w.k, pages, 1);
    const found = checkKernel(fw.w.k, { quiescent: true }).filter((line) => line.startsWith('I8 '));
    expect(found).toHaveLength(1);
    expect(found[0]).toContain('by dma-engine');
  });

  it('target: writeback writes a copy, and the page stays dirty with its promise until the pin ends', () => {
    const fw = withFile();
    fw.w.k.policy = createPolicy('target');
    fw.p.store32(fw.hva, 9);
    const pages = pin(fw);
    sync(fw);
    expect([onDevice(fw, 0), isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([9, true, true]);
    scribble(fw, pages[0]!, 77);
    drive(unpinUserPagesDirtyLock(fw.w.k, pages, 1, true));
    sync(fw);
    expect([onDevice(fw, 0), isDirty(fw, 0)]).toEqual([77, false]);
    quiet(fw);
  });

  it('reclaim takes a clean page that nobody holds, and no other: remove_mapping()', () => {
    const fw = withFile();
    const { k } = fw.w;
    const take = (pgoff: number): boolean => {
      const folio = cached(fw, pgoff);
      folioGet(k, folio);
      folioTrylock(k, folio);
      const gone = removeMapping(k, fw.file, folio);
      folioUnlock(k, folio);
      folioPut(k, folio);
      return gone;
    };
    const free = nrFreePages(k);
    expect(take(1)).toBe(true);
    expect(nrFreePages(k)).toBe(free + 1);
    fw.p.store32(fw.hva, 5);
    expect(take(0)).toBe(false);
    drive(madvise(k, fw.p.mm, fw.hva, PAGE_SIZE, MADV_DONTNEED));
    expect(take(0)).toBe(false);
    const page = cached(fw, 2);
    folioGet(k, page);
    expect(take(2)).toBe(false);
    folioPut(k, page);
    expect(take(2)).toBe(true);
    expect(fw.p.load32(fw.hva + 2 * PAGE_SIZE)).toBe(3);
    quiet(fw);
  });

  it('direct I/O takes clean pages out of its way, held or not; dirty and pinned ones are -EBUSY (invalidate_inode_pages2_range)', () => {
    const fw = withFile();
    const { k } = fw.w;
    for (let i = 1; i < 4; i++) fw.p.load32(fw.hva + i * PAGE_SIZE);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, fw.p.mm, fw.hva + PAGE_SIZE, 1, 0, pages));
    const held = cached(fw, 2);
    folioGet(k, held);
    fw.p.store32(fw.hva, 5);
    expect(drive(invalidateInodePages2Range(k, fw.file, 0, 4))).toBe(-EBUSY);
    expect([...fw.file.pages.keys()]).toEqual([0, 1]);
    expect([folioRefCount(k, held), fw.p.load32(fw.hva + 2 * PAGE_SIZE)]).toEqual([1, 3]);
    expect(cached(fw, 2)).not.toBe(held);
    folioPut(k, held);
    unpinUserPages(k, pages, 1);
    sync(fw);
    expect(drive(invalidateInodePages2Range(k, fw.file, 0, 4))).toBe(0);
    expect(fw.file.pages.size).toBe(0);
    expect([0, 1].map((i) => fw.p.load32(fw.hva + i * PAGE_SIZE))).toEqual([5, 2]);
    quiet(fw);
  });
});

describe('a dirty entry that is zapped while the page is cleaned', () => {
  it('no store goes through a TLB entry that writeback could not see (tlb_delay_rmap)', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.store32(hva, 9);
    const zap = madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED);
    stepTo(w.k, zap, YP_PROTECT);
    expect(drive(writebackMapping(w.k, file))).toBe(0);
    // Another thread of the process: what its TLB still has decides whether it faults.
    const store = p.storePath(hva, 4, 10);
    drive(store);
    drive(zap);
    sync(fw);
    expect([p.load32(hva), onDevice(fw, 0)]).toEqual([10, 10]);
    quiet(fw);
  });
});

describe('migration of a page of a file', () => {
  it('its dirt and its promise stay with the file', () => {
    const fw = withFile();
    fw.p.store32(fw.hva, 9);
    const old = cached(fw, 0);
    expect(drive(migrateFolio(fw.w.k, old))).toBe(0);
    expect(cached(fw, 0)).not.toBe(old);
    expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
    sync(fw);
    expect(onDevice(fw, 0)).toBe(9);
    quiet(fw);
  });
});

describe('stores, writes, writeback and truncation, interleaved by a seed, against the bytes', () => {
  const PAGES = 6;
  for (let seed = 1; seed <= 12; seed++) {
    it(`seed ${seed}`, () => {
      const fw = withFile(PAGES, { stablePages: seed % 3 === 0, checksums: seed % 2 === 0 });
      const { w, p, file, hva } = fw;
      const { k } = w;
      const random = rng(seed);
      /** First words, as whoever comes last leaves them; a word for each page. */
      let words = Array.from({ length: PAGES }, (_, i) => i + 1);
      let next = 1000;
      let busy = false;
      function* writer(): Path<void> {
        for (let i = 0; i < 40; i++) {
          const at = random.below(PAGES);
          const value = next++;
          // One that changes the file at a time: the reference knows no order otherwise.
          while (busy) yield YP_WAIT;
          busy = true;
          const how = random.below(5);
          if (how <= 2) {
            if ((yield* p.storePath(hva + at * PAGE_SIZE, 4, value)) === 0) words[at] = value;
          } else if (how === 3) {
            if (at <= words.length)
              if ((yield* fileWrite(k, file, at * PAGE_SIZE, pageOfBytes(value))) > 0)
                words[at] = value;
          } else {
            const size = 1 + random.below(PAGES);
            expect(yield* fileTruncate(k, file, size * PAGE_SIZE)).toBe(0);
            words = Array.from({ length: size }, (_, i) => words[i] ?? 0);
          }
          busy = false;
        }
      }
      function* flusher(): Path<void> {
        for (let i = 0; i < 25; i++) {
          if (random.chance(0.5)) yield* writebackMapping(k, file, 0, PAGES * PAGE_SIZE, false);
          else expect(yield* vfsFsync(k, file)).toBe(0);
        }
      }
      function* mover(): Path<void> {
        for (let i = 0; i < 25; i++) {
          const pages = [...file.pages.values()];
          const page = pages[random.below(pages.length + 1)];
          if (page === undefined) yield* invalidateInodePages2Range(k, file, 0, PAGES);
          else if (random.chance(0.5)) yield* migrateFolio(k, page);
          else
            yield* madvise(
              k,
              p.mm,
              hva + random.below(PAGES) * PAGE_SIZE,
              PAGE_SIZE,
              MADV_DONTNEED,
            );
          const found = checkKernel(k);
          expect(found).toEqual([]);
        }
      }
      interleave(k, [writer(), writer(), flusher(), flusher(), mover()], random);
      quiet(fw);
      sync(fw);
      quiet(fw);
      expect(file.nrPages).toBe(words.length);
      words.forEach((word, i) => {
        expect([i, onDevice(fw, i)]).toEqual([i, word]);
        expect([i, p.load32(hva + i * PAGE_SIZE)]).toEqual([i, word]);
      });
    });
  }
});
