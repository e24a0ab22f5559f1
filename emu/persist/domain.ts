/**
 * Persistent memory as it loses power: which stores the media has for certain, which it may have, and
 * what a loss of power leaves.
 *
 *   store -> store buffer of the hart -> cache line -> write-pending queue -> media
 *             lost                        lost          kept with ADR          kept
 *
 * `adr`: a store is durable once its line was written back (CBO.CLEAN, CBO.FLUSH) and a FENCE of the
 * same hart has followed. `eadr`: caches are kept too; the fence alone is enough. `none`: the queue is
 * lost as well, unless a flush hint has drained it after the fence. Before that the media may have it:
 * a line can be written back at any moment. Of the stores to one line it has then a prefix, with
 * aligned 8 bytes as the smallest piece; lines go in any order.
 *
 * Frames keep what harts and devices see. Every store to them is seen here, because no TLB write entry
 * reaches a watched frame (FRAME_WATCHED). What is not modelled: non-temporal stores, and the order that
 * an atomic's .rl bit gives.
 */
import { FRAME_POISONED, FRAME_WATCHED, PAGE_SHIFT, PAGE_SIZE, RAM_OFFSET } from '../layout.ts';
import { NO_HART, type PhysMemory, type StoreWatcher } from '../memory.ts';
import {
  PERSIST_LINE_BYTES,
  PERSIST_LINE_SHIFT,
  PERSIST_UNIT_BYTES,
  PendingLine,
  type PendingLineState,
} from './lines.ts';
import { Poison } from './poison.ts';

/** What a platform keeps when power is lost. */
export type PersistMode = 'adr' | 'eadr' | 'none';

/** What moves data towards the media. A flush hint and an errand of the host kernel are events too. */
export type PersistEvent = 'store' | 'clean' | 'fence' | 'hint' | 'persist';

/** Which of the states a line can be in the media has: 0..choices - 1, the number of stores that arrived. */
export type PickPrefix = (line: number, choices: number) => number;

export interface PersistConfig {
  memory: PhysMemory;
  /** First byte, as an offset into the machine's memory: of a frame. */
  firstOffset: number;
  /** Whole frames. */
  lenBytes: number;
  mode: PersistMode;
}

/** What is saved; the bytes of the frames are saved with the memory. */
export interface PersistState {
  media: Uint8Array;
  events: number;
  counts: Record<PersistEvent, number>;
  failAt: number;
  failed: boolean;
  lines: PendingLineState[];
  cleaned: [hart: number, lines: [line: number, event: number][]][];
  queued: [line: number, event: number][];
  poison: { units: number[]; overwritten: [unit: number, lines: number][] };
}

const NO_EVENTS: Record<PersistEvent, number> = {
  store: 0,
  clean: 0,
  fence: 0,
  hint: 0,
  persist: 0,
};

/** Stores of one line that are remembered; then the cache writes the line back by itself. */
const MAX_STORES_OF_LINE = 1024;
/** Lines that the caches hold; then the one that waits longest is written back. */
const MAX_LINES = 65_536;
/** Stores in a hart's store buffer: with eADR what is lost if no fence has followed. */
const STORE_BUFFER = 64;

export class PersistDomain implements StoreWatcher {
  readonly firstOffset: number;
  readonly lenBytes: number;
  readonly mode: PersistMode;
  /** What is durable, from the first byte on. */
  readonly media: Uint8Array;
  /** Stores, write-backs, fences, hints and errands of the kernel, so far. */
  events: number;
  /** The same by kind. */
  readonly counts: Record<PersistEvent, number>;
  /** Power fails with this event, once its effect is there: nothing that follows is durable. 0: never. */
  failAt: number;
  /** Power has failed. */
  failed: boolean;
  /** Called after every event, until power fails. `line` is -1 for what concerns none. */
  onEvent: ((kind: PersistEvent, hart: number, line: number) => void) | undefined;
  /** Called when power fails with event `failAt`. */
  onFailure: (() => void) | undefined;
  readonly poison: Poison;
  private readonly memory: PhysMemory;
  private readonly mediaWords: Int32Array;
  /** The lines that are newer than the media, the longest waiting first. */
  private readonly lines: Map<number, PendingLine>;
  /** By hart: lines that it has written back, and the last event that this covers; until its fence. */
  private readonly cleaned: Map<number, Map<number, number>>;
  /** `none`: lines in the write-pending queue, and the last event that this covers. */
  private readonly queued: Map<number, number>;

