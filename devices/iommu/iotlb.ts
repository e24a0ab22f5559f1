/**
 * The IOTLB: leaf translations, IOVA to supervisor physical, of both stages in one, each as large as
 * the smaller of its two leaves. RISC-V IOMMU 1.0, "Caching in-memory data structures".
 *
 * An entry is used until it is invalidated or another takes its place, whatever becomes of the tables:
 * that is the architecture, and what a driver with deferred invalidation relies on. Entries are tagged
 * by address space (GSCID, PSCID) and by what the permissions depend on (user; supervisor with and
 * without SUM), interned to a small number. Direct-mapped, one array per size:
 *
 *   4 KiB   2048 entries        2 MiB   512        1 GiB, 512 GiB, 256 TiB   64
 */

/** What an entry permits. */
export const IOTLB_R = 1 << 0;
export const IOTLB_W = 1 << 1;
export const IOTLB_X = 1 << 2;
/** From a global first-stage mapping. */
export const IOTLB_GLOBAL = 1 << 3;
const TAG_SHIFT = 4;
const FLAGS_MASK = (1 << TAG_SHIFT) - 1;

/** Privilege that permissions were worked out for. */
export const PRIV_IO_USER = 0;
export const PRIV_IO_SUPERVISOR = 1;
export const PRIV_IO_SUPERVISOR_SUM = 2;

const LEVELS = 5;
/** log2 of the entries of each level, and where they begin. */
const LOG2_ENTRIES = [11, 9, 6, 6, 6] as const;
const BASE = [0, 2048, 2560, 2624, 2688] as const;
const NR_ENTRIES = 2752;
const MASK_4K = (1 << LOG2_ENTRIES[0]) - 1;
const MASK_2M = (1 << LOG2_ENTRIES[1]) - 1;
/** Spreads spaces over the entries. */
const SPREAD = 0x9e5;
/** Page numbers below this are 31-bit numbers. */
const LOOKUP_LIMIT = 2 ** 43;
/** Spaces that are told apart at one time; one more, and all entries go. */
const MAX_SPACES = 1024;

/** Level of a stage that translates nothing: all of its addresses are one leaf. */
export const LEVEL_BARE = LEVELS;

const BYTES = [2 ** 12, 2 ** 21, 2 ** 30, 2 ** 39, 2 ** 48, 2 ** 57] as const;

/** Bytes of an entry of a level; LEVEL_BARE has all that a physical address can say. */
export const iotlbBytes = (level: number): number => BYTES[level] ?? 2 ** 57;

/** An address space as an entry's tag names it. -1: the second stage, or the first, is Bare. */
export interface IoSpace {
  gscid: number;
  pscid: number;
  priv: number;
}

/** What a saved machine keeps of the IOTLB. */
export interface IotlbState {
  spaces: IoSpace[];
  page: Float64Array;
  tag: Int32Array;
  spa: Float64Array;
  gpa: Float64Array;
  firstLevel: Uint8Array;
  secondLevel: Uint8Array;
  splintered: boolean;
  nrLarge: number;
}

/** Told of one entry: `lenBytes` from `iova` on reach physical memory from `spa` on. */
export type IotlbVisitor = (
  space: Readonly<IoSpace>,
  iova: number,
  spa: number,
  lenBytes: number,
  write: boolean,
) => void;

export class Iotlb {
  /** What hit() has found: where the address is, physical and guest physical, and IOTLB_*. */
  hitSpa: number;
  hitGpa: number;
  hitFlags: number;
  /** Number of a space minus one -> which it is. */
  private spaces: IoSpace[];
  private readonly numbers: Map<string, number>;
  /** Page number of the IOVA, in pages of the entry's size. */
  private readonly page: Float64Array;
  /** Number of the space, and IOTLB_* below; 0: no entry. */
  private readonly tag: Int32Array;
  /** First byte, in physical memory and in guest physical memory. */
  private readonly spa: Float64Array;
  private readonly gpa: Float64Array;
  /** Levels of the leaves of each stage: the entry may be a piece of one of them. */
  private readonly firstLevel: Uint8Array;
  private readonly secondLevel: Uint8Array;
  /** Some entry is smaller than its first-stage leaf. */
  private splintered: boolean;
  /** Entries above 4 KiB were made since everything was dropped. */
  private nrLarge: number;

  /** Size of the entry that lookup() found last. */
  hitBytes: number;

