/** What a loss of power leaves of a file: its device's image, mounted by another kernel. */
import { PhysMemory } from '#emu';
import {
  type BlockDevice,
  blockCrashImage,
  blockDeviceCreate,
  blockDeviceRemove,
  createKernel,
  createPolicy,
  drive,
  extentForget,
  extentMount,
  extentOpen,
  extentRead,
  type Kernel,
  mappingPut,
} from '#mm';

const MIB = 1 << 20;
const WORD_BYTES = 4;

let kernel: Kernel | undefined;

/** One for all runs: a mount leaves nothing behind. */
const scratchKernel = (): Kernel => {
  kernel ??= createKernel({
    memory: new PhysMemory(4 * MIB),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy: createPolicy('target'),
  });
  return kernel;
};

/**
 * The words at the given offsets of a file after power was lost now, -1 where it ends before.
 * @param ino the file's number
 * @param keeps blocks of the volatile cache that survive
 * @throws Error where the image cannot be mounted, or has no such file
 */
export const wordsAfterCrash = (
  dev: BlockDevice,
  ino: number,
  offsets: readonly number[],
  keeps: (block: number) => boolean,
): number[] => {
  const k = scratchKernel();
  const crashed = blockDeviceCreate(k, `${dev.name}, crashed`, dev.nrBlocks);
  crashed.media = blockCrashImage(dev, keeps);
  const fs = extentMount(k, crashed);
  if (typeof fs === 'number') throw new Error(`the image of ${dev.name} cannot be mounted: ${fs}`);
  const mapping = extentOpen(k, fs, ino);
  if (typeof mapping === 'number') throw new Error(`the image has no file ${ino}: ${mapping}`);
  const bytes = new Uint8Array(WORD_BYTES);
  const words = offsets.map((offset) => {
    const n = drive(extentRead(k, mapping, offset, bytes));
    return n === WORD_BYTES ? new DataView(bytes.buffer).getUint32(0, true) : -1;
  });
  drive(mappingPut(k, mapping));
  drive(extentForget(k, fs));
  blockDeviceRemove(k, crashed);
  return words;
};
