/**
 * Preemptible paths: generators that stop where another CPU or a device could come in.
 *
 * A path yields the number of a yield point. Every yield but a wait is guarded by the kernel's
 * `watched` flag, so that a yield nobody watches costs a test: `if (k.watched) yield YP_...`.
 * A plain call drives a path straight through; the scheduler and the explorer step it.
 */

/** A preemptible path with result T. What it yields is a yield point (YP_*). */
export type Path<T> = Generator<number, T, undefined>;

/** The path cannot go on before somebody releases a lock: yielded without a guard, and again until it can. */
export const YP_WAIT = 0;
export const YP_FAULT_LOCKED = 1; // handle_mm_fault entered, mmap lock held for reading
export const YP_FAULT_ALLOCATED = 2; // a page is allocated, the page table not yet looked at again
export const YP_FAULT_COPIED = 3; // COW copy made, not yet installed
export const YP_FAULT_DONE = 4;
export const YP_NOTIFIER_START = 5; // every notifier has returned from invalidate_range_start
export const YP_NOTIFIER_END = 6; // about to call invalidate_range_end
export const YP_GUP_LOOKED_UP = 7; // slow GUP holds the entry's page
export const YP_GUP_FAST_PINNED = 8; // GUP-fast has raised the count, entry not yet re-read
export const YP_GUP_FAST_SEQ = 9; // GUP-fast has sampled the fork sequence
export const YP_MIGRATE_UNMAPPED = 10; // migration entries are in place
export const YP_MIGRATE_COPIED = 11; // the new frame holds the bytes
export const YP_FORK_ENTRY = 12; // between batches of page-table copies
export const YP_PROTECT = 13; // between entries changed and TLBs flushed
export const YP_SECONDARY_PFN = 14; // faultInPfn has a pfn that is not installed yet
export const YP_DMA_SUBMITTED = 15;
export const YP_DMA_COMPLETING = 16;
export const YP_GUP_FAST_READ = 17; // GUP-fast has read an entry, and not yet counted its page
export const YP_GUP_FAST_DONE = 18; // GUP-fast has its pages, and not yet looked at the fork sequence again
export const YP_SWAP_UNMAPPED = 19; // swap entries are in place, the folio is in the swap cache
export const YP_SWAP_WRITTEN = 20; // the slots hold the bytes, the folio is still in the swap cache
export const YP_SWAP_READ = 21; // a fault has put a fresh folio into the swap cache, its bytes are not there yet
export const YP_KSM_PROTECTED = 22; // KSM has write-protected a page, and not yet compared or replaced it
export const YP_SPLIT_UNMAPPED = 23; // a large folio's entries are migration entries, its references not yet frozen
export const YP_COLLAPSE_CLEARED = 24; // the table is off the directory, the references of its pages not yet looked at
export const YP_COLLAPSE_COPIED = 25; // the new huge folio holds the bytes, and is not yet mapped
export const YP_MOVE_ENTRY = 26; // mremap has moved the entries of one table
export const YP_SEAL_WAIT = 27; // write-sealing a memfd has seen pages with references beyond its own, and waits a while

export const YP_BIO_SUBMITTED = 28; // a bio is in flight, memory not yet read or written
export const YP_BIO_TRANSFERRED = 29; // its bytes have moved, it is not yet completed
export const YP_WRITEBACK_CLEANED = 30; // clear_dirty_for_io is done, the folio still locked
export const YP_WRITEBACK_STARTED = 31; // the folio is under writeback, its lock dropped
export const YP_MKWRITE = 32; // page_mkwrite has run, the folio locked, the entry not yet writable
export const YP_TRUNCATE_UNMAPPED = 33; // entries beyond the new end are gone, the pages still cached
export const YP_REMOTE_COPIED = 34; // another process's memory has been written, the folio not yet marked dirty
export const YP_DIO_MAPPED = 35; // direct I/O has its pages, and not yet submitted
export const YP_NET_SENT = 36; // a request is with the server, its pages not yet read or written
export const YP_LONGTERM_UNPINNED = 37; // a long-term pin has found pages that may not stay, and let go of all
export const YP_ISOLATED_BLOCKS = 38; // pageblocks are isolated, their pages not yet moved
export const YP_RECLAIM = 39; // between two folios that reclaim looks at
export const YP_COMPACT = 40; // between two folios that compaction moves
export const YP_LAYOUT_BREAK = 41; // a DAX file waits for pages that somebody holds
export const YP_NET_ANSWERED = 42; // a server's answer has moved its bytes, its pages not yet dirty or released
export const YP_LONGTERM_WAIT = 43; // a long-term pin waits for references of a page that has to move
export const YP_MEMSLOT = 44; // a memory slot of a VM has lost its entries, and not yet gone or moved

/**
 * Runs a path to its end at once.
 * @throws Error when the path waits: alone, nobody could ever release what it waits for
 */
export const drive = <T>(path: Path<T>): T => {
  for (;;) {
    const step = path.next();
    if (step.done === true) return step.value;
    if (step.value === YP_WAIT) throw new Error('deadlock: a path driven alone waits for a lock');
  }
};
