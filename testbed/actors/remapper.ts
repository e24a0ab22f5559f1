/**
 * Replaces a stretch of the guest's shared memory by a new mapping of the same file pages, in one
 * mmap(MAP_FIXED): every page-table entry of it goes, and the guest has to find its pages again.
 */
import { PAGE_SIZE } from '#emu';
import { MAP_FIXED, MAP_SHARED, mmap, type Path, PROT_READ, PROT_WRITE } from '#mm';
import { Activity } from './activity.ts';
import { fileById, type GuestRange } from './targets.ts';

/** Pages in one new mapping, at most. */
const MAX_PAGES = 64;

export class Remapper extends Activity {
  protected act(): Path<void> | null {
    const shared = this.victim.ranges.filter((r) => r.mappingId !== null);
    const range = shared[this.rng.below(shared.length)];
    return range === undefined ? null : this.remap(range);
  }

  private *remap(range: GuestRange): Path<void> {
    const { k, mm } = this.victim;
    const rangePages = range.lenBytes / PAGE_SIZE;
    const first = this.rng.below(rangePages);
    const nrPages = Math.min(this.rng.between(1, MAX_PAGES), rangePages - first);
    const hva = range.hva + first * PAGE_SIZE;
    const result = yield* mmap(k, mm, {
      hva,
      lenBytes: nrPages * PAGE_SIZE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_SHARED | MAP_FIXED,
      mapping: fileById(k, range.mappingId!),
      pgoff: first,
    });
    this.count(result === hva ? 'remapped' : 'failed');
  }
}
