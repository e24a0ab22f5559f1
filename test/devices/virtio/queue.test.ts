/** A queue whose memory has to be waited for, and one that is saved and restored. */
import { describe, expect, it } from 'vitest';
import { type VirtioChain, VirtioMmio } from '#devices';
import { DMA_FAULT, DMA_WAIT, type DmaPort } from '#emu';
import { probedLine } from '../support/wires.ts';
import {
  BUFFERS,
  boardOf,
  EVENT_IDX,
  HoldingDevice,
  NEEDS_RESET,
  RING_PACKED,
} from './support/board.ts';

/** A port that can be told what to answer. */
const switchable = (inner: DmaPort) => {
  const state = { answer: 0, failsRead: false, listener: (): void => {} };
  const port: DmaPort = {
    read: (...a) =>
      state.failsRead ? DMA_WAIT : state.answer < 0 ? state.answer : inner.read(...a),
    write: (...a) => (state.answer < 0 ? state.answer : inner.write(...a)),
    atomicAdd32: (...a) => inner.atomicAdd32(...a),
    translate: (...a) => inner.translate(...a),
    onReady: (listener) => {
      state.listener = listener;
    },
  };
  return { state, port };
};

for (const packed of [0n, RING_PACKED])
  describe(`${packed === 0n ? 'split' : 'packed'} ring`, () => {
    const up = (features = packed) => {
      let wire!: ReturnType<typeof switchable>;
      const board = boardOf(() => new HoldingDevice(), {
        through: (inner) => {
          wire = switchable(inner);
          return wire.port;
        },
      });
      const [queue] = board.start(features, 8);
      return { ...board, queue: queue!, wire: wire.state };
    };
    const writable = [{ at: BUFFERS, len: 64, write: true }];

    it('take() that has to wait has done nothing, and is done when the port is ready', () => {
      const { device, queue, kick, wire } = up();
      queue.offer(writable, 'direct', 0);
      wire.answer = DMA_WAIT;
      kick(0);
      expect([device.held.length, device.transport.queue(0).take()]).toEqual([0, DMA_WAIT]);
      wire.answer = 0;
      wire.listener();
      expect(device.held.length).toBe(1);
    });

    it('buffers that were put while memory is waited for go in that order, and interrupt then', () => {
      const { device, queue, kick, wire, irq } = up();
      const keys = [0, 1, 2].map(() => queue.offer(writable, 'direct', 0)!);
      kick(0);
      const vq = device.transport.queue(0);
      wire.answer = DMA_WAIT;
      for (const i of [2, 0]) vq.put(device.held[i]!, 10 + i);
      expect([queue.collect(), irq.level]).toEqual([undefined, false]);
      wire.answer = 0;
      // One that comes later waits behind them all the same.
      vq.put(device.held[1]!, 11);
      expect([queue.collect(), vq.nrInFlight]).toEqual([undefined, 0]);
      wire.listener();
      expect([0, 1, 2].map(() => queue.collect())).toEqual([
        { key: keys[2], len: 12 },
        { key: keys[0], len: 10 },
        { key: keys[1], len: 11 },
      ]);
      expect(irq.level).toBe(true);
    });

    it('a used ring that is not in memory any more breaks the queue', () => {
      const { device, queue, kick, wire, read } = up();
      queue.offer(writable, 'direct', 0);
      kick(0);
      wire.answer = DMA_FAULT;
      device.transport.queue(0).put(device.held[0]!, 1);
      expect(read(0x070) & NEEDS_RESET).toBe(NEEDS_RESET);
      wire.answer = 0;
      expect(device.transport.queue(0).take()).toBeUndefined();
    });

    it('a driver whose wishes cannot be read is told: it must bear that (2.7.7.1)', () => {
      const { device, queue, kick, wire, irq } = up();
      queue.interrupts('never');
      queue.offer(writable, 'direct', 0);
      kick(0);
      wire.failsRead = true; // used rings are only written to
      device.transport.queue(0).put(device.held[0]!, 1);
      expect([queue.collect()?.len, irq.level]).toEqual([1, true]);
    });

    it('restored from plain data it goes on where it was, with chains that are out', () => {
      const { device, queue, kick, mmio, port, wire } = up(packed | EVENT_IDX);
      const keys = [0, 1, 2].map(() => queue.offer(writable, 'direct', 0)!);
      kick(0);
      wire.answer = DMA_WAIT;
      device.transport.queue(0).put(device.held[1]!, 5);
      const state = structuredClone(mmio.save());
      const chain: VirtioChain = structuredClone(device.held[0]!);
      wire.answer = 0;

      const other = new HoldingDevice();
      const irq = probedLine();
      const restored = new VirtioMmio({ device: other, port, irq });
      restored.restore(state);
      expect(restored.save()).toEqual(state);
      expect(other.transport.queue(0).nrInFlight).toBe(2);
      restored.retry();
      expect(queue.collect()).toEqual({ key: keys[1], len: 5 });
      other.transport.queue(0).put(chain, 7);
      expect(queue.collect()).toEqual({ key: keys[0], len: 7 });
      queue.offer(writable, 'direct', 0);
      restored.write(0x050, 4, 0);
      expect(other.held.length).toBe(1);
      expect(irq.level).toBe(true);
    });
  });
