/** The label area (UEFI 2.10, 13.19): layout to the byte, sequence numbers, and a loss of power at every word. */
import {
  fletcher64,
  LABEL_BYTES,
  LABEL_FLAG_UPDATING,
  LabelArea,
  labelStoreOf,
  type Namespace,
  nextLabelSeq,
} from '#devices';
import { describe, expect, it } from 'vitest';
import { rng, type Rng } from '../support/rng.ts';

const AREA = 128 * 1024;
const INDEX = 256;

const namespace = (n: number, rawSize = 4096): Namespace => ({
  uuid: n.toString(16).padStart(32, '0'),
  name: `ns${n}`,
  flags: 0,
  dpa: n * 65536,
  rawSize,
  nrLabels: 1,
  position: 0,
  cookie: 0x1122_3344_5566_7788n,
});

const area = (sizeBytes = AREA): { bytes: Uint8Array; labels: LabelArea } => {
  const bytes = new Uint8Array(sizeBytes);
  return { bytes, labels: new LabelArea(labelStoreOf(bytes)) };
};

/** The checksum by its definition, with whole numbers. */
const plainFletcher = (bytes: Uint8Array): bigint => {
  let [low, high] = [0n, 0n];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; at += 4) {
    low = (low + BigInt(view.getUint32(at, true))) % 2n ** 32n;
    high += low;
  }
  return ((high << 32n) % 2n ** 64n) | low;
};

it('Fletcher64 is two sums of 32-bit words', () => {
  const random = rng(5);
  for (let i = 0; i < 50; i++) {
    const bytes = Uint8Array.from({ length: 4 * random.below(300) }, () => random.u32());
    expect(fletcher64(bytes)).toBe(plainFletcher(bytes));
  }
  expect(fletcher64(Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0))).toBe((4n << 32n) | 3n);
});

it('sequence numbers go 1, 2, 3, 1', () => {
  expect([1, 2, 3].map(nextLabelSeq)).toEqual([2, 3, 1]);
});

describe('layout', () => {
  it('13.19.4: two index blocks of 256 bytes and 510 labels in 128 KiB', () => {
    const { bytes, labels } = area();
    labels.format();
    expect(labels.nrSlots).toBe(510);
    const view = new DataView(bytes.buffer);
    for (const which of [0, 1]) {
      const at = which * INDEX;
      expect(Buffer.from(bytes.subarray(at, at + 16)).toString('latin1')).toBe('NAMESPACE_INDEX\0');
      expect(bytes[at + 19]).toBe(1); // labels of 1 << (7 + 1) bytes
      expect(view.getUint32(at + 20, true)).toBe(which + 1);
      expect(view.getBigUint64(at + 24, true)).toBe(BigInt(at));
      expect(view.getBigUint64(at + 32, true)).toBe(256n);
      expect(view.getBigUint64(at + 40, true)).toBe(BigInt(INDEX - at));
      expect(view.getBigUint64(at + 48, true)).toBe(512n);
      expect(view.getUint32(at + 56, true)).toBe(510);
      expect([view.getUint16(at + 60, true), view.getUint16(at + 62, true)]).toEqual([1, 2]);
      expect(bytes[at + 72]).toBe(0xff);
      expect(bytes[at + 72 + 63]).toBe(0x3f); // slots 510 and 511 do not exist
      const sum = view.getBigUint64(at + 64, true);
      view.setBigUint64(at + 64, 0n, true);
      expect(sum).toBe(plainFletcher(bytes.subarray(at, at + INDEX)));
      view.setBigUint64(at + 64, sum, true);
    }
  });

  it('13.19.3: a label', () => {
    const { bytes, labels } = area();
    labels.format();
    labels.put({ ...namespace(0xabc, 8192), flags: 3, position: 1, nrLabels: 2 });
    const label = bytes.slice(512, 512 + LABEL_BYTES);
    const view = new DataView(label.buffer);
    expect([label[14], label[15]]).toEqual([0x0a, 0xbc]);
    expect(Buffer.from(label.subarray(16, 23)).toString('latin1')).toBe('ns2748\0');
    expect(view.getUint32(80, true)).toBe(3);
    expect([view.getUint16(84, true), view.getUint16(86, true)]).toEqual([2, 1]);
    expect(view.getBigUint64(88, true)).toBe(0x1122_3344_5566_7788n);
    expect(view.getBigUint64(104, true)).toBe(0xabcn * 65536n);
    expect(view.getBigUint64(112, true)).toBe(8192n);
    expect(view.getUint32(120, true)).toBe(0);
    const sum = view.getBigUint64(248, true);
    view.setBigUint64(248, 0n, true);
    expect(sum).toBe(plainFletcher(label));
  });

  it('an area without room for a label is none', () => {
    expect(() => area(512)).toThrow(/no label area/);
    expect(area(768).labels.nrSlots).toBe(1);
  });
});