  constructor() {
    this.hitBytes = 4096;
    this.hitSpa = 0;
    this.hitGpa = 0;
    this.hitFlags = 0;
    this.spaces = [];
    this.numbers = new Map();
    this.page = new Float64Array(NR_ENTRIES);
    this.tag = new Int32Array(NR_ENTRIES);
    this.spa = new Float64Array(NR_ENTRIES);
    this.gpa = new Float64Array(NR_ENTRIES);
    this.firstLevel = new Uint8Array(NR_ENTRIES);
    this.secondLevel = new Uint8Array(NR_ENTRIES);
    this.splintered = false;
    this.nrLarge = 0;
  }

  /** Number of a space; 0: there is no room for another, and clear() has to be called first. */
  spaceOf(gscid: number, pscid: number, priv: number): number {
    const key = `${gscid} ${pscid} ${priv}`;
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    if (this.spaces.length === MAX_SPACES) return 0;
    this.spaces.push({ gscid, pscid, priv });
    this.numbers.set(key, this.spaces.length);
    return this.spaces.length;
  }

  /**
   * The hit. Of addresses below 8 TiB; above them it finds nothing, and hit() does.
   * @param need IOTLB_R, IOTLB_W or IOTLB_X
   * @returns physical address, or -1
   */
  lookup(space: number, iova: number, need: number): number {
    if (!(iova < LOOKUP_LIMIT)) return -1;
    const page = (iova * (1 / 4096)) | 0;
    const at = (page ^ (space * SPREAD)) & MASK_4K;
    const tag = this.tag[at]!;
    if (this.page[at] === page && tag >>> TAG_SHIFT === space && (tag & need) !== 0) {
      this.hitBytes = 4096;
      return this.spa[at]! + (iova & 4095);
    }
    return this.nrLarge === 0 ? -1 : this.lookupLarge(space, iova, page, need);
  }

  /** The same for 2 MiB, the usual size above 4 KiB. */
  private lookupLarge(space: number, iova: number, page: number, need: number): number {
    const large = page >>> 9;
    const at = BASE[1] + ((large ^ (space * SPREAD)) & MASK_2M);
    const tag = this.tag[at]!;
    if (this.page[at] === large && tag >>> TAG_SHIFT === space && (tag & need) !== 0) {
      this.hitBytes = 0x20_0000;
      return this.spa[at]! + (iova & 0x1f_ffff);
    }
    return -1;
  }

  /**
   * As lookup(), with everything that the entry says in hit*.
   * @returns the entry's level, or -1
   */
  hit(space: number, iova: number, need: number): number {
    for (let level = 0; level < LEVELS; level++) {
      const at = this.find(space, iova, level);
      if (at < 0 || (this.tag[at]! & need) === 0) continue;
      const inside = iova % iotlbBytes(level);
      this.hitSpa = this.spa[at]! + inside;
      this.hitGpa = this.gpa[at]! + inside;
      this.hitFlags = this.tag[at]! & FLAGS_MASK;
      return level;
    }
    return -1;
  }

  private slot(space: number, page: number, level: number): number {
    const mask = (1 << LOG2_ENTRIES[level]!) - 1;
    return BASE[level]! + ((page ^ (space * SPREAD)) & mask);
  }

  private find(space: number, iova: number, level: number): number {
    const page = Math.floor(iova / iotlbBytes(level));
    const at = this.slot(space, page, level);
    return this.page[at] === page && this.tag[at]! >>> TAG_SHIFT === space ? at : -1;
  }

  /**
   * Enters a translation, as large as the smaller of its two leaves.
   * @param firstLevel, secondLevel of the leaves; LEVEL_BARE of a stage that is Bare
   * @param spa where `iova` is in physical memory, `gpa` in guest physical memory
   * @param flags IOTLB_*
   */
  fill(
    space: number,
    iova: number,
    firstLevel: number,
    secondLevel: number,
    spa: number,
    gpa: number,
    flags: number,
  ): void {
    const level = Math.min(firstLevel, secondLevel);
    const bytes = iotlbBytes(level);
    const page = Math.floor(iova / bytes);
    const at = this.slot(space, page, level);
    this.page[at] = page;
    this.tag[at] = (space << TAG_SHIFT) | flags;
    this.spa[at] = spa - (spa % bytes);
    this.gpa[at] = gpa - (gpa % bytes);
    this.firstLevel[at] = firstLevel;
    this.secondLevel[at] = secondLevel;
    if (firstLevel > level) this.splintered = true;
    if (level > 0) this.nrLarge++;
  }

