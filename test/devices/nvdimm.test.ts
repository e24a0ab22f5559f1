/** The NVDIMM's registers: capabilities, hints, label words, scrub, clear and inject. */
import { Nvdimm, type NvdimmMemory } from '#devices';
import { Clock } from '#emu';
import { describe, expect, it } from 'vitest';

const R = {
  id: 0x00,
  version: 0x04,
  capabilities: 0x08,
  status: 0x0c,
  gpa: 0x10,
  size: 0x18,
  hint: 0x20,
  labelSize: 0x28,
  labelOffset: 0x2c,
  labelData: 0x30,
  start: 0x40,
  length: 0x48,
  command: 0x50,
  commandStatus: 0x54,
  records: 0x58,
  recordIndex: 0x5c,
  recordStart: 0x60,
  recordLength: 0x68,
  unsafe: 0x70,
} as const;
const [SCRUB, CLEAR, INJECT] = [1, 2, 3];
const [OK, INVALID, BUSY] = [0, 1, 2];
const SIZE = 2 ** 33 + 4096;
const GPA = 0x3_0000_0000;

interface World {
  device: Nvdimm;
  clock: Clock;
  log: string[];
  poison: [number, number][];
  read64(offset: number): number;
  write64(offset: number, value: number): void;
  command(command: number, at: number, lenBytes: number): number;
}

const world = (mode: NvdimmMemory['mode'] = 'adr'): World => {
  const clock = new Clock();
  const log: string[] = [];
  const poison: [number, number][] = [];
  const memory: NvdimmMemory = {
    lenBytes: SIZE,
    mode,
    flushHint: () => log.push('hint'),
    addPoison: (at, lenBytes) => poison.push([at, lenBytes]),
    clearPoison: (at, lenBytes) => {
      log.push(`clear ${at} ${lenBytes}`);
      return 2 ** 32 + 256;
    },
    poisonIn: (at, lenBytes) => poison.filter(([p]) => p >= at && p < at + lenBytes),
  };
  const device = new Nvdimm({
    clock,
    memory,
    gpa: GPA,
    labels: new Uint8Array(4096),
    unsafe: true,
    unsafeShutdowns: 3,
    name: 'nvdimm',
  });
  const read64 = (offset: number): number =>
    device.read(offset, 4) + device.read(offset + 4, 4) * 2 ** 32;
  const write64 = (offset: number, value: number): void => {
    device.write(offset, 4, value % 2 ** 32);
    device.write(offset + 4, 4, Math.floor(value / 2 ** 32));
  };
  return {
    device,
    clock,
    log,
    poison,
    read64,
    write64,
    command: (command, at, lenBytes) => {
      write64(R.start, at);
      write64(R.length, lenBytes);
      device.write(R.command, 4, command);
      return device.read(R.commandStatus, 4);
    },
  };
};

const pass = (w: World, instructions: number): void => {
  w.clock.now += instructions;
  w.clock.deliverDue();
};

describe('what it is', () => {
  it('ID, version, where the memory is and how large', () => {
    const w = world();
    expect([w.device.read(R.id, 4), w.device.read(R.version, 4)]).toEqual([0x64766e47, 1]);
    expect([w.read64(R.gpa), w.read64(R.size)]).toEqual([GPA, SIZE]);
  });

  it('capabilities by what a loss of power leaves: bit 1 the queue, bit 0 caches', () => {
    expect(world('none').device.read(R.capabilities, 4)).toBe(0);
    expect(world('adr').device.read(R.capabilities, 4)).toBe(2);
    expect(world('eadr').device.read(R.capabilities, 4)).toBe(3);
  });

  it('whether power was lost before, and how often', () => {
    const w = world();
    expect([w.device.read(R.status, 4), w.device.read(R.unsafe, 4)]).toEqual([2, 3]);
    w.device.reset(false);
    expect([w.device.read(R.status, 4), w.device.read(R.unsafe, 4)]).toEqual([0, 3]);
    w.device.reset(true);
    expect([w.device.read(R.status, 4), w.device.read(R.unsafe, 4)]).toEqual([2, 4]);
  });

  it('anything but an aligned word reads 0 and writes nothing', () => {
    const w = world();
    for (const size of [1, 2]) {
      expect(w.device.read(R.id, size)).toBe(0);
      w.device.write(R.hint, size, 1);
    }
    for (const offset of [0x01, 0x24, 0x38, 0x74, 0xffc]) {
      expect(w.device.read(offset, 4)).toBe(0);
      w.device.write(offset, 4, 0xffff_ffff);
    }
    expect(w.log).toEqual([]);
  });
});

it('a flush hint drains the queue, whatever is written', () => {
  const w = world();
  w.device.write(R.hint, 4, 0);
  w.device.write(R.hint, 4, 0xffff_ffff);
  expect(w.log).toEqual(['hint', 'hint']);
});

