/** virtio-console, alone and with several ports. virtio 1.2, 5.3. */
import { describe, expect, it } from 'vitest';
import { VirtioConsole } from '#devices';
import { RAM_BASE } from '#emu';
import { Clock, runTo } from '../support/wires.ts';
import { BUFFERS, boardOf, RING_PACKED } from './support/board.ts';
import type { DriverQueue } from './support/driver.ts';

const CONFIG = 0x100;
const SIZE = 1n;
const MULTIPORT = 2n;
const EMERG_WRITE = 4n;

const consoleBoard = (ports: string[] = ['console']) => {
  const out: string[] = ports.map(() => '');
  const clock = new Clock();
  const board = boardOf(
    (port) =>
      new VirtioConsole({
        port,
        clock,
        name: 'console',
        cols: 80,
        rows: 25,
        ports,
        onByte: (number, byte) => {
          out[number] += String.fromCharCode(byte);
        },
      }),
  );
  const text = (at: number, words: string): { at: number; len: number; write: boolean } => {
    board.bytes(at, words.length).set(new TextEncoder().encode(words));
    return { at, len: words.length, write: false };
  };
  const said = (at: number, len: number): string =>
    new TextDecoder().decode(board.bytes(at, len).slice());
  return { ...board, out, clock, text, said };
};

const bytesOf = (words: string): Uint8Array => new TextEncoder().encode(words);

describe('virtio-console registers — virtio 1.2, 5.3', () => {
  it('is device 3; F_SIZE and F_EMERG_WRITE, and F_MULTIPORT where there is more than one port', () => {
    expect(consoleBoard().read(0x008)).toBe(3);
    expect(consoleBoard().offered() & 0xffn).toBe(SIZE | EMERG_WRITE);
    expect(consoleBoard(['a', 'b']).offered() & 0xffn).toBe(SIZE | MULTIPORT | EMERG_WRITE);
  });

  it('has two queues, or two and two for each port (5.3.2)', () => {
    const nrQueues = ({ read, write }: ReturnType<typeof consoleBoard>): number => {
      for (let i = 0; ; i++) {
        write(0x030, i);
        if (read(0x034) === 0) return i;
      }
    };
    expect(nrQueues(consoleBoard())).toBe(2);
    expect(nrQueues(consoleBoard(['a', 'b', 'c']))).toBe(8);
  });

  it('configuration: columns, rows, and the number of ports', () => {
    const { mmio } = consoleBoard(['a', 'b']);
    expect([mmio.read(CONFIG, 2), mmio.read(CONFIG + 2, 2), mmio.read(CONFIG + 4, 4)]).toEqual([
      80, 25, 2,
    ]);
  });

  it('a new size is a configuration change (5.3.6)', () => {
    const { mmio, device, read, start } = consoleBoard();
    start(SIZE, 8, 8);
    device.resize(132, 50);
    expect([mmio.read(CONFIG, 2), mmio.read(CONFIG + 2, 2)]).toEqual([132, 50]);
    expect(read(0x060)).toBe(2);
  });

  it('emergency write works before a driver has said anything (5.3.5.1)', () => {
    const { mmio, out } = consoleBoard();
    mmio.write(CONFIG + 8, 4, 0x1234_5600 + 'A'.charCodeAt(0));
    mmio.write(CONFIG, 4, 0x42);
    expect(out).toEqual(['A']);
  });
});

