/** Files of the random driver: read, write, made shorter and longer, holes punched, made durable. */
import { PAGE_SIZE } from '#emu';
import {
  EAGAIN,
  fileRead,
  filePunchHole,
  fileTruncate,
  fileWrite,
  MS_ASYNC,
  MS_SYNC,
  msync,
  type Path,
  vfsFsync,
  writebackMapping,
} from '#mm';
import { wordsAfterCrash } from './crash.ts';
import type { RandomDriver } from './driver.ts';
import type { History, Write } from './history.ts';
import { type FileModel, WORD, type Word } from './model.ts';

const WORD_BYTES = 4;

/** Has it read() and write(), and a length? A device has neither. */
const isRegular = ({ mapping }: FileModel): boolean => mapping.kind !== 'device';

/** Byte in the file of a watched word. */
const offsetOf = (file: FileModel, i: number): number => i * file.stride * PAGE_SIZE + WORD;

/** A watched word of a file that has it now. */
const anyFileWord = (driver: RandomDriver, file: FileModel): number => {
  const nr = Math.min(file.words.length, Math.ceil(file.nrPages / file.stride));
  return nr === 0 ? -1 : driver.random.below(nr);
};

export const beginFileRead = (driver: RandomDriver): void => {
  const file = driver.anyFile(isRegular);
  if (file === undefined) return;
  const i = anyFileWord(driver, file);
  const history = file.words[i];
  if (history === undefined) return;
  const bytes = new Uint8Array(WORD_BYTES);
  const path = fileRead(driver.k, file.mapping, offsetOf(file, i), bytes);
  driver.start(`${file.name} read`, null, path, (n, start) => {
    if (n === WORD_BYTES)
      driver.read(
        `read of ${file.name} page ${i}`,
        history,
        new DataView(bytes.buffer).getUint32(0, true),
        start,
      );
    else driver.excuseFile(file, 'read', n, start);
  });
};

/** Never beyond the end: whether it or a truncation comes first would decide of the length. */
export const beginFileWrite = (driver: RandomDriver): void => {
  const file = driver.anyFile(
    (any) => isRegular(any) && any.unit === 1 && any.changing === 0 && !any.direct,
  );
  if (file === undefined) return;
  const i = anyFileWord(driver, file);
  const history = file.words[i];
  if (history === undefined) return;
  const value = driver.value();
  const bytes = new Uint8Array(WORD_BYTES);
  new DataView(bytes.buffer).setUint32(0, value, true);
  const write = history.begin(driver.now, value);
  file.writing++;
  const path = fileWrite(driver.k, file.mapping, offsetOf(file, i), bytes);
  driver.start(`${file.name} write`, null, path, (n, start) => {
    file.writing--;
    if (n === WORD_BYTES) {
      history.finish(write, driver.now, driver.horizon());
      return;
    }
    history.cancel(write);
    driver.excuseFile(file, 'write', n, start);
  });
};

/** Every word of a private mapping that shows one of these words of a file. */
const privateWords = (driver: RandomDriver, file: FileModel, affects: (i: number) => boolean) =>
  driver.processes
    .flatMap(({ regions }) => regions)
    .filter((region) => region.file === file && region.kind === 'file')
    .flatMap((region) => region.words.filter((word) => affects(word.inFile)));

/** Words that will have another value, all at once as far as anybody knows: begun, and to be finished. */
const rewrite = (
  driver: RandomDriver,
  changes: readonly { history: History; value: number | History }[],
): ((error: number) => void) => {
  const writes: { history: History; write: Write }[] = changes.map(({ history, value }) => {
    history.beginDrop();
    return { history, write: history.begin(driver.now, value) };
  });
  return (error) => {
    for (const { history, write } of writes) {
      history.endDrop();
      if (error !== 0) write.maybe = true;
      history.finish(write, driver.now, driver.horizon());
    }
  };
};

