/** Turns by the seed: what may come between what, when the clock moves, and when nothing can. */
import { describe, expect, it } from 'vitest';
import { Clock } from '#emu';
import { type Path, YP_PROTECT, YP_WAIT } from '#mm';
import { Rng } from '#testbed';
import { type Actor, PathActor, type Turn } from '../../testbed/sched/actor.ts';
import { Scheduler } from '../../testbed/sched/scheduler.ts';

/** Runs one path, made by `make`, and then sleeps for ever. */
class Once extends PathActor {
  private make: (() => Path<void>) | null;

  constructor(name: string, make: () => Path<void>) {
    super(name);
    this.make = make;
  }

  protected nextAt(): number {
    return this.make === null ? Number.POSITIVE_INFINITY : 0;
  }

  protected begin(): Path<void> | null {
    const path = this.make?.() ?? null;
    this.make = null;
    return path;
  }
}

/** Retires all that it may at each turn, and notes how much that was. */
class Runner implements Actor {
  readonly name = 'runner';
  readonly quiet = true;
  readonly limits: number[] = [];
  private readonly clock: Clock;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  wakeAt(): number {
    return 0;
  }

  turn(limit: number): Turn {
    this.limits.push(limit);
    this.clock.now += limit;
    return 'ran';
  }
}

/** Does nothing but note whose turn it is. */
class Named implements Actor {
  readonly quiet = true;
  readonly name: string;
  awake: boolean;
  private readonly log: string[];

  constructor(name: string, log: string[]) {
    this.name = name;
    this.awake = true;
    this.log = log;
  }

  wakeAt(): number {
    return this.awake ? 0 : Number.POSITIVE_INFINITY;
  }

  turn(limit: number): Turn {
    this.log.push(`${this.name}${limit}`);
    return 'ran';
  }
}

const schedulerOf = (seed: number, ...actors: Actor[]) => {
  const clock = new Clock();
  const scheduler = new Scheduler(clock, new Rng(seed));
  for (const actor of actors) scheduler.add(actor);
  return { clock, scheduler };
};

/** Two paths of twenty sections each; a section is two entries of the log. */
const sectionsOf = (seed: number): string[] => {
  const log: string[] = [];
  const path = (name: string) =>
    function* (): Path<void> {
      for (let i = 0; i < 20; i++) {
        log.push(`${name}${i} in`);
        log.push(`${name}${i} out`);
        yield YP_PROTECT;
      }
    };
  const { scheduler } = schedulerOf(seed, new Once('a', path('a')), new Once('b', path('b')));
  while (scheduler.step(1));
  return log;
};

describe('the interleaving of paths', () => {
  it('happens at their yields only', () => {
    for (let seed = 0; seed < 20; seed++) {
      const log = sectionsOf(seed);
      expect(log).toHaveLength(80);
      for (let i = 0; i < log.length; i += 2) expect(log[i + 1]).toBe(log[i]!.replace('in', 'out'));
    }
  });

  it('happens: each path is overtaken somewhere', () => {
    const order = sectionsOf(1).map((entry) => entry[0]);
    expect(order.join('')).toMatch(/a+b+a+b/);
  });

  it('is the same for the same seed, another for another', () => {
    expect(sectionsOf(7)).toEqual(sectionsOf(7));
    expect(sectionsOf(7)).not.toEqual(sectionsOf(8));
  });
});

describe('waiting', () => {
  it('actors that wait for each other are a deadlock, reported by their names', () => {
    const forEver = function* (): Path<void> {
      for (;;) yield YP_WAIT;
    };
    const { scheduler } = schedulerOf(1, new Once('left', forEver), new Once('right', forEver));
    expect(() => {
      for (let i = 0; i < 20_000; i++) scheduler.step(1);
    }).toThrow(/^deadlock: left, right wait for each other$/);
  });

  it('a wait that somebody ends is none', () => {
    let locked = true;
    const waits = function* (): Path<void> {
      while (locked) yield YP_WAIT;
    };
    const releases = function* (): Path<void> {
      for (let i = 0; i < 5000; i++) yield YP_PROTECT;
      locked = false;
    };
    const { scheduler } = schedulerOf(1, new Once('waits', waits), new Once('releases', releases));
    while (scheduler.step(1));
    expect(scheduler.quiet).toBe(true);
    expect(scheduler.allAsleep()).toBe(true);
  });

  it('a suspended path is not quiet', () => {
    const actor = new Once('a', function* (): Path<void> {
      yield YP_PROTECT;
    });
    const { scheduler } = schedulerOf(1, actor);
    expect(scheduler.quiet).toBe(true);
    scheduler.step(1);
    expect(scheduler.quiet).toBe(false);
    scheduler.step(1);
    expect(scheduler.quiet).toBe(true);
  });
});

