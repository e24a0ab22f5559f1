/** The registers of a virtio-mmio device, over a device that does nothing by itself. virtio 1.2, 4.2. */
import { describe, expect, it } from 'vitest';
import { RAM_BASE } from '#emu';
import {
  ACCESS_PLATFORM,
  BUFFERS,
  boardOf,
  DRIVER_OK,
  EVENT_IDX,
  FAILED,
  FEATURES_OK,
  HoldingDevice,
  INDIRECT_DESC,
  NEEDS_RESET,
  NOTIFICATION_DATA,
  RING_PACKED,
  RING_RESET,
  VERSION_1,
} from './support/board.ts';

const QUEUE_SEL = 0x030;
const QUEUE_NUM_MAX = 0x034;
const QUEUE_NUM = 0x038;
const QUEUE_READY = 0x044;
const QUEUE_NOTIFY = 0x050;
const INTERRUPT_STATUS = 0x060;
const INTERRUPT_ACK = 0x064;
const STATUS = 0x070;
const SHM_SEL = 0x0ac;
const QUEUE_RESET = 0x0c0;
const CONFIG_GENERATION = 0x0fc;
const CONFIG = 0x100;

const board = (options = {}) => boardOf(() => new HoldingDevice(), options);
const readable = (len = 8) => [{ at: BUFFERS, len, write: false }];

describe('virtio-mmio registers — virtio 1.2, 4.2.2', () => {
  for (const { fact, offset, value } of [
    { fact: 'MagicValue is "virt"', offset: 0x000, value: 0x7472_6976 },
    { fact: 'Version is 2', offset: 0x004, value: 2 },
    { fact: 'DeviceID is the device type', offset: 0x008, value: 42 },
    { fact: 'Status is 0 after power-on', offset: STATUS, value: 0 },
    { fact: 'QueueNumMax is the size of queue 0', offset: QUEUE_NUM_MAX, value: 64 },
    { fact: 'a write-only register reads 0', offset: QUEUE_NUM, value: 0 },
  ])
    it(fact, () => expect(board().read(offset)).toBe(value));

  it('control registers take 32-bit accesses alone', () => {
    const { mmio, read } = board();
    expect([mmio.read(0x000, 1), mmio.read(0x000, 2)]).toEqual([0, 0]);
    mmio.write(STATUS, 1, 1);
    mmio.write(STATUS, 2, 1);
    expect(read(STATUS)).toBe(0);
  });

  it('a queue that does not exist has a QueueNumMax of 0, and cannot be set up', () => {
    const { read, write, choose } = board();
    choose(VERSION_1);
    write(QUEUE_SEL, 2);
    expect(read(QUEUE_NUM_MAX)).toBe(0);
    write(QUEUE_NUM, 4);
    write(QUEUE_READY, 1);
    expect(read(QUEUE_READY)).toBe(0);
    write(QUEUE_SEL, 0xffff_ffff);
    expect(read(QUEUE_NUM_MAX)).toBe(0);
  });

  it('SHMLen and SHMBase are those of the region selected, all ones where there is none (2.10)', () => {
    const { read, write } = board();
    const region = () => [0x0b0, 0x0b4, 0x0b8, 0x0bc].map(read);
    expect(region()).toEqual([0x2345_6000, 0x1, 0x1000, 0x2]);
    write(SHM_SEL, 1);
    expect(region()).toEqual(new Array(4).fill(0xffff_ffff));
  });
});

