/** Files of a DAX file system: mappings show the blocks. Compare fs/dax.c. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EFAULT,
  ENOSPC,
  fileRead,
  fileTruncate,
  fileWrite,
  filePunchHole,
  folioRefCount,
  folioTestDirty,
  MAP_PRIVATE,
  MADV_DONTNEED,
  madvise,
  mappingPut,
  mprotect,
  munmap,
  PROT_READ,
  pteDirty,
  ptePage,
  pteSpecial,
  pteWrite,
  vfsFsync,
  writebackMapping,
} from '#mm';
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
import { createProcess, entryAt, exit, forked, pageAt, settled } from './support.ts';

describe('a read fault on a DAX file', () => {
  it('maps the block itself: what a process loads is the device’s memory', () => {
    const d = daxWorld();
    expect(d.p.load32(AT + 3 * PAGE_SIZE)).toBe(103);
    expect(pageAt(d.p, AT + 3 * PAGE_SIZE)).toBe(blockPage(d, 3));
    expect(d.file.pages.size).toBe(0);
    settled(d);
  });

  it('leaves the entry read-only and the block with one reference, that of the entry', () => {
    const d = daxWorld();
    d.p.load32(AT);
    expect(pteWrite(entryAt(d.p, AT))).toBe(false);
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(1);
    expect(folioRefCount(d.k, blockPage(d, 1))).toBe(0);
    expect(d.file.dax?.dirty.size).toBe(0);
    settled(d);
  });

  it('maps the zero page where the file has a hole, and no block is allocated', () => {
    const d = daxWorld(4, false);
    const free = d.fs.nrFree;
    expect(d.p.load32(AT)).toBe(0);
    expect(ptePage(entryAt(d.p, AT))).toBe(d.k.state.zeroPage);
    expect(pteSpecial(entryAt(d.p, AT))).toBe(true);
    expect(d.fs.nrFree).toBe(free);
    settled(d);
  });

  it('beyond the end of the file is SIGBUS', () => {
    const d = daxWorld(4);
    drive(fileTruncate(d.k, d.file, PAGE_SIZE + 5));
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(101);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(-EFAULT);
    settled(d);
  });
});

describe('a write fault on a shared mapping (1.7, 1.8)', () => {
  it('makes the entry dirty before it is writable: I6 holds at every moment', () => {
    const d = daxWorld();
    d.p.load32(AT);
    expect(d.file.inode?.reserved.has(0)).toBe(false);
    d.p.store32(AT, 7);
    expect(pteWrite(entryAt(d.p, AT))).toBe(true);
    expect(pteDirty(entryAt(d.p, AT))).toBe(true);
    expect([...(d.file.dax?.dirty.keys() ?? [])]).toEqual([0]);
    expect(d.file.inode?.reserved.get(0)).toBe('mapped');
    settled(d);
  });

  it('never makes the folio dirty: it is what it would be written to', () => {
    const d = daxWorld();
    d.p.store32(AT, 7);
    expect(folioTestDirty(d.k, blockPage(d, 0))).toBe(false);
    drive(munmap(d.k, d.p.mm, AT, 8 * PAGE_SIZE));
    expect(folioTestDirty(d.k, blockPage(d, 0))).toBe(false);
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(0);
    settled(d);
  });

  it('allocates the block of a hole, of zeroes', () => {
    const d = daxWorld(4, false);
    const free = d.fs.nrFree;
    d.p.store32(AT + PAGE_SIZE + 8, 9);
    expect(d.fs.nrFree).toBe(free - 1);
    expect(blockPage(d, 1)).toBeGreaterThan(0);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(0);
    expect(d.p.load32(AT + PAGE_SIZE + 8)).toBe(9);
    settled(d);
  });

  it('takes the zero page away from everybody who has read the hole', () => {
    const d = daxWorld(4, false);
    const other = createProcess(d.w);
    mapFile(other, d.file, 4);
    expect(d.p.load32(AT)).toBe(0);
    expect(other.load32(AT)).toBe(0);
    d.p.store32(AT, 5);
    expect(entryAt(other, AT)).toBe(0);
    expect(other.load32(AT)).toBe(5);
    settled(d);
  });

  it('is SIGBUS where the file system is full, and the hole stays', () => {
    const d = daxWorld(4, false);
    const hog = drive(fileWrite(d.k, d.file, 1 << 20, new Uint8Array(PAGE_SIZE * d.fs.nrFree)));
    expect(hog).toBeGreaterThan(0);
    expect(d.fs.nrFree).toBe(0);
    expect(d.p.load32(AT)).toBe(0);
    expect(d.p.store32(AT, 1)).toBe(-EFAULT);
    expect(d.p.load32(AT)).toBe(0);
    expect(d.file.inode?.reserved.size).toBe(0);
    expect(drive(fileWrite(d.k, d.file, 0, pageOf(1)))).toBe(-ENOSPC);
    settled(d);
  });

  it('after mprotect() asks again only where the entry lost its W', () => {
    const d = daxWorld();
    d.p.store32(AT, 1);
    drive(mprotect(d.k, d.p.mm, AT, PAGE_SIZE, PROT_READ));
    expect(d.p.store32(AT, 2)).toBe(-EFAULT);
    drive(mprotect(d.k, d.p.mm, AT, PAGE_SIZE, 3));
    expect(d.p.store32(AT, 3)).toBe(0);
    expect(pageAt(d.p, AT)).toBe(blockPage(d, 0));
    settled(d);
  });
});

describe('a private mapping of a DAX file', () => {
  const privately = (written = true): DaxWorld => {
    const d = daxWorld(4, written);
    drive(munmap(d.k, d.p.mm, AT, 4 * PAGE_SIZE));
    mapFile(d.p, d.file, 4, { flags: MAP_PRIVATE });
    return d;
  };

  it('shows the block until it is written to, and then a copy', () => {
    const d = privately();
    expect(d.p.load32(AT)).toBe(100);
    expect(pageAt(d.p, AT)).toBe(blockPage(d, 0));
    d.p.store32(AT, 1);
    expect(pageAt(d.p, AT)).not.toBe(blockPage(d, 0));
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(0);
    const bytes = new Uint8Array(4);
    drive(fileRead(d.k, d.file, 0, bytes));
    expect(wordOf(bytes)).toBe(100);
    settled(d);
  });

  it('copies at the first write without mapping the block before, and leaves no entry', () => {
    const d = privately();
    d.p.store32(AT + PAGE_SIZE + 4, 1);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(101);
    expect(folioRefCount(d.k, blockPage(d, 1))).toBe(0);
    expect(d.file.dax?.entries.has(1)).toBe(false);
    expect(d.p.mm.rssAnon).toBe(1);
    settled(d);
  });

  it('of a hole copies zeroes', () => {
    const d = privately(false);
    d.p.store32(AT, 1);
    expect(d.p.load32(AT + 4)).toBe(0);
    expect(d.file.inode?.extents).toEqual([]);
    settled(d);
  });

  it('keeps its copies when a hole is punched, and loses them by truncation', () => {
    const d = privately();
    d.p.store32(AT, 1);
    drive(filePunchHole(d.k, d.file, 0, PAGE_SIZE));
    expect(d.p.load32(AT)).toBe(1);
    drive(fileTruncate(d.k, d.file, 0));
    expect(d.p.load32(AT)).toBe(-EFAULT);
    settled(d);
  });
});

describe('fork and exit', () => {
  it('a child finds the blocks again by its own faults, and shares them', () => {
    const d = daxWorld();
    d.p.store32(AT, 1);
    const child = forked(d.w, d.p);
    expect(entryAt(child, AT)).toBe(0);
    child.store32(AT, 2);
    expect(d.p.load32(AT)).toBe(2);
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(2);
    exit(child);
    exit(d.p);
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(0);
    settled(d);
  });

  it('the last user of an unlinked file frees its blocks', () => {
    const d = daxWorld();
    d.p.store32(AT, 1);
    exit(d.p);
    drive(mappingPut(d.k, d.file));
    settled(d);
  });
});

describe('read() and write() of a DAX file', () => {
  it('write() is seen by whoever maps the file, at once', () => {
    const d = daxWorld();
    d.p.load32(AT);
    drive(fileWrite(d.k, d.file, 0, pageOf(55)));
    expect(d.p.load32(AT)).toBe(55);
    settled(d);
  });

  it('write() into a hole takes the zero page away from whoever has read it', () => {
    const d = daxWorld(4, false);
    expect(d.p.load32(AT)).toBe(0);
    drive(fileWrite(d.k, d.file, 8, pageOf(3).subarray(0, 4)));
    expect(d.p.load32(AT + 8)).toBe(3);
    expect(d.p.load32(AT)).toBe(0);
    settled(d);
  });

  it('write() makes the file longer, with zeroes between', () => {
    const d = daxWorld(1);
    drive(fileTruncate(d.k, d.file, 10));
    drive(fileWrite(d.k, d.file, 3 * PAGE_SIZE + 1, new Uint8Array([1, 2])));
    expect(d.file.inode?.sizeBytes).toBe(3 * PAGE_SIZE + 3);
    const bytes = new Uint8Array(4 * PAGE_SIZE);
    expect(drive(fileRead(d.k, d.file, 0, bytes))).toBe(3 * PAGE_SIZE + 3);
    expect(bytes.subarray(11, 3 * PAGE_SIZE + 1).every((byte) => byte === 0)).toBe(true);
    settled(d);
  });
});

describe('writeback of a DAX file (fs/dax.c:dax_writeback_mapping_range())', () => {
  it('makes the entries read-only and clean, and the next store faults again', () => {
    const d = daxWorld();
    d.p.store32(AT, 1);
    drive(writebackMapping(d.k, d.file));
    expect(pteWrite(entryAt(d.p, AT))).toBe(false);
    expect(pteDirty(entryAt(d.p, AT))).toBe(false);
    expect(d.file.dax?.dirty.size).toBe(0);
    expect(d.file.inode?.reserved.size).toBe(0);
    d.p.store32(AT, 2);
    expect(d.file.dax?.dirty.size).toBe(1);
    settled(d);
  });

  it('of a range leaves the others as they are', () => {
    const d = daxWorld();
    for (let i = 0; i < 4; i++) d.p.store32(AT + i * PAGE_SIZE, i);
    drive(writebackMapping(d.k, d.file, PAGE_SIZE, 3 * PAGE_SIZE));
    expect([...(d.file.dax?.dirty.keys() ?? [])].sort()).toEqual([0, 3]);
    settled(d);
  });
});

describe('what a loss of power leaves of a DAX file', () => {
  const contents = (d: DaxWorld, keeps: boolean): number[] => {
    exit(d.p);
    const file = powerFail(d, () => keeps);
    if (typeof file === 'number') return [file];
    const bytes = new Uint8Array(4 * PAGE_SIZE);
    const n = drive(fileRead(d.k, file, 0, bytes));
    return Array.from({ length: n / PAGE_SIZE }, (_, i) => wordOf(bytes.subarray(i * PAGE_SIZE)));
  };

  it('fsync() has flushed what was stored: it is there whatever the caches had', () => {
    const d = daxWorld(4);
    d.p.store32(AT, 1);
    drive(vfsFsync(d.k, d.file));
    expect(contents(d, false)).toEqual([1, 101, 102, 103]);
  });

  it('a store that was not flushed is there or not, as the caches please', () => {
    for (const keeps of [false, true]) {
      const d = daxWorld(4);
      drive(vfsFsync(d.k, d.file));
      d.p.store32(AT, 1);
      expect(contents(d, keeps)).toEqual([keeps ? 1 : 100, 101, 102, 103]);
    }
  });

  it('a block that a fault has allocated is in the file after fsync(), and without it the hole is', () => {
    for (const synced of [false, true]) {
      const d = daxWorld(4, false);
      drive(vfsFsync(d.k, d.file));
      d.p.store32(AT + PAGE_SIZE, 5);
      if (synced) drive(vfsFsync(d.k, d.file));
      expect(contents(d, true)).toEqual([0, synced ? 5 : 0, 0, 0]);
    }
  });

  it('write() needs no flush of the bytes, only of the metadata', () => {
    const d = daxWorld(4);
    drive(vfsFsync(d.k, d.file));
    drive(fileWrite(d.k, d.file, PAGE_SIZE, pageOf(9)));
    expect(contents(d, false)).toEqual([100, 9, 102, 103]);
  });
});

describe('madvise() and holes', () => {
  it('DONTNEED lets go of the block, and the bytes stay', () => {
    const d = daxWorld();
    d.p.store32(AT, 4);
    drive(madvise(d.k, d.p.mm, AT, PAGE_SIZE, MADV_DONTNEED));
    expect(folioRefCount(d.k, blockPage(d, 0))).toBe(0);
    expect(d.file.dax?.dirty.has(0)).toBe(true);
    expect(d.p.load32(AT)).toBe(4);
    settled(d);
  });

  it('a punched hole reads as zeroes, and its blocks are free once that is committed', () => {
    const d = daxWorld();
    d.p.store32(AT + PAGE_SIZE, 4);
    const free = d.fs.nrFree;
    expect(drive(filePunchHole(d.k, d.file, PAGE_SIZE, 3 * PAGE_SIZE))).toBe(0);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(0);
    expect(d.file.dax?.dirty.size).toBe(0);
    expect(d.fs.nrFree).toBe(free);
    drive(vfsFsync(d.k, d.file));
    expect(d.fs.nrFree).toBe(free + 2);
    settled(d);
  });
});
