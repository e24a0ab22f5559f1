/** Flushes of a virtio-pmem under attack. */
import { type PmemClient, type PmemFlush, VirtioPmem } from '#devices';
import type { FuzzTarget } from './target.ts';
import { virtioTarget } from './virtio-attack.ts';

export const PMEM_TARGETS: readonly FuzzTarget[] = [
  virtioTarget('virtio-pmem', 'a virtio-pmem: flushes that end late, or fail', (port) => {
    let client: PmemClient | undefined;
    const running: PmemFlush[] = [];
    const device = new VirtioPmem({
      port,
      backend: {
        post: (posted) => {
          client = posted;
        },
      },
      region: { gpa: 0x2_0000_0000, lenBytes: 0x10_0000 },
    });
    return {
      device,
      shape: (rng) => ({ reads: [4], writes: [rng.chance(90) ? 4 : rng.below(6)] }),
      // Zeroes are flushes.
      fill: (memory, at, rng) => memory.setUint32(at, rng.chance(80) ? 0 : rng.next(), true),
      settle: (rng) => {
        for (let n = rng.below((client?.nrWaiting ?? 0) + 1); n > 0; n--) {
          const flush = client?.nextFlush();
          if (flush === undefined) throw new Error('a flush that waits is none');
          running.push(flush);
        }
        for (let n = rng.below(running.length + 1); n > 0; n--) {
          const [flush] = running.splice(rng.below(running.length), 1);
          if (flush !== undefined) client?.complete(flush, rng.chance(90));
        }
      },
    };
  }),
];
