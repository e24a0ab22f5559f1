/** Memory slots and their dirty bitmaps, by themselves. */
import { describe, expect, test } from 'vitest';
import { dirtyPageNumbers } from '../../kvm/dirty-log.ts';
import {
  addMemSlot,
  gpaToHva,
  gpaToMemSlot,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  type MemSlot,
  markPageDirtyInSlot,
  setSlotDirtyLog,
  slotLogsDirty,
  slotAt,
  takeDirtyBits,
} from '../../kvm/memslot.ts';

const LIMIT = 2 ** 41;
const slot = (id: number, gpa: number, pages: number, flags = 0) => ({
  id,
  gpa,
  lenBytes: pages * 4096,
  hva: 0x10_0000_0000 + gpa,
  flags,
});

describe('memory slots (compare kvm_set_memory_region)', () => {
  const bad: [string, ReturnType<typeof slot>, RegExp][] = [
    ['empty', slot(9, 0, 0), /not page-aligned/],
    ['gpa not aligned', slot(9, 12, 1), /not page-aligned/],
    ['hva not aligned', { ...slot(9, 0, 1), hva: 0x123 }, /not page-aligned/],
    ['the same id', slot(1, 0, 1), /meets slot 1/],
    ['the last page of another', slot(9, 0x8000_3000, 4), /meets slot 1/],
    ['all of another', slot(9, 0x7fff_0000, 100), /meets slot 1/],
    ['above 41 bits', slot(9, LIMIT - 4096, 2), /ends above/],
  ];
  test.each(bad)('refused: %s', (_what, config, message) => {
    const slots: MemSlot[] = [];
    addMemSlot(slots, slot(1, 0x8000_0000, 4), LIMIT);
    expect(() => addMemSlot(slots, config, LIMIT)).toThrow(message);
    expect(slots).toHaveLength(1);
  });

  test('a gpa finds its slot and its hva; neighbours do not overlap; one that is about to go is for faults alone', () => {
    const slots: MemSlot[] = [];
    addMemSlot(slots, slot(2, 0x8000_4000, 2), LIMIT);
    addMemSlot(slots, slot(1, 0x8000_0000, 4), LIMIT);
    addMemSlot(slots, slot(3, LIMIT - 4096, 1), LIMIT);
    expect(slots.map((s) => s.id)).toEqual([1, 2, 3]);
    const found = gpaToMemSlot(slots, 0x8000_4008);
    expect(found?.id).toBe(2);
    expect(found && gpaToHva(found, 0x8000_4008)).toBe(0x10_8000_4008);
    expect(gpaToMemSlot(slots, 0x8000_3fff)?.id).toBe(1);
    expect(gpaToMemSlot(slots, 0x8000_6000)).toBeUndefined();
    expect(gpaToMemSlot(slots, LIMIT - 1)?.id).toBe(3);
    slots[1]!.invalid = true;
    expect(gpaToMemSlot(slots, 0x8000_4008)).toBeUndefined();
    expect(slotAt(slots, 0x8000_4008)?.id).toBe(2);
  });
});

describe('dirty bitmap', () => {
  test('a bit a page; marking says whether it was clean; taking leaves it clean', () => {
    const slots: MemSlot[] = [];
    const s = addMemSlot(slots, slot(1, 0x8000_0000, 70, KVM_MEM_LOG_DIRTY_PAGES), LIMIT);
    for (const page of [0, 31, 32, 69]) {
      expect(markPageDirtyInSlot(s, s.gpa + page * 4096 + 17)).toBe(true);
      expect(markPageDirtyInSlot(s, s.gpa + page * 4096)).toBe(false);
    }
    const bitmap = s.dirty as Int32Array;
    expect(dirtyPageNumbers(bitmap)).toEqual([0, 31, 32, 69]);
    expect(takeDirtyBits(bitmap, 0, -1)).toBe(0x8000_0001 | 0);
    expect(dirtyPageNumbers(bitmap)).toEqual([32, 69]);
  });

  test('without the log nothing is kept; a read-only slot does not log', () => {
    const slots: MemSlot[] = [];
    const s = addMemSlot(slots, slot(1, 0, 4), LIMIT);
    expect(markPageDirtyInSlot(s, 0)).toBe(false);
    expect(slotLogsDirty(s)).toBe(false);
    setSlotDirtyLog(s, true);
    expect(slotLogsDirty(s)).toBe(true);
    expect(markPageDirtyInSlot(s, 0)).toBe(true);
    setSlotDirtyLog(s, false);
    expect(s.dirty).toBeNull();
    const rom = addMemSlot(slots, slot(2, 0x10_0000, 1, KVM_MEM_READONLY | 1), LIMIT);
    expect(slotLogsDirty(rom)).toBe(false);
  });
});
