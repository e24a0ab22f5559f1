/** Mapping calls of the random driver: mmap, munmap, mprotect, mremap, madvise, fork, exit. */
import { PAGE_SIZE } from '#emu';
import {
  fork,
  MADV_COLLAPSE,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_UNMERGEABLE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGE_SHIFT,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  mmap,
  mprotect,
  mremap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '#mm';
import type { RandomDriver } from './driver.ts';
import { History } from './history.ts';
import {
  brokenWith,
  createRegion,
  type FileModel,
  type Process,
  type Region,
  splitRegion,
} from './model.ts';

const MAX_REGIONS = 7;
const RW = PROT_READ | PROT_WRITE;

/** Cuts so that what is returned is a random part of a region, by its units; often all of it. */
const partOf = (driver: RandomDriver, region: Region): Region => {
  const { random } = driver;
  const grain = Math.max(region.unit, region.stride);
  const pieces = Math.floor(region.nrPages / grain);
  if (pieces < 2 || region.process.regions.length >= MAX_REGIONS || random.chance(0.5))
    return region;
  const from = random.below(pieces);
  const to = from + 1 + random.below(pieces - from);
  let part = region;
  if (from > 0) part = splitRegion(part, from * grain);
  if (to < pieces) splitRegion(part, (to - from) * grain);
  return part;
};

/** Marks the words of a region as changing until the returned function is called. */
const changing = (driver: RandomDriver, region: Region): (() => void) => {
  const words = [...region.words];
  for (const word of words) word.changing++;
  return () => {
    for (const word of words) {
      word.changing--;
      word.changed = driver.now;
    }
  };
};

const idle = (region: Region): boolean => region.words.every((word) => word.changing === 0);

export const beginMmap = (driver: RandomDriver): void => {
  const process = driver.anyProcess();
  if (process === undefined || process.regions.length >= MAX_REGIONS) return;
  const { random, k } = driver;
  const file = random.chance(0.5) ? driver.anyFile((candidate) => !candidate.direct) : undefined;
  const hugetlb = file === undefined ? random.chance(0.08) : file.unit > 1;
  const huge = hugetlb || (file === undefined && random.chance(0.25));
  let nrPages = 1 + random.below(24);
  if (file !== undefined) nrPages = file.maxPages;
  else if (hugetlb) nrPages = 512;
  else if (huge) nrPages = 512 * (1 + random.below(2)) + (random.chance(0.3) ? 32 : 0);
  const shared = file !== undefined && random.chance(0.6);
  const lenBytes = nrPages * PAGE_SIZE;
  const hva = driver.place(lenBytes, huge);
  const flags =
    MAP_FIXED |
    (shared ? MAP_SHARED : MAP_PRIVATE) |
    (file === undefined ? MAP_ANONYMOUS : 0) |
    (file === undefined && hugetlb ? MAP_HUGETLB | (21 << MAP_HUGE_SHIFT) : 0);
  const request = {
    hva,
    lenBytes,
    prot: RW,
    flags,
    ...(file && { mapping: file.mapping, pgoff: 0 }),
  };
  driver.start('mmap', process, mmap(k, process.p.mm, request), (at) => {
    if (at < 0 || process.regions.length > MAX_REGIONS) return;
    process.regions.push(regionOf(process, hva, nrPages, { huge, hugetlb, shared }, file ?? null));
  });
};

const regionOf = (
  process: Process,
  hva: number,
  nrPages: number,
  { huge, hugetlb, shared }: { huge: boolean; hugetlb: boolean; shared: boolean },
  file: FileModel | null,
): Region => {
  const stride = file?.stride ?? (huge ? 16 : 1);
  const nr = Math.ceil(nrPages / stride);
  const words = Array.from({ length: nr }, (_, i) => {
    const inFile = file?.words[i] ?? null;
    if (inFile === null) return { history: new History(0), origin: null, inFile: -1 };
    return shared
      ? { history: inFile, origin: null, inFile: i }
      : { history: new History(inFile), origin: inFile, inFile: i };
  });
  if (hugetlb && !shared) for (const { history, origin } of words) history.lost = origin ?? 0;
  const kind = file === null ? 'anon' : shared ? 'shared' : 'file';
  const unit = hugetlb ? 512 : 1;
  return createRegion(
    { process, hva, nrPages, stride, kind, file, writable: true, readable: true, unit },
    words,
  );
};

export const beginMunmap = (driver: RandomDriver): void => {
  const found = driver.anyRegion();
  if (found === undefined || !idle(found)) return;
  const region = partOf(driver, found);
  const { process } = region;
  process.regions.splice(process.regions.indexOf(region), 1);
  region.dead = true;
  if (region.kind !== 'shared') for (const { history } of region.words) history.epoch++;
  driver.start(
    'munmap',
    process,
    munmap(driver.k, process.p.mm, region.hva, region.nrPages * PAGE_SIZE),
    (error) => {
      if (error !== 0) throw new Error(`munmap: ${error}`);
    },
  );
};

export const beginMprotect = (driver: RandomDriver): void => {
  const found = driver.anyRegion();
  if (found === undefined || !idle(found)) return;
  const region = partOf(driver, found);
  const { process } = region;
  const prot = driver.random.pick([RW, RW, RW, RW, RW, PROT_READ, PROT_READ, 0]);
  const end = changing(driver, region);
  driver.start(
    'mprotect',
    process,
    mprotect(driver.k, process.p.mm, region.hva, region.nrPages * PAGE_SIZE, prot),
    (error) => {
      end();
      if (error !== 0) return;
      region.writable = (prot & PROT_WRITE) !== 0;
      region.readable = prot !== 0;
    },
  );
};

/** MADV_DONTNEED: what was private is zero, or the file's, from some moment on. */
export const beginDontneed = (driver: RandomDriver): void => {
  const found = driver.anyRegion();
  if (found === undefined || !idle(found)) return;
  const region = partOf(driver, found);
  const words = region.kind === 'shared' ? [] : [...region.words];
  const writes = words.map((word) => {
    word.history.beginDrop();
    return word.history.begin(driver.now, word.origin ?? 0);
  });
  driver.start(
    'dontneed',
    region.process,
    madvise(driver.k, region.process.p.mm, region.hva, region.nrPages * PAGE_SIZE, MADV_DONTNEED),
    (error) => {
      words.forEach((word, i) => {
        const write = writes[i];
        if (write === undefined) return;
        word.history.endDrop();
        // With an error what lies before the hole has been dropped.
        if (error !== 0) write.maybe = true;
        word.history.finish(write, driver.now, driver.horizon());
      });
    },
  );
};

const ADVICES = [
  { advice: MADV_HUGEPAGE, name: 'hugepage' },
  { advice: MADV_NOHUGEPAGE, name: 'nohugepage' },
  { advice: MADV_MERGEABLE, name: 'mergeable' },
  { advice: MADV_MERGEABLE, name: 'mergeable' },
  { advice: MADV_UNMERGEABLE, name: 'unmergeable' },
  { advice: MADV_PAGEOUT, name: 'pageout' },
  { advice: MADV_PAGEOUT, name: 'pageout' },
  { advice: MADV_COLLAPSE, name: 'collapse' },
  { advice: MADV_POPULATE_READ, name: 'populate read' },
  { advice: MADV_POPULATE_WRITE, name: 'populate write' },
] as const;

/** Advice that no byte may notice. */
export const beginAdvice = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined) return;
  const { advice, name } = driver.random.pick(ADVICES);
  const { mm } = region.process.p;
  const histories = region.words.map((word) => word.history);
  const brokeCow = driver.breakCow(
    advice === MADV_POPULATE_WRITE ? brokenWith(region, histories) : [],
  );
  driver.start(
    name,
    region.process,
    madvise(driver.k, mm, region.hva, region.nrPages * PAGE_SIZE, advice),
    (error) => brokeCow(error === 0 ? histories.length : 0),
  );
};

