/** Fixed buffers of io_uring: pinned for writing and for good, they stay one with the process's memory. */
import {
  drive,
  type FixedBuffer,
  fixedBufferRead,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
} from '#mm';
import { errnoName } from '../../report/errno-names.ts';
import { type Content, differsFrom, MODIFIED } from '../content.ts';
import type { Memory, Scenario } from '../scenario.ts';
import type { Trial } from '../trial.ts';
import { RowFailed } from '../verdict.ts';
import { protectAndBack } from './fork.ts';

/** Bytes that are read through the buffer at once. */
const CHUNK_BYTES = 64 * 1024;

const register = (trial: Trial, { task, hva, lenBytes }: Memory): FixedBuffer => {
  const { k, mm } = task.process;
  const buffer = drive(ioUringRegisterBuffer(k, mm, hva, lenBytes));
  if (typeof buffer === 'number')
    throw new RowFailed(`io_uring_register_buffers() failed: ${errnoName(buffer)}`);
  trial.defer(() => ioUringUnregisterBuffer(k, buffer));
  return buffer;
};

/** Compares what a request with the buffer would write to a file. @returns first byte that differs, or -1 */
const bufferDiffersAt = (trial: Trial, buffer: FixedBuffer, content: Content): number => {
  const { k } = trial.world;
  const seen = new Uint8Array(Math.min(CHUNK_BYTES, buffer.lenBytes));
  for (let at = 0; at < buffer.lenBytes; at += seen.length) {
    const part = seen.subarray(0, Math.min(seen.length, buffer.lenBytes - at));
    fixedBufferRead(k, buffer, at, part);
    const differs = differsFrom(part, content, at);
    if (differs >= 0) return at + differs;
  }
  return -1;
};

/** Registers, lets something happen, writes, and reads through the buffer. */
const writeUnderBuffer = (
  trial: Trial,
  memory: Memory,
  between: (memory: Memory) => void,
): void => {
  const { task, hva, lenBytes } = memory;
  const buffer = register(trial, memory);
  between(memory);
  task.write(hva, lenBytes, MODIFIED);
  const at = bufferDiffersAt(trial, buffer, MODIFIED);
  if (at >= 0) throw new RowFailed(`the buffer does not see what the process writes: byte ${at}`);
};

export const FIXED_BUFFER_SCENARIOS: readonly Scenario[] = [
  {
    title: 'R/O-mapping a page registered as iouring fixed buffer',
    run: (trial, memory) =>
      writeUnderBuffer(trial, memory, ({ task, hva, lenBytes }) =>
        protectAndBack(task, hva, lenBytes, () => task.clearSoftDirty()),
      ),
  },
  {
    title: 'fork() with an iouring fixed buffer',
    // The child lives until the end of the row.
    run: (trial, memory) => writeUnderBuffer(trial, memory, ({ task }) => void task.fork()),
  },
];
