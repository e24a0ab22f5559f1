/** GUP-fast: get_user_pages_fast() and pin_user_pages_fast(), lockless, with the slow path behind it. */
import type { Path } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';
import type { GupUserId } from './users.ts';

/** pin_user_pages_fast(). @returns pages pinned, or -errno when there is none */
export const pinUserPagesFast = (
  _k: Kernel,
  _mm: MmStruct,
  _hva: number,
  _nrPages: number,
  _flags: number,
  _pages: Int32Array,
): Path<number> => {
  throw new Error('pinUserPagesFast: being written');
};

/** get_user_pages_fast(). @param user row of the users table */
export const getUserPagesFast = (
  _k: Kernel,
  _user: GupUserId,
  _mm: MmStruct,
  _hva: number,
  _nrPages: number,
  _flags: number,
  _pages: Int32Array,
): Path<number> => {
  throw new Error('getUserPagesFast: being written');
};
