/**
 * The host side of virtio-pmem: the guest's memory is a shared mapping of a file, and a flush is an
 * fsync() of it. Nothing else makes anything durable.
 *
 * One fsync() does for all flushes that waited when it began. What a guest has stored is in pages that
 * are dirty, since the file system was asked before they could be written (page_mkwrite()); writing them
 * out takes the guest's writable mapping away, so that the next store is noticed again.
 */
import type { PmemBackend, PmemClient, PmemFlush } from '#devices';
import { type AddressSpace, type Kernel, type Path, vfsFsync } from '#mm';

export interface PmemFileConfig {
  kernel: Kernel;
  /** The file behind the guest's memory. */
  file: AddressSpace;
}

/** It keeps nothing that would have to be saved. */
export class PmemFile implements PmemBackend {
  private readonly config: PmemFileConfig;
  private client: PmemClient | undefined;
  private working: boolean;
  /** fsync() calls, and those that failed. */
  syncs: number;
  failures: number;

  constructor(config: PmemFileConfig) {
    this.config = config;
    this.client = undefined;
    this.working = false;
    this.syncs = 0;
    this.failures = 0;
  }

  post(client: PmemClient): void {
    this.client = client;
  }

  /** Flushes that wait; 0 while work() runs. */
  pendingWork(): number {
    return this.working ? 0 : (this.client?.nrWaiting ?? 0);
  }

  /** Syncs until no flush waits. */
  *work(): Path<void> {
    const { client } = this;
    if (client === undefined) return;
    const { kernel, file } = this.config;
    this.working = true;
    while (client.nrWaiting > 0) {
      const flushes: PmemFlush[] = [];
      for (let next = client.nextFlush(); next !== undefined; next = client.nextFlush())
        flushes.push(next);
      const error = yield* vfsFsync(kernel, file);
      this.syncs++;
      if (error !== 0) this.failures++;
      for (const flush of flushes) client.complete(flush, error === 0);
    }
    this.working = false;
  }
}