describe('namespaces', () => {
  it('are added, changed by uuid, and removed', () => {
    const { labels } = area();
    expect([labels.formatted, labels.put(namespace(1)), labels.remove('00')]).toEqual([
      false,
      false,
      false,
    ]);
    labels.format();
    expect(labels.namespaces()).toEqual([]);
    labels.put(namespace(1));
    labels.put(namespace(2));
    labels.put(namespace(1, 12288));
    expect(labels.namespaces().sort((a, b) => a.dpa - b.dpa)).toEqual([
      namespace(1, 12288),
      namespace(2),
    ]);
    expect(labels.nrUsed).toBe(2);
    expect(labels.remove(namespace(2).uuid)).toBe(true);
    expect(labels.remove(namespace(2).uuid)).toBe(false);
    expect(labels.namespaces()).toEqual([namespace(1, 12288)]);
  });

  it('of an update that never ended are not listed', () => {
    const { labels } = area();
    labels.format();
    labels.put({ ...namespace(1), flags: LABEL_FLAG_UPDATING });
    expect([labels.namespaces(), labels.nrUsed]).toEqual([[], 1]);
  });

  it('a change needs a free label beside the old one', () => {
    const { labels } = area(3 * 256);
    labels.format();
    expect([labels.put(namespace(1)), labels.put(namespace(1, 8192))]).toEqual([true, false]);
    expect(labels.namespaces()).toEqual([namespace(1)]);
  });

  it('with a wrong checksum is not there', () => {
    const { bytes, labels } = area();
    labels.format();
    labels.put(namespace(1));
    bytes[512 + 20]! ^= 1;
    expect(labels.namespaces()).toEqual([]);
  });
});

describe('the index block', () => {
  it('the newer one counts, also when numbers come round', () => {
    const { bytes, labels } = area();
    labels.format();
    for (let i = 1; i <= 7; i++) {
      labels.put(namespace(i));
      const view = new DataView(bytes.buffer);
      const [first, second] = [view.getUint32(20, true), view.getUint32(INDEX + 20, true)];
      // 1 is newer than 3.
      expect(i % 2 === 1 ? nextLabelSeq(second) : nextLabelSeq(first)).toBe(
        i % 2 === 1 ? first : second,
      );
      expect(labels.namespaces().length).toBe(i);
    }
  });

  it('a broken one leaves the other', () => {
    for (const which of [0, 1]) {
      const { bytes, labels } = area();
      labels.format();
      labels.put(namespace(1)); // index block 0 now
      bytes[which * INDEX + 30]! ^= 0xff;
      expect(labels.namespaces()).toEqual(which === 0 ? [] : [namespace(1)]);
    }
    const { bytes, labels } = area();
    labels.format();
    bytes[5] = 0;
    bytes[INDEX + 5] = 0;
    expect(labels.formatted).toBe(false);
  });
});

/** Every state of the bytes between two words of what `change` writes. */
const crashes = (bytes: Uint8Array, change: (labels: LabelArea) => void): Uint8Array[] => {
  const states = [bytes.slice()];
  const store = labelStoreOf(bytes);
  const recorder = {
    ...store,
    writeWord: (at: number, value: number): void => {
      store.writeWord(at, value);
      states.push(bytes.slice());
    },
  };
  change(new LabelArea(recorder));
  return states;
};

const listed = (bytes: Uint8Array): string =>
  JSON.stringify(
    new LabelArea(labelStoreOf(bytes))
      .namespaces()
      .map(({ uuid, rawSize }) => [uuid, rawSize])
      .sort(),
  );

const randomChange = (labels: LabelArea, random: Rng): void => {
  const ns = namespace(1 + random.below(4), 4096 * (1 + random.below(4)));
  if (random.chance(0.7)) labels.put(ns);
  else labels.remove(ns.uuid);
};

describe('power lost at any word', () => {
  it('of a change leaves the old namespaces or the new ones', () => {
    const random = rng(11);
    const { bytes, labels } = area(4096);
    labels.format();
    for (let i = 0; i < 30; i++) {
      const before = listed(bytes);
      const states = crashes(bytes, (recorded) => randomChange(recorded, random));
      const after = listed(bytes);
      const seen = states.map(listed);
      const turn = seen.findIndex((state) => state !== before);
      expect(seen.slice(turn < 0 ? seen.length : turn).every((state) => state === after)).toBe(
        true,
      );
    }
  });

  it('of a format leaves the old namespaces or none', () => {
    for (const nrBefore of [0, 1, 2]) {
      const { bytes, labels } = area(4096);
      labels.format();
      for (let i = 1; i <= nrBefore; i++) labels.put(namespace(i));
      const before = listed(bytes);
      const states = crashes(bytes, (recorded) => recorded.format());
      for (const state of states.map(listed)) expect([before, '[]']).toContain(state);
      expect(listed(bytes)).toBe('[]');
    }
  });
});
