/** A kernel with an IOMMU, a process, and devices that its pages are pinned and mapped for. */
import {
  type DmaDevice,
  DmaDevicePort,
  dmaMapSg,
  type DmaDirection,
  type DmaSg,
  HostIommu,
  type IommuMode,
  runsOfPages,
} from '#devices/host';
import { Clock, PAGE_SIZE } from '#emu';
import { drive, type Kernel, nameGupUser, nrFreePages, provenanceStart } from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPagesDirtyLock } from '#mm/driver-api';
import { createProcess, createWorld, mapAnon } from '../../mm/support.ts';

export const DEVICE = 5;

export const createIommuWorld = () => {
  const w = createWorld();
  provenanceStart(w.k);
  const p = createProcess(w);
  const clock = new Clock();
  const before = nrFreePages(w.k);
  const host = new HostIommu({ kernel: w.k, clock, name: 'iommu' });
  return { w, k: w.k, p, clock, host, before };
};

export type IommuWorld = ReturnType<typeof createIommuWorld>;

/** A device of a mode, with its port. */
export const attach = (
  { host }: IommuWorld,
  mode: IommuMode,
  { id = DEVICE, ats = false } = {},
): { device: DmaDevice; port: DmaDevicePort } => {
  const device = host.attachDevice(id, { mode, name: `nic${id}`, ats });
  if (typeof device === 'number') throw new Error(`attach: ${device}`);
  return { device, port: new DmaDevicePort({ device, iommu: host.model }) };
};

/** Written pages of the process, pinned for a driver. */
export const pinned = ({ k, p }: IommuWorld, nr: number): { hva: number; pages: Int32Array } => {
  const hva = mapAnon(p, nr);
  for (let i = 0; i < nr; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
  const pages = new Int32Array(nr);
  nameGupUser(k, 'nic');
  const got = drive(pinUserPagesFast(k, p.mm, hva, nr, FOLL_WRITE, pages));
  if (got !== nr) throw new Error(`pin: ${got}`);
  return { hva, pages };
};

export const unpin = (k: Kernel, pages: Int32Array): void => {
  nameGupUser(k, 'nic');
  drive(unpinUserPagesDirtyLock(k, pages, pages.length, true));
};

export const mapFor = (
  device: DmaDevice,
  pages: Int32Array,
  direction: DmaDirection = 0,
): DmaSg => {
  const runs = runsOfPages(pages, 0, pages.length);
  const sg = drive(dmaMapSg(device, runs, direction, 'nic'));
  if (typeof sg === 'number') throw new Error(`dmaMapSg: ${sg}`);
  return sg;
};

export const word = (value: number): Uint8Array => Uint8Array.of(value, value >>> 8, 0, 0);
