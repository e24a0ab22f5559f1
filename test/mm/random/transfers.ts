/** Transfers of the random driver: bytes of one word to another, by whatever reaches both. */
import { PAGE_SIZE } from '#emu';
import {
  fileDirectRead,
  fileDirectWrite,
  type GupUserId,
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterUbuf,
  type MmStruct,
  type Path,
  processVmReadv,
  processVmWritev,
  remoteDirectRead,
  remoteDirectWrite,
} from '#mm';
import type { RandomDriver } from './driver.ts';
import type { History } from './history.ts';
import { brokenWith, WORD, type Word, wordHva } from './model.ts';
import { mappedPage } from './pins.ts';

const WORD_BYTES = 4;

/** process_vm_readv() and process_vm_writev(): the own memory by address, the other process's by pins. */
export const beginProcessVm = (driver: RandomDriver): void => {
  const local = driver.anyWord();
  const remote = driver.anyWord();
  if (local === undefined || remote === undefined) return;
  const { k } = driver;
  const write = driver.random.chance(0.5);
  const [from, to] = write ? [local, remote] : [remote, local];
  const { history } = to.word;
  if (from.word.history === history) return;
  const { epoch } = history;
  const pending = history.beginFrom(driver.now, from.word.history);
  driver.writesBehind(to.word);
  const brokeCow = driver.breakCow(brokenWith(to.region, [history]));
  const vec = (word: typeof local) => [{ hva: wordHva(word.region, word.i), lenBytes: WORD_BYTES }];
  const path = (write ? processVmWritev : processVmReadv)(
    k,
    local.region.process.p.mm,
    vec(local),
    remote.region.process.p.mm,
    vec(remote),
  );
  remote.region.process.busy++;
  driver.start(write ? 'vm writev' : 'vm readv', local.region.process, path, (n) => {
    remote.region.process.busy--;
    brokeCow(0);
    if (n === WORD_BYTES)
      history.finishFrom(
        pending,
        driver.now,
        history.epoch !== epoch || history.dropping > 0,
        driver.horizon(),
      );
    else history.cancel(pending);
  });
};

/** What goes wrong where the pages of direct I/O are held by plain references. */
const STRAY_READ = "2.4 (a): what direct I/O reads goes to a page that is another process's by now";
const MISSED_READ = '2.4 (a): the process misses what direct I/O has read';
const STRAY_WRITE = '2.4 (b): direct I/O writes what another process has stored';

/** Values that a transfer may have brought, from which on they are not told one by one. */
const MANY = 6;

/** What a file on the other side of direct I/O can do, the same for all kinds. */
export interface DirectFile {
  name: string;
  user: GupUserId;
  /** One for each page. */
  words: History[];
  read(mm: MmStruct, offset: number, it: IovIter): Path<number>;
  write(mm: MmStruct, offset: number, it: IovIter): Path<number>;
}

/** The value that is mapped for a word, -1 for none. */
const mappedValue = (driver: RandomDriver, word: Word): number => {
  const page = mappedPage(driver, word);
  return page < 0 ? -1 : driver.k.memory.i32[(driver.k.memory.pageOffset(page) + WORD) / 4]!;
};

/** The end of one word's transfer. @param came its bytes did, for certain */
interface Transferred {
  finish(came: boolean, failed: boolean): void;
}

/** File -> memory. */
const readWord = (
  driver: RandomDriver,
  file: DirectFile,
  from: History,
  word: Word,
): Transferred => {
  const { history } = word;
  const { epoch } = history;
  const start = driver.now;
  const pending = history.beginFrom(start, from);
  driver.writesBehind(word);
  const gets = driver.k.policy.apis[file.user] === 'get';
  return {
    finish: (came, failed) => {
      const detached = history.epoch !== epoch || history.dropping > 0;
      if (!came && !failed) {
        history.cancel(pending);
        return;
      }
      const values = from.values(start, driver.now);
      if (gets) for (const value of values) driver.strays.set(value, STRAY_READ);
      if (gets && values.length > MANY) {
        history.strange = STRAY_READ;
        history.cancel(pending);
        return;
      }
      history.finishFrom(pending, driver.now, detached || failed || gets, driver.horizon());
      if (!gets || detached || failed || history.busySince(start)) return;
      const value = mappedValue(driver, word);
      if (value >= 0 && !values.includes(value)) driver.predict(MISSED_READ);
    },
  };
};

