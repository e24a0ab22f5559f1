/** Where a machine's device tree goes: the end of its memory, which no program may reach into. */
import { ElfError, type ElfImage } from '#emu';

/** Room for the tree, at the very end. */
const TREE_ROOM_BYTES = 64 * 1024;

/**
 * Address of the device tree in memory that ends at `memoryEnd`.
 * @throws ElfError when the program has a segment there
 */
export const treeRoomFor = (image: ElfImage, memoryEnd: number): number => {
  const tree = memoryEnd - TREE_ROOM_BYTES;
  const over = image.segments.findIndex((s) => s.pa < memoryEnd && s.pa + s.memBytes > tree);
  if (over >= 0)
    throw new ElfError(
      `segment ${over} reaches into the last ${TREE_ROOM_BYTES / 1024} KiB of memory, which are the device tree's`,
    );
  return tree;
};
