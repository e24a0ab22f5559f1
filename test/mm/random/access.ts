/** Loads and stores of the random driver: by the processes, by a debugger, by a secondary MMU. */
import { accessRemoteVm, EFAULT, ENOMEM, pfnToPage } from '#mm';
import { secondaryFault } from '../secondary-mmu.ts';
import type { RandomDriver } from './driver.ts';
import { brokenWith, WORD, wordHva, type Word } from './model.ts';

/** An access that failed must have had a reason. */
const excuse = (
  driver: RandomDriver,
  what: string,
  error: number,
  word: Word,
  start: number,
  allowed: boolean,
): void => {
  if (error === -ENOMEM || driver.mayFail(word, start)) return;
  // An empty pool of huge pages is SIGBUS, and so is what a child loses to its parent's COW (1.10).
  if (error === -EFAULT && (!allowed || word.region.unit > 1)) return;
  const { region } = word;
  const hva = wordHva(region, region.words.indexOf(word)).toString(16);
  throw new Error(
    `${what} of mm ${region.process.id} at hva ${hva} (${region.kind}) failed with ${error} and nothing in its way`,
  );
};

export const beginStore = (driver: RandomDriver): void => {
  const found = driver.anyWord();
  if (found === undefined) return;
  const { region, i, word } = found;
  const value = driver.value();
  const write = word.history.begin(driver.now, value);
  const brokeCow = driver.breakCow(brokenWith(region, [word.history]));
  const { p } = region.process;
  driver.start(
    'store',
    region.process,
    p.storePath(wordHva(region, i), 4, value),
    (error, start) => {
      brokeCow(0);
      if (error === 0) {
        word.history.finish(write, driver.now, driver.horizon());
        if (!word.region.writable && !driver.mayFail(word, start))
          throw new Error('a store into read-only memory went through');
        return;
      }
      word.history.cancel(write);
      excuse(driver, 'store', error, word, start, word.region.writable);
    },
  );
};

export const beginLoad = (driver: RandomDriver): void => {
  const found = driver.anyWord();
  if (found === undefined) return;
  const { region, i, word } = found;
  const { p } = region.process;
  driver.start('load', region.process, p.loadPath(wordHva(region, i), 4), (value, start) => {
    if (value >= 0)
      driver.read(
        `load of mm ${region.process.id} from hva ${wordHva(word.region, word.region.words.indexOf(word)).toString(16)}`,
        word.history,
        value,
        start,
      );
    else excuse(driver, 'load', value, word, start, word.region.readable);
  });
};

/** ptrace: FOLL_FORCE writes into read-only private memory too, and breaks COW for it. */
export const beginRemote = (driver: RandomDriver): void => {
  const found = driver.anyWord();
  if (found === undefined) return;
  const { region, i, word } = found;
  const { k } = driver;
  const write = driver.random.chance(0.5);
  const bytes = new Uint8Array(4);
  const view = new DataView(bytes.buffer);
  const value = driver.value();
  if (write) view.setUint32(0, value, true);
  const pending = write ? word.history.begin(driver.now, value) : null;
  if (write) driver.writesBehind(word);
  const brokeCow = driver.breakCow(write ? brokenWith(region, [word.history]) : []);
  driver.start(
    write ? 'remote write' : 'remote read',
    region.process,
    accessRemoteVm(k, region.process.p.mm, wordHva(region, i), bytes, write),
    (done, start) => {
      if (pending === null) {
        if (done === 4) driver.read('remote read', word.history, view.getUint32(0, true), start);
        return;
      }
      brokeCow(0);
      if (done === 4) word.history.finish(pending, driver.now, driver.horizon());
      else word.history.cancel(pending);
    },
  );
};

/** A guest's access through a secondary MMU: a fault where it has no entry, else at once. */
export const beginSecondary = (driver: RandomDriver): void => {
  const found = driver.anyWord();
  if (found === undefined || found.region.process.secondary === null) return;
  const { region, i, word } = found;
  const { secondary } = region.process;
  if (secondary === null) return;
  const hva = wordHva(region, i);
  const write = driver.random.chance(0.6);
  const entry = secondary.entries.get(hva - WORD);
  if (entry === undefined || (write && !entry.writable)) {
    const path = secondaryFault(driver.k, secondary, hva, write);
    const brokeCow = driver.breakCow(write ? brokenWith(region, [word.history]) : []);
    driver.start('secondary fault', region.process, path, () => brokeCow(0));
    return;
  }
  driver.count('secondary hit');
  const offset = driver.k.memory.pageOffset(pfnToPage(entry.pfn)) + WORD;
  if (write) {
    const value = driver.value();
    driver.k.memory.i32[offset / 4] = value;
    word.history.wrote(driver.now, value, false, driver.horizon());
  } else driver.read('secondary load', word.history, driver.k.memory.i32[offset / 4]!, driver.now);
};
