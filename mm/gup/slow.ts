/** Slow GUP: get_user_pages() and pin_user_pages() under the mmap lock. */
import type { Path } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';
import type { GupUserId } from './users.ts';

/**
 * pin_user_pages(), taking the mmap lock for reading itself.
 * @param pages filled with page numbers, in order of address
 * @returns pages pinned, possibly fewer than asked; or -errno when there is none
 */
export const pinUserPages = (
  _k: Kernel,
  _mm: MmStruct,
  _hva: number,
  _nrPages: number,
  _flags: number,
  _pages: Int32Array,
): Path<number> => {
  throw new Error('pinUserPages: being written');
};

/** get_user_pages(), taking the mmap lock for reading itself. @param user row of the users table */
export const getUserPages = (
  _k: Kernel,
  _user: GupUserId,
  _mm: MmStruct,
  _hva: number,
  _nrPages: number,
  _flags: number,
  _pages: Int32Array,
): Path<number> => {
  throw new Error('getUserPages: being written');
};