  /** Takes the frames as they are for what the media has; or, with `state`, goes on where it was saved. */
  constructor(config: PersistConfig, state?: PersistState) {
    const { memory, firstOffset, lenBytes, mode } = config;
    if (((firstOffset - RAM_OFFSET) | lenBytes) % PAGE_SIZE !== 0 || lenBytes <= 0)
      throw new Error(`persistence domain: 0x${firstOffset.toString(16)} +${lenBytes}: no frames`);
    this.memory = memory;
    this.firstOffset = firstOffset;
    this.lenBytes = lenBytes;
    this.mode = mode;
    this.media = memory.u8.slice(firstOffset, firstOffset + lenBytes);
    if (state !== undefined) this.media.set(state.media);
    this.mediaWords = new Int32Array(this.media.buffer);
    this.events = state?.events ?? 0;
    this.counts = { ...(state?.counts ?? NO_EVENTS) };
    this.failAt = state?.failAt ?? 0;
    this.failed = state?.failed ?? false;
    this.onEvent = undefined;
    this.onFailure = undefined;
    this.lines = new Map();
    for (const { line, log } of state?.lines ?? []) this.lineOf(line).restore(log);
    this.cleaned = new Map((state?.cleaned ?? []).map(([hart, lines]) => [hart, new Map(lines)]));
    this.queued = new Map(state?.queued ?? []);
    this.poison = new Poison(state?.poison);
    memory.storeWatchers.push(this);
    memory.flagFrames(this.firstPage, this.nrPages, FRAME_WATCHED);
    this.flagPoison();
  }

  /** The domain that a byte of the memory belongs to. */
  static at(memory: PhysMemory, offset: number): PersistDomain | undefined {
    return memory.storeWatchers.find(
      (watcher): watcher is PersistDomain =>
        watcher instanceof PersistDomain && watcher.covers(offset, 1),
    );
  }

  /** The frames are ordinary memory again. */
  detach(): void {
    const { storeWatchers } = this.memory;
    storeWatchers.splice(storeWatchers.indexOf(this), 1);
    this.memory.unflagFrames(this.firstPage, this.nrPages, FRAME_WATCHED | FRAME_POISONED);
  }

  /** Bytes have been stored by a hart, or by the host kernel or a device (NO_HART). One event. */
  store(hart: number, offset: number, lenBytes: number): void {
    const start = Math.max(offset - this.firstOffset, 0);
    const end = Math.min(offset + lenBytes - this.firstOffset, this.lenBytes);
    if (start >= end || this.failed) return;
    this.events++;
    const words = this.memory.i32;
    const base = this.firstOffset >>> 2;
    for (let at = start - (start % PERSIST_UNIT_BYTES); at < end; at += PERSIST_UNIT_BYTES) {
      const word = base + (at >>> 2);
      this.storeUnit(hart, at, words[word]!, words[word + 1]!);
    }
    if (this.poison.overwrite(start, end - start)) this.unflagPoison();
    if (this.mode === 'eadr') this.drainBuffer(hart);
    this.happened('store', hart, start >>> PERSIST_LINE_SHIFT);
  }

  /** A hart has written the line back that holds the byte. */
  clean(hart: number, offset: number): void {
    if (!this.covers(offset, 1) || this.failed) return;
    const line = (offset - this.firstOffset) >>> PERSIST_LINE_SHIFT;
    this.events++;
    // eADR: what has left the store buffers is safe already, and the rest no write-back sees.
    if (this.mode !== 'eadr' && this.lines.has(line)) {
      const lines = this.cleaned.get(hart) ?? new Map<number, number>();
      this.cleaned.set(hart, lines.set(line, this.events));
    }
    this.happened('clean', hart, line);
  }

  /**
   * A hart has fenced its stores and write-backs: what it has written back is in the queue. An event if
   * there was anything to fence.
   */
  fence(hart: number): void {
    const cleaned = this.cleaned.get(hart);
    const buffered = this.mode === 'eadr' && this.lines.size > 0;
    if (this.failed || (!buffered && cleaned === undefined)) return;
    this.events++;
    if (buffered)
      for (const [line, pending] of this.lines) this.commit(line, pending.storesUpToHart(hart));
    // What an earlier fence has put into the queue stays there.
    for (const [line, event] of cleaned ?? [])
      if (this.mode === 'none') this.queued.set(line, Math.max(event, this.queued.get(line) ?? 0));
      else this.commitUpTo(line, event);
    this.cleaned.delete(hart);
    this.happened('fence', hart, -1);
  }

