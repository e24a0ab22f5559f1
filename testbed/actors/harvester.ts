/**
 * Harvests the dirty log of a guest, as live migration does, and checks it: a page that the log
 * calls clean must hold the bytes it held at the harvest before.
 */
import { PAGE_SIZE } from '#emu';
import { harvestDirtyLog, type Kvm, type MemSlot, setDirtyLog, type Vm } from '#kvm';
import { type Path, YP_PROTECT } from '#mm';
import { Activity, type ActivityConfig, type ActivityState } from './activity.ts';
import { presentPage } from './targets.ts';

/** Pages of a slot that are looked at in one harvest. */
const SAMPLES = 64;

export interface HarvesterState extends ActivityState {
  digests: Map<number, Int32Array>;
}

export class Harvester extends Activity {
  private readonly kvm: Kvm;
  private readonly vm: Vm;
  private readonly markUnderWay: () => void;
  /** By slot: digest of each page at the last look, 0 = none since it was last dirty. */
  private digests: Map<number, Int32Array>;

  /** @param markUnderWay puts into the log what the guest's devices are writing at this moment */
  constructor(name: string, config: ActivityConfig, kvm: Kvm, vm: Vm, markUnderWay: () => void) {
    super(name, config);
    this.kvm = kvm;
    this.vm = vm;
    this.markUnderWay = markUnderWay;
    this.digests = new Map();
  }

  protected act(): Path<void> {
    return this.harvest();
  }

  private *harvest(): Path<void> {
    for (const slot of this.vm.slots) {
      // Nothing of a guest_memfd is logged.
      if (slot.gmem !== null) continue;
      const digests = this.digests.get(slot.id);
      if (digests === undefined) {
        setDirtyLog(this.kvm, this.vm, slot, true);
        this.digests.set(slot.id, new Int32Array(slot.lenBytes / PAGE_SIZE));
      } else this.harvestSlot(slot, digests);
      if (this.victim.k.watched) yield YP_PROTECT;
    }
    this.count('harvests');
  }

  private harvestSlot(slot: MemSlot, digests: Int32Array): void {
    this.markUnderWay();
    const dirty = harvestDirtyLog(this.kvm, this.vm, slot);
    if (dirty === null) return;
    for (let page = 0; page < digests.length; page++)
      if ((dirty[page >>> 5]! & (1 << (page & 31))) !== 0) digests[page] = 0;
    for (let i = 0; i < SAMPLES; i++) {
      const page = this.rng.below(digests.length);
      const digest = this.digest(slot.hva + page * PAGE_SIZE);
      if (digest === 0) continue;
      if (digests[page] === 0) digests[page] = digest;
      else this.count(digests[page] === digest ? 'cleanPagesChecked' : 'missedByLog');
    }
  }

  /** FNV-1a over the words of a page, never 0; 0 where no page is mapped. */
  private digest(hva: number): number {
    const { k, mm } = this.victim;
    const page = presentPage(k, mm, hva);
    if (page < 0) return 0;
    const first = k.memory.pageOffset(page) >>> 2;
    let hash = 0x811c_9dc5 | 0;
    for (let word = first; word < first + PAGE_SIZE / 4; word++)
      hash = Math.imul(hash ^ k.memory.i32[word]!, 0x0100_0193);
    return hash === 0 ? 1 : hash;
  }

  override save(): HarvesterState {
    return { ...super.save(), digests: this.digests };
  }

  override restore(state: HarvesterState): void {
    super.restore(state);
    this.digests = state.digests;
  }
}
