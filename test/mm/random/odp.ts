/** RDMA by on-demand paging in the random driver: an adapter that holds nothing, and follows the tables. */
import { PAGE_SIZE } from '#emu';
import { odpDeregister, odpRead, type OdpRegion, odpRegister, odpWrite } from '#devices/host';
import type { RandomDriver } from './driver.ts';
import { brokenWith, type Process, type Region, wordHva } from './model.ts';

const MAX_REGIONS = 3;
const WORD_BYTES = 4;

/** A memory region, and whose. Its process lives as long. */
export interface OdpModel {
  process: Process;
  region: OdpRegion;
}

export const beginOdpRegister = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined || driver.odps.length >= MAX_REGIONS) return;
  const { process, hva } = region;
  const nrPages = Math.min(region.nrPages, 64);
  const { mm } = process.p;
  driver.start(
    'odp',
    process,
    odpRegister(driver.k, mm, hva, nrPages * PAGE_SIZE, true),
    (made) => {
      if (typeof made === 'number') return;
      process.busy++;
      driver.odps.push({ process, region: made });
    },
  );
};

export const closeOdp = (driver: RandomDriver, i: number): void => {
  const [odp] = driver.odps.splice(i, 1);
  if (odp === undefined) return;
  driver.start('odp close', odp.process, odpDeregister(driver.k, odp.region));
  odp.process.busy--;
};

/** The word of a mapping that lies in a memory region, if the mapping is still there. */
const wordIn = (driver: RandomDriver, { process, region }: OdpModel) => {
  const inside = (of: Region): boolean =>
    of.hva >= region.hva && of.hva < region.hva + region.lenBytes && !of.dead;
  const found = process.regions.find(inside);
  if (found === undefined || found.words.length === 0) return undefined;
  const i = driver.random.below(found.words.length);
  const word = found.words[i];
  const hva = wordHva(found, i);
  if (word === undefined || hva + WORD_BYTES > region.hva + region.lenBytes) return undefined;
  return { word, of: found, hva };
};

/** The adapter reads or writes a word by its address, faulting where it has no entry. */
export const beginOdpAccess = (driver: RandomDriver): void => {
  const { random, k } = driver;
  const at = random.below(Math.max(1, driver.odps.length));
  const odp = driver.odps[at];
  if (odp === undefined) return;
  if (random.chance(0.1)) {
    closeOdp(driver, at);
    return;
  }
  const found = wordIn(driver, odp);
  if (found === undefined) return;
  const { word, of, hva } = found;
  const bytes = new Uint8Array(WORD_BYTES);
  const view = new DataView(bytes.buffer);
  odp.process.busy++;
  if (random.chance(0.5)) {
    const value = driver.value();
    view.setUint32(0, value, true);
    const write = word.history.begin(driver.now, value);
    const brokeCow = driver.breakCow(brokenWith(of, [word.history]));
    driver.start('odp write', null, odpWrite(k, odp.region, hva, bytes), (n) => {
      odp.process.busy--;
      brokeCow(0);
      if (n === WORD_BYTES) word.history.finish(write, driver.now, driver.horizon());
      else word.history.cancel(write);
    });
    return;
  }
  driver.start('odp read', null, odpRead(k, odp.region, hva, bytes), (n, start) => {
    odp.process.busy--;
    if (n === WORD_BYTES) driver.read('odp read', word.history, view.getUint32(0, true), start);
  });
};
