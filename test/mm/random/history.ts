/**
 * What a word of memory may hold: every write to it with the time it took, and what a read that took
 * a time of its own may then have seen.
 *
 * A write is known to have happened somewhere between its start and its end. A read may see it
 * unless another write began after that one had ended, and ended before the read began. A write that
 * perhaps went to another page (a device's, to a pin whose page was unmapped meanwhile) hides nothing.
 */

/** A value, one of several, or another word whose value it is: an untouched page of a private file mapping. */
export type Value = number | readonly number[] | History;

/** One write. `end` is Infinity while it is under way. */
export interface Write {
  start: number;
  end: number;
  value: Value;
  maybe: boolean;
  /**
   * A transfer that is under way: the value is what the other word had at some moment since then. Without
   * it, it is what the other word has.
   */
  since?: number;
}

/** Instead of a rule: what came from a page that nobody follows any more. */
export const UNKNOWN = 'unknown';

/** Histories that are being asked, and from when on: two words may be transferred to each other. */
const asked = new Map<History, number>();

/** Asks a history, unless it is being asked for as much already. */
const ask = <T>(history: History, from: number, question: () => T, otherwise: T): T => {
  const before = asked.get(history);
  if (before !== undefined && before <= from) return otherwise;
  asked.set(history, from);
  const answer = question();
  if (before === undefined) asked.delete(history);
  else asked.set(history, before);
  return answer;
};

export class History {
  private writes: Write[];
  /** Times that the page was, or began to be, unmapped: a pin from before may be of another page. */
  epoch: number;
  /** Operations under way that unmap the page at some moment. */
  dropping: number;
  /**
   * What a private huge page reads as after its owner has taken it away from its children, for want of
   * another (1.10): SIGBUS at first, but a fork forgets that (HPAGE_RESV_UNMAPPED is not inherited),
   * and the grandchild finds a fresh page. null: cannot happen to this word.
   */
  lost: Value | null;
  /**
   * The rule by which it may hold anything: somebody with a plain reference has written to it, and took
   * the bytes from wherever the reference led. null under a policy that knows better.
   */
  strange: string | null;
  /** Starts of operations under way that may make a copy of a page that is the file's. */
  private breaking: number[];

  constructor(value: Value) {
    this.writes = [{ start: -1, end: -1, value, maybe: false }];
    this.epoch = 0;
    this.dropping = 0;
    this.lost = null;
    this.strange = null;
    this.breaking = [];
  }

  /** A write begins. */
  begin(now: number, value: Value): Write {
    const write = { start: now, end: Number.POSITIVE_INFINITY, value, maybe: false };
    this.writes.push(write);
    return write;
  }

  /** It has happened. @param horizon start of the oldest operation that is still under way */
  finish(write: Write, now: number, horizon: number): void {
    write.end = now;
    if (this.writes.length > 6) this.forget(horizon);
  }

  /** It has failed, and nothing was written. */
  cancel(write: Write): void {
    this.writes.splice(this.writes.indexOf(write), 1);
  }

  /** The page is about to be unmapped: what is pinned now may be another one any time. */
  beginDrop(): void {
    this.epoch++;
    this.dropping++;
  }

  endDrop(): void {
    this.epoch++;
    this.dropping--;
  }

  /** A transfer from another word begins: its bytes are read and written at any time until it ends. */
  beginFrom(now: number, source: History): Write {
    const write = this.begin(now, source);
    write.since = now;
    return write;
  }

  /**
   * The transfer has ended: it has brought one of the values that the other word had meanwhile.
   * @param maybe to this word, or to a page that nobody sees any more; or not at all
   */
  finishFrom(write: Write, now: number, maybe: boolean, horizon: number): void {
    const values = valuesOf(write, write.start, now);
    if (write.value instanceof History) this.strange ??= write.value.strange;
    this.cancel(write);
    if (values.length > 0)
      this.writes.push({ start: write.start, end: now, value: oneOf(values), maybe });
    if (this.writes.length > 6) this.forget(horizon);
  }

  /** A write that took no time. @param maybe to this word, or to a page that nobody sees any more */
  wrote(now: number, value: number, maybe: boolean, horizon: number): void {
    this.writes.push({ start: now, end: now, value, maybe });
    if (this.writes.length > 6) this.forget(horizon);
  }

  /** What whoever looks at no time before `from` cannot see any more. */
  private forget(horizon: number): void {
    const { writes } = this;
    this.writes = writes.filter((write) => !hidden(write, writes, horizon));
  }

  /** May a read between the two times have seen this value? */
  explains(value: number, from: number, to: number): boolean {
    return ask(this, from, () => this.mayHave(value, from, to), false);
  }

