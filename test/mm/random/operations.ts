/** The operations of the random driver and how often each is begun. */
import {
  changeProtNuma,
  clearRefsSoftDirty,
  collapseHugePage,
  folioWriteProtect,
  ksmScan,
  migrateFolio,
  reclaimFolio,
  splitHugePage,
  writeProtectRange,
} from '#mm';
import { folioOf } from '../../../mm/folio/folio.ts';
import { beginLoad, beginRemote, beginSecondary, beginStore } from './access.ts';
import type { RandomDriver } from './driver.ts';
import {
  beginFileRead,
  beginFileWrite,
  beginFsync,
  beginMsync,
  beginPunch,
  beginTruncate,
  beginWriteback,
} from './files.ts';
import {
  beginAdvice,
  beginDontneed,
  beginExit,
  beginFork,
  beginMmap,
  beginMprotect,
  beginMremap,
  beginMunmap,
} from './mappings.ts';
import {
  beginCma,
  beginCompact,
  beginCpu,
  beginGiveBack,
  beginHotplug,
  beginRange as beginContigRange,
  beginShrink,
} from './memory.ts';
import { regionEnd } from './model.ts';
import { beginOdpAccess, beginOdpRegister } from './odp.ts';
import {
  beginFixed,
  beginHold,
  beginPipeRead,
  beginRegion,
  beginRegister,
  beginRelease,
  beginSplice,
  beginSpliceIn,
  beginSpliceOut,
  beginTransfer,
} from './pins.ts';
import { beginFileDio, beginProcessVm, beginRemoteDio } from './transfers.ts';

const HUGE = 512 * 4096;

export interface Operation {
  name: string;
  weight: number;
  begin(driver: RandomDriver): void;
}

const beginRange = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined || region.unit > 1) return;
  const { mm } = region.process.p;
  const path = writeProtectRange(driver.k, mm, region.hva, regionEnd(region));
  driver.start('range', region.process, path);
};

const beginScan = (driver: RandomDriver): void => {
  const process = driver.anyProcess();
  if (process !== undefined) driver.start('ksm', process, ksmScan(driver.k, process.p.mm));
};

const beginNuma = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined) return;
  const path = changeProtNuma(driver.k, region.process.p.mm, region.hva, regionEnd(region));
  driver.start('numa', region.process, path);
};

const beginClearRefs = (driver: RandomDriver): void => {
  const process = driver.anyProcess();
  if (process !== undefined)
    driver.start('clear refs', process, clearRefsSoftDirty(driver.k, process.p.mm));
};

/** What khugepaged does to one place. */
const beginCollapse = (driver: RandomDriver): void => {
  const region = driver.anyRegion();
  if (region === undefined || region.nrPages < 512) return;
  const hva = Math.ceil(region.hva / HUGE) * HUGE;
  const path = collapseHugePage(driver.k, region.process.p.mm, hva);
  driver.start('collapse', region.process, path);
};

/** What only memory management itself does: no process asks for it, no byte may notice it. */
const KERNEL: Operation[] = [
  {
    name: 'migrate',
    weight: 8,
    begin: (d) => d.start('migrate', null, migrateFolio(d.k, folioOf(d.k, d.anyPage()))),
  },
  {
    name: 'write-protect',
    weight: 3,
    begin: (d) => d.start('protect', null, folioWriteProtect(d.k, folioOf(d.k, d.anyPage()))),
  },
  {
    name: 'split',
    weight: 3,
    begin: (d) => d.start('split', null, splitHugePage(d.k, d.anyPage())),
  },
  {
    name: 'reclaim',
    weight: 6,
    begin: (d) => d.start('reclaim', null, reclaimFolio(d.k, folioOf(d.k, d.anyPage()))),
  },
  { name: 'cma', weight: 1, begin: beginCma },
  { name: 'contig range', weight: 1, begin: beginContigRange },
  { name: 'give back', weight: 2, begin: beginGiveBack },
  { name: 'compact', weight: 1, begin: beginCompact },
  { name: 'shrink', weight: 1, begin: beginShrink },
  { name: 'cpu', weight: 3, begin: beginCpu },
  { name: 'hotplug', weight: 1, begin: beginHotplug },
  { name: 'ksm', weight: 1, begin: beginScan },
  { name: 'numa', weight: 2, begin: beginNuma },
  { name: 'clear refs', weight: 1, begin: beginClearRefs },
  { name: 'collapse', weight: 2, begin: beginCollapse },
  { name: 'range', weight: 2, begin: beginRange },
];

export const OPERATIONS: readonly Operation[] = [
  { name: 'store', weight: 26, begin: beginStore },
  { name: 'load', weight: 14, begin: beginLoad },
  { name: 'remote', weight: 4, begin: beginRemote },
  { name: 'secondary', weight: 8, begin: beginSecondary },
  { name: 'process_vm', weight: 3, begin: beginProcessVm },
  { name: 'read', weight: 3, begin: beginFileRead },
  { name: 'write', weight: 4, begin: beginFileWrite },
  { name: 'truncate', weight: 2, begin: beginTruncate },
  { name: 'punch', weight: 2, begin: beginPunch },
  { name: 'fsync', weight: 3, begin: beginFsync },
  { name: 'writeback', weight: 4, begin: beginWriteback },
  { name: 'msync', weight: 2, begin: beginMsync },
  { name: 'file dio', weight: 6, begin: beginFileDio },
  { name: 'remote dio', weight: 5, begin: beginRemoteDio },
  { name: 'hold', weight: 7, begin: beginHold },
  { name: 'transfer', weight: 6, begin: beginTransfer },
  { name: 'release', weight: 6, begin: beginRelease },
  { name: 'register', weight: 2, begin: beginRegister },
  { name: 'region', weight: 3, begin: beginRegion },
  { name: 'fixed', weight: 3, begin: beginFixed },
  { name: 'splice', weight: 4, begin: beginSplice },
  { name: 'splice in', weight: 2, begin: beginSpliceIn },
  { name: 'splice out', weight: 3, begin: beginSpliceOut },
  { name: 'pipe', weight: 5, begin: beginPipeRead },
  { name: 'odp', weight: 1, begin: beginOdpRegister },
  { name: 'odp access', weight: 5, begin: beginOdpAccess },
  { name: 'mmap', weight: 4, begin: beginMmap },
  { name: 'munmap', weight: 2, begin: beginMunmap },
  { name: 'mprotect', weight: 4, begin: beginMprotect },
  { name: 'mremap', weight: 3, begin: beginMremap },
  { name: 'dontneed', weight: 3, begin: beginDontneed },
  { name: 'advice', weight: 5, begin: beginAdvice },
  { name: 'fork', weight: 3, begin: beginFork },
  { name: 'exit', weight: 2, begin: beginExit },
  ...KERNEL,
];