describe('machine time', () => {
  it('jumps to the next event or wake-up when everybody sleeps', () => {
    const ran: string[] = [];
    const sleeper: Actor = {
      name: 'sleeper',
      quiet: true,
      wakeAt: () => (ran.length === 0 ? 1000 : Number.POSITIVE_INFINITY),
      turn: () => {
        ran.push('sleeper');
        return 'ran';
      },
    };
    const { clock, scheduler } = schedulerOf(1, sleeper);
    const events: number[] = [];
    clock.receive('test', () => events.push(clock.now));
    clock.at(400, 'test', 0);
    expect(scheduler.step(1)).toBe(true);
    expect(clock.now).toBe(400);
    expect(events).toEqual([400]);
    scheduler.step(1);
    expect(clock.now).toBe(1000);
    scheduler.step(1);
    expect(ran).toEqual(['sleeper']);
    expect(scheduler.step(1)).toBe(false);
    expect(clock.now).toBe(1000);
  });

  it('no turn gets more than the budget', () => {
    const clock = new Clock();
    const runner = new Runner(clock);
    const scheduler = new Scheduler(clock, new Rng(3));
    scheduler.add(runner);
    for (const budget of [1, 7, 1234, 100_000]) {
      scheduler.step(budget);
      expect(runner.limits.at(-1)).toBe(budget);
    }
    scheduler.step(1e9);
    expect(runner.limits.at(-1)).toBeLessThan(1e6);
  });

  it('no turn goes beyond the next event, which is taken at its time', () => {
    const clock = new Clock();
    const scheduler = new Scheduler(clock, new Rng(3));
    scheduler.add(new Runner(clock));
    scheduler.add(new Runner(clock));
    const taken: number[] = [];
    clock.receive('test', (_kind, when) => taken.push(clock.now - when));
    for (let when = 1; when < 100_000; when += 777) clock.at(when, 'test', 0, when);
    while (clock.nextAt < Number.POSITIVE_INFINITY) scheduler.step(1e9);
    expect(new Set(taken)).toEqual(new Set([0]));
    expect(taken).toHaveLength(129);
  });
});

describe('with a quantum', () => {
  const robin = () => {
    const log: string[] = [];
    const scheduler = new Scheduler(new Clock(), new Rng(1), 700);
    const actors = ['a', 'b', 'c'].map((name) => new Named(name, log));
    for (const actor of actors) scheduler.add(actor);
    return { log, scheduler, actors };
  };
  const steps = (scheduler: Scheduler, count: number): void => {
    for (let i = 0; i < count; i++) scheduler.step(1e9);
  };

  it('everybody who can run has a turn of it, in order', () => {
    const { log, scheduler } = robin();
    steps(scheduler, 5);
    expect(log).toEqual(['a700', 'b700', 'c700', 'a700', 'b700']);
  });

  it('who sleeps is passed over, and comes back in his place', () => {
    const { log, scheduler, actors } = robin();
    steps(scheduler, 1);
    actors[1]!.awake = false;
    steps(scheduler, 2);
    actors[1]!.awake = true;
    steps(scheduler, 2);
    expect(log.map((entry) => entry[0]).join('')).toBe('acabc');
  });

  it('a restored scheduler goes on with the next one', () => {
    const { scheduler } = robin();
    steps(scheduler, 2);
    const other = robin();
    other.scheduler.restore(scheduler.save());
    steps(other.scheduler, 1);
    expect(other.log).toEqual(['c700']);
  });
});
