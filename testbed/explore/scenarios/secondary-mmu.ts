/**
 * A secondary MMU against the kernel: it follows a page that it does not hold.
 *
 *   secondary MMU                          kernel: migrates, drops or shares the page, or ends the process
 *   seq = sequence
 *   looks the page up, may sleep
 *                                          start: no new entries in the range, the old ones out
 *                                          changes the primary entry, flushes
 *                                          end: the sequence moves, the range is open again
 *   under its lock: an open range? has the sequence moved? then again
 *   installs the entry; stores through it
 *
 * Each variant takes one thing away that the user of mm/secondary.ts has to do. P1 to P3 are judged
 * after every step, by the entry that the user itself shows; in the end the bytes.
 */
import { setField, writeOnce } from '#cells';
import { PAGE_SIZE, RAM_OFFSET } from '#emu';
import {
  checkSecondary,
  createPolicy,
  drive,
  fork,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  mmExit,
  type MmStruct,
  type Path,
  type PolicyName,
} from '#mm';
import {
  createInvalidateState,
  createSecondaryPfn,
  faultInPfn,
  invalidateBegin,
  invalidateEnd,
  invalidateOpen,
  invalidateRetry,
  invalidateSeq,
  pfnToPage,
  registerSecondary,
  registerSecondaryOps,
  releasePfn,
  YP_WAIT,
} from '#mm/secondary';
import type { ActorPath, Play, Scenario, Stage, Variant } from '../scenario.ts';
import {
  createExploredWorld,
  type ExploredWorld,
  frameWord,
  mappedPage,
  rootsOf,
  watchedOf,
} from '../world.ts';

const OLD = 1;
const NEW = 2;
const OPS = 'secondary-mmu';

/** What the user does right; each variant but `right` has one of them false. */
interface Care {
  /** Entries go at the start of an invalidation. */
  drops: boolean;
  /** The sequence is looked at before an entry is installed. */
  retries: boolean;
  /** So is whether a range is open that covers it. */
  looksForRange: boolean;
  /** An entry is writable only if the primary one was found to be. */
  asksWritable: boolean;
  /** Everything goes with the address space. */
  releases: boolean;
}

interface Recipe extends Variant {
  care: Care;
  policy: PolicyName;
  /** What the kernel does meanwhile. */
  event: 'migrate' | 'drop' | 'share' | 'exit';
  /** The user writes; otherwise it only reads. */
  writes: boolean;
}

/** The one entry of the secondary MMU, and its record of invalidations. Plain data, shared by both actors. */
interface Smmu {
  pfn: number;
  writable: boolean;
  ended: boolean;
  invalidate: ReturnType<typeof createInvalidateState>;
}

interface World extends ExploredWorld {
  recipe: Recipe;
  smmu: Smmu;
}

interface Notes {
  /** The device has stored, by an entry that was there. */
  stored: boolean;
  child: MmStruct | null;
  error: string | null;
}

const dropEntry = (smmu: Smmu): void => {
  setField(smmu, 'pfn', -1);
  setField(smmu, 'writable', false);
};

const subscribe = ({ k, mm, hva, smmu, recipe: { care } }: World): void => {
  registerSecondaryOps(k, OPS, {
    invalidateRangeStart: (_owner, { start, end }) => {
      invalidateBegin(smmu.invalidate, start, end);
      if (care.drops && hva >= start && hva < end) dropEntry(smmu);
      return 0;
    },
    invalidateRangeEnd: () => invalidateEnd(smmu.invalidate),
    release: () => {
      setField(smmu, 'ended', true);
      if (care.releases) dropEntry(smmu);
    },
    visitEntries: (visit) => {
      if (smmu.pfn >= 0) visit(mm, hva, smmu.pfn, smmu.writable);
    },
  });
  registerSecondary(k, mm, OPS, 1);
};

/** Must what was looked up be looked up again? */
const isStale = ({ hva, smmu, recipe: { care } }: World, seq: number): boolean => {
  if (smmu.ended && care.releases) return true;
  const state = smmu.invalidate;
  if (care.retries && care.looksForRange) return invalidateRetry(state, seq, hva);
  return care.retries && state.seq !== seq;
};

/** One fault. @returns 0, -errno, or 1: the address space is gone */
function* secondaryFault(w: World): Path<number> {
  const { k, mm, hva, smmu, recipe } = w;
  const out = createSecondaryPfn();
  for (;;) {
    if (smmu.ended) return 1;
    const seq = invalidateSeq(smmu.invalidate);
    const error = yield* faultInPfn(k, mm, hva, recipe.writes, out);
    if (error !== 0) return smmu.ended ? 1 : error;
    if (isStale(w, seq)) {
      releasePfn(k, out, false, false);
      while (invalidateOpen(smmu.invalidate, hva)) yield YP_WAIT;
      continue;
    }
    const writable = recipe.care.asksWritable ? recipe.writes && out.writable : true;
    setField(smmu, 'pfn', out.pfn);
    setField(smmu, 'writable', writable);
    releasePfn(k, out, writable && out.writable, true);
    return 0;
  }
}

/** The device behind it stores a word, or looks at one, with a fault where there is no entry. */
function* device(w: World, notes: Notes): ActorPath {
  const { k, smmu, recipe } = w;
  for (;;) {
    const outcome = yield* secondaryFault(w);
    if (outcome !== 0) {
      if (outcome < 0) notes.error = `the fault returned ${outcome}`;
      return;
    }
    yield 'has installed the entry';
    if (smmu.pfn < 0) continue;
    const word = (RAM_OFFSET + pfnToPage(smmu.pfn) * PAGE_SIZE) >>> 2;
    if (recipe.writes) {
      writeOnce(k.memory.i32, word, NEW);
      notes.stored = true;
    }
    return;
  }
}