/** ftruncate(): what lies beyond is zero when the file is long again, and private copies are gone too. */
export const beginTruncate = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const file = driver.anyFile((any) => isRegular(any) && any.changing === 0 && any.writing === 0);
  if (file === undefined) return;
  const pieces = file.maxPages / file.unit;
  const nrPages = (random.chance(0.5) ? pieces : random.below(pieces + 1)) * file.unit;
  // Of a page at the end the watched word stays, and what follows it goes.
  const part = file.unit === 1 && nrPages > 0 && random.chance(0.3) ? PAGE_SIZE - 96 : 0;
  const affects = (i: number): boolean => i * file.stride >= nrPages;
  const own: Word[] = privateWords(driver, file, affects);
  const finish = rewrite(driver, [
    ...file.words.filter((_, i) => affects(i)).map((history) => ({ history, value: 0 })),
    ...own.map(({ history, origin }) => ({ history, value: origin ?? 0 })),
  ]);
  file.changing++;
  const path = fileTruncate(k, file.mapping, nrPages * PAGE_SIZE - part);
  driver.start(`${file.name} truncate`, null, path, (error) => {
    finish(error);
    file.changing--;
    file.changed = driver.now;
    if (error === 0) file.nrPages = nrPages;
    else if (file.mapping.nrPages !== file.nrPages) file.nrPages = file.mapping.nrPages;
  });
};

/**
 * fallocate(PUNCH_HOLE): zeroes for all who see the file's own pages; private copies stay, but for those
 * of hugetlbfs, which unmaps whatever there is (hugetlb_vmdelete_list()).
 */
export const beginPunch = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const file = driver.anyFile((any) => isRegular(any) && any.changing === 0 && any.nrPages > 0);
  if (file === undefined) return;
  const pieces = Math.ceil(file.nrPages / file.unit);
  const from = random.below(pieces);
  const to = from + 1 + random.below(pieces - from);
  const [first, end] = [from * file.unit, to * file.unit];
  const affects = (i: number): boolean => i * file.stride >= first && i * file.stride < end;
  const own = file.unit > 1 ? privateWords(driver, file, affects) : [];
  const finish = rewrite(driver, [
    ...file.words.filter((_, i) => affects(i)).map((history) => ({ history, value: 0 })),
    ...own.map(({ history, origin }) => ({ history, value: origin ?? 0 })),
  ]);
  const path = filePunchHole(k, file.mapping, first * PAGE_SIZE, end * PAGE_SIZE);
  driver.start(`${file.name} punch`, null, path, finish);
};

/** A loss of power now: of what was written before `start`, when fsync() began, nothing may be missing. */
const checkDurable = (driver: RandomDriver, file: FileModel, start: number): void => {
  const { disk, mapping, words, changing, changed } = file;
  if (disk === null || mapping.inode === null || changing > 0 || changed >= start) return;
  const within = words.slice(0, file.nrPages);
  const offsets = within.map((_, i) => offsetOf(file, i));
  const keeps = (): boolean => driver.random.chance(0.5);
  for (const [i, value] of wordsAfterCrash(disk, mapping.inode.ino, offsets, keeps).entries()) {
    const history = within[i];
    if (history === undefined || history.explains(value, start, driver.now)) continue;
    if (!driver.excuses(value, history))
      throw new Error(
        `${file.name} page ${i} has ${value} after a loss of power, fsync() at ${start}..${driver.now}: ${history.describe()}`,
      );
  }
};

const sync = (driver: RandomDriver, name: string, file: FileModel, path: Path<number>): void => {
  driver.start(name, null, path, (error, start) => {
    if (error === 0) checkDurable(driver, file, start);
  });
};

export const beginFsync = (driver: RandomDriver): void => {
  const file = driver.anyFile(({ disk }) => disk !== null);
  if (file === undefined) return;
  sync(driver, `${file.name} fsync`, file, vfsFsync(driver.k, file.mapping));
};

/** Writeback as it comes by itself. */
export const beginWriteback = (driver: RandomDriver): void => {
  const file = driver.anyFile(({ mapping }) => mapping.kind === 'extent');
  if (file === undefined) return;
  const path = writebackMapping(driver.k, file.mapping, 0, Number.POSITIVE_INFINITY, false);
  driver.start('writeback', null, path);
};

export const beginMsync = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined) return;
  const { k, random } = driver;
  const { mm } = region.process.p;
  const flags = random.chance(0.8) ? MS_SYNC : MS_ASYNC;
  const path = msync(k, mm, region.hva, region.nrPages * PAGE_SIZE, flags);
  driver.start('msync', region.process, path, (error) => {
    if (error === -EAGAIN) throw new Error('msync: -EAGAIN');
  });
};