describe('Device configuration space — virtio 1.2, 2.5', () => {
  it('is read by bytes, halves and words, little-endian, and is 0 beyond its end', () => {
    const { mmio } = board();
    expect(mmio.read(CONFIG + 3, 1)).toBe(4);
    expect(mmio.read(CONFIG + 2, 2)).toBe(0x0403);
    expect(mmio.read(CONFIG + 4, 4)).toBe(0x0807_0605);
    expect(mmio.read(CONFIG + 6, 4)).toBe(0x0807);
    expect(mmio.read(CONFIG + 0xe00, 4)).toBe(0);
  });

  it('writes are the device model’s to judge', () => {
    const { mmio, device } = board();
    mmio.write(CONFIG + 5, 1, 0x77);
    expect(device.calls).toEqual(['config 5 1 119']);
    expect(mmio.read(CONFIG + 5, 1)).toBe(6);
  });

  it('a change gives another generation; a driver that is up is interrupted, one that is not is not', () => {
    const { read, write, mmio, irq, start } = board();
    const generations = [read(CONFIG_GENERATION)];
    mmio.configChanged();
    generations.push(read(CONFIG_GENERATION));
    expect(irq.level).toBe(false);
    start(0n);
    mmio.configChanged();
    generations.push(read(CONFIG_GENERATION));
    expect(new Set(generations).size).toBe(3);
    expect([irq.level, read(INTERRUPT_STATUS)]).toEqual([true, 2]);
    write(INTERRUPT_ACK, 2);
    expect([irq.level, read(INTERRUPT_STATUS)]).toEqual([false, 0]);
    write(STATUS, 0);
    expect(generations).toContain(read(CONFIG_GENERATION)); // a reset is no change
  });
});

describe('Feature negotiation — virtio 1.2, 2.2 and 3.1.1', () => {
  const transport =
    INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_PACKED | NOTIFICATION_DATA | RING_RESET;

  it('the device type’s features and those of rings and transport are offered', () =>
    expect(board().offered()).toBe(0b1011n | transport));

  it('words above 63 offer nothing', () => {
    const { read, write } = board();
    write(0x014, 2);
    expect(read(0x010)).toBe(0);
    write(0x014, 0xffff_ffff);
    expect(read(0x010)).toBe(0);
  });

  it('features can be withheld', () =>
    expect(board({ withhold: RING_PACKED | 1n }).offered()).toBe(
      (0b1010n | transport) & ~RING_PACKED,
    ));

  for (const { fact, features, ok } of [
    { fact: 'a subset with VERSION_1 is accepted', features: VERSION_1 | 2n, ok: true },
    { fact: 'without VERSION_1 FEATURES_OK stays 0', features: 2n, ok: false },
    { fact: 'a feature not offered keeps FEATURES_OK at 0', features: VERSION_1 | 4n, ok: false },
  ])
    it(fact, () => expect(board().choose(features)).toBe(ok));

  it('a driver that wants a bit above 63 gets no FEATURES_OK', () => {
    const { read, write, choose } = board();
    write(0x024, 2);
    write(0x020, 1);
    expect(choose(VERSION_1)).toBe(false);
    write(STATUS, 0);
    expect(choose(VERSION_1)).toBe(true);
    expect(read(STATUS)).toBe(3 | FEATURES_OK);
  });

  it('after a refusal the driver may choose again (3.1.1 step 6 lets it give up, too)', () => {
    const { choose } = board();
    expect(choose(4n | VERSION_1)).toBe(false);
    expect(choose(VERSION_1)).toBe(true);
  });

  it('after FEATURES_OK features are fixed until a reset', () => {
    const { mmio, write, choose } = board();
    choose(VERSION_1 | 2n);
    write(0x024, 0);
    write(0x020, 1);
    expect([mmio.hasFeature(0), mmio.hasFeature(1)]).toEqual([false, true]);
    write(STATUS, 0);
    expect(mmio.hasFeature(1)).toBe(false);
  });

  it('behind an IOMMU a driver must accept ACCESS_PLATFORM (6.1)', () => {
    const behind = board({ accessPlatform: true });
    expect(behind.offered() & ACCESS_PLATFORM).toBe(ACCESS_PLATFORM);
    expect(behind.choose(VERSION_1)).toBe(false);
    expect(behind.choose(VERSION_1 | ACCESS_PLATFORM)).toBe(true);
    expect(board().offered() & ACCESS_PLATFORM).toBe(0n);
  });
});

