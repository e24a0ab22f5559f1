/** What each function of GUP answers to arguments that are not legal, and to VMAs that refuse: facts sheet 1.1, 1.2. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL, ENOMEM, EOVERFLOW } from '../../mm/errno.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { secretmemCreate } from '../../mm/fs/secretmem.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFast, getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import {
  FOLL_ANON,
  FOLL_DUMP,
  FOLL_FAST_ONLY,
  FOLL_FORCE,
  FOLL_GET,
  FOLL_HONOR_NUMA_FAULT,
  FOLL_HWPOISON,
  FOLL_INTERRUPTIBLE,
  FOLL_LONGTERM,
  FOLL_MADV_POPULATE,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_PCI_P2PDMA,
  FOLL_PIN,
  FOLL_REMOTE,
  FOLL_SPLIT_PMD,
  FOLL_TOUCH,
  FOLL_TRIED,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import type { GupLocked } from '../../mm/gup/legality.ts';
import {
  getUserPages,
  getUserPagesRemote,
  getUserPagesUnlocked,
  pinUserPages,
  pinUserPagesRemote,
  pinUserPagesUnlocked,
} from '../../mm/gup/slow.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { drive, type Path } from '../../mm/path.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import {
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  VM_IO,
  VM_MAYREAD,
  VM_PFNMAP,
} from '../../mm/vma/flags.ts';
import { mmapRead } from '../../mm/vma/lock.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createWorld,
  freeOf,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
let hva: number;
const USER = 'access-remote-vm';

type Pages = Int32Array | null;
interface Entry {
  name: string;
  pins: boolean;
  /** What it answers to arguments that are not legal. */
  illegal: number;
  fast?: boolean;
  takesLock?: boolean;
  call(at: number, n: number, flags: number, pages: Pages, lock: GupLocked | null): Path<number>;
}

/** The types forbid null where Linux's prototypes do not; the check is there all the same. */
const given = (pages: Pages): Int32Array => pages as Int32Array;

const ENTRIES: Entry[] = [
  {
    name: 'get_user_pages',
    pins: false,
    illegal: -EINVAL,
    call: (at, n, flags, pages) => mmapRead(mm, getUserPages(k, USER, mm, at, n, flags, pages)),
  },
  {
    name: 'get_user_pages_remote',
    pins: false,
    illegal: -EINVAL,
    takesLock: true,
    call: (at, n, flags, pages, lock) =>
      mmapRead(mm, getUserPagesRemote(k, USER, mm, at, n, flags, pages, lock)),
  },
  {
    name: 'get_user_pages_unlocked',
    pins: false,
    illegal: -EINVAL,
    call: (at, n, flags, pages) => getUserPagesUnlocked(k, USER, mm, at, n, flags, pages),
  },
  {
    name: 'get_user_pages_fast',
    pins: false,
    illegal: -EINVAL,
    fast: true,
    call: (at, n, flags, pages) => getUserPagesFast(k, USER, mm, at, n, flags, given(pages)),
  },
  {
    name: 'get_user_pages_fast_only',
    pins: false,
    illegal: -EINVAL,
    fast: true,
    call: (at, n, flags, pages) => getUserPagesFastOnly(k, USER, mm, at, n, flags, given(pages)),
  },
  {
    name: 'pin_user_pages',
    pins: true,
    illegal: 0,
    call: (at, n, flags, pages) => mmapRead(mm, pinUserPages(k, mm, at, n, flags, given(pages))),
  },
  {
    name: 'pin_user_pages_remote',
    pins: true,
    illegal: 0,
    takesLock: true,
    call: (at, n, flags, pages, lock) =>
      mmapRead(mm, pinUserPagesRemote(k, mm, at, n, flags, given(pages), lock)),
  },
  {
    name: 'pin_user_pages_unlocked',
    pins: true,
    illegal: 0,
    call: (at, n, flags, pages) => pinUserPagesUnlocked(k, mm, at, n, flags, given(pages)),
  },
  {
    name: 'pin_user_pages_fast',
    pins: true,
    illegal: -EINVAL,
    fast: true,
    call: (at, n, flags, pages) => pinUserPagesFast(k, mm, at, n, flags, given(pages)),
  },
];

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
  hva = mapAnon(k, mm, 2);
  store(k, mm, hva, 1);
  store(k, mm, hva + PAGE_SIZE, 2);
});

