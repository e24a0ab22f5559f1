/**
 * The kernel's own loads and stores of user memory: copy_from_user(), copy_to_user().
 *
 * As the hardware would translate them, with faults handled as for user code. Nothing is held: after
 * a yield the entry is looked up again.
 */
import { PAGE_SIZE, PTE_A, PTE_D, PTE_R, PTE_U, PTE_V, PTE_W } from '#emu';
import { readOnce, writeOnce } from '#cells';
import { FAULT_FLAG_USER, FAULT_FLAG_WRITE, userFault } from './fault/fault.ts';
import type { Path } from './path.ts';
import { leafLevel, leafPage, leafWord, walkLeaf } from './pgtable/walk.ts';
import type { Kernel, MmStruct } from './types.ts';

/** Offset in memory of the byte at `hva`, with A (and D) set; -1 where a fault is needed. */
const userOffset = (k: Kernel, mm: MmStruct, hva: number, write: boolean): number => {
  const leaf = walkLeaf(k, mm, hva);
  const word = leafWord(leaf);
  const pte = readOnce(k.memory.i32, word);
  const wanted = PTE_V | PTE_U | PTE_R | (write ? PTE_W : 0);
  if ((pte & wanted) !== wanted) return -1;
  writeOnce(k.memory.i32, word, pte | PTE_A | (write ? PTE_D : 0));
  return k.memory.pageOffset(leafPage(pte, leafLevel(leaf), hva)) + (hva % PAGE_SIZE);
};

/** Steps through [hva, hva + lenBytes) a page at a time. @returns bytes not reached */
function* eachPage(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  write: boolean,
  nofault: boolean,
  use: (offset: number, done: number, n: number) => void,
): Path<number> {
  for (let done = 0; done < lenBytes; ) {
    const at = hva + done;
    const offset = userOffset(k, mm, at, write);
    if (offset < 0) {
      if (nofault) return lenBytes - done;
      const flags = FAULT_FLAG_USER | (write ? FAULT_FLAG_WRITE : 0);
      if ((yield* userFault(k, mm, at, flags)) < 0) return lenBytes - done;
      continue;
    }
    const n = Math.min(lenBytes - done, PAGE_SIZE - (at % PAGE_SIZE));
    use(offset, done, n);
    done += n;
  }
  return 0;
}

/**
 * User memory at `hva` -> `into`.
 * @param nofault no fault may be taken: under pagefault_disable()
 * @returns bytes NOT copied, as in Linux: 0 is success
 */
export function* copyFromUser(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  into: Uint8Array,
  nofault = false,
): Path<number> {
  const { u8 } = k.memory;
  return yield* eachPage(k, mm, hva, into.length, false, nofault, (offset, done, n) =>
    into.set(u8.subarray(offset, offset + n), done),
  );
}

/** `from` -> user memory at `hva`. @param nofault as copyFromUser. @returns bytes NOT copied, as in Linux: 0 is success */
export function* copyToUser(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  from: Uint8Array,
  nofault = false,
): Path<number> {
  const { u8 } = k.memory;
  return yield* eachPage(k, mm, hva, from.length, true, nofault, (offset, done, n) => {
    u8.set(from.subarray(done, done + n), offset);
    k.memory.wrote(offset, n);
  });
}
