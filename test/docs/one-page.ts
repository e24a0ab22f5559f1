/** Pictures of docs/gup.md: what becomes of one page that a pipe refers to, a device has pinned, or a VM follows. */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  folioTestDirty,
  ksmScan,
  MADV_MERGEABLE,
  madvise,
  migrateFolio,
  mmExit,
  mprotect,
  PROT_READ,
  reclaimFolio,
  YP_SWAP_UNMAPPED,
} from '#mm';
import { unpinUserPagesDirtyLock } from '#mm/driver-api';
import { RW, stepTo } from '../mm/support.ts';
import { draw } from './draw.ts';
import {
  addChild,
  addStranger,
  ask,
  createStage,
  doing,
  done,
  drainPipe,
  folioA,
  type Holder,
  HVA,
  hold,
  must,
  type Stage,
  type StageOptions,
  told,
} from './stage.ts';

/** Performs the steps of a picture. @returns its lines */
export type Play = () => string[];

/** What is done to the memory. @returns what is to be written above the picture */
export type Act = (s: Stage) => string;

const WAYS: readonly [Holder, string][] = [
  ['pipe', 'a reference'],
  ['device', 'a pin'],
  ['VM', 'a notifier'],
];

/** One picture: somebody holds P's first page. */
const heldBy =
  (holder: Holder): Play =>
  () => {
    const s = createStage();
    hold(s, holder);
    return draw(s);
  };

/**
 * The same with each of the three; where P still exists also what the VM finds when it touches the page again.
 * @param before what has happened before anybody holds the page
 */
export const threeWays =
  (act: Act, options: StageOptions = {}, before: (s: Stage) => void = () => {}): Play =>
  () =>
    WAYS.flatMap(([holder, title]) => {
      const s = createStage(options);
      before(s);
      hold(s, holder);
      draw(s);
      told(s);
      const lines = [`${title}: ${act(s)}`, ...draw(s)];
      return s.vm === null ? lines : [...lines, `  VM was told: ${told(s)}`];
    });

/** What the VM finds when it touches the page again. @param write which access it tries first */
const asksAgain =
  (act: Act, write: boolean): Play =>
  () => {
    const s = createStage();
    hold(s, 'VM');
    draw(s);
    act(s);
    const access = write ? 'VM writes' : 'VM reads';
    return [`${done(access, ask(s, write))}`, ...draw(s)];
  };

const forkP: Act = (s) => {
  addChild(s);
  return 'fork()';
};

const protect: Act = (s) =>
  doing('mprotect(PROT_READ)', mprotect(s.k, s.p.mm, HVA, PAGE_SIZE, PROT_READ));

const migrate: Act = (s) => doing('migration of A', migrateFolio(s.k, folioA(s)));

const swapOut: Act = (s) => doing('swap-out of A', reclaimFolio(s.k, folioA(s)));

export const ONE_PAGE: Record<string, Play> = {
  example: () => {
    const s = createStage();
    hold(s, 'device');
    draw(s);
    return [forkP(s), ...draw(s)];
  },

  mapped: () => draw(createStage()),
  reference: heldBy('pipe'),
  pin: heldBy('device'),
  notifier: heldBy('VM'),

  fork: threeWays(forkP),
  'fork-asked': asksAgain(forkP, false),

  'write-after-fork': threeWays((s) => {
    addChild(s);
    told(s);
    return done('P writes', s.p.store32(HVA, 2));
  }),
  'write-after-exit': threeWays((s) => {
    drive(mmExit(s.k, addChild(s).mm));
    told(s);
    return done('P writes', s.p.store32(HVA, 2));
  }),

  mprotect: threeWays(protect),
  'mprotect-back': threeWays((s) => {
    protect(s);
    told(s);
    return doing('mprotect(PROT_READ | PROT_WRITE)', mprotect(s.k, s.p.mm, HVA, PAGE_SIZE, RW));
  }),
  'mprotect-asked': asksAgain(protect, true),

  'swap-steps': () => {
    const s = createStage();
    draw(s);
    const path = reclaimFolio(s.k, folioA(s));
    stepTo(s.k, path, YP_SWAP_UNMAPPED);
    const unmapped = ['unmapped, while reclaim holds A', ...draw(s)];
    return [...unmapped, done('written, and let go', drive(path)), ...draw(s)];
  },
  swap: threeWays(swapOut),
  'swap-back': threeWays((s) => {
    swapOut(s);
    draw(s);
    told(s);
    return done('P writes', s.p.store32(HVA, 2));
  }),

  ksm: threeWays(
    (s) => doing('a scan of KSM', ksmScan(s.k, null)),
    {},
    (s) => {
      for (const { mm } of [s.p, addStranger(s)])
        must(drive(madvise(s.k, mm, HVA, PAGE_SIZE, MADV_MERGEABLE)));
    },
  ),

  migrate: threeWays(migrate),
  'migrate-asked': asksAgain(migrate, true),

  'give-back': () => {
    const s = createStage();
    hold(s, 'pipe');
    draw(s);
    const read = done('somebody reads the pipe', drainPipe(s));
    const lines = [read, ...draw(s)];
    hold(s, 'device');
    draw(s);
    const page = folioA(s);
    const before = folioTestDirty(s.k, page);
    drive(unpinUserPagesDirtyLock(s.k, Int32Array.of(page), 1, true));
    s.held.length = 0;
    const after = folioTestDirty(s.k, page);
    const dirty = (is: boolean): string => (is ? 'dirty' : 'clean');
    return [
      ...lines,
      'unpin_user_pages_dirty_lock()',
      ...draw(s),
      `  A was ${dirty(before)}, and is ${dirty(after)}`,
    ];
  },

  exit: threeWays((s) => {
    drive(mmExit(s.k, s.p.mm));
    return 'exit()';
  }),
};
