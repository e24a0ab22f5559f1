/**
 * Machine time and the events on it.
 *
 * Time is the number of instructions that the machine's harts have retired; nothing else moves it,
 * except that a machine whose harts all wait jumps to its next event. Each event has an exact time
 * and is taken at it. Events are plain records (who, what, argument), so that they can be saved;
 * who receives them is registered by name when the machine is put together.
 */

/** Ticks of `mtime` a second, as the device tree states it. */
export const TIMEBASE_HZ = 10_000_000;
/** Retired instructions per tick of mtime: a nominal hart of 100 MIPS. */
export const INSTRUCTIONS_PER_TICK = 10;

export interface ClockEvent {
  /** When, in retired instructions of the machine. */
  when: number;
  /** Order among events of one time: first scheduled, first taken. */
  order: number;
  /** Name under which the receiver is registered. */
  target: string;
  /** Which of the receiver's events, and its argument: the receiver's own numbers. */
  kind: number;
  arg: number;
}

export type ClockHandler = (kind: number, arg: number) => void;

/** What a saved machine keeps of its clock. */
export interface ClockState {
  now: number;
  nextOrder: number;
  events: ClockEvent[];
}

export class Clock {
  /** Machine time. Exact whenever a device or the host model runs. */
  now: number;
  /** Called when the earliest event has become earlier: a running slice must end sooner. */
  onEarlier: (when: number) => void;
  private nextOrder: number;
  /** Sorted, earliest first; there are few. */
  private events: ClockEvent[];
  private readonly handlers: Map<string, ClockHandler>;

  constructor() {
    this.now = 0;
    this.onEarlier = () => {};
    this.nextOrder = 0;
    this.events = [];
    this.handlers = new Map();
  }

  /** `mtime`, in ticks of TIMEBASE_HZ. */
  get ticks(): number {
    return Math.floor(this.now / INSTRUCTIONS_PER_TICK);
  }

  /** Registers the receiver of events named `target`. */
  receive(target: string, handler: ClockHandler): void {
    this.handlers.set(target, handler);
  }

  /** Schedules an event at an absolute time; a time that has passed means now. */
  at(when: number, target: string, kind: number, arg = 0): void {
    const event = { when: Math.max(when, this.now), order: this.nextOrder++, target, kind, arg };
    let i = this.events.length;
    while (i > 0 && this.events[i - 1]!.when > event.when) i--;
    this.events.splice(i, 0, event);
    if (i === 0) this.onEarlier(event.when);
  }

  /** Removes the events of a receiver with this kind (and argument, where given). */
  cancel(target: string, kind: number, arg?: number): void {
    this.events = this.events.filter(
      (e) => e.target !== target || e.kind !== kind || (arg !== undefined && e.arg !== arg),
    );
  }

  /** When the earliest event is due; Infinity without one. */
  get nextAt(): number {
    return this.events[0]?.when ?? Number.POSITIVE_INFINITY;
  }

  /** Delivers, in order, every event that is due at `now`. */
  deliverDue(): void {
    for (let e = this.events[0]; e !== undefined && e.when <= this.now; e = this.events[0]) {
      this.events.shift();
      const handler = this.handlers.get(e.target);
      if (handler === undefined) throw new Error(`clock: no receiver named ${e.target}`);
      handler(e.kind, e.arg);
    }
  }

  save(): ClockState {
    return {
      now: this.now,
      nextOrder: this.nextOrder,
      events: this.events.map((e) => ({ ...e })),
    };
  }

  restore(state: ClockState): void {
    this.now = state.now;
    this.nextOrder = state.nextOrder;
    this.events = state.events.map((e) => ({ ...e }));
  }
}
