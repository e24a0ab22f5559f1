/** Frames that nobody has written to yet: known to be zero without a look. */
import { Mmu, PAGE_SIZE, PhysMemory, PRIV_M, RAM_BASE } from '#emu';
import { describe, expect, it } from 'vitest';

const FRAME = 5;
const PA = RAM_BASE + FRAME * PAGE_SIZE;

describe('a frame is untouched', () => {
  it('until bytes are stored, whichever way, zeroes too', () => {
    const ways: ((memory: PhysMemory) => void)[] = [
      (memory) => memory.writeBytes(PA, new Uint8Array(4)),
      (memory) => memory.copyPage(FRAME, 1),
      (memory) => memory.zeroPage(FRAME),
      (memory) => memory.wrote(memory.pageOffset(FRAME), 1),
      (memory) => memory.mayBeWritten(FRAME, 1),
    ];
    for (const write of ways) {
      const memory = new PhysMemory(64 * PAGE_SIZE);
      expect(memory.isUntouched(FRAME)).toBe(true);
      write(memory);
      expect(memory.isUntouched(FRAME)).toBe(false);
      expect(memory.isUntouched(FRAME - 1) && memory.isUntouched(FRAME + 1)).toBe(true);
    }
  });

  it('while harts only read it; not once one may store to it', () => {
    const memory = new PhysMemory(64 * PAGE_SIZE);
    const mmu = new Mmu(memory, 0);
    mmu.regs.priv = PRIV_M;
    mmu.contextChanged();
    mmu.loadOffset(PA | 0, 0, 4);
    expect(memory.isUntouched(FRAME)).toBe(true);
    mmu.storeOffset(PA | 0, 0, 4);
    expect(memory.isUntouched(FRAME)).toBe(false);
  });
});