/** Calls, and sees to it that an error leaves nothing behind: no reference, no pin, no lock, no number. */
const outcome = (path: Path<number>, pages: Pages): number => {
  const page = pageAt(k, mm, hva);
  const before = [k.state.frames.refcount[page]!, freeOf(k), pinsLive(k)];
  const n = drive(path);
  if (n <= 0) {
    expect([k.state.frames.refcount[page]!, freeOf(k), pinsLive(k)]).toEqual(before);
    expect(mm.mmapLock).toEqual({ readers: 0, writer: false });
    if (pages !== null) expect([...pages]).toEqual([-7, -7]);
  }
  return n;
};
const fresh = (): Int32Array => Int32Array.of(-7, -7);

/** Releases what a call took. */
const release = (pins: boolean, pages: Int32Array, n: number): void => {
  for (let i = 0; i < n; i++) {
    if (pins) unpinUserPage(k, pages[i]!);
    else folioPut(k, pages[i]!);
  }
};

for (const { name, pins, illegal, fast = false, takesLock = false, call } of ENTRIES)
  describe(`${name} — 1.1`, () => {
    const answers = (
      flags: number,
      pages: Pages = fresh(),
      lock: GupLocked | null = null,
    ): number => outcome(call(hva, 2, flags, pages, lock), pages);

    for (const [flag, bits] of Object.entries({
      FOLL_TOUCH,
      FOLL_TRIED,
      FOLL_REMOTE,
      FOLL_PIN,
      FOLL_FAST_ONLY,
      FOLL_UNLOCKABLE,
      FOLL_MADV_POPULATE,
    }))
      it(`(a) ${flag} is internal: ${illegal}`, () => expect(answers(bits)).toBe(illegal));

    if (takesLock)
      it(`(b) \`locked\` that is not 1: ${illegal}`, () => {
        expect(answers(0, fresh(), { locked: 0 })).toBe(illegal);
        expect(answers(0, fresh(), { locked: 2 })).toBe(illegal);
      });

    if (pins) {
      it(`(c) GET and PIN together: ${illegal}`, () => expect(answers(FOLL_GET)).toBe(illegal));
      it(`(f) LONGTERM with PCI_P2PDMA: ${illegal}`, () =>
        expect(answers(FOLL_LONGTERM | FOLL_PCI_P2PDMA)).toBe(illegal));
      it(`(e) PIN without \`pages\`: ${illegal}`, () => expect(answers(0, null)).toBe(illegal));
    } else {
      it(`(d) LONGTERM without PIN: ${illegal}`, () =>
        expect(answers(FOLL_LONGTERM)).toBe(illegal));
      it(`(e) GET without \`pages\`: ${illegal}`, () =>
        expect(answers(FOLL_GET, null)).toBe(illegal));
      it('GET given by the caller is no error', () => {
        const pages = fresh();
        expect(answers(FOLL_GET, pages)).toBe(2);
        release(pins, pages, 2);
      });
    }

    if (fast) {
      for (const [flag, bits] of Object.entries({
        FOLL_DUMP,
        FOLL_NOWAIT,
        FOLL_HWPOISON,
        FOLL_ANON,
        FOLL_SPLIT_PMD,
        FOLL_INTERRUPTIBLE,
      }))
        it(`the fast entry does not take ${flag}: -EINVAL`, () =>
          expect(answers(bits)).toBe(-EINVAL));
      it('a range that wraps is -EOVERFLOW, one above user space -EFAULT', () => {
        expect(outcome(call(2 ** 64 - PAGE_SIZE, 1, 0, fresh(), null), null)).toBe(-EOVERFLOW);
        expect(outcome(call(2 ** 38 - PAGE_SIZE, 2, 0, fresh(), null), null)).toBe(-EFAULT);
      });
    } else if (!pins) {
      it('without `pages` it only faults in: nothing is counted', () => {
        const holes = mapAnon(k, mm, 2);
        expect(drive(call(holes, 2, FOLL_WRITE, null, null))).toBe(2);
        expect(k.state.frames.refcount[pageAt(k, mm, holes)]).toBe(1);
        expect(pinsLive(k)).toBe(0);
      });
    }

    it('no pages asked for: 0, and the mm is not marked', () => {
      expect(outcome(call(hva, 0, 0, fresh(), null), null)).toBe(0);
      expect(mm.hasPinned).toBe(false);
    });

    it('the flags that it takes', () => {
      const more = fast ? 0 : FOLL_ANON | FOLL_HWPOISON | FOLL_INTERRUPTIBLE | FOLL_DUMP;
      const pages = fresh();
      const all = FOLL_WRITE | FOLL_FORCE | FOLL_NOFAULT | FOLL_HONOR_NUMA_FAULT | more;
      expect(answers(all, pages)).toBe(2);
      release(pins, pages, 2);
      expect(mm.hasPinned).toBe(pins);
      expect(violations(k)).toEqual([]);
    });
  });