  /** A flush hint was written: the write-pending queue has been drained. */
  flushHint(): void {
    if (this.failed) return;
    this.events++;
    for (const [line, event] of this.queued) this.commitUpTo(line, event);
    this.queued.clear();
    this.happened('hint', NO_HART, -1);
  }

  /** The host kernel has made bytes durable, by whatever that takes. `at` counts from the first byte. */
  persist(at: number, lenBytes: number): void {
    if (this.failed || lenBytes <= 0) return;
    this.events++;
    const first = at >>> PERSIST_LINE_SHIFT;
    const last = (at + lenBytes - 1) >>> PERSIST_LINE_SHIFT;
    if (last - first < this.lines.size)
      for (let line = first; line <= last; line++) this.commitUpTo(line, this.events);
    else
      for (const [line, { nrStores }] of this.lines)
        if (line >= first && line <= last) this.commit(line, nrStores);
    this.happened('persist', NO_HART, first);
  }

  /** The lines that a loss of power can leave in more than one state. */
  pendingLines(): Int32Array {
    return Int32Array.from(this.lines.keys()).sort();
  }

  /** In how many states it can leave a line: with none of the stores that are pending, with one, ... */
  choicesOf(line: number): number {
    return (this.lines.get(line)?.nrStores ?? 0) + 1;
  }

  /** What a loss of power now would leave. @throws RangeError for a pick that is none of the choices */
  crashImage(pick: PickPrefix): Uint8Array {
    const image = this.media.slice();
    const words = new Int32Array(image.buffer);
    for (const line of this.pendingLines()) this.applyPrefix(words, line, pick);
    return image;
  }

  /** Would a loss of power perhaps change bytes? `at` counts from the first byte. */
  isVolatile(at: number, lenBytes: number): boolean {
    const last = (at + lenBytes - 1) >>> PERSIST_LINE_SHIFT;
    for (let line = at >>> PERSIST_LINE_SHIFT; line <= last; line++)
      if (this.lines.has(line)) return true;
    return false;
  }

  /** The bytes of one line after the first `prefix` of its pending stores. */
  lineAfter(line: number, prefix: number): Uint8Array {
    const at = line * PERSIST_LINE_BYTES;
    const bytes = this.media.slice(at, at + PERSIST_LINE_BYTES);
    this.lines.get(line)?.apply(new Int32Array(bytes.buffer), 0, prefix);
    return bytes;
  }

  /** Power is lost, and comes back: media and frames hold what `pick` says, and nothing is pending. */
  powerFail(pick: PickPrefix): void {
    for (const line of this.pendingLines()) this.applyPrefix(this.mediaWords, line, pick);
    this.forgetPending();
    this.failed = true;
    this.memory.setBytes(this.firstOffset, this.media);
    this.failed = false;
    this.failAt = 0;
  }

  /** Power goes in good order: the platform has written its caches back. */
  powerOff(): void {
    if (!this.failed) this.persist(0, this.lenBytes);
  }

  /** Does any of the bytes, offsets into the memory, meet poison when it is loaded? */
  isPoisoned(offset: number, lenBytes: number): boolean {
    return (
      this.covers(offset, lenBytes) && this.poison.touches(offset - this.firstOffset, lenBytes)
    );
  }

  /** Runs of poisoned bytes in a range, counted from the first byte. */
  poisonIn(at: number, lenBytes: number): [at: number, lenBytes: number][] {
    return this.poison.ranges(at, lenBytes);
  }

  /** The media cannot be read any more at these bytes, counted from the first one; whole units of it. */
  addPoison(at: number, lenBytes: number): void {
    this.poison.add(at, lenBytes);
    this.flagPoison();
  }

  /** The units that lie in the range are good again, and zero. @returns how many bytes */
  clearPoison(at: number, lenBytes: number): number {
    const units = this.poison.clear(at, lenBytes);
    for (const [unitAt, unitBytes] of units) {
      this.memory.zeroBytes(this.firstOffset + unitAt, unitBytes);
      this.persist(unitAt, unitBytes);
    }
    this.unflagPoison();
    return units.reduce((sum, [, unitBytes]) => sum + unitBytes, 0);
  }