  private mayHave(value: number, from: number, to: number): boolean {
    const { lost } = this;
    if (lost !== null && has(lost, value, from, to)) return true;
    return this.writes.some(
      (write) =>
        write.start <= to && brings(write, value, from, to) && !hidden(write, this.writes, from),
    );
  }

  /**
   * After a read: where no write was under way for anybody who still looks, the value is this one.
   * @param from start of the oldest operation that was under way at the read's end, the read's own included
   */
  settle(value: number, from: number): void {
    const live = this.live(from);
    if (live.some((write) => write.end >= from || write.value instanceof History)) return;
    this.writes = [{ start: from, end: from, value, maybe: false }];
  }

  /** Writes that somebody who looks from `from` on may see. */
  private live(from: number): Write[] {
    return this.writes.filter((write) => !hidden(write, this.writes, from));
  }

  /** Every value that a read between the two times may have seen. */
  values(from: number, to: number): number[] {
    const { lost } = this;
    const all = (): number[] => [
      ...(lost === null ? [] : valuesIn(lost, from, to)),
      ...this.live(from)
        .filter((write) => write.start <= to)
        .flatMap((write) => valuesOf(write, from, to)),
    ];
    return [...new Set(ask(this, from, all, []))];
  }

  /** Has anybody written, or begun to, since then? */
  busySince(start: number): boolean {
    return this.writes.filter((write) => write.end >= start).length > 1;
  }

  /** Something that asks for writing is on its way to the page. */
  breaksCow(now: number): void {
    this.breaking.push(now);
  }

  /**
   * It has ended: if the page was still the file's, it has become a copy of what the file held.
   * @param certain it did reach it; otherwise it may have
   */
  brokeCow(from: number, to: number, certain: boolean): void {
    this.breaking.splice(this.breaking.indexOf(from), 1);
    this.snapshot(from, to, certain);
  }

  private snapshot(from: number, to: number, certain: boolean): void {
    const live = this.live(from);
    const file = live.find(
      ({ value, since }) => value instanceof History && since === undefined,
    )?.value;
    if (!(file instanceof History)) return;
    this.strange ??= file.strange;
    const maybe = !certain || live.length > 1;
    for (const value of file.values(from, to))
      this.writes.push({ start: from, end: to, value, maybe });
  }

  /** The word of a child that was forked between the two times. */
  copy(from: number, to: number): History {
    const child = new History(0);
    child.lost = this.lost;
    child.strange = this.strange;
    child.writes = this.writes
      .filter((write) => write.start <= to && !hidden(write, this.writes, from))
      .flatMap((write): Write[] =>
        write.since === undefined
          ? [{ ...write, start: -1, end: -1 }]
          : [{ start: -1, end: -1, value: oneOf(valuesOf(write, from, to)), maybe: true }],
      );
    // What was on its way to the parent's page may have made a copy of it before the fork came by.
    const starts = [
      ...this.breaking,
      ...this.writes.filter(({ end }) => end >= from).map(({ start }) => start),
    ];
    if (starts.length > 0) child.snapshot(Math.min(from, ...starts), to, false);
    return child;
  }

  /** The rule by which it, or the word whose value it is, may hold anything. */
  rule(): string | null {
    if (this.strange !== null) return this.strange;
    for (const { value } of this.writes)
      if (value instanceof History && value.strange !== null) return value.strange;
    return null;
  }

  /** For messages. */
  describe(): string {
    return this.writes
      .map(
        ({ start, end, value, maybe }) =>
          `${value instanceof History ? 'file' : value}@${start}..${end}${maybe ? '?' : ''}`,
      )
      .join(' ');
  }
}

const oneOf = (values: number[]): Value => (values.length === 1 ? (values[0] ?? 0) : values);

/** What a value may be to whoever looks between the two times. */
const valuesIn = (value: Value, from: number, to: number): readonly number[] => {
  if (value instanceof History) return value.values(from, to);
  return typeof value === 'number' ? [value] : value;
};

const has = (value: Value, wanted: number, from: number, to: number): boolean => {
  if (value instanceof History) return value.explains(wanted, from, to);
  return typeof value === 'number' ? value === wanted : value.includes(wanted);
};

/** Values that the write may have brought to whoever looks between the two times. */
const valuesOf = ({ value, since }: Write, from: number, to: number): number[] => [
  ...valuesIn(value, Math.min(from, since ?? from), to),
];

const brings = ({ value, since }: Write, wanted: number, from: number, to: number): boolean =>
  has(value, wanted, Math.min(from, since ?? from), to);

/** Was it overwritten for everybody who looks from `from` on? */
const hidden = (write: Write, writes: readonly Write[], from: number): boolean =>
  writes.some((later) => !later.maybe && later.start > write.end && later.end < from);