describe('Device status — virtio 1.2, 2.1', () => {
  it('bits that are set stay set until 0 is written', () => {
    const { read, write } = board();
    write(STATUS, 1);
    write(STATUS, 2);
    expect(read(STATUS)).toBe(3);
    write(STATUS, 0);
    expect(read(STATUS)).toBe(0);
  });

  it('a driver cannot set DEVICE_NEEDS_RESET, nor bits that mean nothing', () => {
    const { read, write } = board();
    write(STATUS, 0xffff_ffff);
    expect(read(STATUS)).toBe(1 | 2 | DRIVER_OK | FAILED); // FEATURES_OK: VERSION_1 was not chosen
  });

  it('no buffer is consumed before DRIVER_OK, also one that was there and told of', () => {
    const { device, choose, place, queueOf, write, kick } = board();
    choose(VERSION_1);
    const queue = queueOf(0, 8, 0n);
    place(0, queue);
    queue.offer(readable(), 'direct', 0);
    kick(0);
    expect(device.held).toEqual([]);
    write(STATUS, 3 | FEATURES_OK | DRIVER_OK);
    expect(device.held.length).toBe(1);
  });

  it('nor without FEATURES_OK, nor after FAILED', () => {
    const { device, write, start, kick } = board();
    write(STATUS, 1 | 2 | DRIVER_OK);
    kick(0);
    expect(device.calls).toEqual([]);
    write(STATUS, 0);
    const [queue] = start(0n, 8);
    write(STATUS, FAILED);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    expect(device.held).toEqual([]);
  });

  it('an error of the device sets NEEDS_RESET, with a configuration interrupt if the driver is up', () => {
    const { mmio, read, irq, start, device, kick } = board();
    mmio.needsReset();
    expect([read(STATUS), irq.level]).toEqual([NEEDS_RESET, false]);
    mmio.reset();
    const [queue] = start(0n, 8);
    mmio.needsReset();
    expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
    expect([read(INTERRUPT_STATUS), irq.level]).toEqual([2, true]);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    expect(device.held).toEqual([]); // everything stands still
  });

  it('a reset clears interrupts and queues, and voids what the device has taken', () => {
    const { device, mmio, read, write, irq, start, kick, bytes } = board();
    const [queue] = start(0n, 8);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    const chain = device.held[0]!;
    mmio.configChanged();
    write(STATUS, 0);
    expect([read(STATUS), read(INTERRUPT_STATUS), read(QUEUE_READY)]).toEqual([0, 0, 0]);
    expect(irq.level).toBe(false);
    const before = bytes(RAM_BASE, 0x4000).slice();
    device.transport.queue(0).put(chain, 0);
    expect(bytes(RAM_BASE, 0x4000)).toEqual(before);
    expect(device.calls.at(-1)).toBe('reset');
  });

  it('a reset is not complete, so Status not 0, while a request touches memory (2.4.2)', () => {
    const { device, read, write, start } = board();
    start(0n, 8);
    device.busy = true;
    write(STATUS, 0);
    expect(read(STATUS)).not.toBe(0);
    device.busy = false;
    expect(read(STATUS)).toBe(0);
  });
});

