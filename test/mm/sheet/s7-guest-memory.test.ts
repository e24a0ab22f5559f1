/**
 * S7: memory of a guest can be shmem, hugetlb or an ordinary file (emulated NVDIMM, virtio-pmem), not
 * only anonymous. What the guest stores goes by the secondary MMU; what a file system is owed is the
 * same as for a store of the process. Facts sheet 0, 1.13, 4.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  checkKernel,
  createPolicy,
  deviceDaxCreate,
  drive,
  fileRead,
  HUGETLB_ORDER_2M,
  hugetlbFileSetup,
  hugetlbSetPool,
  MAP_SHARED,
  mmap,
  type Path,
  pfnToPage,
  shmemCreate,
  vfsFsync,
} from '#mm';
import { blockDeviceCreate } from '../../../mm/block/device.ts';
import { extentCreate } from '../../../mm/fs/extent/inode.ts';
import { extentMkfs } from '../../../mm/fs/extent/mount.ts';
import { fileTruncate } from '../../../mm/fs/file.ts';
import { daxWorld } from '../dax-world.ts';
import { createSecondaryMmu, secondaryFault, type SecondaryMmu } from '../secondary-mmu.ts';
import { createProcess, createWorld, RW, type World } from '../support.ts';

const HUGE_NR = 512;

/** Files of every kind that a VMM may map as memory of its guest. */
const FILES: Record<string, (w: World) => AddressSpace | number> = {
  shmem: ({ k }) => shmemCreate(k, HUGE_NR),
  hugetlb: ({ k }) => {
    hugetlbSetPool(k, HUGETLB_ORDER_2M, 2);
    return hugetlbFileSetup(k, HUGETLB_ORDER_2M, HUGE_NR);
  },
  'a file of a file system on a disk': ({ k }) => {
    const file = extentCreate(k, extentMkfs(k, blockDeviceCreate(k, 'disk', 1024)));
    drive(fileTruncate(k, file, HUGE_NR * PAGE_SIZE));
    return file;
  },
  'device-dax': ({ k }) => deviceDaxCreate(k, HUGE_NR),
};

/** A guest stores a word. */
function* guestStore(w: World, mmu: SecondaryMmu, hva: number, value: number): Path<void> {
  const at = hva - (hva % PAGE_SIZE);
  while (mmu.entries.get(at)?.writable !== true) {
    const error = yield* secondaryFault(w.k, mmu, hva, true);
    if (error !== 0) throw new Error(`fault: ${error}`);
  }
  const page = pfnToPage(mmu.entries.get(at)?.pfn ?? 0);
  w.k.memory.i32[(w.k.memory.pageOffset(page) + (hva - at)) >>> 2] = value;
}

const PLACES = [0, 5 * PAGE_SIZE + 8, (HUGE_NR - 1) * PAGE_SIZE];

for (const policy of ['linux-7', 'target'] as const)
  describe(`S7: memory of a guest, under ${policy}`, () => {
    for (const [kind, make] of Object.entries(FILES))
      it(`can be ${kind}: the process finds what the guest has stored`, () => {
        const w = createWorld();
        w.k.policy = createPolicy(policy);
        const mapping = make(w);
        if (typeof mapping === 'number') throw new Error(`${kind}: ${mapping}`);
        const p = createProcess(w);
        const lenBytes = HUGE_NR * PAGE_SIZE;
        const hva = drive(mmap(w.k, p.mm, { lenBytes, prot: RW, flags: MAP_SHARED, mapping }));
        expect(hva).toBeGreaterThan(0);
        const mmu = createSecondaryMmu(w.k, p.mm);
        for (const at of PLACES) drive(guestStore(w, mmu, hva + at, at + 1));
        for (const at of PLACES) expect(p.load32(hva + at)).toBe(at + 1);
        expect(checkKernel(w.k)).toEqual([]);
        if (mapping.kind !== 'extent') return;
        // As a VMM does for FLUSH of virtio-pmem: every store before it is on the disk.
        expect(drive(vfsFsync(w.k, mapping))).toBe(0);
        expect(mmu.entries.size).toBe(0);
        const word = new Uint8Array(4);
        for (const at of PLACES) {
          expect(drive(fileRead(w.k, mapping, at, word))).toBe(4);
          expect(new DataView(word.buffer).getUint32(0, true)).toBe(at + 1);
        }
        expect(mapping.inode?.reserved.size).toBe(0);
        expect(checkKernel(w.k)).toEqual([]);
      });

    it('can be a file of a DAX file system: the guest reaches the blocks themselves', () => {
      const d = daxWorld();
      d.k.policy = createPolicy(policy);
      const hva = d.p.mm.vmas[0]?.start ?? 0;
      const mmu = createSecondaryMmu(d.k, d.p.mm);
      drive(guestStore(d.w, mmu, hva, 77));
      const page = pfnToPage(mmu.entries.get(hva)?.pfn ?? 0);
      expect(page).toBeGreaterThanOrEqual(d.dev.pmemPage);
      expect(d.p.load32(hva)).toBe(77);
      expect(drive(vfsFsync(d.k, d.file))).toBe(0);
      expect(checkKernel(d.k)).toEqual([]);
    });
  });
