/** What tests of iterators and direct I/O share: bytes that can be told apart, and who holds pages. */
import { expect } from 'vitest';

import { assertKernel, type HostProcess } from '#mm';
import { pinsLive, type World } from './support.ts';

/** `n` bytes that are different from page to page and from one `salt` to the next. */
export const pattern = (n: number, salt = 1): Uint8Array =>
  new Uint8Array(n).map((_, i) => (i * 7 + (i >> 12) * 31 + salt * 101) & 0xff);

/** Bytes of user memory. */
export const peek = (p: HostProcess, hva: number, n: number): Uint8Array => {
  const into = new Uint8Array(n);
  p.copyOut(hva, into);
  return into;
};

/** Nobody holds anything by GUP, by the records and by the counts. Provenance is on. */
export const expectNothingHeld = ({ k }: World): void => {
  expect(pinsLive(k)).toBe(0);
  expect([...(k.state.provenance?.holds.keys() ?? ['off'])]).toEqual([]);
  assertKernel(k);
};
