/**
 * Migration between ordinary memory and coherent memory of a device, which the CPU can use as well,
 * but nobody may keep: out of it before a long-term pin, into it for a driver that wants a page near.
 * Compare mm/migrate_device.c, migrate_device_coherent_folio() and migrate_vma_pages().
 *
 * Memory of a device is on no LRU list; who moves it has its reference marked as an isolated folio's.
 */
import { EBUSY, EINVAL } from '../errno.ts';
import { folioPut, folioSetFlags, folioTestFlags } from '../folio/folio.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { PG_ANON, PG_ISOLATED } from '../frames/table.ts';
import { type ZoneDevice, zoneDeviceAlloc } from '../frames/zone-device.ts';
import { folioDropIsolated, folioPutbackLru } from '../lru/isolate.ts';
import type { Path } from '../path.ts';
import type { Kernel } from '../types.ts';
import { isolateMovable } from './migrate.ts';
import { migrateTarget, moveFolio } from './move.ts';

/**
 * Moves a page of coherent device memory to ordinary memory. The caller's reference is used up.
 * @returns 0, or -EBUSY: somebody else holds it, no anonymous memory, no memory
 */
export function* migrateDeviceCoherent(k: Kernel, folio: number): Path<number> {
  if (!folioTestFlags(k, folio, PG_ANON) || folioTestFlags(k, folio, PG_ISOLATED)) {
    folioPut(k, folio);
    return -EBUSY;
  }
  folioSetFlags(k, folio, PG_ISOLATED);
  const error = yield* moveFolio(k, folio, migrateTarget(GFP_KERNEL), true);
  folioDropIsolated(k, folio);
  return error === 0 ? 0 : -EBUSY;
}

/**
 * Moves a small anonymous page into memory of a device. The caller needs no reference.
 * @param page a page number: any, also one that is not in use
 * @returns 0; as migrateFolio; -ENOMEM: the device has no page left
 */
export function* migrateToDevice(k: Kernel, page: number, device: ZoneDevice): Path<number> {
  if (!folioTestFlags(k, page, PG_ANON)) return -EINVAL;
  const isolated = isolateMovable(k, page);
  if (isolated !== 0) return isolated;
  const error = yield* moveFolio(k, page, () => zoneDeviceAlloc(k, device), true);
  if (error === 0) folioDropIsolated(k, page);
  else folioPutbackLru(k, page);
  return error;
}