describe('the label area', () => {
  it('is read and written word by word, the offset moving on', () => {
    const w = world();
    expect(w.device.read(R.labelSize, 4)).toBe(4096);
    w.device.write(R.labelOffset, 4, 0x103);
    expect(w.device.read(R.labelOffset, 4)).toBe(0x100);
    w.device.write(R.labelData, 4, 0x11223344);
    w.device.write(R.labelData, 4, 0xaabbccdd);
    expect(w.device.read(R.labelOffset, 4)).toBe(0x108);
    w.device.write(R.labelOffset, 4, 0x100);
    expect([w.device.read(R.labelData, 4), w.device.read(R.labelData, 4)]).toEqual([
      0x11223344, 0xaabbccdd,
    ]);
    expect([...w.device.labels.subarray(0x100, 0x104)]).toEqual([0x44, 0x33, 0x22, 0x11]);
  });

  it('has an end: words behind it read 0 and take nothing', () => {
    const w = world();
    for (const offset of [4096, 0xffff_fffc]) {
      w.device.write(R.labelOffset, 4, offset);
      w.device.write(R.labelData, 4, 5);
      expect(w.device.read(R.labelData, 4)).toBe(0);
      expect(w.device.read(R.labelOffset, 4)).toBe(offset);
    }
    expect(w.device.labels.every((byte) => byte === 0)).toBe(true);
  });
});

describe('commands', () => {
  it('a scrub takes its time, then has the records of its range', () => {
    const w = world();
    w.poison.push([2 ** 32 + 512, 256], [8192, 512], [0, 256]);
    expect(w.command(SCRUB, 4096, SIZE - 4096)).toBe(OK);
    expect(w.device.read(R.status, 4) & 1).toBe(1);
    pass(w, (SIZE - 4096) / 64 - 1);
    expect([w.device.read(R.status, 4) & 1, w.device.read(R.records, 4)]).toEqual([1, 0]);
    pass(w, 1);
    expect([w.device.read(R.status, 4) & 1, w.device.read(R.records, 4)]).toEqual([0, 2]);
    w.device.write(R.recordIndex, 4, 0);
    expect([w.read64(R.recordStart), w.read64(R.recordLength)]).toEqual([2 ** 32 + 512, 256]);
    w.device.write(R.recordIndex, 4, 1);
    expect([w.read64(R.recordStart), w.read64(R.recordLength)]).toEqual([8192, 512]);
    w.device.write(R.recordIndex, 4, 2);
    expect([w.read64(R.recordStart), w.read64(R.recordLength)]).toEqual([0, 0]);
  });

  it('a short scrub takes 1000 instructions; commands meanwhile are refused', () => {
    const w = world();
    expect(w.command(SCRUB, 0, 64)).toBe(OK);
    expect([w.command(SCRUB, 0, 64), w.command(INJECT, 0, 256), w.command(CLEAR, 0, 256)]).toEqual([
      BUSY,
      BUSY,
      BUSY,
    ]);
    pass(w, 1000);
    expect([w.device.read(R.status, 4) & 1, w.command(INJECT, 0, 256)]).toEqual([0, OK]);
  });

  it('CLEAR says how many bytes are good again', () => {
    const w = world();
    expect(w.command(CLEAR, 100, 1000)).toBe(OK);
    expect(w.log).toEqual(['clear 100 1000']);
    expect(w.read64(R.length)).toBe(2 ** 32 + 256);
  });

  it('a range that is empty or ends outside, or a command that is none, is invalid', () => {
    const w = world();
    for (const [command, at, lenBytes] of [
      [SCRUB, 0, 0],
      [INJECT, SIZE, 1],
      [INJECT, SIZE - 1, 2],
      [CLEAR, 2 ** 63, 2 ** 63],
      [0, 0, 64],
      [4, 0, 64],
      [0xffff_ffff, 0, 64],
    ] as const)
      expect(w.command(command, at, lenBytes), `${command} ${at} ${lenBytes}`).toBe(INVALID);
    expect([w.poison, w.log]).toEqual([[], []]);
  });

  it('a reset gives up the scrub', () => {
    const w = world();
    w.poison.push([0, 256]);
    w.command(SCRUB, 0, 4096);
    w.device.reset(false);
    pass(w, 10_000);
    expect([w.device.read(R.status, 4), w.device.read(R.records, 4)]).toEqual([0, 0]);
  });

  it('a device that was saved in the middle of a scrub finishes it', () => {
    const [w, other] = [world(), world()];
    other.poison.push([512, 256]);
    w.command(SCRUB, 0, 4096);
    w.device.write(R.labelOffset, 4, 16);
    w.device.write(R.labelData, 4, 77);
    pass(w, 400);
    other.device.restore(structuredClone(w.device.save()));
    other.clock.restore(structuredClone(w.clock.save()));
    pass(other, 600);
    expect([other.device.read(R.records, 4), other.device.read(R.labelOffset, 4)]).toEqual([1, 20]);
    expect(other.device.labels[16]).toBe(77);
  });
});