describe('what a VMA refuses — 1.2 step 2, the first rule that matches', () => {
  const pin = (at: number, flags: number): number => {
    const pages = fresh();
    const n = outcome(pinUserPagesUnlocked(k, mm, at, 1, flags, pages), pages);
    if (n > 0) unpinUserPage(k, pages[0]!);
    return n;
  };
  const setFlags = (at: number, bits: number): void => {
    const vma = findVma(mm, at);
    if (vma === null) throw new Error('no VMA');
    vma.flags |= bits;
  };

  it('no VMA: -EFAULT', () => expect(pin(0x1_0000, 0)).toBe(-EFAULT));

  it('VM_IO and VM_PFNMAP: -EFAULT, whatever FORCE says', () => {
    for (const bits of [VM_IO, VM_PFNMAP]) {
      const at = mapFile(k, mm, shmemCreate(k, 1));
      store(k, mm, at, 1);
      setFlags(at, bits);
      expect(pin(at, FOLL_FORCE)).toBe(-EFAULT);
    }
  });

  it('FOLL_ANON on a file: -EFAULT, on anonymous memory not', () => {
    expect(pin(mapFile(k, mm, shmemCreate(k, 1)), FOLL_ANON)).toBe(-EFAULT);
    expect(pin(mapFile(k, mm, shmemCreate(k, 1), MAP_PRIVATE), FOLL_ANON)).toBe(-EFAULT);
    expect(pin(hva, FOLL_ANON)).toBe(1);
  });

  it('secretmem: -EFAULT, slow and fast, by reference and by pin', () => {
    const at = mapFile(k, mm, secretmemCreate(k, 1));
    store(k, mm, at, 1);
    expect(pin(at, 0)).toBe(-EFAULT);
    expect(pin(at, FOLL_FORCE | FOLL_WRITE)).toBe(-EFAULT);
    for (const flags of [0, FOLL_WRITE, FOLL_LONGTERM, FOLL_WRITE | FOLL_LONGTERM]) {
      const pages = fresh();
      expect(outcome(pinUserPagesFast(k, mm, at, 1, flags, pages), pages)).toBe(-EFAULT);
    }
    const fastOnly = fresh();
    expect(outcome(getUserPagesFastOnly(k, USER, mm, at, 1, 0, fastOnly), fastOnly)).toBe(0);
  });

  it('WRITE without VM_WRITE: -EFAULT; with FORCE only a COW mapping', () => {
    const anon = mapAnon(k, mm, 1, PROT_READ);
    const priv = mapFile(k, mm, shmemCreate(k, 1), MAP_PRIVATE, PROT_READ);
    const shared = mapFile(k, mm, shmemCreate(k, 1), MAP_SHARED, PROT_READ);
    expect([anon, priv, shared].map((at) => pin(at, FOLL_WRITE))).toEqual(Array(3).fill(-EFAULT));
    const forced = FOLL_WRITE | FOLL_FORCE;
    expect([anon, priv, shared].map((at) => pin(at, forced))).toEqual([1, 1, -EFAULT]);
  });

  it('READ without VM_READ: -EFAULT; with FORCE where VM_MAYREAD is set', () => {
    const none = mapAnon(k, mm, 1, PROT_NONE);
    expect(pin(none, 0)).toBe(-EFAULT);
    expect(pin(none, FOLL_FORCE)).toBe(1);
    const vma = findVma(mm, none);
    if (vma === null) throw new Error('no VMA');
    vma.flags &= ~VM_MAYREAD;
    expect(pin(none, FOLL_FORCE)).toBe(-EFAULT);
  });

  it('write-only memory can be written, and read only with FORCE', () => {
    const at = mapAnon(k, mm, 1, PROT_WRITE);
    expect([pin(at, FOLL_WRITE), pin(at, 0), pin(at, FOLL_FORCE)]).toEqual([1, -EFAULT, 1]);
  });

  it('the hole behind a VMA ends the walk: the count so far, then the error', () => {
    drive(munmap(k, mm, hva + PAGE_SIZE, PAGE_SIZE));
    const pages = fresh();
    expect(drive(pinUserPagesUnlocked(k, mm, hva, 2, 0, pages))).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(pin(hva + PAGE_SIZE, 0)).toBe(-EFAULT);
  });

  it('out of memory: -ENOMEM', () => {
    const big = mapAnon(k, mm, 4096);
    const many = new Int32Array(4096);
    const n = drive(pinUserPagesUnlocked(k, mm, big, 4096, FOLL_WRITE, many));
    expect(n).toBeLessThan(4096);
    expect(pin(big + n * PAGE_SIZE, FOLL_WRITE)).toBe(-ENOMEM);
  });
});
