/**
 * How the IOMMU translates an IOVA: the process of RISC-V IOMMU 1.0, "Process to translate an IOVA",
 * with its steps cited; from contexts through both stages or the MSI page table, by way of the IOTLB.
 *
 * One request at a time; its result is in the fields until the next. A request that meets DMA_WAIT
 * leaves nothing behind but what it has put into the caches, which is what it would find again.
 */
import {
  type DmaPort,
  type Need,
  PAGE_SIZE,
  type PhysMemory,
  PTE_D,
  PTE_R,
  PTE_W,
  PTE_X,
} from '#emu';
import { IoDirectory } from './directory.ts';
import {
  IOTLB_GLOBAL,
  IOTLB_R,
  IOTLB_W,
  IOTLB_X,
  Iotlb,
  iotlbBytes,
  LEVEL_BARE,
  PRIV_IO_SUPERVISOR,
  PRIV_IO_SUPERVISOR_SUM,
  PRIV_IO_USER,
} from './iotlb.ts';
import {
  createMsiTarget,
  isMsiAddress,
  MSI_BASIC,
  MSI_NONE,
  type MsiTarget,
  translateMsi,
} from './msi.ts';
import { DDTP_MODE_1LVL, DDTP_MODE_BARE, DDTP_MODE_OFF } from './registers.ts';
import {
  CAUSE_ALL_DISALLOWED,
  CAUSE_TYPE_DISALLOWED,
  type DeviceContext,
  deviceIdTooWide,
  processIdTooWide,
  type StageRoot,
  TC_DPE,
  TC_EN_ATS,
  TC_PDTV,
  TC_T2GPA,
  TTYP_ATS_REQUEST,
  TTYP_TRANSLATED_EXEC,
  TTYP_TRANSLATED_WRITE,
} from './structures.ts';
import { TwoStageWalk } from './two-stage.ts';

/** processId of a transaction that has none. */
export const NO_PROCESS = -1;

/** Streams that fast() knows at one time. */
const RECENT = 64;
const recentSlot = (deviceId: number, processId: number): number =>
  (deviceId ^ (processId * 5)) & (RECENT - 1);

const BARE: Readonly<StageRoot> = { levels: 0, ppn: 0 };

/** What one device, or one of its processes, is translated by: from its contexts. */
export interface IoStream {
  dc: DeviceContext;
  first: Readonly<StageRoot>;
  /** PSCID, or -1 where the first stage is Bare. */
  pscid: number;
  /** GSCID, or -1 where the second stage is Bare. */
  gscid: number;
  sum: boolean;
}

export const needFlag = (need: Need): number =>
  need === PTE_R ? IOTLB_R : need === PTE_W ? IOTLB_W : IOTLB_X;

export class IoTranslator {
  readonly iotlb: Iotlb;
  readonly directory: IoDirectory;
  readonly stages: TwoStageWalk;
  /** ddtp. */
  mode: number;
  rootPpn: number;
  /* ---- result of the last request ---- */
  /** Where the address is in physical memory, and in guest physical memory. */
  spa: number;
  gpa: number;
  /** Level of what was found: the result holds for iotlbBytes(level) bytes. */
  level: number;
  /** IOTLB_*: what else the translation permits, as far as it has been worked out. */
  flags: number;
  /** Device context of the last request, undefined where none was found. */
  dc: DeviceContext | undefined;
  /** The stream of the last request, where it came that far. */
  stream: IoStream | undefined;
  /** Where an MSI goes; its kind is MSI_NONE for what is none. */
  readonly msi: MsiTarget;
  /** Requests that the IOTLB did not answer. */
  misses: number;
  /** Space of the last request, 0: both stages are Bare. */
  private space: number;

  /**
   * Streams of the last users' requests, by a hash of their ids: device (-1: none), process, space. None
   * with MSI pages, whose hits have to be looked at.
   */
  private readonly recentDevice: Int32Array;
  private readonly recentProcess: Int32Array;
  private readonly recentSpace: Int32Array;
  /** Devices whose translated requests go by as they are, by their low bits; -1: none. */
  private readonly recentPass: Int32Array;

  constructor(memory: PhysMemory, port: DmaPort, extended: boolean) {
    this.iotlb = new Iotlb();
    this.stages = new TwoStageWalk(memory, port);
    this.directory = new IoDirectory(this.stages, extended);
    this.mode = DDTP_MODE_BARE;
    this.rootPpn = 0;
    this.spa = 0;
    this.gpa = 0;
    this.level = 0;
    this.flags = 0;
    this.dc = undefined;
    this.stream = undefined;
    this.msi = createMsiTarget();
    this.misses = 0;
    this.space = 0;
    this.recentDevice = new Int32Array(RECENT).fill(-1);
    this.recentProcess = new Int32Array(RECENT);
    this.recentSpace = new Int32Array(RECENT);
    this.recentPass = new Int32Array(RECENT).fill(-1);
  }