for (const features of [0n, RING_PACKED])
  describe(`One port, ${features === 0n ? 'split' : 'packed'} rings — virtio 1.2, 5.3.6`, () => {
    const up = () => {
      const board = consoleBoard();
      const [receive, transmit] = board.start(features, 8, 8) as [DriverQueue, DriverQueue];
      return { ...board, receive, transmit };
    };

    it('output is the bytes of transmit buffers, in order; nothing is written to them', () => {
      const { transmit, kick, text, out } = up();
      transmit.offer([text(BUFFERS, 'hel'), text(BUFFERS + 64, 'lo ')], 'direct', 0);
      transmit.offer([text(BUFFERS + 128, 'world')], 'direct', 0);
      kick(1);
      expect(out).toEqual(['hello world']);
      expect([transmit.collect()?.len, transmit.collect()?.len]).toEqual([0, 0]);
    });

    it('input waits for buffers, and fills each as far as there is any', () => {
      const { device, receive, kick, said } = up();
      expect(device.receive(0, bytesOf('0123456789'))).toBe(10);
      expect(receive.collect()).toBeUndefined();
      for (let i = 0; i < 3; i++)
        receive.offer([{ at: BUFFERS + 64 * i, len: 4, write: true }], 'direct', 0);
      kick(0);
      expect([receive.collect()?.len, receive.collect()?.len, receive.collect()?.len]).toEqual([
        4, 4, 2,
      ]);
      expect([0, 1, 2].map((i) => said(BUFFERS + 64 * i, i < 2 ? 4 : 2))).toEqual([
        '0123',
        '4567',
        '89',
      ]);
      // A buffer that waits gets what comes later at once.
      receive.offer([{ at: BUFFERS, len: 4, write: true }], 'direct', 0);
      kick(0);
      expect(receive.collect()).toBeUndefined();
      device.receive(0, bytesOf('x'));
      expect(receive.collect()?.len).toBe(1);
    });

    it('of input that nobody takes 64 KiB are kept', () => {
      const { device } = up();
      expect(device.receive(0, new Uint8Array(60_000))).toBe(60_000);
      expect(device.receive(0, new Uint8Array(60_000))).toBe(65_536 - 60_000);
      expect(device.receive(0, new Uint8Array(1))).toBe(0);
    });

    it('a long buffer goes out 64 KiB at a time, with machine time between', () => {
      const { transmit, kick, device, clock } = up();
      transmit.offer([{ at: RAM_BASE, len: 200_000, write: false }], 'direct', 0);
      kick(1);
      expect([device.bytesOut, transmit.collect()]).toEqual([65_536, undefined]);
      runTo(clock, 10_000);
      expect(device.bytesOut).toBe(131_072);
      kick(1); // a driver that is impatient does no harm
      runTo(clock, 100_000);
      expect([device.bytesOut, transmit.collect()?.len]).toEqual([200_000, 0]);
    });

    it('a reset in the middle of a long buffer forgets it', () => {
      const { transmit, kick, device, clock, write, start, text, out, bytes } = up();
      transmit.offer([{ at: RAM_BASE, len: 200_000, write: false }], 'direct', 0);
      kick(1);
      write(0x070, 0);
      bytes(RAM_BASE, 0x10000).fill(0);
      const [, again] = start(features, 8, 8) as [DriverQueue, DriverQueue];
      out[0] = '';
      again.offer([text(BUFFERS, 'fresh')], 'direct', 0);
      kick(1);
      runTo(clock, 100_000);
      expect(out).toEqual(['fresh']);
      expect(device.bytesOut).toBe(65_536 + 5);
    });

    it('a buffer that cannot be read goes back; what comes after it is printed', () => {
      const { transmit, kick, text, out } = up();
      transmit.offer([{ at: 0x40, len: 5, write: false }], 'direct', 0);
      transmit.offer([text(BUFFERS, 'after')], 'direct', 0);
      kick(1);
      expect(out).toEqual(['after']);
      expect([transmit.collect()?.len, transmit.collect()?.len]).toEqual([0, 0]);
    });
  });

