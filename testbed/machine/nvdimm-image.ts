/**
 * The image of an NVDIMM: what its media, its label area and its controller keep without power.
 *
 *   | memory, whole pages | label area, 128 KiB | controller, 4 KiB |
 *
 * The controller's page says whether power went in good order, how often it did not, and which units of
 * the media cannot be read: words, least significant byte first. A page of zeroes is a new NVDIMM.
 */
import { openSync, readSync, closeSync, fstatSync } from 'node:fs';
import { LabelArea, labelStoreOf } from '#devices';
import { PAGE_SIZE, POISON_UNIT_BYTES } from '#emu';
import type { ImageConfig } from './disk-file.ts';

export const NVDIMM_LABEL_BYTES = 128 * 1024;
/** What an image has beside the memory. */
export const NVDIMM_EXTRA_BYTES = NVDIMM_LABEL_BYTES + PAGE_SIZE;

const MAGIC = 0x6476_6e47;
const VERSION = 1;
/* Words of the controller's page. */
const AT_MAGIC = 0;
const AT_VERSION = 1;
const AT_RUNNING = 2;
const AT_UNSAFE = 3;
const AT_NR_BAD = 4;
const AT_BAD = 5;
/** Bad units that an image remembers; of more the first ones. */
const MAX_BAD = PAGE_SIZE / 4 - AT_BAD;

/** An NVDIMM without power. */
export interface NvdimmImage {
  memory: Uint8Array;
  labels: Uint8Array;
  /** Power was on when the image was made: it was lost. */
  unsafe: boolean;
  unsafeShutdowns: number;
  /** Ranges of the memory that cannot be read. */
  poison: [at: number, lenBytes: number][];
}

/** Bytes of memory that an image of this size has. @throws RangeError where that is none, or no whole pages */
export const nvdimmMemoryBytes = (sizeBytes: number): number => {
  const memoryBytes = sizeBytes - NVDIMM_EXTRA_BYTES;
  if (memoryBytes <= 0 || memoryBytes % PAGE_SIZE !== 0)
    throw new RangeError(
      `an NVDIMM of ${sizeBytes} bytes: ${NVDIMM_EXTRA_BYTES} are its label area and its controller's, the rest is to be whole pages`,
    );
  return memoryBytes;
};

/** A new NVDIMM: one namespace that is all of the memory. */
const newImage = (memoryBytes: number): NvdimmImage => {
  const labels = new Uint8Array(NVDIMM_LABEL_BYTES);
  const area = new LabelArea(labelStoreOf(labels));
  area.format();
  area.put({
    uuid: '67757062656470006d656d300000001a',
    name: 'namespace0',
    flags: 0,
    dpa: 0,
    rawSize: memoryBytes,
    nrLabels: 1,
    position: 0,
    cookie: 0n,
  });
  return {
    memory: new Uint8Array(memoryBytes),
    labels,
    unsafe: false,
    unsafeShutdowns: 0,
    poison: [],
  };
};

/** @throws RangeError for a size that is none */
export const decodeNvdimm = (bytes: Uint8Array): NvdimmImage => {
  const memoryBytes = nvdimmMemoryBytes(bytes.length);
  const labelsEnd = memoryBytes + NVDIMM_LABEL_BYTES;
  const page = new DataView(bytes.buffer, bytes.byteOffset + labelsEnd, PAGE_SIZE);
  const word = (index: number): number => page.getUint32(index * 4, true);
  const memory = bytes.slice(0, memoryBytes);
  if (word(AT_MAGIC) !== MAGIC || word(AT_VERSION) !== VERSION)
    return { ...newImage(memoryBytes), memory };
  const poison: [number, number][] = [];
  for (let i = 0; i < Math.min(word(AT_NR_BAD), MAX_BAD); i++) {
    const at = word(AT_BAD + i) * POISON_UNIT_BYTES;
    if (at + POISON_UNIT_BYTES <= memoryBytes) poison.push([at, POISON_UNIT_BYTES]);
  }
  return {
    memory,
    labels: bytes.slice(memoryBytes, labelsEnd),
    unsafe: word(AT_RUNNING) !== 0,
    unsafeShutdowns: word(AT_UNSAFE),
    poison,
  };
};

export const encodeNvdimm = (image: NvdimmImage): Uint8Array => {
  const memoryBytes = image.memory.length;
  const bytes = new Uint8Array(memoryBytes + NVDIMM_EXTRA_BYTES);
  bytes.set(image.memory);
  bytes.set(image.labels, memoryBytes);
  const page = new DataView(bytes.buffer, memoryBytes + NVDIMM_LABEL_BYTES);
  const units = image.poison.flatMap(([at, lenBytes]) =>
    Array.from({ length: lenBytes / POISON_UNIT_BYTES }, (_, i) => at / POISON_UNIT_BYTES + i),
  );
  const words = [MAGIC, VERSION, image.unsafe ? 1 : 0, image.unsafeShutdowns, 0];
  words[AT_NR_BAD] = Math.min(units.length, MAX_BAD);
  words.push(...units.slice(0, MAX_BAD));
  words.forEach((word, index) => {
    page.setUint32(index * 4, word, true);
  });
  return bytes;
};

/** The user's image, or a new one. @throws Error where the file cannot be read or has another size */
export const loadNvdimm = ({ file, sizeBytes }: ImageConfig): NvdimmImage => {
  if (file === null) return newImage(nvdimmMemoryBytes(sizeBytes));
  const fd = openSync(file, 'r');
  try {
    if (fstatSync(fd).size !== sizeBytes)
      throw new Error(`${file}: not ${sizeBytes} bytes any more`);
    const bytes = new Uint8Array(sizeBytes);
    for (let at = 0; at < sizeBytes; ) {
      const n = readSync(fd, bytes, at, sizeBytes - at, at);
      if (n === 0) throw new Error(`${file}: it ends after ${at} of ${sizeBytes} bytes`);
      at += n;
    }
    return decodeNvdimm(bytes);
  } finally {
    closeSync(fd);
  }
};