/** Memory -> file. */
const writeWord = (
  driver: RandomDriver,
  file: DirectFile,
  word: Word,
  to: History,
): Transferred => {
  const { history } = word;
  const pending = to.beginFrom(driver.now, history);
  const gets = driver.k.policy.apis[file.user] === 'get';
  return {
    finish: (came, failed) => {
      if (!came && !failed) {
        to.cancel(pending);
        return;
      }
      if (gets) to.strange = STRAY_WRITE;
      if (gets && history.values(driver.now, driver.now).length > MANY) {
        to.cancel(pending);
        return;
      }
      to.finishFrom(pending, driver.now, failed || gets, driver.horizon());
    },
  };
};

/** read() or write() with O_DIRECT of some pages, at a place of the file that is drawn. */
export const beginDirect = (
  driver: RandomDriver,
  file: DirectFile,
  write: boolean,
  ended: () => void = () => {},
): void => {
  const found = driver.anyWord();
  if (found === undefined) {
    ended();
    return;
  }
  const { random } = driver;
  const { region, i } = found;
  const at = random.below(file.words.length);
  const most = region.stride > 1 ? 1 : Math.min(3, file.words.length - at, region.words.length - i);
  const nr = 1 + random.below(most);
  const words = region.words.slice(i, i + nr);
  const ends = words.map((word, j) => {
    const inFile = file.words[at + j];
    if (inFile === undefined) throw new Error(`${file.name} has no page ${at + j}`);
    return write ? writeWord(driver, file, word, inFile) : readWord(driver, file, inFile, word);
  });
  const reached = write ? [] : words.map((word) => word.history);
  const brokeCow = driver.breakCow(brokenWith(region, reached));
  const hva = wordHva(region, i) - WORD;
  const it = iovIterUbuf(write ? ITER_SOURCE : ITER_DEST, hva, nr * PAGE_SIZE);
  const { mm } = region.process.p;
  const path = (write ? file.write : file.read)(mm, at * PAGE_SIZE, it);
  driver.start(`${file.name} ${write ? 'write' : 'read'}`, region.process, path, (done) => {
    brokeCow(0);
    ended();
    // Beyond what is said to be done a request may have been on its way when another failed.
    const short = done < nr * PAGE_SIZE;
    for (const [j, end] of ends.entries()) end.finish(done >= (j + 1) * PAGE_SIZE, short);
  });
};

/** Direct I/O of a file at a server. */
export const beginRemoteDio = (driver: RandomDriver): void => {
  const { k } = driver;
  const remote = driver.remotes[driver.random.below(Math.max(1, driver.remotes.length))];
  if (remote === undefined) return;
  const { user, file, words } = remote;
  const direct: DirectFile = {
    name: user,
    user,
    words,
    read: (mm, offset, it) => remoteDirectRead(k, mm, file, offset, it),
    write: (mm, offset, it) => remoteDirectWrite(k, mm, file, offset, it),
  };
  beginDirect(driver, direct, driver.random.chance(0.5));
};

/** Direct I/O of a file of the extent file system; written in this way only what nobody maps. */
export const beginFileDio = (driver: RandomDriver): void => {
  const { k, random } = driver;
  const write = random.chance(0.5);
  const file = driver.anyFile(
    ({ mapping, changing, direct }) =>
      (mapping.kind === 'extent' || mapping.kind === 'fsdax') &&
      changing === 0 &&
      (direct || !write),
  );
  if (file === undefined || file.nrPages === 0) return;
  const { mapping, words, nrPages } = file;
  const direct: DirectFile = {
    name: `${file.name} dio`,
    user: 'block-dio',
    words: words.slice(0, nrPages),
    read: (mm, offset, it) => fileDirectRead(k, mm, mapping, offset, it),
    write: (mm, offset, it) => fileDirectWrite(k, mm, mapping, offset, it),
  };
  // A write holds the file's end where it is, as far as the length is concerned.
  if (write) file.writing++;
  beginDirect(driver, direct, write, () => {
    if (write) file.writing--;
  });
};