describe('Several ports — virtio 1.2, 5.3.6.2', () => {
  const DEVICE_READY = 0;
  const DEVICE_ADD = 1;
  const PORT_READY = 3;
  const CONSOLE_PORT = 4;
  const PORT_OPEN = 6;
  const PORT_NAME = 7;

  /** Up with MULTIPORT, control buffers offered; say() sends a control message, heard() what came. */
  const up = () => {
    const board = consoleBoard(['console', 'org.gupbed.echo']);
    const queues = board.start(MULTIPORT, 16, 16, 16, 16, 16, 16);
    const [, , controlIn, controlOut] = queues as DriverQueue[];
    const places = new Map<number, number>();
    const refill = (at: number): void => {
      const key = controlIn!.offer([{ at, len: 64, write: true }], 'direct', 0);
      if (key !== undefined) places.set(key, at);
    };
    for (let i = 0; i < 8; i++) refill(BUFFERS + 64 * i);
    board.kick(2);
    const say = (id: number, event: number, value: number): void => {
      const at = BUFFERS + 0x1000;
      const message = new DataView(new ArrayBuffer(8));
      message.setUint32(0, id, true);
      message.setUint16(4, event, true);
      message.setUint16(6, value, true);
      board.bytes(at, 8).set(new Uint8Array(message.buffer));
      controlOut!.offer([{ at, len: 8, write: false }], 'direct', 0);
      board.kick(3);
      controlOut!.collect();
    };
    const heard = (): unknown[] => {
      const messages: unknown[] = [];
      for (let used = controlIn!.collect(); used !== undefined; used = controlIn!.collect()) {
        const at = places.get(used.key) ?? 0;
        const view = new DataView(board.bytes(at, used.len).slice().buffer);
        const head = [view.getUint32(0, true), view.getUint16(4, true), view.getUint16(6, true)];
        messages.push(used.len > 8 ? [...head, board.said(at + 8, used.len - 8)] : head);
        refill(at);
      }
      board.kick(2);
      return messages;
    };
    return { ...board, queues, say, heard };
  };

  it('DEVICE_READY is answered by a DEVICE_ADD of each port', () => {
    const { say, heard } = up();
    say(0, DEVICE_READY, 1);
    expect(heard()).toEqual([
      [0, DEVICE_ADD, 0],
      [1, DEVICE_ADD, 0],
    ]);
  });

  it('PORT_READY is answered by what the port is, and that it is open', () => {
    const { say, heard } = up();
    say(0, PORT_READY, 1);
    expect(heard()).toEqual([
      [0, CONSOLE_PORT, 1],
      [0, PORT_OPEN, 1],
    ]);
    say(1, PORT_READY, 1);
    expect(heard()).toEqual([
      [1, PORT_NAME, 1, 'org.gupbed.echo'],
      [1, PORT_OPEN, 1],
    ]);
  });

  it('input of a port waits until the driver has opened it', () => {
    const { say, device, queues, kick } = up();
    queues[4]!.offer([{ at: BUFFERS + 0x2000, len: 16, write: true }], 'direct', 0);
    kick(4);
    device.receive(1, bytesOf('early'));
    expect(queues[4]!.collect()).toBeUndefined();
    say(1, PORT_OPEN, 1);
    expect(queues[4]!.collect()?.len).toBe(5);
  });

  it('output of port 1 is in queue 5', () => {
    const { queues, kick, text, out } = up();
    queues[5]!.offer([text(BUFFERS + 0x2000, 'to port 1')], 'direct', 0);
    kick(5);
    expect(out).toEqual(['', 'to port 1']);
  });

  for (const [fact, id, event, value] of [
    ['of a port that does not exist', 9, PORT_READY, 1],
    ['that the driver failed', 0, DEVICE_READY, 0],
    ['of no known event', 0, 99, 1],
  ] as const)
    it(`a message ${fact} is answered by nothing`, () => {
      const { say, heard } = up();
      say(id, event, value);
      expect(heard()).toEqual([]);
    });

  it('without MULTIPORT the other queues do not exist', () => {
    const { start, kick, text, out } = consoleBoard(['a', 'b']);
    const queues = start(0n, 8, 8, 8, 8, 8, 8);
    queues[5]!.offer([text(BUFFERS, 'nobody hears')], 'direct', 0);
    kick(5);
    expect(out).toEqual(['', '']);
    expect(queues[5]!.collect()).toBeUndefined();
  });
});
