/** Pictures of docs/gup.md: where two parties come to see different bytes, or the same ones where they should not. */
import {
  createPolicy,
  drive,
  gupTestGetFast,
  HPAGE_PMD_NR,
  type HostProcess,
  migrateFolio,
  type Policy,
  setPolicyApi,
} from '#mm';
import { FOLL_LONGTERM, FOLL_WRITE } from '#mm/driver-api';
import { draw } from './draw.ts';
import type { Play } from './one-page.ts';
import {
  addChild,
  createStage,
  doing,
  done,
  folioA,
  HVA,
  must,
  pin,
  readWord,
  type Stage,
  type StageOptions,
  splice,
  unmap,
} from './stage.ts';

/** Where the device of the O_DIRECT story writes: beside what the process writes. */
const DEVICE_OFFSET = 8;

const HUGETLB: StageOptions = { huge: 'hugetlb', nrPages: HPAGE_PMD_NR };

const vmspliceAs = (api: string): Policy => {
  const policy = createPolicy('linux-7');
  const wrong = setPolicyApi(policy, 'vmsplice', api);
  if (wrong !== null) throw new Error(wrong);
  return policy;
};

/** C puts what it shares with P into a pipe, lets go of it, and P writes 2. */
const spliceInChild = (options: StageOptions): string[] => {
  const s = createStage(options);
  draw(s);
  const c = addChild(s);
  splice(s, c);
  const before = ['fork(), C: vmsplice()', ...draw(s)];
  unmap(s, c);
  must(s.p.store32(HVA, 2));
  return [
    ...before,
    'C: munmap(), then P writes 2',
    ...draw(s),
    `  C reads from the pipe: ${readWord(s)}`,
  ];
};

/** P puts its page into a pipe, and writes 2 before anybody reads. */
const writeAfterSplice = (api: string): string[] => {
  const s = createStage({ policy: vmspliceAs(api) });
  draw(s);
  splice(s, s.p);
  must(s.p.store32(HVA, 2));
  return [`vmsplice() by ${api}, then P writes 2`, ...draw(s), `  the pipe says: ${readWord(s)}`];
};

/** A device of old: it has taken a plain reference. */
const getForDevice = (s: Stage, n = 1): void => {
  const pages = new Int32Array(1);
  for (let i = 0; i < n; i++) {
    must(drive(gupTestGetFast(s.k, s.p.mm, HVA, 1, FOLL_WRITE, pages)));
    s.held.push({ who: 'device', how: 'get', page: pages[0]! });
  }
};

/** The device writes 7 into the page that it has in hand. */
const deviceWrites = ({ k, held }: Stage): void => {
  const [first] = held;
  if (first === undefined) throw new Error('the device has no page');
  k.memory.setBytes(k.memory.pageOffset(first.page) + DEVICE_OFFSET, Uint8Array.of(7, 0, 0, 0));
};

/** While a device reads from a disk into P's page, P forks and writes elsewhere in the page. */
const forkUnderDma = (take: (s: Stage) => void): string[] => {
  const s = createStage();
  take(s);
  draw(s);
  const c = addChild(s);
  must(s.p.store32(HVA, 2));
  deviceWrites(s);
  const at = HVA + DEVICE_OFFSET;
  const found = (p: HostProcess): number => p.load32(at);
  return [
    'fork(), P writes beside it, the device writes 7',
    ...draw(s),
    `  P finds ${found(s.p)}, C finds ${found(c)}`,
  ];
};

/** A device is to read a page that P shares with C; P writes 2 afterwards. */
const readOnlyPin = (unshares: boolean): string[] => {
  const s = createStage();
  draw(s);
  addChild(s);
  s.k.sabotage.neverUnshare = !unshares;
  const result = done('fork(), a pin to read', pin(s, s.p, 1, 0));
  const before = [result, ...draw(s)];
  must(s.p.store32(HVA, 2));
  const [first] = s.held;
  const word = first === undefined ? -1 : s.k.memory.i32[s.k.memory.pageOffset(first.page) / 4]!;
  return [...before, 'P writes 2', ...draw(s), `  the device reads ${word}`];
};

/** P has read its page and never written to it. */
const pinZeroPage = (flags: number, what: string): string[] => {
  const s = createStage({ untouched: true });
  must(s.p.load32(HVA));
  return [done(what, pin(s, s.p, 1, flags)), ...draw(s)];
};

export const STORIES: Record<string, Play> = {
  'vmsplice-small': () => spliceInChild({}),
  'vmsplice-hugetlb': () => spliceInChild(HUGETLB),
  'vmsplice-hugetlb-target': () => spliceInChild({ ...HUGETLB, policy: createPolicy('target') }),
  'write-after-splice': () => ['get', 'pin-longterm', 'copy'].flatMap(writeAfterSplice),
  'fork-under-dma': () => [
    ...forkUnderDma(getForDevice).map((line, i) => (i === 0 ? `by reference: ${line}` : line)),
    ...forkUnderDma((s) => void must(pin(s, s.p))).map((line, i) =>
      i === 0 ? `by pin: ${line}` : line,
    ),
  ],
  'read-only-pin': () => readOnlyPin(true),
  'read-only-pin-kept': () => readOnlyPin(false),
  'zero-page': () => [
    ...pinZeroPage(0, 'a pin to read'),
    ...pinZeroPage(FOLL_LONGTERM, 'a long-term pin to read'),
  ],
  'many-references': () => {
    const s = createStage();
    getForDevice(s, 1023);
    const before = draw(s);
    return [...before, doing('migration of A', migrateFolio(s.k, folioA(s)))];
  },
};
