/** Transfers of the random driver: bytes of one word to another, by whatever reaches both. */
import { processVmReadv, processVmWritev } from '#mm';
import type { RandomDriver } from './driver.ts';
import { brokenWith, wordHva } from './model.ts';

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
      history.finishFrom(pending, driver.now, history.epoch !== epoch, driver.horizon());
    else history.cancel(pending);
  });
};