/** mremap(): a part moves somewhere else, or shrinks where it is. */
export const beginMremap = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const found = driver.anyRegion();
  if (found === undefined || !idle(found) || found.unit > 1) return;
  const region = partOf(driver, found);
  const { process } = region;
  const { mm } = process.p;
  const lenBytes = region.nrPages * PAGE_SIZE;
  if (random.chance(0.7)) {
    const end = changing(driver, region);
    const to = driver.place(lenBytes, region.nrPages >= 512 && random.chance(0.7));
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    driver.start(
      'mremap move',
      process,
      mremap(k, mm, region.hva, lenBytes, lenBytes, flags, to),
      (at) => {
        end();
        if (at >= 0) region.hva = at;
      },
    );
    return;
  }
  // Smaller by half. What is cut off is gone for good.
  const half = Math.floor(region.nrPages / 2 / region.stride) * region.stride;
  if (half === 0) return;
  const cut = splitRegion(region, half);
  process.regions.splice(process.regions.indexOf(cut), 1);
  cut.dead = true;
  if (cut.kind !== 'shared') for (const { history } of cut.words) history.epoch++;
  const end = changing(driver, region);
  driver.start(
    'mremap shrink',
    process,
    mremap(k, mm, region.hva, lenBytes, half * PAGE_SIZE, 0),
    (at) => {
      end();
      if (at < 0) throw new Error(`a shrinking mremap failed: ${at}`);
    },
  );
};

export const beginFork = (driver: RandomDriver): void => {
  const process = driver.anyProcess();
  if (process === undefined || driver.full()) return;
  driver.start('fork', process, fork(driver.k, process.p.mm), (child, start) => {
    if (typeof child === 'number') return;
    // What was unmapped or moved meanwhile may or may not be there: the child's own VMAs say.
    const regions: Region[] = [];
    for (const region of process.regions) {
      const mapped = child.vmas.some((vma) => region.hva >= vma.start && region.hva < vma.end);
      if (!mapped || region.words.some((word) => word.changing > 0 || word.changed >= start))
        continue;
      const copy = createRegion(
        { ...region },
        region.words.map(({ history, origin, inFile }) => ({
          history: region.kind === 'shared' ? history : history.copy(start, driver.now),
          origin,
          inFile,
        })),
      );
      regions.push(copy);
    }
    if (driver.addProcess(child, regions) === null) driver.abandon(child);
  });
};

export const beginExit = (driver: RandomDriver): void => {
  const process = driver.anyProcess();
  if (process !== undefined && driver.processes.length > 1) driver.exit(process);
};
