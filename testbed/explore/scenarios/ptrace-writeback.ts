/**
 * A debugger's write against writeback: the tiny race of __access_remote_vm().
 *
 *   tracer                                 writeback
 *   looks the page up: it can be written
 *                                          entry read-only, page clean
 *                                          writes the page, the promise of a block is used up
 *   copies its bytes into the page
 *   marks the page dirty
 *
 * Now the page is dirty and the file system was never asked (page_mkwrite()): when it is written again
 * there may be no block for it. What the tracer would have to do instead is tried here, a variant each.
 */
import {
  accessRemoteVmFlags,
  createPolicy,
  drive,
  extentChecksumOf,
  folioLock,
  folioMarkDirty,
  folioTestWriteback,
  folioTrylock,
  folioUnlock,
  type Path,
  type Policy,
  ptePage,
  ptepGet,
  ptePresent,
  pteWrite,
  setPolicyApi,
  vfsFsync,
  writebackMapping,
} from '#mm';
import {
  FOLL_WRITE,
  mmapRead,
  pinUserPagesRemote,
  unpinUserPages,
  writePinnedPage,
} from '#mm/driver-api';
import {
  createFileWorld,
  diskBlock,
  diskBytes,
  type FileWorld,
  promiseKept,
  reachesDisk,
  watchedOfFile,
} from '../file-world.ts';
import type { ActorPath, Play, Scenario, Stage, Variant } from '../scenario.ts';
import { frameWord, rootsOf } from '../world.ts';

const OLD = 0x01d;
const NEW = 0xbe;
/** Byte of the page that the tracer writes. */
const TRACER_AT = 64;

/** What a variant is made of. */
interface Recipe extends Variant {
  tracer: (w: FileWorld, notes: Notes) => ActorPath;
  /** Changes of the policy `linux-7`, as `--set` takes them. */
  set: readonly [user: string, api: string][];
  checksums: boolean;
  stablePages: boolean;
  /** Judged by what is on the device in the end; the file system drops what was dirtied behind its back. */
  byBytes: boolean;
}

interface Notes {
  error: string | null;
}

/** access_remote_vm(), by whatever API the policy gives it. */
function* tracer({ k, mm, hva }: FileWorld, notes: Notes): ActorPath {
  const n = yield* accessRemoteVmFlags(k, mm, hva + TRACER_AT, Uint8Array.of(NEW), FOLL_WRITE);
  if (n !== 1) notes.error = `access_remote_vm() returned ${n}`;
}

/** The page that the tracer would write, pinned: what is taken away or added stands in the variants. */
function* pinPage({ k, mm, hva }: FileWorld): Path<number> {
  const pages = new Int32Array(1);
  const n = yield* mmapRead(mm, pinUserPagesRemote(k, mm, hva, 1, FOLL_WRITE, pages, null));
  return n === 1 ? pages[0]! : -1;
}

const copyBytes = ({ k }: FileWorld, page: number): void =>
  writePinnedPage(k, page, TRACER_AT, Uint8Array.of(NEW), 0, 1);

const unpin = ({ k }: FileWorld, page: number): void => unpinUserPages(k, Int32Array.of(page), 1);

/** May the process still write to the page through its entry? Looked at under the page-table lock. */
const stillWritable = ({ k, entry }: FileWorld, page: number): boolean => {
  const pte = ptepGet(k, entry);
  return ptePresent(pte) && pteWrite(pte) && ptePage(pte) === page;
};

/** With the folio locked from before the copy until it is dirty. @param again look at the entry under the lock */
const lockingTracer = (again: boolean) =>
  function* (w: FileWorld, notes: Notes): ActorPath {
    const { k } = w;
    for (;;) {
      const page = yield* pinPage(w);
      if (page < 0) {
        notes.error = 'nothing to pin';
        return;
      }
      if (!folioTrylock(k, page)) yield* folioLock(k, page);
      const good = !again || stillWritable(w, page);
      if (good) {
        yield 'has locked the page';
        copyBytes(w, page);
        yield 'has copied its bytes';
        folioMarkDirty(k, page);
      }
      folioUnlock(k, page);
      unpin(w, page);
      if (good) return;
    }
  };

/** Looks at the entry after the copy: if it is read-only by now, all of it again, fault included. */
function* checkingTracer(w: FileWorld, notes: Notes): ActorPath {
  for (;;) {
    const page = yield* pinPage(w);
    if (page < 0) {
      notes.error = 'nothing to pin';
      return;
    }
    copyBytes(w, page);
    yield 'has copied its bytes';
    const good = stillWritable(w, page);
    if (good) folioMarkDirty(w.k, page);
    unpin(w, page);
    if (good) return;
  }
}

/** A driver that does not say what its device has written. */
function* sloppyDriver(w: FileWorld, notes: Notes): ActorPath {
  const page = yield* pinPage(w);
  if (page < 0) {
    notes.error = 'nothing to pin';
    return;
  }
  yield 'has programmed its device';
  copyBytes(w, page);
  unpin(w, page);
}

function* writeback({ k, mapping }: FileWorld, notes: Notes): ActorPath {
  const error = yield* writebackMapping(k, mapping);
  if (error !== 0) notes.error = `writeback returned ${error}`;
}

