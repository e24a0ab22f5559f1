/**
 * Random drivers and devices over both ring formats: sizes, shapes of buffers, orders of completion,
 * suppression and memory that has to be waited for. virtio 1.2, 2.6 to 2.8.
 *
 * A driver that is written from the specification alone keeps book of what it offered. Every byte must
 * arrive, every buffer come back once with its length, interrupts come exactly when its area asks for
 * them, and a driver that kicks only when it must gets everything served.
 */
import { describe, expect, it } from 'vitest';
import { readChain, type VirtioChain, writeChain } from '#devices';
import { DMA_OK, DMA_WAIT, type DmaPort, RAM_BASE } from '#emu';
import { type Rng, rng } from '../../support/rng.ts';
import {
  BUFFERS,
  boardOf,
  EVENT_IDX,
  HoldingDevice,
  INDIRECT_DESC,
  NEEDS_RESET,
  NOTIFICATION_DATA,
  RING_PACKED,
} from './support/board.ts';
import type { Segment, Shape } from './support/driver.ts';

const STEPS = 1500;
/** A place of its own for every buffer that may be out: data, a table behind it. */
const PLACE_BYTES = 0x1000;
const TABLE_AT = 0xc00;
const NR_PLACES = 70;

/** A buffer that is out, as its driver has it. */
interface Out {
  place: number;
  segments: Segment[];
  /** What the device has written and put, once it has. */
  written?: Uint8Array;
}

/** Says DMA_WAIT now and then; go() tells who waits that it may try again. */
class WaitingPort implements DmaPort {
  percent = 0;
  waits = 0;
  private awaited = false;
  private readonly inner: DmaPort;
  private readonly random: Rng;
  private listener = (): void => {};

  constructor(inner: DmaPort, random: Rng) {
    this.inner = inner;
    this.random = random;
  }

  private waiting(): boolean {
    if (!this.random.chance(this.percent / 100)) return false;
    this.waits++;
    this.awaited = true;
    return true;
  }

  read(address: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    return this.waiting() ? DMA_WAIT : this.inner.read(address, into, intoOffset, lenBytes);
  }

  write(address: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    return this.waiting() ? DMA_WAIT : this.inner.write(address, from, fromOffset, lenBytes);
  }

  atomicAdd32(address: number, delta: number): number | undefined {
    return this.inner.atomicAdd32(address, delta);
  }

  translate(address: number, write: boolean): number {
    return this.inner.translate(address, write);
  }

  onReady(listener: () => void): void {
    this.listener = listener;
  }

  /** Nobody is told who has not had to wait. */
  go(): void {
    if (!this.awaited) return;
    this.awaited = false;
    this.listener();
  }
}

