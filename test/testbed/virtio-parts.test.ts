/**
 * virtio-rng and virtio-console in a guest whose memory the host moves, protects, remaps and forks
 * throughout: their rings and buffers are reached without a pin, so every one of these takes them away,
 * and no byte is lost.
 */
import { describe, expect, it } from 'vitest';
import type { MirrorPortState } from '#devices/host';
import { HostMachine } from '#testbed';
import type { GuestPart } from '../../testbed/machine/part.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { PartConfig } from '../../testbed/machine/parts/index.ts';
import type { VirtioPlugState } from '../../testbed/machine/parts/virtio.ts';
import { elfImage } from '../support/fight.ts';

const ACTIVITY = { migrate: 2500, protect: 4000, remap: 30_000, fork: 60_000, harvest: 400_000 };
const LIMIT = 2e7;
const ALONE = { PACKED: 1, INDIRECT: 2, EVENT_IDX: 4 };

/** The mirror port of a virtio part, or of the IOMMU before it. */
const portOf = (part: GuestPart): MirrorPortState => {
  const saved = part.save() as { plug?: VirtioPlugState; port?: MirrorPortState };
  const port = saved.plug?.port ?? saved.port;
  if (port === undefined) throw new Error('the part has no port');
  return port;
};

/** Boots `name` with parts; what its parameters are, it says itself. */
const boot = (
  name: string,
  part: PartConfig | PartConfig[],
  parameters: number[],
  active = true,
): HostMachine => {
  const machine = new HostMachine(
    {
      seed: 7,
      policy: 'linux-7',
      guests: [
        {
          name,
          memoryBytes: 16 << 20,
          harts: 1,
          activity: active ? ACTIVITY : null,
          parts: [part].flat(),
        },
      ],
    },
    { checked: true },
  );
  machine.boot(machine.guests[0]!, putParameters(elfImage(name), parameters));
  return machine;
};

const runOn = (
  machine: HostMachine,
): { lines: readonly string[]; faults: number; taken: number } => {
  while (!machine.done && machine.retired < LIMIT) machine.step(LIMIT);
  const guest = machine.guests[0]!;
  const { faults, invalidations } = portOf(guest.parts[0]!);
  machine.tearDown();
  expect(machine.violations).toEqual([]);
  return { lines: guest.console.lines, faults, taken: invalidations };
};

describe('a guest’s virtio-rng while the host moves its memory', () => {
  for (const { fact, parameters } of [
    { fact: 'packed ring', parameters: [0, 150] },
    { fact: 'split ring', parameters: [ALONE.PACKED, 150] },
    { fact: 'chains in a packed ring', parameters: [ALONE.INDIRECT, 150] },
    { fact: 'split ring, no event index', parameters: [ALONE.PACKED | ALONE.EVENT_IDX, 150] },
  ])
    it(`${fact}: every request is served, and entries of its port went more than 30 times`, () => {
      const { lines, faults, taken } = runOn(
        boot('virtio-rng', { kind: 'virtio-rng' }, parameters),
      );
      expect(lines.slice(-2)).toEqual(['virtio-rng: 150 requests', 'virtio-rng: ok']);
      expect(taken).toBeGreaterThan(30);
      expect(faults).toBeGreaterThan(taken);
    });

  for (const alone of [0, ALONE.PACKED])
    it(`behind the guest’s own IOMMU it reaches what that lets it, and nothing else (${alone})`, () => {
      const parts: PartConfig[] = [{ kind: 'iommu' }, { kind: 'virtio-rng', iommu: true }];
      const { lines, taken } = runOn(boot('virtio-rng', parts, [alone, 150, 1]));
      expect(lines.slice(-3)).toEqual([
        'virtio-rng: kept from elsewhere by the IOMMU',
        'virtio-rng: 150 requests',
        'virtio-rng: ok',
      ]);
      expect(taken).toBeGreaterThan(30);
    });

  it('a device behind an IOMMU that comes after it, or not at all, is refused', () => {
    const rng: PartConfig = { kind: 'virtio-rng', iommu: true };
    expect(() => boot('virtio-rng', rng, [])).toThrow('no IOMMU before it');
    expect(() => boot('virtio-rng', [rng, { kind: 'iommu' }], [])).toThrow('no IOMMU before it');
  });

  it('left alone, the port enters each page once and loses none', () => {
    const { faults, taken } = runOn(boot('virtio-rng', { kind: 'virtio-rng' }, [0, 50], false));
    expect(taken).toBe(0);
    expect(faults).toBeLessThan(20);
  });
});

/** The finalizer of splitmix64, as guests/lib/runtime.h has it. */
const mix64 = (value: bigint): bigint => {
  const mask = (1n << 64n) - 1n;
  let x = (value + 0x9e3779b97f4a7c15n) & mask;
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & mask;
  return x ^ (x >> 31n);
};

const sumOf = (text: string): string => {
  let sum = 0n;
  for (const char of text) sum = mix64(sum ^ BigInt(char.charCodeAt(0)));
  return sum.toString(16).padStart(16, '0');
};

/** The lines of one console: those that came by SBI begin with the program's name. */
const byConsole = (lines: readonly string[]): string[] =>
  lines.filter((line) => !line.startsWith('virtio-console:'));

describe('a guest’s virtio-console while the host moves its memory', () => {
  const INPUT = 'pack my box with five dozen liquor jugs';
  for (const alone of [0, ALONE.PACKED | ALONE.INDIRECT])
    it(`every line arrives, input too, and a second port (features left alone: ${alone})`, () => {
      const { lines, taken } = runOn(
        boot(
          'virtio-console',
          { kind: 'virtio-console', input: `${INPUT}\n`, echoPorts: ['org.gupbed.echo'] },
          [alone, 1, 1],
        ),
      );
      const [first, ...rest] = byConsole(lines);
      expect(first).toBe('!'); // by emergency write
      expect(rest.length).toBe(200);
      const sum = sumOf(rest.map((line) => `${line}\n`).join(''));
      expect(lines).toContain(`virtio-console: 200 lines, sum ${sum}`);
      expect(lines).toContain(`virtio-console: read ${INPUT.length} bytes, sum ${sumOf(INPUT)}`);
      expect(lines).toContain('virtio-console: 1000 bytes to port 1 and back, 0 wrong');
      expect(lines.at(-1)).toBe('virtio-console: ok');
      expect(taken).toBeGreaterThan(10);
    });

  it('saved while it waits for a page, and restored, it says the same', () => {
    const create = () =>
      boot(
        'virtio-console',
        { kind: 'virtio-console', input: `${INPUT}\n`, echoPorts: ['e'] },
        [0, 1, 1],
      );
    const straight = runOn(create()).lines;
    for (let at = 1; at <= 3; at++) {
      const machine = create();
      // At a moment when the device waits for a page.
      const waits = (): boolean =>
        machine.quiet && portOf(machine.guests[0]!.parts[0]!).wanted.size > 0;
      while (machine.retired < at * 120_000) machine.step(1000);
      while (!waits() && !machine.done) machine.step(200);
      expect(machine.done).toBe(false);
      const state = structuredClone(machine.save());
      const restored = new HostMachine(state.config, { checked: true }, state);
      expect(runOn(restored).lines).toEqual(straight);
    }
  });
});
