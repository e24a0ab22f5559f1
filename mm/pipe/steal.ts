/**
 * Taking the page of a pipe's buffer for good, instead of its bytes: possible where nobody else has it.
 * Compare fs/pipe.c:generic_pipe_buf_try_steal(), fs/splice.c:page_cache_pipe_buf_try_steal(),
 * user_page_pipe_buf_try_steal().
 *
 * A gift is a promise, and nobody checks it: a page that is still mapped has a reference for that, and
 * is not stolen.
 */
import { fetchAndNot, readOnce } from '#cells';
import { folioWaitWriteback } from '../cache/clean.ts';
import { removeMapping } from '../cache/remove.ts';
import {
  folioGet,
  folioLock,
  folioMapcount,
  folioRefCount,
  folioSetMapping,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_DIRTY,
  PG_HEAD,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_KSM,
  PG_LRU,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_RESERVED,
  PG_SWAPBACKED,
  PG_SWAPCACHE,
  PG_TAIL,
  PG_UNEVICTABLE,
} from '../frames/table.ts';
import { isZoneDevice } from '../frames/zone-device.ts';
import { unpinUserPage } from '../gup/unpin.ts';
import { lruListDel } from '../lru/list.ts';
import type { Path } from '../path.ts';
import { nameGupUser, noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel } from '../types.ts';
import type { PipeBuffer } from './pipe.ts';

/** Pages that are more than memory with bytes in it. */
const NEVER = PG_HEAD | PG_TAIL | PG_KSM | PG_SWAPCACHE | PG_ISOLATED | PG_RESERVED | PG_HWPOISON;

/** What is left on a page of the life that it had before. */
const OLD_LIFE =
  PG_ANON |
  PG_ANON_EXCLUSIVE |
  PG_SWAPBACKED |
  PG_REFERENCED |
  PG_ACTIVE |
  PG_DIRTY |
  PG_UNEVICTABLE |
  PG_MLOCKED;

/** Nobody maps the page, and `refs` are all the references that there are. */
const isSpare = (k: Kernel, page: number, refs: number): boolean => {
  const word = readOnce(k.state.frames.flags, page);
  if ((word & NEVER) !== 0 || isZoneDevice(word)) return false;
  return folioRefCount(k, page) === refs && folioMapcount(k, page) === 0;
};

/** The page of a file leaves its cache, clean and unused as it has to be. Of shmem none does: it has no other copy. */
function* leaveFile(k: Kernel, page: number): Path<boolean> {
  const mapping = k.state.mappings.get(readOnce(k.state.frames.mapping, page));
  if (mapping === undefined || mapping.kind !== 'extent') return false;
  yield* folioWaitWriteback(k, page);
  return removeMapping(k, mapping, page);
}

/** The reference or pin of a gift becomes the one plain reference that the thief has. */
const takeGift = (k: Kernel, { page, hold }: PipeBuffer): void => {
  if (hold === 'get') {
    noteReleasePage(k, 'get', page, 1, 'vmsplice');
    return;
  }
  folioGet(k, page);
  nameGupUser(k, 'vmsplice');
  unpinUserPage(k, page);
};

/**
 * Takes the page out of a buffer: locked, nobody's, with one reference for the caller, who owes the
 * buffer nothing any more.
 * @returns false: somebody else has it, or it was no gift; nothing has changed
 */
export function* pipeBufTrySteal(k: Kernel, buffer: PipeBuffer): Path<boolean> {
  const { page, hold, gift } = buffer;
  const user = hold === 'get' || hold === 'pin';
  if (user && !gift) return false;
  const refs = hold === 'pin' ? GUP_PIN_COUNTING_BIAS : 1;
  if (hold !== 'cache' && !isSpare(k, page, refs)) return false;
  if ((readOnce(k.state.frames.flags, page) & NEVER) !== 0) return false;
  if (!folioTrylock(k, page)) yield* folioLock(k, page);
  const taken = hold === 'cache' ? yield* leaveFile(k, page) : isSpare(k, page, refs);
  if (!taken) {
    folioUnlock(k, page);
    return false;
  }
  if (user) takeGift(k, buffer);
  if ((readOnce(k.state.frames.flags, page) & PG_LRU) !== 0) lruListDel(k, page);
  fetchAndNot(k.state.frames.flags, page, OLD_LIFE);
  folioSetMapping(k, page, 0, 0);
  return true;
}