  /**
   * IOTINVAL.VMA. @param gscid -1: of the host (GV = 0) @param pscid -1: all (PSCV = 0)
   * @param iova -1: all (AV = 0)
   */
  invalidateVma(gscid: number, pscid: number, iova: number): void {
    if (iova >= 0 && pscid >= 0 && !this.splintered) {
      for (let priv = PRIV_IO_USER; priv <= PRIV_IO_SUPERVISOR_SUM; priv++) {
        const space = this.numbers.get(`${gscid} ${pscid} ${priv}`);
        if (space === undefined) continue;
        for (let level = 0; level < LEVELS; level++) {
          const at = this.find(space, iova, level);
          if (at >= 0 && (this.tag[at]! & IOTLB_GLOBAL) === 0) this.tag[at] = 0;
        }
      }
      return;
    }
    for (let at = 0; at < NR_ENTRIES; at++) {
      const space = this.spaces[(this.tag[at]! >>> TAG_SHIFT) - 1];
      // What has no first stage is no matter of this command.
      if (space === undefined || space.gscid !== gscid || space.pscid < 0) continue;
      if (pscid >= 0 && (space.pscid !== pscid || (this.tag[at]! & IOTLB_GLOBAL) !== 0)) continue;
      if (iova >= 0) {
        const leaf = iotlbBytes(this.firstLevel[at]!);
        if (Math.floor(this.iovaAt(at) / leaf) !== Math.floor(iova / leaf)) continue;
      }
      this.tag[at] = 0;
    }
  }

  /** IOTINVAL.GVMA. @param gscid -1: of all VMs (GV = 0) @param gpa -1: all (AV = 0) */
  invalidateGvma(gscid: number, gpa: number): void {
    for (let at = 0; at < NR_ENTRIES; at++) {
      const space = this.spaces[(this.tag[at]! >>> TAG_SHIFT) - 1];
      if (space === undefined || space.gscid < 0) continue;
      if (gscid >= 0) {
        if (space.gscid !== gscid) continue;
        const leaf = iotlbBytes(this.secondLevel[at]!);
        if (gpa >= 0 && Math.floor(this.gpa[at]! / leaf) !== Math.floor(gpa / leaf)) continue;
      }
      this.tag[at] = 0;
    }
  }

  private levelAt(at: number): number {
    let level = LEVELS - 1;
    while (at < BASE[level]!) level--;
    return level;
  }

  private iovaAt(at: number): number {
    return this.page[at]! * iotlbBytes(this.levelAt(at));
  }

  /** Drops everything; the numbers of spaces begin again. */
  clear(): void {
    this.tag.fill(0);
    this.spaces = [];
    this.numbers.clear();
    this.splintered = false;
    this.nrLarge = 0;
  }

  /** Visits every entry. */
  visit(visitor: IotlbVisitor): void {
    for (let at = 0; at < NR_ENTRIES; at++) {
      const tag = this.tag[at]!;
      const space = this.spaces[(tag >>> TAG_SHIFT) - 1];
      if (space === undefined) continue;
      const lenBytes = iotlbBytes(this.levelAt(at));
      visitor(space, this.iovaAt(at), this.spa[at]!, lenBytes, (tag & IOTLB_W) !== 0);
    }
  }

  save(): IotlbState {
    return {
      spaces: this.spaces.map((space) => ({ ...space })),
      page: this.page.slice(),
      tag: this.tag.slice(),
      spa: this.spa.slice(),
      gpa: this.gpa.slice(),
      firstLevel: this.firstLevel.slice(),
      secondLevel: this.secondLevel.slice(),
      splintered: this.splintered,
      nrLarge: this.nrLarge,
    };
  }

  restore(state: IotlbState): void {
    this.clear();
    for (const { gscid, pscid, priv } of state.spaces) this.spaceOf(gscid, pscid, priv);
    this.page.set(state.page);
    this.tag.set(state.tag);
    this.spa.set(state.spa);
    this.gpa.set(state.gpa);
    this.firstLevel.set(state.firstLevel);
    this.secondLevel.set(state.secondLevel);
    this.splintered = state.splintered;
    this.nrLarge = state.nrLarge;
  }
}
