/** Secondary MMUs and writeback: a guest's memory may be a file that is written back (S6, S7; facts sheet 1.7, 1.14). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  createPolicy,
  drive,
  EFAULT,
  fileTruncate,
  type PolicyName,
  type Path,
  pfnToPage,
  vfsFsync,
} from '#mm';
import { writebackMapping } from '../../mm/cache/writeback.ts';
import { YP_NOTIFIER_END, YP_SECONDARY_PFN } from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import { type FileWorld, isDirty, onDevice, quiet, sync, withFile } from './file-world.ts';
import { createSecondaryMmu, secondaryFault, type SecondaryMmu } from './secondary-mmu.ts';
import { interleave, recordNotifier, stepTo } from './support.ts';
import { mmuNotifierRegister } from '../../mm/notifier/notifier.ts';

/** A guest stores a word: by its entry, or after a fault. @returns 0 or what the fault returned */
function* guestStore(
  { w }: FileWorld,
  mmu: SecondaryMmu,
  hva: number,
  value: number,
): Path<number> {
  for (;;) {
    const entry = mmu.entries.get(hva);
    if (entry?.writable === true) {
      w.k.memory.i32[w.k.memory.pageOffset(pfnToPage(entry.pfn)) >>> 2] = value;
      return 0;
    }
    const error = yield* secondaryFault(w.k, mmu, hva, true);
    if (error !== 0) return error;
  }
}

const allIsWell = ({ w }: FileWorld): void => expect(checkKernel(w.k)).toEqual([]);

for (const policy of ['linux-7', 'target'] as PolicyName[]) {
  const setUp = (): { fw: FileWorld; mmu: SecondaryMmu } => {
    const fw = withFile();
    fw.w.k.policy = createPolicy(policy);
    return { fw, mmu: createSecondaryMmu(fw.w.k, fw.p.mm) };
  };

  describe(`a guest writes to a file, under ${policy}`, () => {
    it('its first store to a page asks the file system, as a store of the process would', () => {
      const { fw, mmu } = setUp();
      expect(drive(guestStore(fw, mmu, fw.hva, 9))).toBe(0);
      expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
      allIsWell(fw);
    });

    it('cleaning takes its writable entry: every store before fsync() is on the device, the next one faults', () => {
      const { fw, mmu } = setUp();
      drive(guestStore(fw, mmu, fw.hva, 9));
      drive(guestStore(fw, mmu, fw.hva, 10));
      sync(fw);
      expect(onDevice(fw, 0)).toBe(10);
      expect(mmu.entries.size).toBe(0);
      expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([false, false]);
      drive(guestStore(fw, mmu, fw.hva, 11));
      expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
      allIsWell(fw);
    });

    it('a fault that has its page when the file is cleaned starts again', () => {
      const { fw, mmu } = setUp();
      const store = guestStore(fw, mmu, fw.hva, 9);
      stepTo(fw.w.k, store, YP_SECONDARY_PFN);
      sync(fw);
      expect(drive(store)).toBe(0);
      expect(mmu.retries).toBe(1);
      expect([isDirty(fw, 0), fw.inode.reserved.has(0)]).toEqual([true, true]);
      allIsWell(fw);
      sync(fw);
      expect(onDevice(fw, 0)).toBe(9);
      quiet(fw);
    });

    it('truncation takes its entries, and a fault behind the end is an error', () => {
      const { fw, mmu } = setUp();
      for (let i = 0; i < 4; i++) drive(guestStore(fw, mmu, fw.hva + i * PAGE_SIZE, i));
      drive(fileTruncate(fw.w.k, fw.file, 2 * PAGE_SIZE));
      expect([...mmu.entries.keys()]).toEqual([fw.hva, fw.hva + PAGE_SIZE]);
      expect(drive(guestStore(fw, mmu, fw.hva + 3 * PAGE_SIZE, 1))).toBe(-EFAULT);
      allIsWell(fw);
      quiet(fw);
    });

    for (let seed = 1; seed <= 4; seed++)
      it(`stores of a guest and of the process against fsync(), seed ${seed}`, () => {
        const { fw, mmu } = setUp();
        const { k } = fw.w;
        const random = rng(seed);
        const words = [1, 2, 3, 4];
        let next = 100;
        let busy = false;
        function* guest(): Path<void> {
          for (let i = 0; i < 40; i++) {
            const at = random.below(4);
            const hva = fw.hva + at * PAGE_SIZE;
            while (busy) yield 0;
            busy = true;
            const value = next++;
            const stored = random.chance(0.7)
              ? yield* guestStore(fw, mmu, hva, value)
              : yield* fw.p.storePath(hva, 4, value);
            expect(stored).toBe(0);
            words[at] = value;
            busy = false;
            if (random.chance(0.3)) yield YP_NOTIFIER_END;
          }
        }
        function* flusher(): Path<void> {
          for (let i = 0; i < 20; i++) {
            if (random.chance(0.5)) yield* writebackMapping(k, fw.file);
            else expect(yield* vfsFsync(k, fw.file)).toBe(0);
            allIsWell(fw);
          }
        }
        interleave(k, [guest(), guest(), flusher(), flusher()], random);
        sync(fw);
        expect([0, 1, 2, 3].map((i) => onDevice(fw, i))).toEqual(words);
        quiet(fw);
      });
  });
}

it('cleaning calls the notifiers once for each VMA, with the one page, and PROTECTION_PAGE', () => {
  const fw = withFile();
  const { w, p, hva } = fw;
  recordNotifier(w, 'record');
  mmuNotifierRegister(w.k, p.mm, 'record', 1);
  for (let i = 0; i < 2; i++) p.store32(hva + i * PAGE_SIZE, 9);
  w.log.length = 0;
  sync(fw);
  expect(w.log).toEqual([
    'start PROTECTION_PAGE 1',
    'flush',
    'end PROTECTION_PAGE 1',
    'start PROTECTION_PAGE 1',
    'flush',
    'end PROTECTION_PAGE 1',
  ]);
});
