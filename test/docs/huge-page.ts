/** Pictures of docs/gup.md: the same of 2 MiB, whose folio counts pins by themselves. */
import { PAGE_SIZE } from '#emu';
import {
  collapseHugePage,
  drive,
  HPAGE_PMD_NR,
  MADV_HUGEPAGE,
  madvise,
  migrateFolio,
  mmExit,
  mprotect,
  PROT_READ,
  splitHugePage,
} from '#mm';
import { draw } from './draw.ts';
import { type Play, threeWays } from './one-page.ts';
import {
  addChild,
  createStage,
  doing,
  done,
  folioA,
  HVA,
  must,
  pin,
  type StageOptions,
  told,
} from './stage.ts';

const THP: StageOptions = { huge: 'thp', nrPages: HPAGE_PMD_NR };
const SMALL: StageOptions = { nrPages: HPAGE_PMD_NR };

export const HUGE_PAGE: Record<string, Play> = {
  'thp-pin': () => {
    const s = createStage(THP);
    must(pin(s, s.p, 3));
    return draw(s);
  },
  'thp-mprotect': threeWays(
    (s) => doing('mprotect(one page, PROT_READ)', mprotect(s.k, s.p.mm, HVA, PAGE_SIZE, PROT_READ)),
    THP,
  ),
  'thp-split': threeWays((s) => doing('split of A', splitHugePage(s.k, folioA(s))), THP),
  'thp-fork': threeWays((s) => {
    addChild(s);
    return 'fork()';
  }, THP),
  'thp-write': threeWays((s) => {
    addChild(s);
    told(s);
    return done('P writes', s.p.store32(HVA, 2));
  }, THP),
  'thp-write-after-exit': threeWays((s) => {
    drive(mmExit(s.k, addChild(s).mm));
    told(s);
    return done('P writes', s.p.store32(HVA, 2));
  }, THP),
  'thp-migrate': threeWays((s) => doing('migration of A', migrateFolio(s.k, folioA(s))), THP),
  collapse: threeWays(
    (s) => doing('madvise(MADV_COLLAPSE)', collapseHugePage(s.k, s.p.mm, HVA)),
    SMALL,
    (s) => void must(drive(madvise(s.k, s.p.mm, HVA, HPAGE_PMD_NR * PAGE_SIZE, MADV_HUGEPAGE))),
  ),
};
