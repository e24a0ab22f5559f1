/** Moves a folio of the guest's memory to another frame, as compaction and NUMA balancing do. */
import { EAGAIN, EBUSY, folioOf, migrateFolio, type Path } from '#mm';
import { Activity } from './activity.ts';
import { pickPage } from './targets.ts';

export class Migrator extends Activity {
  protected act(): Path<void> | null {
    const page = pickPage(this.victim, this.rng);
    return page < 0 ? null : this.migrate(folioOf(this.victim.k, page));
  }

  private *migrate(folio: number): Path<void> {
    if (this.victim.dma.pagesInFlight() > 0) this.count('withDma');
    const inTlb = this.victim.harts.some((hart) => hart.mmu.holdsPage(folio));
    const result = yield* migrateFolio(this.victim.k, folio);
    if (result === 0) {
      this.count('moved');
      if (inTlb) this.count('movedFromTlb');
    } else if (result === -EBUSY) this.count('refusedPinned');
    else if (result === -EAGAIN) this.count('refusedReferenced');
    else this.count('failed');
  }
}