  save(): PersistState {
    return {
      media: this.media.slice(),
      events: this.events,
      counts: { ...this.counts },
      failAt: this.failAt,
      failed: this.failed,
      lines: [...this.lines].map(([line, { log }]) => ({ line, log: log.slice() })),
      cleaned: [...this.cleaned].map(([hart, lines]) => [hart, [...lines]]),
      queued: [...this.queued],
      poison: this.poison.save(),
    };
  }

  private get firstPage(): number {
    return (this.firstOffset - RAM_OFFSET) >>> PAGE_SHIFT;
  }

  private get nrPages(): number {
    return this.lenBytes >>> PAGE_SHIFT;
  }

  private covers(offset: number, lenBytes: number): boolean {
    const at = offset - this.firstOffset;
    return at >= 0 && at + lenBytes <= this.lenBytes;
  }

  private lineOf(line: number): PendingLine {
    let pending = this.lines.get(line);
    if (pending === undefined) {
      pending = new PendingLine();
      const word = line * (PERSIST_LINE_BYTES / 4);
      pending.now.set(this.mediaWords.subarray(word, word + PERSIST_LINE_BYTES / 4));
      this.lines.set(line, pending);
    }
    return pending;
  }

  /** One unit holds something; if that is nothing new, no store is needed to get there. */
  private storeUnit(hart: number, at: number, lo: number, hi: number): void {
    const line = at >>> PERSIST_LINE_SHIFT;
    const unit = (at % PERSIST_LINE_BYTES) >>> 3;
    const pending = this.lines.get(line);
    const words = pending?.now ?? this.mediaWords;
    const word = pending === undefined ? at >>> 2 : unit * 2;
    // With eADR it matters whose store it was: the fence of that hart covers what is before it.
    const whose = this.mode === 'eadr' && pending !== undefined;
    if (!whose && words[word] === lo && words[word + 1] === hi) return;
    const into = pending ?? this.lineOf(line);
    into.push(this.events, hart, unit, lo, hi);
    if (into.nrStores > MAX_STORES_OF_LINE) this.commit(line, MAX_STORES_OF_LINE / 2);
    if (this.lines.size > MAX_LINES)
      for (const [oldest, { nrStores }] of this.lines) {
        this.commit(oldest, nrStores);
        break;
      }
  }

  /** eADR: a device's stores are in a cache at once, a hart's when its buffer has no room for them. */
  private drainBuffer(hart: number): void {
    if (hart !== NO_HART && this.lines.size <= STORE_BUFFER) return;
    for (const [line, pending] of this.lines) {
      if (hart !== NO_HART && this.lines.size <= STORE_BUFFER) break;
      this.commit(line, hart === NO_HART ? pending.storesUpToHart(hart) : pending.nrStores);
    }
  }

  private commitUpTo(line: number, event: number): void {
    const pending = this.lines.get(line);
    if (pending !== undefined) this.commit(line, pending.storesUpTo(event));
  }

  /** The first `n` pending stores of a line are on the media. */
  private commit(line: number, n: number): void {
    const pending = this.lines.get(line);
    if (pending === undefined || n === 0) return;
    pending.apply(this.mediaWords, line * (PERSIST_LINE_BYTES / 4), n);
    pending.drop(n);
    if (pending.nrStores === 0) this.lines.delete(line);
  }

  private applyPrefix(words: Int32Array, line: number, pick: PickPrefix): void {
    const choices = this.choicesOf(line);
    const prefix = pick(line, choices);
    if (!Number.isInteger(prefix) || prefix < 0 || prefix >= choices)
      throw new RangeError(`line ${line} has no state ${prefix} of ${choices}`);
    this.lines.get(line)?.apply(words, line * (PERSIST_LINE_BYTES / 4), prefix);
  }

  private happened(kind: PersistEvent, hart: number, line: number): void {
    this.counts[kind]++;
    this.onEvent?.(kind, hart, line);
    if (this.events !== this.failAt) return;
    this.failed = true;
    this.onFailure?.();
  }

  private forgetPending(): void {
    this.lines.clear();
    this.cleaned.clear();
    this.queued.clear();
  }

  private flagPoison(): void {
    for (const page of this.poison.pages())
      this.memory.flagFrames(this.firstPage + page, 1, FRAME_POISONED);
  }

  private unflagPoison(): void {
    this.memory.unflagFrames(this.firstPage, this.nrPages, FRAME_POISONED);
    this.flagPoison();
  }
}