describe('Setting up a queue — virtio 1.2, 4.2.3.2', () => {
  const attempt = (features: bigint, change: object) => {
    const { choose, place, queueOf } = board();
    choose(VERSION_1 | features);
    const { size, descArea, driverArea, deviceArea } = queueOf(0, 8, features);
    return place(0, { size, descArea, driverArea, deviceArea, ...change });
  };
  for (const { fact, packed, change, ready } of [
    { fact: 'a split ring of 8', packed: false, change: {}, ready: true },
    { fact: 'a packed ring of 8', packed: true, change: {}, ready: true },
    { fact: 'size 0 is none', packed: false, change: { size: 0 }, ready: false },
    { fact: 'a size above QueueNumMax', packed: false, change: { size: 128 }, ready: false },
    {
      fact: 'a split ring’s size is a power of two',
      packed: false,
      change: { size: 7 },
      ready: false,
    },
    {
      fact: 'a packed ring’s size need not be (2.8.10.1)',
      packed: true,
      change: { size: 7 },
      ready: true,
    },
    {
      fact: 'descriptors are aligned to 16',
      packed: false,
      change: { descArea: RAM_BASE + 8 },
      ready: false,
    },
    {
      fact: 'an available ring to 2',
      packed: false,
      change: { driverArea: RAM_BASE + 1 },
      ready: false,
    },
    { fact: 'a used ring to 4', packed: false, change: { deviceArea: RAM_BASE + 2 }, ready: false },
    {
      fact: 'event suppression to 4',
      packed: true,
      change: { driverArea: RAM_BASE + 2 },
      ready: false,
    },
    { fact: 'an address beyond 2^52', packed: false, change: { descArea: 2 ** 53 }, ready: false },
  ])
    it(`${fact}: QueueReady ${ready ? 1 : 0}`, () =>
      expect(attempt(packed ? RING_PACKED : 0n, change)).toBe(ready));

  it('not before FEATURES_OK: which format it has is not known', () => {
    const { place, queueOf } = board();
    expect(place(0, queueOf(0, 8, 0n))).toBe(false);
  });

  it('its registers do not move while it is ready', () => {
    const { device, write, start, kick } = board();
    const [queue] = start(0n, 8);
    write(QUEUE_SEL, 0);
    write(QUEUE_NUM, 2);
    write(0x080, 0);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    expect(device.held[0]?.address[0]).toBe(BUFFERS);
    expect(device.transport.queue(0).size).toBe(8);
  });

  it('QueueReady 0 stops it: memory is not looked at any more', () => {
    const { device, read, write, start, kick } = board();
    const [queue] = start(0n, 8);
    write(QUEUE_SEL, 0);
    write(QUEUE_READY, 0);
    expect(read(QUEUE_READY)).toBe(0);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    expect(device.held).toEqual([]);
    expect(device.calls).toEqual(['notify 0', 'reset queue 0']); // the first by DRIVER_OK
  });

  it('with RING_RESET a queue can be reset and set up again, by itself (2.6.1)', () => {
    const { device, read, write, start, place, queueOf, kick, bytes } = board();
    const [first, second] = start(RING_RESET, 8, 8);
    first!.offer(readable(), 'direct', 0);
    kick(0);
    device.busy = true;
    write(QUEUE_SEL, 0);
    write(QUEUE_RESET, 1);
    expect([read(QUEUE_RESET), read(QUEUE_READY)]).toEqual([1, 1]);
    device.busy = false;
    expect([read(QUEUE_RESET), read(QUEUE_READY)]).toEqual([0, 0]);
    device.held.length = 0;
    const again = queueOf(0, 4, 0n);
    bytes(again.descArea, 0x400).fill(0); // as a driver does
    expect(place(0, again)).toBe(true);
    again.offer(readable(4), 'direct', 0);
    kick(0);
    expect(device.held.map((chain) => chain.readableBytes)).toEqual([4]);
    second!.offer(readable(), 'direct', 0);
    kick(1);
    expect(device.held.length).toBe(2);
  });

  it('without RING_RESET QueueReset does nothing', () => {
    const { read, write, start } = board();
    start(0n, 8);
    write(QUEUE_SEL, 0);
    write(QUEUE_RESET, 1);
    expect([read(QUEUE_RESET), read(QUEUE_READY)]).toEqual([0, 1]);
  });
});

describe('Notifications — virtio 1.2, 2.9 and 4.2.3.3', () => {
  it('QueueNotify takes a queue’s index', () => {
    const { device, start, kick } = board();
    start(0n, 8, 8);
    device.calls.length = 0;
    kick(1);
    kick(2);
    kick(0x1_0001);
    expect(device.calls).toEqual(['notify 1']);
  });

  it('with NOTIFICATION_DATA its upper half is how far the driver is', () => {
    const { device, start, write } = board();
    const [queue] = start(NOTIFICATION_DATA, 8);
    device.calls.length = 0;
    queue!.offer(readable(), 'direct', 0);
    write(QUEUE_NOTIFY, queue!.kickData * 0x1_0000);
    expect(device.calls).toEqual(['notify 0']);
    expect(device.held.length).toBe(1);
  });

  it('a used buffer sets bit 0 of InterruptStatus and the line, until it is acknowledged', () => {
    const { device, read, write, irq, start, kick } = board();
    const [queue] = start(0n, 8);
    queue!.offer(readable(), 'direct', 0);
    kick(0);
    device.transport.queue(0).put(device.held[0]!, 0);
    expect([read(INTERRUPT_STATUS), irq.level]).toEqual([1, true]);
    write(INTERRUPT_ACK, 2);
    expect(irq.level).toBe(true);
    write(INTERRUPT_ACK, 1);
    expect([read(INTERRUPT_STATUS), irq.level]).toEqual([0, false]);
  });
});