  /**
   * The hit: a user's request of a stream that was there before, and in the IOTLB.
   * @param need IOTLB_R or IOTLB_W
   * @returns physical address, or -1: translate() says what there is
   */
  fast(deviceId: number, processId: number, iova: number, need: number): number {
    const slot = recentSlot(deviceId, processId);
    return this.recentDevice[slot] === deviceId && this.recentProcess[slot] === processId
      ? this.iotlb.lookup(this.recentSpace[slot]!, iova, need)
      : -1;
  }

  /** Translated requests of the device go by as they are: translate() has said so before. */
  passes(deviceId: number): boolean {
    return this.recentPass[deviceId & (RECENT - 1)] === deviceId;
  }

  /** ddtp: DDTP_MODE_*, and the page of the directory's root. What is cached stays. */
  setDirectory(mode: number, rootPpn: number): void {
    this.mode = mode;
    this.rootPpn = rootPpn;
    this.forgetStreams();
  }

  /** Contexts or spaces have changed: fast() knows none any more. */
  forgetStreams(): void {
    this.recentDevice.fill(-1);
    this.recentPass.fill(-1);
  }

  /**
   * Translates one address for one access.
   * @param processId NO_PROCESS, or the process_id of the transaction
   * @param ttyp TTYP_* of an untranslated or translated request, or TTYP_ATS_REQUEST
   * @returns 0 with the result set, the cause of a fault, or DMA_WAIT
   */
  translate(
    deviceId: number,
    processId: number,
    supervisor: boolean,
    iova: number,
    need: Need,
    ttyp: number,
  ): number {
    this.dc = undefined;
    this.stream = undefined;
    this.msi.kind = MSI_NONE;
    this.stages.iotval2Lo = 0;
    this.stages.iotval2Hi = 0;
    // Steps 1 and 2.
    if (this.mode === DDTP_MODE_OFF) return CAUSE_ALL_DISALLOWED;
    const translated = ttyp >= TTYP_TRANSLATED_EXEC && ttyp <= TTYP_TRANSLATED_WRITE;
    if (this.mode === DDTP_MODE_BARE) {
      if (translated || ttyp === TTYP_ATS_REQUEST) return CAUSE_TYPE_DISALLOWED;
      return this.identity(iova);
    }
    // Steps 3 to 6.
    const dc = this.locate(deviceId);
    if (typeof dc === 'number') return dc;
    this.dc = dc;
    // Step 7.
    if ((translated || ttyp === TTYP_ATS_REQUEST) && (dc.tc & TC_EN_ATS) === 0)
      return CAUSE_TYPE_DISALLOWED;
    if (processId >= 0) {
      if ((dc.tc & TC_PDTV) === 0) return CAUSE_TYPE_DISALLOWED;
      const { levels } = dc.directory;
      if (levels > 0 && processIdTooWide(processId, levels)) return CAUSE_TYPE_DISALLOWED;
    }
    // Step 8.
    if (translated && (dc.tc & TC_T2GPA) === 0) {
      this.recentPass[deviceId & (RECENT - 1)] = deviceId;
      return this.identity(iova);
    }
    // Steps 9 to 16.
    const stream = translated
      ? this.bareStream(dc)
      : this.streamOf(dc, processId, supervisor, need);
    if (typeof stream === 'number') return stream;
    this.stream = stream;
    // Steps 17 to 20.
    const privileged = supervisor && processId >= 0;
    const outcome = this.access(stream, privileged, iova, need);
    if (outcome === 0 && this.space > 0 && !privileged && !translated && !dc.msiFlat) {
      const slot = recentSlot(deviceId, processId);
      this.recentDevice[slot] = deviceId;
      this.recentProcess[slot] = processId;
      this.recentSpace[slot] = this.space;
    }
    return outcome;
  }

  /** The device context. @returns it, the cause of a fault, or DMA_WAIT */
  locate(deviceId: number): DeviceContext | number {
    const levels = this.mode - DDTP_MODE_1LVL + 1;
    if (deviceIdTooWide(deviceId, levels, this.directory.extended)) return CAUSE_TYPE_DISALLOWED;
    return this.directory.device(deviceId, levels, this.rootPpn);
  }

  private bareStream(dc: DeviceContext): IoStream {
    const gscid = dc.second.levels > 0 ? dc.gscid : -1;
    return { dc, first: BARE, pscid: -1, gscid, sum: false };
  }

