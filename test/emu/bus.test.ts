/** The bus: what answers at an address, and what happens where nothing does. */
import { describe, expect, it } from 'vitest';
import { BUS_ERROR, Bus, PhysMemory, RAM_BASE } from '#emu';

/** A device that remembers how it was asked and answers with all bits set. */
const recorder = () => {
  const log: string[] = [];
  return {
    log,
    read: (offset: number, sizeBytes: number) => {
      log.push(`read ${offset} ${sizeBytes}`);
      return -1;
    },
    write: (offset: number, sizeBytes: number, value: number) => {
      log.push(`write ${offset} ${sizeBytes} 0x${value.toString(16)}`);
    },
  };
};

const boardOf = () => {
  const memory = new PhysMemory(64 * 1024);
  const bus = new Bus(memory);
  const device = recorder();
  bus.attach(0x1000_0000, 0x100, device, 'device');
  return { memory, bus, device };
};

describe('devices on the bus', () => {
  it('see offsets from their base and the size of the access', () => {
    const { bus, device } = boardOf();
    bus.read(0x1000_0004, 4);
    bus.write(0x1000_00ff, 1, 0x1234);
    expect(device.log).toEqual(['read 4 4', 'write 255 1 0x34']);
  });

  it('answer with unsigned numbers, so that no value is BUS_ERROR', () => {
    expect(boardOf().bus.read(0x1000_0000, 4)).toBe(0xffff_ffff);
  });

  it('get a value of 32 bits unsigned, narrower ones cut', () => {
    const { bus, device } = boardOf();
    bus.write(0x1000_0000, 4, -1);
    bus.write(0x1000_0000, 2, -1);
    expect(device.log).toEqual(['write 0 4 0xffffffff', 'write 0 2 0xffff']);
  });

  it('are found again after another one was used', () => {
    const { bus, device } = boardOf();
    const other = recorder();
    bus.attach(0x2000, 0x10, other, 'other');
    bus.read(0x1000_0000, 1);
    bus.read(0x2008, 1);
    bus.read(0x1000_0001, 1);
    expect(device.log).toEqual(['read 0 1', 'read 1 1']);
    expect(other.log).toEqual(['read 8 1']);
  });
});

describe('where nothing answers', () => {
  for (const { name, pa, sizeBytes } of [
    { name: 'a hole', pa: 0x4000_0000, sizeBytes: 4 },
    { name: 'just below a device', pa: 0x0fff_ffff, sizeBytes: 1 },
    { name: 'across the end of a device', pa: 0x1000_00fe, sizeBytes: 4 },
    { name: 'across the end of RAM', pa: RAM_BASE + 64 * 1024 - 2, sizeBytes: 4 },
    { name: 'above 2^32', pa: 0x1_8000_0000, sizeBytes: 4 },
  ])
    it(`${name}: BUS_ERROR, counted, and nothing changes`, () => {
      const { bus, device } = boardOf();
      expect(bus.read(pa, sizeBytes)).toBe(BUS_ERROR);
      expect(bus.write(pa, sizeBytes, 1)).toBe(BUS_ERROR);
      expect(bus.errors).toBe(2);
      expect(device.log).toEqual([]);
    });

  it('the count survives save and restore', () => {
    const { bus } = boardOf();
    bus.read(0, 4);
    const other = new Bus(new PhysMemory(4096));
    other.restore(structuredClone(bus.save()));
    expect(other.errors).toBe(1);
  });
});

describe('RAM on the bus', () => {
  it('is little endian, misaligned accesses included', () => {
    const { bus, memory } = boardOf();
    expect(bus.write(RAM_BASE + 0xffe, 4, 0x8765_4321)).toBe(0);
    expect([...memory.readBytes(RAM_BASE + 0xffe, 4)]).toEqual([0x21, 0x43, 0x65, 0x87]);
    expect(bus.read(RAM_BASE + 0xffe, 4)).toBe(0x8765_4321);
    expect(bus.read(RAM_BASE + 0x1000, 2)).toBe(0x8765);
    expect(bus.read(RAM_BASE + 0x1001, 1)).toBe(0x87);
  });
});

describe('a bus without RAM', () => {
  it('answers at the addresses of its devices alone', () => {
    const bus = new Bus();
    bus.attach(RAM_BASE + 0x1000, 4, recorder(), 'device');
    expect(bus.read(RAM_BASE, 4)).toBe(BUS_ERROR);
    expect(bus.write(RAM_BASE, 4, 1)).toBe(BUS_ERROR);
    expect(bus.read(RAM_BASE + 0x1000, 4)).toBe(0xffff_ffff);
  });
});

describe('the map', () => {
  for (const { name, basePa, sizeBytes, message } of [
    { name: 'two devices overlap', basePa: 0x1000_00f0, sizeBytes: 32, message: 'overlaps device' },
    { name: 'a device lies over RAM', basePa: RAM_BASE, sizeBytes: 4, message: 'overlaps RAM' },
    { name: 'a device has no size', basePa: 0, sizeBytes: 0, message: 'has no size' },
  ])
    it(`refuses it when ${name}`, () =>
      expect(() => boardOf().bus.attach(basePa, sizeBytes, recorder(), 'x')).toThrow(message));

  it('is listed by address', () => {
    const { bus } = boardOf();
    bus.attach(0x100, 4, recorder(), 'low');
    expect(bus.regions.map((r) => r.name)).toEqual(['low', 'device']);
  });
});
