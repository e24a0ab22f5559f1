/** What memory management asks of a file of the extent file system. */
import { EIO } from '../../errno.ts';
import type { AddressSpaceOperations } from '../operations.ts';

export const extentOperations: AddressSpaceOperations = {
  // biome-ignore lint/correctness/useYield: replaced in the next step
  *getPage() {
    return -EIO;
  },
};
