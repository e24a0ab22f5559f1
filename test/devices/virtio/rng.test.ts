/** virtio-rng. virtio 1.2, 5.4. */
import { describe, expect, it } from 'vitest';
import { VirtioRng } from '#devices';
import { RAM_BASE } from '#emu';
import { BUFFERS, boardOf, RING_PACKED } from './support/board.ts';

const counting = () => {
  let next = 0;
  return (into: Uint8Array): void => {
    for (let i = 0; i < into.length; i++) into[i] = ++next;
  };
};

for (const features of [0n, RING_PACKED])
  describe(`virtio-rng, ${features === 0n ? 'split' : 'packed'} ring — virtio 1.2, 5.4`, () => {
    const up = () => {
      const board = boardOf((port) => new VirtioRng({ port, fill: counting() }));
      const [queue] = board.start(features, 8);
      return { ...board, queue: queue! };
    };

    it('is device 4 with one queue and no features of its own', () => {
      const { read, write, offered } = boardOf((port) => new VirtioRng({ port, fill: counting() }));
      expect(read(0x008)).toBe(4);
      expect(offered() & 0xff_ffffn).toBe(0n);
      write(0x030, 1);
      expect(read(0x034)).toBe(0);
    });

    it('a buffer is filled to its end, over all of its segments', () => {
      const { queue, kick, bytes } = up();
      const segments = [0, 1].map((i) => ({ at: BUFFERS + 0x100 * i, len: 3 + i, write: true }));
      const key = queue.offer(segments, 'direct', 0);
      kick(0);
      expect(queue.collect()).toEqual({ key, len: 7 });
      expect([...bytes(BUFFERS, 4)]).toEqual([1, 2, 3, 0]);
      expect([...bytes(BUFFERS + 0x100, 5)]).toEqual([4, 5, 6, 7, 0]);
    });

    it('a long buffer gets 4,096 bytes: a device may use less than all of it (5.4.6.2)', () => {
      const { queue, kick, device } = up();
      queue.offer([{ at: BUFFERS, len: 0x1_0000, write: true }], 'direct', 0);
      kick(0);
      expect(queue.collect()?.len).toBe(4096);
      expect([device.requests, device.bytesGiven]).toEqual([1, 4096]);
    });

    it('a buffer that the device may only read comes back unread, with nothing written', () => {
      const { queue, kick, bytes } = up();
      queue.offer([{ at: BUFFERS, len: 8, write: false }], 'direct', 0);
      kick(0);
      expect(queue.collect()?.len).toBe(0);
      expect([...bytes(BUFFERS, 8)]).toEqual(new Array(8).fill(0));
    });

    it('a buffer outside memory comes back with nothing written', () => {
      const { queue, kick, device } = up();
      queue.offer([{ at: RAM_BASE - 8, len: 8, write: true }], 'direct', 0);
      kick(0);
      expect(queue.collect()?.len).toBe(0);
      expect(device.bytesGiven).toBe(0);
    });
  });