  private streamOf(
    dc: DeviceContext,
    processId: number,
    supervisor: boolean,
    need: Need,
  ): IoStream | number {
    const gscid = dc.second.levels > 0 ? dc.gscid : -1;
    if ((dc.tc & TC_PDTV) === 0) {
      const { first } = dc;
      return { dc, first, pscid: first.levels > 0 ? dc.pscid : -1, gscid, sum: false };
    }
    if (processId < 0 && (dc.tc & TC_DPE) === 0) return this.bareStream(dc);
    if (dc.directory.levels === 0) return this.bareStream(dc);
    const pc = this.directory.process(dc, Math.max(processId, 0), need);
    if (typeof pc === 'number') return pc;
    if (supervisor && processId >= 0 && !pc.ens) return CAUSE_TYPE_DISALLOWED;
    const { first, sum } = pc;
    return { dc, first, pscid: first.levels > 0 ? pc.pscid : -1, gscid, sum };
  }

  /** Number of the IOTLB's space for a stream. */
  spaceOf({ gscid, pscid, sum }: IoStream, supervisor: boolean): number {
    const priv =
      pscid < 0 || !supervisor ? PRIV_IO_USER : sum ? PRIV_IO_SUPERVISOR_SUM : PRIV_IO_SUPERVISOR;
    let space = this.iotlb.spaceOf(gscid, pscid, priv);
    if (space === 0) {
      this.iotlb.clear();
      this.forgetStreams();
      space = this.iotlb.spaceOf(gscid, pscid, priv);
    }
    return space;
  }

  private access(stream: IoStream, supervisor: boolean, iova: number, need: Need): number {
    const { dc, first } = stream;
    const walked = first.levels > 0 || dc.second.levels > 0;
    this.space = 0;
    if (!walked && !dc.msiFlat) return this.identity(iova);
    const space = walked ? this.spaceOf(stream, supervisor) : 0;
    this.space = space;
    if (walked) {
      const level = this.iotlb.hit(space, iova, needFlag(need));
      // Another device of the same guest may have entered what is an interrupt file for this one.
      if (level >= 0 && !isMsiAddress(dc, this.iotlb.hitGpa)) {
        this.spa = this.iotlb.hitSpa;
        this.gpa = this.iotlb.hitGpa;
        this.flags = this.iotlb.hitFlags;
        this.level = dc.msiFlat ? 0 : level;
        return 0;
      }
      this.misses++;
    }
    return this.walk(stream, supervisor, iova, need, space);
  }

  /** Steps 17 to 19, by the tables. */
  private walk(
    stream: IoStream,
    supervisor: boolean,
    iova: number,
    need: Need,
    space: number,
  ): number {
    const { dc, first } = stream;
    const { stages } = this;
    const lo = iova | 0;
    const hi = Math.floor(iova / 2 ** 32) | 0;
    let gpa = iova;
    let firstLevel = LEVEL_BARE;
    let leaf = PTE_R | PTE_W | PTE_X | PTE_D;
    let global = 0;
    if (first.levels > 0) {
      const fault = stages.first(dc, first, lo, hi, need, supervisor, stream.sum);
      if (fault !== 0) return fault;
      gpa = stages.ppn * PAGE_SIZE + (lo & (PAGE_SIZE - 1));
      firstLevel = stages.level;
      leaf = stages.leaf;
      if (stages.global) global = IOTLB_GLOBAL;
    }
    this.gpa = gpa;
    if (dc.msiFlat) {
      const fault = translateMsi(stages, dc, gpa, need, this.msi);
      if (fault !== 0) return fault;
      if (this.msi.kind !== MSI_NONE) {
        this.spa = this.msi.kind === MSI_BASIC ? this.msi.spa : 0;
        this.level = 0;
        this.flags = IOTLB_R | IOTLB_W;
        return 0;
      }
    }
    const gpaHi = Math.floor(gpa / 2 ** 32) | 0;
    const fault = stages.second(dc, gpa | 0, gpaHi, need, need, false);
    if (fault !== 0) return fault;
    this.spa = stages.ppn * PAGE_SIZE + (lo & (PAGE_SIZE - 1));
    this.level = Math.min(firstLevel, stages.level);
    this.flags = flagsOf(leaf & stages.leaf) | global;
    if (space !== 0)
      this.iotlb.fill(space, iova, firstLevel, stages.level, this.spa, gpa, this.flags);
    // An MSI page table may take any page out of a leaf: what holds beside it is 4 KiB.
    if (dc.msiFlat) this.level = 0;
    return 0;
  }

  /** Both stages are Bare. */
  private identity(iova: number): number {
    this.spa = iova;
    this.gpa = iova;
    this.level = LEVEL_BARE;
    this.flags = IOTLB_R | IOTLB_W | IOTLB_X;
    return 0;
  }

  /** Bytes that the last result holds for. */
  get lenBytes(): number {
    return iotlbBytes(this.level);
  }
}

/** What a leaf permits without another look at it: W only where D is set. */
const flagsOf = (leaf: number): number =>
  ((leaf & PTE_R) !== 0 ? IOTLB_R : 0) |
  ((leaf & (PTE_W | PTE_D)) === (PTE_W | PTE_D) ? IOTLB_W : 0) |
  ((leaf & PTE_X) !== 0 ? IOTLB_X : 0);
