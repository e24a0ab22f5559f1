/** What memory management asks of a file of the extent file system. */
import type { AddressSpaceOperations } from '../operations.ts';
import { extentGetPage } from './read.ts';
import { extentInvalidateFolio, extentPageMkwrite, extentReleaseFolio } from './reserve.ts';
import { extentSyncMetadata } from './sync.ts';
import { extentWriteFolio } from './writeback.ts';

export const extentOperations: AddressSpaceOperations = {
  getPage: extentGetPage,
  pageMkwrite: extentPageMkwrite,
  writeFolio: extentWriteFolio,
  releaseFolio: extentReleaseFolio,
  invalidateFolio: extentInvalidateFolio,
  syncMetadata: extentSyncMetadata,
};