/** What is on the device is what its checksum is of, unless it is on its way. */
const sumsAgree = (w: FileWorld): string | null => {
  const { k, fs, page } = w;
  const bytes = diskBytes(w);
  if (fs.checksums === null || bytes === null || folioTestWriteback(k, page)) return null;
  const sum = fs.checksums[diskBlock(w)]!;
  return sum === extentChecksumOf(bytes)
    ? null
    : 'checksum: what is on the device is not what its checksum is of, reading it fails';
};

/** At the end, and once more when everything has been written out: a crash afterwards would lose nothing. */
const judge = (w: FileWorld, { error }: Notes, byBytes: boolean): string | null => {
  const { k, mapping, page } = w;
  if (error !== null) return error;
  if (frameWord(k, page, TRACER_AT) !== NEW) return 'the page does not have the bytes';
  const lost = reachesDisk(w, TRACER_AT);
  if (lost !== null) return lost;
  const failed = drive(vfsFsync(k, mapping));
  if (failed !== 0 && !byBytes) return `fsync() returned ${failed}`;
  return reachesDisk(w, TRACER_AT) ?? sumsAgree(w);
};

const policyOf = ({ set }: Recipe): Policy => {
  const policy = createPolicy('linux-7');
  for (const [user, api] of set) {
    const wrong = setPolicyApi(policy, user, api);
    if (wrong !== null) throw new Error(wrong);
  }
  return policy;
};

const build = (variant: Variant): Stage => {
  const recipe = RECIPES.find(({ name }) => name === variant.name);
  if (recipe === undefined) throw new Error(`ptrace-writeback has no variant ${variant.name}`);
  const { checksums, stablePages, byBytes } = recipe;
  const options = { policy: policyOf(recipe), checksums, stablePages, dropsBehind: byBytes };
  const w = createFileWorld(options, OLD);
  return {
    roots: () => rootsOf(w),
    memory: w.k.memory,
    watched: watchedOfFile(w, TRACER_AT),
    start: (): Play => {
      const notes: Notes = { error: null };
      return {
        actors: [
          { name: 'tracer', path: recipe.tracer(w, notes) },
          { name: 'writeback', path: writeback(w, notes) },
        ],
        invariant: () => (byBytes ? null : promiseKept(w)) ?? sumsAgree(w),
        check: () => judge(w, notes, byBytes),
      };
    },
  };
};

const PLAIN = {
  sabotage: {},
  withoutBarriers: [],
  checksums: false,
  stablePages: false,
  byBytes: false,
} as const;
const CHECKSUMS = { ...PLAIN, checksums: true, stablePages: true } as const;
const COPY = ['access-remote-vm', 'copy'] as const;
const PIN = ['access-remote-vm', 'pin'] as const;
const BOUNCE = ['pinned-writeback', 'bounce'] as const;

const RECIPES: readonly Recipe[] = [
  {
    ...CHECKSUMS,
    name: 'right',
    title: 'through the page tables, holding nothing; checksums and stable pages',
    declared: 'holds',
    tracer,
    set: [[...COPY]],
  },
  {
    ...CHECKSUMS,
    name: 'pin-bounce',
    title: 'by FOLL_PIN, and writeback writes a copy of what is pinned; checksums, stable pages',
    declared: 'holds',
    tracer,
    set: [[...PIN], [...BOUNCE]],
  },
  {
    ...CHECKSUMS,
    name: 'lock-recheck',
    title: 'by FOLL_PIN, the entry looked at again under the folio lock; checksums, stable pages',
    declared: 'holds',
    tracer: lockingTracer(true),
    set: [],
  },
  {
    ...PLAIN,
    name: 'recheck',
    title: 'the entry looked at again after the copy, and if need be all of it once more',
    declared: 'holds',
    tracer: checkingTracer,
    set: [],
  },
  {
    ...PLAIN,
    name: 'linux',
    title: 'by FOLL_GET, as Linux does it',
    declared: 'breaks',
    tracer,
    set: [],
  },
  {
    ...PLAIN,
    name: 'linux-bytes',
    title: 'the same on a file system that drops what it was not asked for, judged by the bytes',
    declared: 'breaks',
    tracer,
    set: [],
    byBytes: true,
  },
  {
    ...PLAIN,
    name: 'pin',
    title: 'by FOLL_PIN, and writeback does not look for pins',
    declared: 'breaks',
    tracer,
    set: [[...PIN]],
  },
  {
    ...PLAIN,
    name: 'lock',
    title: 'the folio lock held from before the copy until the page is dirty',
    declared: 'breaks',
    tracer: lockingTracer(false),
    set: [],
  },
  {
    ...CHECKSUMS,
    name: 'recheck-checksums',
    title: 'recheck, on a file system with checksums and stable pages',
    declared: 'breaks',
    tracer: checkingTracer,
    set: [],
  },
  {
    ...PLAIN,
    name: 'no-stable-pages',
    title: 'through the page tables, with checksums and without stable pages',
    declared: 'breaks',
    tracer,
    set: [[...COPY]],
    checksums: true,
  },
  {
    ...PLAIN,
    name: 'never-dirty',
    title: 'a driver with a pin, who never marks the page dirty',
    declared: 'breaks',
    tracer: sloppyDriver,
    set: [],
  },
];

export const ptraceWriteback: Scenario = {
  name: 'ptrace-writeback',
  title: "a debugger's write against writeback: the file system is asked before a page is dirty",
  model: 'sc',
  bound: 2,
  build,
  variants: RECIPES,
};