function* kernel(w: World, notes: Notes): ActorPath {
  const { k, mm, hva, page } = w;
  switch (w.recipe.event) {
    case 'migrate':
      yield* migrateFolio(k, page);
      return;
    case 'drop': {
      const error = yield* madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED);
      if (error !== 0) notes.error = `madvise() returned ${error}`;
      return;
    }
    case 'share': {
      const child = yield* fork(k, mm);
      if (typeof child === 'number') notes.error = `fork() returned ${child}`;
      else notes.child = child;
      return;
    }
    case 'exit':
      yield* mmExit(k, mm);
  }
}

const brokenRules = ({ k }: World): string | null => {
  const report: string[] = [];
  checkSecondary(k, report);
  return report[0] ?? null;
};

/** At the end: what the device stored is what the process has, unless it gave the page up. */
const judge = (w: World, { stored, child, error }: Notes): string | null => {
  const { k, mm, hva, recipe } = w;
  if (error !== null) return error;
  if (recipe.event === 'exit') return brokenRules(w);
  const page = mappedPage(k, mm, hva);
  if (stored && recipe.event === 'migrate' && (page < 0 || frameWord(k, page, 0) !== NEW))
    return 'the process does not see what the device stored';
  if (child !== null && recipe.writes) {
    const own = mappedPage(k, child, hva);
    if (own >= 0 && own === page && w.smmu.writable)
      return 'I13: the device can write to a page that the child has too';
  }
  drive(mmExit(k, mm));
  return brokenRules(w);
};

const build = (variant: Variant): Stage => {
  const recipe = RECIPES.find(({ name }) => name === variant.name);
  if (recipe === undefined) throw new Error(`secondary-mmu has no variant ${variant.name}`);
  const world = createExploredWorld(variant.sabotage, OLD);
  world.k.policy = createPolicy(recipe.policy);
  world.k.checked = true;
  const smmu: Smmu = {
    pfn: -1,
    writable: false,
    ended: false,
    invalidate: createInvalidateState(),
  };
  const w: World = { ...world, recipe, smmu };
  subscribe(w);
  return {
    roots: () => [rootsOf(w), smmu],
    memory: w.k.memory,
    watched: [
      ...watchedOf(w).slice(0, 2),
      {
        name: 'secondary entry',
        read: () =>
          smmu.pfn < 0 ? 'none' : `page ${pfnToPage(smmu.pfn)} ${smmu.writable ? 'rw' : 'ro'}`,
      },
      { name: 'sequence', read: () => String(smmu.invalidate.seq) },
    ],
    start: (): Play => {
      const notes: Notes = { stored: false, child: null, error: null };
      return {
        actors: [
          { name: 'device', path: device(w, notes) },
          { name: 'kernel', path: kernel(w, notes) },
        ],
        invariant: () => brokenRules(w),
        check: () => judge(w, notes),
      };
    },
  };
};

const CARE: Care = {
  drops: true,
  retries: true,
  looksForRange: true,
  asksWritable: true,
  releases: true,
};
const PLAIN = {
  sabotage: {},
  withoutBarriers: [],
  care: CARE,
  policy: 'target',
  event: 'migrate',
  writes: true,
} as const;

const RECIPES: readonly Recipe[] = [
  {
    ...PLAIN,
    name: 'right',
    title: 'no reference at all, while the page is migrated',
    declared: 'holds',
  },
  {
    ...PLAIN,
    name: 'right-drop',
    title: 'the same while the page is given up',
    declared: 'holds',
    event: 'drop',
  },
  {
    ...PLAIN,
    name: 'right-share',
    title: 'the same while the process forks',
    declared: 'holds',
    event: 'share',
  },
  {
    ...PLAIN,
    name: 'right-exit',
    title: 'the same while the process ends',
    declared: 'holds',
    event: 'exit',
  },
  {
    ...PLAIN,
    name: 'get',
    title: 'with a reference from the look-up to the entry, as kvm takes it today',
    declared: 'holds',
    policy: 'linux-7',
  },
  {
    ...PLAIN,
    name: 'no-drop',
    title: 'entries stay at the start of an invalidation (P1)',
    declared: 'breaks',
    care: { ...CARE, drops: false },
    event: 'share',
    writes: false,
  },
  {
    ...PLAIN,
    name: 'no-range',
    title: 'the sequence alone is looked at, and not whether a range is open (P1)',
    declared: 'breaks',
    care: { ...CARE, looksForRange: false },
    event: 'share',
    writes: false,
  },
  {
    ...PLAIN,
    name: 'always-writable',
    title: 'read-only is not asked for: a look-up for reading makes a writable entry (P2)',
    declared: 'breaks',
    care: { ...CARE, asksWritable: false },
    event: 'share',
    writes: false,
  },
  {
    ...PLAIN,
    name: 'no-retry',
    title: 'what was looked up is installed without a second look (P3)',
    declared: 'breaks',
    care: { ...CARE, retries: false },
  },
  {
    ...PLAIN,
    name: 'get-no-retry',
    title: 'the same with a reference until then: it is no help (P3)',
    declared: 'breaks',
    care: { ...CARE, retries: false },
    policy: 'linux-7',
    event: 'drop',
  },
  {
    ...PLAIN,
    name: 'no-release',
    title: 'entries stay when the address space ends (P3)',
    declared: 'breaks',
    care: { ...CARE, drops: false, releases: false },
    event: 'exit',
  },
];

export const secondaryMmu: Scenario = {
  name: 'secondary-mmu',
  title: 'a secondary MMU follows the page tables, and holds nothing: P1, P2, P3',
  model: 'sc',
  bound: 2,
  build,
  variants: RECIPES,
};
