/** The image behind a part: its file on the host, and what is written back of it. */
import type { AddressSpace } from '#mm';
import {
  type DiskFile,
  diskFileAfterPowerFail,
  diskFileBytes,
  diskFileMapping,
  type ImageConfig,
  makeDiskFile,
  releaseDiskFile,
  writeImage,
} from '../disk-file.ts';
import type { PartWiring } from '../part.ts';

export class PartImage {
  /** Plain data: saved with the part. */
  readonly disk: DiskFile;
  readonly file: AddressSpace;
  private readonly wiring: PartWiring;
  private readonly config: ImageConfig;
  private readonly writable: boolean;
  /** What is to be written back, once the file of the model is gone. */
  private last: Uint8Array | null;

  /** @param saved the disk of a restored machine; without it one is made and filled */
  constructor(wiring: PartWiring, config: ImageConfig, writable: boolean, saved?: DiskFile) {
    this.wiring = wiring;
    this.config = config;
    this.writable = writable;
    this.disk = saved ?? makeDiskFile(wiring.k, wiring.name, config);
    this.file = diskFileMapping(wiring.k, this.disk);
    this.last = null;
  }

  /** Nobody has the file mapped any more. */
  release(): void {
    if (this.writesBack) this.last ??= diskFileBytes(this.wiring.k, this.disk);
    releaseDiskFile(this.wiring.k, this.disk);
  }

  /** The host loses power now: what is written back is what it finds afterwards. */
  powerFail(keeps: (block: number) => boolean): Uint8Array {
    this.last = diskFileAfterPowerFail(this.wiring.k, this.disk, keeps);
    return this.last;
  }

  /** @throws Error where the user's file cannot be written */
  writeBack(): void {
    if (this.config.file === null || !this.writesBack) return;
    writeImage(this.config.file, this.last ?? diskFileBytes(this.wiring.k, this.disk));
  }

  private get writesBack(): boolean {
    return this.writable && this.config.file !== null;
  }
}
