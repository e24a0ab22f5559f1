/**
 * Harvests the dirty log of a guest, as live migration does, and checks it: a page that the log
 * calls clean must hold the bytes it held at the harvest before. The log is a bitmap, one that is
 * cleared by hand, or a ring for each vCPU, which is harvested as well whenever one is full.
 */
import { PAGE_SIZE } from '#emu';
import {
  clearDirtyLog,
  dirtyRingFull,
  harvestDirtyLog,
  harvestDirtyRing,
  type Kvm,
  type MemSlot,
  resetDirtyRings,
  setDirtyLog,
  type Vm,
} from '#kvm';
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

  /** A vCPU whose ring is full waits for a harvest. */
  protected override nextAt(): number {
    const waits = this.vm.vcpus.some(
      ({ dirtyRing }) => dirtyRing !== null && dirtyRingFull(dirtyRing),
    );
    const due = super.nextAt();
    return waits && due !== Number.POSITIVE_INFINITY ? 0 : due;
  }

  private *harvest(): Path<void> {
    for (const slot of this.vm.slots) {
      // Memory from a guest_memfd cannot be logged.
      if (slot.gmem !== null) continue;
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

  /** Pages of the rings are dirty, and clean as soon as they are reset. */
  private harvestRings(): void {
    let pages = 0;
    for (const { dirtyRing } of this.vm.vcpus)
      if (dirtyRing !== null)
        pages += harvestDirtyRing(dirtyRing, (slot, page) => {
          const digests = this.digests.get(slot);
          if (digests !== undefined) digests[page] = 0;
        });
    if (pages > 0) this.count('ringHarvests');
    resetDirtyRings(this.kvm, this.vm);
  }

  private harvestSlot(slot: MemSlot, digests: Int32Array): void {
    this.markUnderWay();
    // Together with the samples below: what is written later is in a ring that was not read yet.
    this.harvestRings();
    const dirty = harvestDirtyLog(this.kvm, this.vm, slot);
    if (dirty === null) return;
    if (this.vm.manualDirtyLog !== 0)
      clearDirtyLog(this.kvm, this.vm, slot, 0, slot.lenBytes / PAGE_SIZE, dirty);
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