const run = (seed: number, packed: boolean, waits: boolean) => {
  const random = rng(seed);
  let port!: WaitingPort;
  const board = boardOf(() => new HoldingDevice(), {
    through: (inner) => {
      port = new WaitingPort(inner, random);
      return port;
    },
  });
  const { device, kick, bytes, irq, write, read } = board;
  const maybe = (feature: bigint): bigint => (random.chance(0.5) ? feature : 0n);
  const features =
    (packed ? RING_PACKED : 0n) |
    maybe(INDIRECT_DESC) |
    maybe(EVENT_IDX) |
    maybe(NOTIFICATION_DATA);
  const size = packed ? 1 + random.below(64) : 2 ** random.below(7);
  const [queue] = board.start(features, size);
  if (queue === undefined) throw new Error('no queue');
  device.most = random.chance(0.3) ? 1 + random.below(size) : size;
  port.percent = waits ? 10 : 0;

  const out = new Map<number, Out>();
  const places = Array.from({ length: NR_PLACES }, (_, i) => i);
  let offered = 0;
  let collected = 0;
  let put = 0;

  const offer = (): void => {
    const place = places.pop();
    if (place === undefined) return;
    const base = BUFFERS + place * PLACE_BYTES;
    const count = 1 + random.below(6);
    const readables = random.below(count + 1);
    const segments = Array.from({ length: count }, (_, i) => ({
      at: base + i * 0x200 + random.below(0x100),
      len: random.below(0x100),
      write: i >= readables,
    }));
    for (const { at, len } of segments)
      for (let i = 0; i < len; i++) bytes(at, len)[i] = random.u32();
    const shapes: Shape[] = ['direct'];
    if ((features & INDIRECT_DESC) !== 0n) shapes.push('indirect');
    if (shapes.length > 1 && !packed && count > 1) shapes.push('mixed');
    const key = queue.offer(segments, random.pick(shapes), base + TABLE_AT);
    if (key === undefined) {
      places.push(place);
      return;
    }
    out.set(key, { place, segments });
    offered++;
  };

  const notify = (): void => {
    if (!queue.mustKick()) return;
    kick((features & NOTIFICATION_DATA) !== 0n ? (queue.kickData * 0x1_0000) >>> 0 : 0);
  };

  /** The bytes of the readable segments, as the driver left them. */
  const offeredBytes = ({ segments }: Out): number[] =>
    segments.filter((s) => !s.write).flatMap(({ at, len }) => [...bytes(at, len)]);

  const complete = (): void => {
    if (device.held.length === 0) return;
    const [chain] = device.held.splice(random.below(device.held.length), 1) as [VirtioChain];
    const mine = out.get(chain.id);
    if (mine === undefined) throw new Error(`the device has ${chain.id}, which was not offered`);
    const got = new Uint8Array(chain.readableBytes);
    while (readChain(port, chain, 0, got, 0, got.length) !== DMA_OK);
    expect([...got]).toEqual(offeredBytes(mine));
    const written = Uint8Array.from({ length: random.below(chain.writableBytes + 1) }, () =>
      random.u32(),
    );
    while (writeChain(port, chain, 0, written, 0, written.length) !== DMA_OK);
    mine.written = written;
    write(0x064, 1);
    const wanted = !waits && queue.mustInterrupt(chain.id);
    device.transport.queue(0).put(chain, written.length);
    put++;
    if (!waits) expect(irq.level).toBe(wanted);
    // A device that was full looks again by itself.
    device.takeAll(0);
  };

  const collect = (): void => {
    for (let used = queue.collect(); used !== undefined; used = queue.collect()) {
      const mine = out.get(used.key);
      if (mine?.written === undefined) throw new Error(`${used.key} came back before it was put`);
      expect(used.len).toBe(mine.written.length);
      const there = mine.segments
        .filter((s) => s.write)
        .flatMap(({ at, len }) => [...bytes(at, len)])
        .slice(0, used.len);
      expect(there).toEqual([...mine.written]);
      out.delete(used.key);
      places.push(mine.place);
      collected++;
    }
  };

  const actions = [offer, offer, notify, complete, complete, collect, () => port.go()];
  for (let step = 0; step < STEPS; step++) {
    if (random.chance(0.1)) queue.interrupts(random.pick(['never', 'always', 'next']));
    random.pick(actions)();
  }
  // Whatever is out is served without another offer: no notification was lost.
  device.most = Number.POSITIVE_INFINITY;
  port.percent = 0;
  notify();
  port.go();
  while (device.held.length > 0) complete();
  collect();
  expect(read(0x070) & NEEDS_RESET).toBe(0);
  return { offered, collected, put, waits: port.waits, left: out.size };
};

for (const packed of [false, true])
  for (const waits of [false, true])
    describe(`${packed ? 'packed' : 'split'} ring, ${waits ? 'memory that has to be waited for' : 'memory that is there'}`, () => {
      for (let seed = 1; seed <= 8; seed++)
        it(`seed ${seed}: every buffer is served once, with its bytes`, () => {
          const count = run(seed * 7919, packed, waits);
          expect(count.collected).toBe(count.offered);
          expect(count.put).toBe(count.offered);
          expect(count.left).toBe(0);
          expect(count.offered).toBeGreaterThan(50);
          expect(count.waits > 0).toBe(waits);
        });
    });

it('addresses of buffers lie in the RAM of the board', () =>
  expect(BUFFERS + NR_PLACES * PLACE_BYTES).toBeLessThan(RAM_BASE + (4 << 20)));
