/** What /proc/PID/pagemap says of a process's memory: is a page there, and of what folio. */
import { PAGE_SIZE } from '#emu';
import {
  folioOf,
  folioOrder,
  type HostProcess,
  pfnToPage,
  PM_PRESENT,
  PM_SWAP,
  procPagemap,
} from '#mm';

/** Where the page frame is in a word. */
const PM_PFRAME_MASK = (1n << 55n) - 1n;

/** Is every page of [hva, hva + lenBytes) on the swap device? */
export const isSwappedOut = ({ k, mm }: HostProcess, hva: number, lenBytes: number): boolean =>
  procPagemap(k, mm, hva, lenBytes / PAGE_SIZE).every((word) => (word & PM_SWAP) !== 0n);

/** Is one whole folio of an order mapped at an address, in its order? */
export const isFolioMapped = ({ k, mm }: HostProcess, hva: number, order: number): boolean => {
  const words = procPagemap(k, mm, hva, 1 << order);
  const first = words[0] ?? 0n;
  const folio = pfnToPage(Number(first & PM_PFRAME_MASK));
  return (
    words.every((word, i) => (word & PM_PRESENT) !== 0n && word === first + BigInt(i)) &&
    folioOf(k, folio) === folio &&
    folioOrder(k, folio) === order
  );
};
