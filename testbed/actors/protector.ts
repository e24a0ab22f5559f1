/**
 * Takes write permission from pages of the guest's memory, so that the next write faults: a shared
 * folio as writeback does before it writes it out, private pages as the soft-dirty log does.
 */
import { PAGE_SIZE } from '#emu';
import { folioOf, folioTestAnon, folioWriteProtect, type Path, writeProtectRange } from '#mm';
import { Activity } from './activity.ts';
import { pickPage, presentPage } from './targets.ts';

/** Pages in one stroke over private memory, at most. */
const RANGE_PAGES = 8;

export class Protector extends Activity {
  protected act(): Path<void> | null {
    const { victim, rng } = this;
    if (victim.dma.pagesInFlight() > 0) this.count('withDma');
    const page = pickPage(victim, rng);
    if (page < 0) return null;
    const folio = folioOf(victim.k, page);
    if (!folioTestAnon(victim.k, folio)) return this.protectFolio(folio, page);
    // The index of private anonymous memory is its page number in the address space.
    const hva = victim.k.state.frames.index[page]! * PAGE_SIZE;
    const range = victim.ranges.find((r) => hva >= r.hva && hva < r.hva + r.lenBytes);
    if (range === undefined) return null;
    const end = Math.min(hva + rng.between(1, RANGE_PAGES) * PAGE_SIZE, range.hva + range.lenBytes);
    return this.protectRange(hva, end);
  }

  private *protectFolio(folio: number, page: number): Path<void> {
    if (this.victim.dma.isInFlight(page)) this.count('underDma');
    yield* folioWriteProtect(this.victim.k, folio);
    this.count('folios');
  }

  private *protectRange(start: number, end: number): Path<void> {
    const { k, mm, dma } = this.victim;
    for (let hva = start; hva < end; hva += PAGE_SIZE)
      if (dma.isInFlight(presentPage(k, mm, hva))) this.count('underDma');
    yield* writeProtectRange(k, mm, start, end);
    this.count('ranges');
  }
}
